"""Writes a feature set as a real prepared data set: real shards, index and pointer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmbal_cli.data.features import FeatureSet
from mmbal_cli.store.atomic import digest_of, publish, sha256_hex
from mmbal_cli.store.index import Index, ShardEntry, write_index
from mmbal_cli.store.sets import PreparedSet, write_set
from mmbal_cli.store.shard import shard_image, shard_name


def write_prepared(cache: Path, features: FeatureSet, name: str = "tiny", **settings: object) -> PreparedSet:
    """One shard for each modality; returns the pointer."""
    N = len(features.ids)
    splits = [""] * N
    for split, rows in features.rows.items():
        for row in rows.tolist():
            splits[row] = split
    folders, fingerprints = {}, {}
    for m, x in features.x.items():
        mask = features.mask[m]
        arrays = {
            "features": x.numpy().astype("float32"),
            "mask": np.ones(x.shape[:-1], bool) if mask is None else mask.numpy(),
            "labels": features.y.numpy(),
            "ids": features.ids,
            "splits": splits,
            "groups": [""] * N,
        }
        image = shard_image(arrays, {"modality": m})
        fingerprints[m] = digest_of({"image": sha256_hex(image)})
        folders[m] = f"{m}--random--{fingerprints[m][:16]}"
        folder = cache / name / folders[m]
        folder.mkdir(parents=True, exist_ok=True)
        shard = shard_name(0, image)
        publish(folder, shard, image)
        entry = ShardEntry(name=shard, rows=N, bytes=len(image), sha256=sha256_hex(image))
        write_index(
            folder,
            Index(
                modality=m,
                kind="vector",
                encoder="random",
                fingerprint=fingerprints[m],
                spec={},
                rows=N,
                shape=tuple(x.shape[1:]),
                dtype="float32",
                classes=features.classes,
                shards=(entry,),
            ),
        )
    prepared = PreparedSet(
        name=name,
        fingerprint=digest_of(fingerprints),
        modalities=folders,
        kinds=dict.fromkeys(folders, "vector"),
        classes=features.classes,
        counts={split: len(rows) for split, rows in features.rows.items()},
        split_hash=digest_of(splits),
        settings=dict(settings),
    )
    write_set(cache, prepared)
    return prepared
