"""What the source files are: a SHA-256 of each, remembered by size and time, and the same bytes found twice.

A decoder's silence is no proof that a file is intact, so the cache key holds the digests of all sources.
The ledger only saves reading unchanged files again; it is no part of any key.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmbal_cli.data.manifest import Manifest, Sample
from mmbal_cli.data.problems import Problem
from mmbal_cli.data.values import file_of, part_of
from mmbal_cli.errors import ManifestError
from mmbal_cli.media.folder import members
from mmbal_cli.store.atomic import canonical_json, digest_of, publish

LEDGER = "sources.json"
READERS = 4
SETTLE_NS = 2_000_000_000  # a file changed this recently may change again within one tick of its clock


def digest_sources(
    manifest: Manifest, folder: Path | None = None, on_progress: Callable[[int], object] = lambda done: None
) -> dict[str, str]:
    """SHA-256 of each source file, by path; files of unchanged size and time are not read again.

    `folder` holds the ledger `sources.json`; without it, or where it cannot be written, files are read each time.
    """
    known = read_ledger(folder / LEDGER) if folder else {}
    root = str(manifest.root)
    stale = [path for path, size in manifest.sizes.items() if known.get(f"{root}/{path}", ())[:2] != size]
    fresh: dict[str, str] = {}
    with ThreadPoolExecutor(READERS) as readers:
        try:
            for path, digest in zip(stale, readers.map(lambda p: _digest(manifest.root / p), stale), strict=True):
                fresh[path] = digest
                on_progress(1)
        finally:
            readers.shutdown(cancel_futures=True)
    result = {path: fresh.get(path) or known[f"{root}/{path}"][2] for path in manifest.sizes}
    if fresh and folder:
        known.update({f"{root}/{path}": (*manifest.sizes[path], digest) for path, digest in fresh.items()})
        write_ledger(folder, LEDGER, known)
    return result


def _digest(path: Path) -> str:
    """SHA-256 of a file; of the names and contents of its pictures for a folder or pair of folders."""
    try:
        if path.is_file():
            return _of_file(path)
        pictures = members(path)
        return digest_of([[f"{one.parent.name}/{one.name}", _of_file(one)] for one in pictures])
    except OSError as error:
        raise ManifestError(f"Cannot read {path}: {error.strerror}.", "Every source file is hashed.") from error


def _of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_ledger(path: Path) -> dict[str, tuple[int, int, str]]:
    """What earlier calls noted; anything odd in it counts as unknown."""
    try:
        entries = json.loads(path.read_bytes())
        return {name: (int(size), int(time_ns), str(digest)) for name, (size, time_ns, digest) in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_ledger(folder: Path, name: str, known: Mapping[str, Sequence[Any]]) -> None:
    """Note (bytes, mtime in ns, SHA-256) of files by path, but for those changed in the last two seconds."""
    settled = time.time_ns() - SETTLE_NS
    kept = {name: list(entry) for name, entry in known.items() if entry[1] < settled}
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        publish(folder, name, canonical_json(kept))


def keep_twins_in_train(manifest: Manifest, digests: Mapping[str, str]) -> Manifest:
    """Undo the carving of validation samples whose source bytes also occur in train."""
    samples, moved = list(manifest.samples), manifest.carved
    while moved:
        train = {key for s in samples if s.split == "train" for key in _sources(manifest, s, digests)}
        moved = False
        for position, sample in enumerate(samples):
            if sample.split == "val" and train & _sources(manifest, sample, digests).keys():
                samples[position], moved = replace(sample, split="train"), True
    return replace(manifest, samples=tuple(samples))


def check_duplicates(manifest: Manifest, digests: Mapping[str, str], *, known: bool = False) -> list[Problem]:
    """Same bytes under two samples: an error across splits (a warning where they are `known` there), one counted
    warning within them.

    `digests` maps source paths to SHA-256. Texts are left out: equal captions are no leak of a file.
    """
    seen: dict[tuple[str, str], Sample] = {}
    problems, within = [], 0
    for sample in manifest.samples:
        for key, path in _sources(manifest, sample, digests).items():
            first = seen.setdefault(key, sample)
            if first.split != sample.split:
                message = f"{key[0]} of '{first.id}' ({first.split}) and '{sample.id}' ({sample.split}): {path}"
                problems.append(Problem("warning" if known else "error", "duplicate-source", message))
            elif first is not sample:
                within += 1
    if within:
        problems.append(Problem("warning", "duplicate-source", f"{within} sources occur twice within a split"))
    return problems


def _sources(manifest: Manifest, sample: Sample, digests: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """(modality, digest and part of the file) -> path of the media files of one sample."""
    found = {}
    for modality, kind in manifest.kinds.items():
        value = sample.values[modality]
        path = None if kind == "text" else file_of(kind, value)
        if path is not None and path in digests:
            found[modality, digests[path] + part_of(kind, value)] = path
    return found
