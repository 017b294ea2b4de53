"""What `mmbal prepare` would do: the fingerprint of each modality, what is there already, what changed.

A fingerprint is taken of a readable spec (samples, source digests, decoder settings, encoder, storage) and of
nothing else: paths, times, devices and worker counts do not decide the content. Planning needs neither torch nor
h5py, so that a second call answers at once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbal_cli.data.manifest import SPLITS, Manifest, Sample, file_of, summary_error
from mmbal_cli.data.sources import check_duplicates, digest_sources, keep_twins_in_train, read_ledger, write_ledger
from mmbal_cli.encode import SHIPPED
from mmbal_cli.encode.base import Encoder
from mmbal_cli.errors import CacheError, UsageError
from mmbal_cli.store.atomic import digest_of, sha256_hex
from mmbal_cli.store.index import STORE_VERSION, WIDTH, Index, is_complete, load_index, read_index
from mmbal_cli.store.sets import PreparedSet, read_set

CHUNK = 256
DTYPES = ("float16", "float32")
USUAL_WIDTH = 1024  # numbers a sample, for the space estimate of encoders that do not state theirs
WEIGHTS = "weights.json"


@dataclass(frozen=True)
class ModalityPlan:
    """One modality: its encoder, the readable spec, and the folder that the spec's digest names."""

    modality: str
    encoder: Encoder
    spec: dict[str, Any]
    folder: Path
    done: bool

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the spec, 64 hex digits."""
        return digest_of(self.spec)


@dataclass(frozen=True)
class Plan:
    """All that `prepare` needs; `changes` says what differs from the set of this name prepared before."""

    manifest: Manifest
    cache: Path
    modalities: tuple[ModalityPlan, ...]
    chunk: int
    dtype: str
    prepared: PreparedSet
    earlier: PreparedSet | None
    changes: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Folder of the data set in the cache."""
        return self.cache / self.manifest.name

    @property
    def up_to_date(self) -> bool:
        """Whether everything is there already; `source` says where it came from, not what it is."""
        same = self.earlier and self.earlier.model_copy(update={"source": self.prepared.source}) == self.prepared
        return bool(same) and all(modality.done for modality in self.modalities)

    def chunks(self) -> Iterator[tuple[Sample, ...]]:
        """Samples of each chunk, in manifest order: membership never depends on what is done already."""
        samples = self.manifest.samples
        return (samples[start : start + self.chunk] for start in range(0, len(samples), self.chunk))

    def indexes(self) -> dict[str, Index]:
        """Index of each modality of a finished plan; CacheError when one is missing."""
        return {one.modality: load_index(one.folder) for one in self.modalities}

    def bytes_needed(self) -> int:
        """Estimate of what is still to be written."""
        widths = {m.modality: getattr(SHIPPED.get(m.encoder.name), "width", None) for m in self.modalities}
        rows = len(self.manifest.samples) * WIDTH[self.dtype]
        return sum(rows * (widths[m.modality] or USUAL_WIDTH) for m in self.modalities if not m.done)


def plan(
    manifest: Manifest,
    encoders: Mapping[str, Encoder],
    cache: Path,
    *,
    chunk: int = CHUNK,
    dtype: str = "float16",
    allow_duplicates: bool = False,
    settings: Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
    on_hash: Callable[[int], object] = lambda done: None,
) -> Plan:
    """Decide folders and fingerprints; raises ManifestError when the same bytes are in two splits."""
    if dtype not in DTYPES or not 1 <= chunk <= 1 << 16:
        raise UsageError(f"Chunk {chunk}, type {dtype}.", f"Expected 1 to 65536 and {' or '.join(DTYPES)}.")
    folder = cache / manifest.name
    digests = digest_sources(manifest, folder, on_hash)
    manifest = keep_twins_in_train(manifest, digests)
    twins = check_duplicates(manifest, digests)
    if not allow_duplicates and any(problem.severity == "error" for problem in twins):
        raise summary_error(manifest.name, twins)
    notes = [*manifest.notes, *(problem.message for problem in twins)]
    shared = _shared_spec(manifest, chunk, dtype)
    modalities = tuple(_modality_plan(manifest, m, encoder, shared, digests, folder) for m, encoder in encoders.items())
    prepared = PreparedSet(
        name=manifest.name,
        fingerprint=digest_of({m.modality: m.fingerprint for m in modalities}),
        modalities={m.modality: m.folder.name for m in modalities},
        kinds=dict(manifest.kinds),
        classes=manifest.classes,
        counts=manifest.counts(),
        split_hash=digest_of(sorted([s.id, s.split, s.label] for s in manifest.samples)),
        split_note=manifest.split_note,
        settings=dict(settings or {}),
        source={**(source or {}), "notes": notes},
    )
    earlier = _earlier(cache, manifest.name)
    changes = _changes(folder, earlier, modalities) if earlier else ()
    return Plan(manifest, cache, modalities, chunk, dtype, prepared, earlier, changes)


def _shared_spec(manifest: Manifest, chunk: int, dtype: str) -> dict[str, Any]:
    return {
        "store": STORE_VERSION,
        "samples": digest_of([[s.id, s.split, s.label, s.group] for s in manifest.samples]),
        "counts": _counts(manifest),
        "classes": list(manifest.classes),
        "chunk": chunk,
        "dtype": dtype,
    }


def _counts(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Samples of each class in each split: follows from `samples`, and is what a reader wants to know."""
    found = Counter((sample.split, sample.label) for sample in manifest.samples)
    return {split: {name: found[split, label] for label, name in enumerate(manifest.classes)} for split in SPLITS}


def _modality_plan(
    manifest: Manifest,
    modality: str,
    encoder: Encoder,
    shared: Mapping[str, Any],
    digests: Mapping[str, str],
    folder: Path,
) -> ModalityPlan:
    kind = manifest.kinds[modality]
    known = read_ledger(folder / WEIGHTS)
    remembered: dict[str, Any] = dict(known)
    if hasattr(encoder, "remembered"):
        encoder.remembered = remembered
    spec = {
        **shared,
        "modality": modality,
        "kind": kind,
        "sources": digest_of(
            [_source(manifest, kind, sample.values[modality], digests) for sample in manifest.samples]
        ),
        "decode": encoder.decode(),
        "encoder": encoder.spec(),
    }
    if remembered != known:
        write_ledger(folder, WEIGHTS, remembered)
    name = re.sub(r"[^A-Za-z0-9._]+", "-", str(spec["encoder"]["name"]))[:48].strip("-")
    place = folder / f"{modality}--{name}--{digest_of(spec)[:16]}"
    return ModalityPlan(modality, encoder, spec, place, is_complete(place) is not None)


def _source(manifest: Manifest, kind: str, value: Any, digests: Mapping[str, str]) -> Any:
    """What decides one value: size and digest of a file, else a digest of the text or numbers."""
    if value is None:
        return None
    path = file_of(kind, value)
    if path is None:
        return sha256_hex(repr(value).encode("utf-8", "surrogatepass"))
    return [manifest.sizes[path][0], digests[path]] if path in digests else "absent"


def _earlier(cache: Path, name: str) -> PreparedSet | None:
    try:
        return read_set(cache, name)
    except CacheError:
        return None


def _changes(folder: Path, earlier: PreparedSet, modalities: tuple[ModalityPlan, ...]) -> tuple[str, ...]:
    """One sentence for each thing that differs from the specs of the earlier set."""
    lines = []
    for modality in earlier.modalities.keys() - {m.modality for m in modalities}:
        lines.append(f"modality '{modality}' is gone")
    for one in modalities:
        place = earlier.modalities.get(one.modality)
        if place is None:
            lines.append(f"modality '{one.modality}' is new")
        elif place != one.folder.name:
            index: Index | None = read_index(folder / place)
            lines += [f"{one.modality}: {line}" for line in differences(index.spec if index else {}, one.spec)]
    common = {line.partition(": ")[2] for line in lines}
    everywhere = [text for text in sorted(common) if all(f"{m.modality}: {text}" in lines for m in modalities)]
    return tuple(everywhere + [line for line in lines if line.partition(": ")[2] not in everywhere])


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Readable differences of two specs: `decode.frames 8 -> 4`; digests are only said to have changed."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before == after or key == "counts":  # counts follow from the samples
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif re.fullmatch(r"[0-9a-f]{64}", str(after)):
            lines.append(f"{prefix}{key} changed")
        else:
            lines.append(f"{prefix}{key} {before} -> {after}")
    return lines
