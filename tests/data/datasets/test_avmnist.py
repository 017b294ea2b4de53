"""AV-MNIST: the split and shapes of the arrays; pairs inside a class, without replacement, never across parts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mmbal_cli.data.datasets.avmnist import OPTIONS, read
from mmbal_cli.data.raw import Folder, NoLayout, Raw, chosen
from mmbal_cli.encode import get_encoder
from mmbal_cli.errors import ManifestError, MediaError
from mmbal_cli.media.text import read_vector
from tests.kit.minis import avmnist as mini


def found(root: Path, **options: str) -> Raw:
    return read(Folder(root), chosen(OPTIONS, options, "avmnist"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("avmnist")
    mini.build(root)
    return root


def test_pairs_are_of_one_class_and_use_no_picture_twice(made: Path) -> None:
    raw = found(made)
    rows = [row for _, row in raw.rows]
    assert len({row["image"] for row in rows}) == len(rows) == mini.DIGITS * 2 * mini.TAKES
    for row in rows:
        digit, _, take = row["audio"].removeprefix("recordings/").removesuffix(".wav").split("_")
        part, number = row["image"].removeprefix("mnist/").split("-images-idx3-ubyte.gz#")
        assert int(number) % mini.DIGITS == int(digit) == int(row["label"])
        assert part == ("t10k" if row["split"] == "test" else "train")
        assert (row["split"] == "test") == (int(take) < 5)
        assert row["id"] == f"{digit}_{row['group']}_{take}+mnist-{part}-{number}"


def test_pairs_do_not_change_when_a_recording_is_missing_elsewhere(made: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(made, tmp_path / "copy")
    (tmp_path / "copy" / "recordings" / "1_theo_2.wav").unlink()
    again = found(tmp_path / "copy")
    assert [row for _, row in again.rows] == [row for _, row in found(made).rows]  # the missing one keeps its row
    assert "1 recordings are missing, such as 1 of 1 by theo" in str(again.problems[0])


def test_speakers_can_be_held_out(made: Path) -> None:
    raw = found(made, split="speaker")
    assert {(row["group"], row["split"]) for _, row in raw.rows} == {("george", "train"), ("theo", "test")}


def test_pictures_are_grey_levels_as_one_vector(made: Path) -> None:
    row = found(made).rows[0][1]
    picture = read_vector(f"{made}/{row['image']}")
    vector = get_encoder("raw-vector", "vector", divide=255, flat=1).sample(picture, {})
    assert picture.shape == (28, 28)
    assert vector.shape == (784,)
    assert np.allclose(vector * 255, picture.reshape(-1))


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
def test_arrays_of_any_number_type(tmp_path: Path, dtype: str) -> None:
    mini.arrays(tmp_path, dtype)
    raw = found(tmp_path)
    assert Counter(row["split"] for _, row in raw.rows) == {"train": 33, "val": 3, "test": 12}
    assert [row["id"] for _, row in raw.rows if row["split"] == "val"] == ["train-00033", "train-00034", "train-00035"]
    assert read_vector(f"{tmp_path}/{raw.rows[35][1]['audio']}").shape == (112, 112)
    vector = get_encoder("raw-vector", "vector", divide=255, flat=1).sample(
        read_vector(f"{tmp_path}/{raw.rows[35][1]['image']}"), {}
    )
    assert np.allclose(vector, np.load(tmp_path / "image" / "train_data.npy")[35] / 255)


def test_the_split_of_the_full_set(tmp_path: Path) -> None:
    """60,000 and 10,000 rows as sparse files: only headers and labels are read."""
    for part, count in (("train", 60_000), ("test", 10_000)):
        for modality, shape in (("image", (784,)), ("audio", (112, 112))):
            (tmp_path / modality).mkdir(exist_ok=True)
            np.lib.format.open_memmap(tmp_path / modality / f"{part}_data.npy", "w+", np.uint8, (count, *shape))
        np.save(tmp_path / f"{part}_labels.npy", np.arange(count) % 10)
    raw = found(tmp_path)
    assert Counter(row["split"] for _, row in raw.rows) == {"train": 55_000, "val": 5_000, "test": 10_000}


def test_other_shapes_are_refused(tmp_path: Path) -> None:
    mini.arrays(tmp_path)
    np.save(tmp_path / "image" / "test_data.npy", np.zeros((12, 28, 28)))
    with pytest.raises(ManifestError, match=r"has the shape \[12, 28, 28\]"):
        found(tmp_path)
    (tmp_path / "image" / "test_data.npy").unlink()
    with pytest.raises(ManifestError, match="There is no"):
        found(tmp_path)


def test_a_picture_file_that_is_no_idx_is_refused(made: Path, tmp_path: Path) -> None:
    mini.recordings(tmp_path)
    mini.idx(tmp_path, packed=False)
    path = tmp_path / "train-images-idx3-ubyte"
    data = bytearray(path.read_bytes())
    path.write_bytes(bytes(data[:4]) + data[4:8][::-1] + data[8:])  # little-endian
    with pytest.raises(MediaError, match="claims"):
        found(tmp_path)
    path.unlink()
    with pytest.raises(ManifestError, match="no train-images-idx3-ubyte"):
        found(tmp_path)


def test_versions_can_be_told_apart(made: Path, tmp_path: Path) -> None:
    mini.arrays(tmp_path)
    assert found(tmp_path).modalities == {"image": "vector", "audio": "vector"}
    assert found(made).modalities == {"image": "vector", "audio": "audio"}
    for root, version in ((tmp_path, "pairs"), (made, "arrays"), (tmp_path / "none", "any")):
        with pytest.raises(NoLayout):
            found(root, version=version)
