"""What `mmbal prepare` would do: the fingerprint of each modality, what is there already, what changed.

A fingerprint is taken of a readable spec (samples, source digests, decoder settings, encoder, storage) and of
nothing else: paths, times, devices and worker counts do not decide the content. Planning needs neither torch nor
h5py, so that a second call answers at once.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbal_cli.data.manifest import SPLITS, Manifest, Sample
from mmbal_cli.data.problems import shortened, summary_error
from mmbal_cli.data.sources import check_duplicates, digest_sources, keep_twins_in_train, read_ledger, write_ledger
from mmbal_cli.data.values import file_of, part_of
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
    """One modality by one encoder: the readable spec, and the folder that the spec's digest names.

    `label` tells the encoders of one modality apart, `key` the parts of a plan: the name of the modality, with the
    label behind it for all encoders but the first.
    """

    modality: str
    label: str
    key: str
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
        """Index of each modality and encoder of a finished plan; CacheError when one is missing."""
        return {one.key: load_index(one.folder) for one in self.modalities}

    def bytes_needed(self) -> int:
        """Estimate of what is still to be written."""
        names = [one.encoder.name for one in self.modalities if not one.done]
        widths = [getattr(SHIPPED.get(name), "width", None) or USUAL_WIDTH for name in names]
        return len(self.manifest.samples) * WIDTH[self.dtype] * sum(widths)


def plan(
    manifest: Manifest,
    encoders: Mapping[str, Encoder | Sequence[Encoder]],
    cache: Path,
    *,
    chunk: int = CHUNK,
    dtype: str = "float16",
    allow_duplicates: bool = False,
    settings: Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
    on_hash: Callable[[int], object] = lambda done: None,
) -> Plan:
    """Decide folders and fingerprints; raises ManifestError when the same bytes are in two splits.

    Of several encoders of a modality the first is the one that training takes unless told otherwise.
    """
    if dtype not in DTYPES or not 1 <= chunk <= 1 << 16:
        raise UsageError(f"Chunk {chunk}, type {dtype}.", f"Expected 1 to 65536 and {' or '.join(DTYPES)}.")
    folder = cache / manifest.name
    digests = digest_sources(manifest, folder, on_hash)
    manifest = keep_twins_in_train(manifest, digests)
    twins = check_duplicates(manifest, digests, known=allow_duplicates)
    if any(problem.severity == "error" for problem in twins):
        raise summary_error(manifest.name, twins)
    notes = [*manifest.notes, *shortened(twins)]
    shared = _shared_spec(manifest, chunk, dtype)
    modalities = tuple(
        _modality_plan(manifest, modality, label, encoder, shared, digests, folder, first=number == 0)
        for modality, several in encoders.items()
        for number, (label, encoder) in enumerate(_labelled(several))
    )
    first = {m.modality: m for m in reversed(modalities)}
    prepared = PreparedSet(
        name=manifest.name,
        fingerprint=digest_of({modality: first[modality].fingerprint for modality in encoders}),
        modalities={modality: first[modality].folder.name for modality in encoders},
        encoders=_side_by_side(modalities),
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


def _labelled(encoders: Encoder | Sequence[Encoder]) -> Iterator[tuple[str, Encoder]]:
    """Each encoder of a modality with a label of its own: the last part of its name, numbered where that is taken."""
    taken: Counter[str] = Counter()
    for encoder in [encoders] if isinstance(encoders, Encoder) else encoders:
        name = getattr(encoder, "label", "") or encoder.name.partition("@")[0].rstrip("/").rpartition("/")[2]
        label = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "encoder"
        taken[label] += 1
        yield (label if taken[label] == 1 else f"{label}-{taken[label]}"), encoder


def _side_by_side(modalities: Sequence[ModalityPlan]) -> dict[str, dict[str, str]]:
    """Folders by label of the modalities that have several encoders."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for one in modalities:
        found[one.modality][one.label] = one.folder.name
    return {modality: folders for modality, folders in found.items() if len(folders) > 1}


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
    label: str,
    encoder: Encoder,
    shared: Mapping[str, Any],
    digests: Mapping[str, str],
    folder: Path,
    *,
    first: bool,
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
    key = modality if first else f"{modality}={label}"
    return ModalityPlan(modality, label, key, encoder, spec, place, is_complete(place) is not None)


def _source(manifest: Manifest, kind: str, value: Any, digests: Mapping[str, str]) -> Any:
    """What decides one value: size and digest of a file, else a digest of the text or numbers."""
    if value is None:
        return None
    path = file_of(kind, value)
    if path is None:
        return sha256_hex(repr(value).encode("utf-8", "surrogatepass"))
    if path not in digests:
        return "absent"
    part = part_of(kind, value)
    return [manifest.sizes[path][0], digests[path], *([part] if part else [])]


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
    for one in {m.modality: m for m in reversed(modalities)}.values():
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
