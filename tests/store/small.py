"""A small prepared cache: two modalities, three shards each, one sample without sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.store.atomic import digest_of, publish, sha256_hex
from mmbal_cli.store.index import Index, ShardEntry, write_index
from mmbal_cli.store.sets import PreparedSet, write_set
from mmbal_cli.store.shard import shard_image, shard_name

SHAPES = {"video": (3, 4), "audio": (5,)}
CHUNKS, ROWS = 3, 4


def chunk(modality: str, number: int, rows: int = ROWS) -> dict[str, Any]:
    """Arrays of one chunk; ids hold what names may hold."""
    rng = np.random.default_rng([number, len(modality), ord(modality[0])])
    mask = np.ones(rows, dtype=bool)
    mask[0] = modality != "audio" or number != 1
    features = rng.standard_normal((rows, *SHAPES[modality])).astype(np.float16)
    features[~mask] = 0
    return {
        "features": features,
        "mask": mask,
        "labels": (np.arange(rows) + number) % 3,
        "ids": [f"clip {number}/{i} é\n[red]" for i in range(rows)],
        "splits": ["train", "val", "test", "train"][:rows],
        "groups": [""] * rows,
    }


def make_folder(folder: Path, modality: str) -> Index:
    """Publish the shards and the index of one modality."""
    entries = []
    for number in range(CHUNKS):
        image = shard_image(chunk(modality, number), {"chunk": number, "modality": modality})
        name = shard_name(number, image)
        publish(folder, name, image)
        entries.append(ShardEntry(name=name, rows=ROWS, bytes=len(image), sha256=sha256_hex(image)))
    index = Index(
        modality=modality,
        kind=modality,
        encoder="fixed",
        fingerprint=digest_of([modality]),
        spec={"encoder": "fixed", "rate": 16000},
        rows=CHUNKS * ROWS,
        shape=SHAPES[modality],
        dtype="float16",
        classes=("a", "b", "c"),
        shards=tuple(entries),
    )
    write_index(folder, index)
    return index


def make_cache(cache: Path, name: str = "tiny") -> PreparedSet:
    """A complete data set."""
    folders = {}
    for modality in SHAPES:
        folders[modality] = f"{modality}--fixed--{digest_of([modality])[:16]}"
        make_folder(cache / name / folders[modality], modality)
    prepared = PreparedSet(
        name=name,
        fingerprint=digest_of(sorted(folders)),
        modalities=folders,
        kinds={m: m for m in SHAPES},
        classes=("a", "b", "c"),
        counts={"train": 6, "val": 3, "test": 3},
        split_hash=digest_of("split"),
    )
    write_set(cache, prepared)
    return prepared


def shards(folder: Path) -> list[Path]:
    """Shard files below a folder, sorted."""
    return sorted(folder.rglob("*.h5"))


def tree(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Content, inode and mtime of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }
