"""CMU-MOSI and MOSEI in small: arrays of the real widths and names; invented ids, short sequences, random values."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.kit.minis.common import Pitfall

COUNTS = {"train": 24, "valid": 8, "test": 8}
STEPS = {"text": 5, "audio": 7, "vision": 6}
SCORES = (-2.6, -1.2, 0.0, 0.4, 1.0, 2.8, -0.4, 1.8)
Arrays = dict[str, np.ndarray]


class Sentiment:
    """Builds one of the two sets in every accepted layout."""

    def __init__(self, name: str) -> None:
        self.name = name
        audio, video = {"mosi": (5, 20), "mosei": (74, 35)}[name]
        self.widths = {"text": 768, "audio": audio, "vision": video}

    def part(self, part: str, *, front: bool = False, aligned: bool = True, text: int = 768) -> Arrays:
        """The arrays of one part; the padding is at the `front`, or at the end."""
        count, random = COUNTS[part], np.random.default_rng(len(part))
        scores = np.array([SCORES[n % len(SCORES)] for n in range(count)], np.float32)
        found: Arrays = {}
        for modality, width in (self.widths | {"text": text}).items():
            steps = STEPS["text"] if aligned else STEPS[modality]
            values = random.normal(size=(count, steps, width)).astype(np.float32) + scores[:, None, None] / 4
            lengths = np.array([steps - n % 3 for n in range(count)])
            for n, length in enumerate(lengths):
                values[n, : steps - length] = 0 if front else values[n, : steps - length]
                values[n, length:] = values[n, length:] if front else 0
            found[modality] = values
            if not aligned and modality != "text":
                found[f"{modality}_lengths"] = lengths
        start = {"train": 0, "valid": 50, "test": 70}[part]
        ids = [f"clip{start + n // 2}$_${n % 2}" for n in range(count)]
        if front:
            table = [[f"clip{start + n // 2}", f"{n % 2}.0", f"{n % 2}.9"] for n in range(count)]
            return found | {"labels": scores[:, None, None], "id": np.array(table)}
        deprecated = np.sign(scores).astype(int) + 1
        return found | {"regression_labels": scores, "classification_labels": deprecated, "id": np.array(ids)}

    def save(self, path: Path, **options: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f"{part}/{key}": value for part in COUNTS for key, value in self.part(part, **options).items()}
        if path.suffix == ".npz":
            np.savez(path, **arrays)
        else:
            write_h5(path, arrays)

    def where(self, root: Path) -> Path:
        return root / self.name.upper() / "Processed" / "aligned_50.npz"

    def build(self, root: Path) -> None:
        """MMSA's aligned features, converted to npz."""
        self.save(self.where(root))

    def variants(self) -> dict[str, Callable[[Path], None]]:
        def mult(root: Path) -> None:
            stem = "mosi_data" if self.name == "mosi" else "mosei_senti_data"
            self.save(root / f"{stem}.npz", front=True, text=300)

        def unaligned(root: Path) -> None:
            self.save(root / "unaligned_50.h5", aligned=False)

        def parts(root: Path) -> None:
            root.mkdir(parents=True, exist_ok=True)
            for part in COUNTS:
                write_h5(root / f"{part}.h5", self.part(part))

        return {"mult": mult, "unaligned-hdf5": unaligned, "one-file-a-part": parts}

    def changed(self, change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
        """A `plant` that changes the arrays of the file."""

        def plant(root: Path) -> None:
            with np.load(self.where(root)) as file:
                arrays = dict(file)
            change(arrays)
            np.savez(self.where(root), **arrays)

        return plant

    def pitfalls(self) -> tuple[Pitfall, ...]:
        def put(name: str, at: Any, value: Any) -> Callable[[Path], None]:
            def change(arrays: dict[str, np.ndarray]) -> None:
                arrays[name][at] = value

            return self.changed(change)

        other = Sentiment("mosei" if self.name == "mosi" else "mosi")

        def swap(root: Path) -> None:
            other.save(self.where(root))

        def both(root: Path) -> None:
            shutil.copy(self.where(root), self.where(root).with_name("unaligned_50.npz"))

        def nan_text(arrays: dict[str, np.ndarray]) -> None:
            arrays["test/regression_labels"][0] = np.nan

        return (
            Pitfall("infinite-audio", put("train/audio", (3, 1, 2), -np.inf), "quirk", "clip1$_$1"),
            Pitfall("zero-text", put("train/text", 4, 0), "quirk", "text of train is all zeros in 1 samples"),
            Pitfall("score", put("valid/regression_labels", 2, 7.0), "bad-row", "'clip51$_$0': score 7"),
            Pitfall("no-score", self.changed(nan_text), "bad-row", "'clip70$_$0': score nan"),
            Pitfall("deprecated", put("test/classification_labels", 1, 2), "label-mismatch", "1 of 8"),
            Pitfall("twice", put("train/id", 1, "clip0$_$0"), "duplicate-id", "clip0$_$0"),
            Pitfall("leak", put("test/id", 0, "clip3$_$9"), "group-overlap", "clip3"),
            Pitfall("other-set", swap, "refused-list", f"this is {other.name}"),
            Pitfall("two-alignments", both, "quirk", "unaligned_50.npz are there"),
        )


def write_h5(path: Path, arrays: Arrays) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            text = array.dtype.kind == "U"
            file.create_dataset(name, data=array.astype(h5py.string_dtype()) if text else array)
