"""AV-MNIST in small: version B of real WAV and IDX files, version A of arrays in the real shapes."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.kit.minis.common import Pitfall, sound
from tests.kit.minis.handwritten import instead

DIGITS, TAKES, EACH = 3, 8, 12
SPEAKERS = ("george", "theo")


def build(root: Path) -> None:
    """Recordings, and the four files of MNIST as they are downloaded."""
    recordings(root)
    idx(root / "mnist", packed=True)


def recordings(root: Path) -> None:
    for number in range(DIGITS * len(SPEAKERS) * TAKES):
        digit, rest = divmod(number, len(SPEAKERS) * TAKES)
        name = f"{digit}_{SPEAKERS[rest // TAKES]}_{rest % TAKES}.wav"
        sound(root / "recordings" / name, number, seconds=0.3, rate=8000)


def idx(folder: Path, *, packed: bool, dot: str = "-") -> None:
    """Pictures and labels of both parts, big-endian."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, part in enumerate(("train", "t10k")):
        random = np.random.default_rng(seed)
        labels = np.arange(DIGITS * EACH, dtype=np.uint8) % DIGITS
        pictures = random.integers(0, 256, (len(labels), 28, 28), np.uint8)
        files = {
            f"{part}-images{dot}idx3-ubyte": struct.pack(">BBBBIII", 0, 0, 8, 3, *pictures.shape) + pictures.tobytes(),
            f"{part}-labels{dot}idx1-ubyte": struct.pack(">BBBBI", 0, 0, 8, 1, len(labels)) + labels.tobytes(),
        }
        for name, data in files.items():
            (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(data, mtime=0) if packed else data)


def unpacked(root: Path) -> None:
    recordings(root)
    idx(root, packed=False, dot=".")


def arrays(root: Path, dtype: str = "uint8", scale: int = 1) -> None:
    """Version A: 36 and 12 samples."""
    for seed, (part, count) in enumerate((("train", 36), ("test", 12))):
        random = np.random.default_rng(seed)
        for modality, shape in (("image", (784,)), ("audio", (112, 112))):
            (root / modality).mkdir(parents=True, exist_ok=True)
            values = random.integers(0, 256, (count, *shape)).astype(dtype) / scale
            np.save(root / modality / f"{part}_data.npy", values.astype(dtype))
        np.save(root / f"{part}_labels.npy", np.arange(count) % DIGITS)


def _labels(value: int) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        labels = np.load(root / "test_labels.npy")
        labels[2] = value
        np.save(root / "test_labels.npy", labels)

    return plant


def _fewer(root: Path) -> None:
    np.save(root / "audio" / "test_data.npy", np.zeros((11, 112, 112), np.uint8))


def _few_pictures(root: Path) -> None:
    path = root / "mnist" / "t10k-labels-idx1-ubyte.gz"
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[8:] = bytes([0, 1] * (len(data[8:]) // 2))
    path.write_bytes(gzip.compress(bytes(data)))


WAV = "recordings/1_george_3.wav"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9000\n"
PITFALLS = (
    Pitfall("missing", lambda root: (root / WAV).unlink(), "missing-file", WAV),
    Pitfall("pointer", lambda root: (root / WAV).write_bytes(POINTER), "lfs-pointer", WAV),
    Pitfall("empty", lambda root: (root / WAV).write_bytes(b""), "empty-file", WAV),
    Pitfall("strange", lambda root: sound(root / "recordings/hello.wav", 999), "unlisted-file", "hello.wav"),
    Pitfall("same-speakers", lambda root: None, "group-overlap", "2 of 2 groups"),
    Pitfall("few-pictures", _few_pictures, "quirk", "t10k has fewer pictures of 2"),
    Pitfall("a-label", instead(arrays, _labels(11)), "bad-row", "test_labels.npy, line 3: label 11"),
    Pitfall("a-rows", instead(arrays, _fewer), "bad-row", "audio/test_data.npy: 11 rows, but test_labels.npy has 12"),
    Pitfall("a-scaled", instead(lambda r: arrays(r, "float32", 255), lambda r: None), "quirk", "values are at most 1"),
)
VARIANTS: dict[str, Callable[[Path], None]] = {"plain-idx": unpacked, "arrays": arrays}
