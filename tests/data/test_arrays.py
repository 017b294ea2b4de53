"""Existing features: arrays in npz, HDF5, npy and IDX, row by row, and the tables made of them."""

from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mmbal_cli.data.arrays import read_arrays_as_table
from mmbal_cli.data.manifest import inspect_raw
from mmbal_cli.encode import get_encoder
from mmbal_cli.encode.plan import plan
from mmbal_cli.encode.prepare import prepare
from mmbal_cli.errors import ManifestError, MediaError
from mmbal_cli.media import arrays as module
from mmbal_cli.media import h5
from mmbal_cli.media.arrays import members, parse, read_value
from mmbal_cli.media.text import read_vector
from mmbal_cli.store.sets import read_arrays

N, T, F = 12, 5, 3
LABEL = np.arange(N) % 2
SPLIT = np.array(["train"] * 8 + ["val"] * 2 + ["test"] * 2)


def features(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def plain(**more: Any) -> dict[str, Any]:
    return {"face": features(N, F), "voice": features(N, T, F, seed=1), "label": LABEL, "split": SPLIT} | more


def table(tmp_path: Path, found: dict[str, Any]) -> Any:
    np.savez(tmp_path / "x.npz", **found)
    return read_arrays_as_table(tmp_path / "x.npz")


def write_h5(path: Path, found: dict[str, Any], **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in found.items():
            text = np.asarray(array).dtype.kind == "U"
            values = np.asarray(array).astype(h5py.string_dtype()) if text else array
            file.create_dataset(name, data=values, **({} if text else options))
    return path


def through(path: Path, root: Path, cache: Path, **params: dict[str, Any]) -> dict[str, Any]:
    """The arrays that `prepare` stores of what a file of arrays holds."""
    raw = read_arrays_as_table(path)
    manifest, problems = inspect_raw(raw, root, None, "x")
    assert not [p for p in problems if p.severity == "error"], problems
    encoders = {m: get_encoder("", kind, **params.get(m, {})) for m, kind in manifest.kinds.items()}
    outcome = prepare(plan(manifest, encoders, cache, chunk=5, dtype="float32"))
    return read_arrays(cache, outcome.prepared)


# ------------------------------------------------------------------------------------------ one row


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_of_every_kind_of_file(tmp_path: Path, save: Any) -> None:
    flat, deep = features(N, F), features(N, T, F, seed=1)
    np.save(tmp_path / "x.npy", flat)
    np.save(tmp_path / "f.npy", np.asfortranarray(deep))
    save(tmp_path / "x.npz", **{"train/audio": deep, "a": flat.astype(np.float64)})
    write_h5(tmp_path / "x.h5", {"train/audio": deep, "a": flat}, chunks=True, compression="gzip", shuffle=True)
    write_h5(tmp_path / "y.hdf5", {"a": flat})
    for place, expected in {
        "x.npy#7": flat[7],
        "f.npy#7": deep[7],
        "x.npz#train/audio/11": deep[11],
        "x.npz#a/0": flat[0],
        "x.h5#train/audio/11": deep[11],
        "x.h5#a/3": flat[3],
        "y.hdf5#a/3": flat[3],
        "x.npy": flat,
        "x.npz#a": flat,
    }.items():
        assert np.array_equal(read_vector(f"{tmp_path}/{place}"), expected), place
        assert read_vector(f"{tmp_path}/{place}").dtype == np.float32


@pytest.mark.parametrize(
    ("run", "there"), [(":3", [1, 1, 1, 0, 0]), (":-2", [0, 0, 0, 1, 1]), (":1,3", [0, 1, 1, 0, 0]), ("", [1] * 5)]
)
def test_steps_without_data_are_nan(tmp_path: Path, run: str, there: list[int]) -> None:
    np.save(tmp_path / "x.npy", features(N, T, F))
    found = read_value(f"{tmp_path}/x.npy#4{run}")
    assert found.shape == (T, F)
    assert (~np.isnan(found).any(1)).astype(int).tolist() == there
    encoder = get_encoder("raw-vector", "vector")
    values, mask = encoder.batch([encoder.sample(found, {}), encoder.sample(found, {})])
    assert mask[1].astype(int).tolist() == there
    assert np.array_equal(values[0], np.nan_to_num(found))


def test_sequences_of_different_length_get_one(tmp_path: Path) -> None:
    for steps in (2, 6):
        np.save(tmp_path / f"{steps}.npy", features(steps, F, seed=steps))
    rows = [read_value(f"{tmp_path}/{steps}.npy#steps=4") for steps in (2, 6)]
    assert [row.shape for row in rows] == [(4, F)] * 2
    assert np.isnan(rows[0][2:]).all()
    assert np.array_equal(rows[1], features(6, F, seed=6)[:4])
    encoder = get_encoder("raw-vector", "vector", steps=3)
    late = read_value(f"{tmp_path}/6.npy")
    late[:4] = np.nan  # front padding: the last two steps hold data
    _, mask = encoder.batch([encoder.sample(row, {}) for row in (*rows, late)])
    assert mask.tolist() == [[True, True, False], [True, True, True], [True, True, False]]


def test_grey_levels_are_divided_without_touching_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((2, 4), 51, np.uint8))
    encoder = get_encoder("raw-vector", "vector", divide=255)
    row = encoder.sample(read_value(f"{tmp_path}/x.npy#1"), {})
    assert row.tolist() == pytest.approx([0.2] * 4)
    assert np.load(tmp_path / "x.npy").tolist() == [[51] * 4] * 2
    assert encoder.spec()["params"] == {"divide": 255}
    assert get_encoder("raw-vector", "vector").spec()["params"] == {}


@pytest.mark.parametrize("packed", [False, True])
def test_idx_is_big_endian_and_may_be_packed(tmp_path: Path, packed: bool) -> None:
    pictures = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4)
    data = struct.pack(">BBBBIII", 0, 0, 8, 3, *pictures.shape) + pictures.tobytes()
    path = tmp_path / ("train-images-idx3-ubyte" + ".gz" * packed)
    path.write_bytes(gzip.compress(data) if packed else data)
    assert read_value(f"{path}#2").tolist() == pictures[2].tolist()
    for wrong, says in ((data[:-1], "claims 24 bytes"), (data[:10], "ends inside"), (b"\x1f" + data, "does not begin")):
        other = path.with_name(f"w{len(wrong)}-ubyte{'.gz' * packed}")
        other.write_bytes(gzip.compress(wrong) if packed else wrong)
        with pytest.raises(MediaError, match=says):
            read_value(f"{other}#0")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("x.npy#12", "no row 12"),
        ("x.npz#b/0", r"no array 'b'; it holds a"),
        ("x.npz", "no array ''; it holds a"),
        ("x.npz#words/0", "'words' is not an array of numbers"),
        ("x.npy#0:9", "has 3 steps, asked for 0 to 9|time axis"),
        ("x.npy#0&steps=0", "unknown addition"),
        ("x.npy#0&fill=7", "unknown addition"),
        ("x.txt", "is no .npy"),
        ("none.npy", "No such file"),
        ("bad.npy#1", r"2 of 3 values of row 1 are not finite \(float32\), the first at \[0\]"),
        ("big.npy#0", "1 of 2 values of row 0 are not finite"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, place: str, says: str) -> None:
    np.save(tmp_path / "x.npy", features(N, F))
    np.savez(tmp_path / "x.npz", a=features(N, F), words=np.array(["a"]))
    np.save(tmp_path / "bad.npy", np.array([[1, 2, 3], [np.nan, 1, -np.inf]]))
    np.save(tmp_path / "big.npy", np.array([[1e300, 1.0]]))
    with pytest.raises(MediaError, match=says):
        read_value(f"{tmp_path}/{place}")


def test_values_that_are_not_finite_are_zero_only_where_that_is_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", np.array([[1, 2, 3], [np.nan, 1, -np.inf]]))
    assert read_value(f"{tmp_path}/bad.npy#1&fill=0").tolist() == [0, 1, 0]
    assert parse("a/b.npz#train/x/17:-40&fill=0") == (Path("a/b.npz"), "train/x", 17, (-40, None), True, 0)


def test_pickles_and_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", a=np.array([{}], object))
    np.save(tmp_path / "o.npy", np.array([{}], object))
    (tmp_path / "p.npy").write_bytes(b"\x80\x04]q\x00.")
    for place in ("o.npz#a/0", "o.npy#0", "p.npy#0"):
        with pytest.raises(MediaError, match=r"pickle.*run any code"):
            read_value(f"{tmp_path}/{place}")


def test_hdf5_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    write_h5(tmp_path / "secret.h5", {"a": features(N, F)})
    (tmp_path / "raw.bin").write_bytes(bytes(4 * N * F))

    def linked(file: h5py.File) -> None:
        file["a"] = h5py.ExternalLink("secret.h5", "/a")

    def soft(file: h5py.File) -> None:
        file["b"] = features(N, F)
        file["a"] = h5py.SoftLink("/b")

    def external(file: h5py.File) -> None:
        file.create_dataset("a", (N, F), "f4", external=[(str(tmp_path / "raw.bin"), 0, 4 * N * F)])

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((N, F), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "a", (N, F))
        file.create_virtual_dataset("a", layout)

    for number, plant in enumerate((linked, soft, external, virtual)):
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as file:
            plant(file)
        with pytest.raises(MediaError, match=r"link|another file"):
            read_value(f"{path}#a/0")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=features(N, 400))
    write_h5(tmp_path / "x.h5", {"a": features(N, 400)})
    np.save(tmp_path / "x.npy", features(N, 400))
    for suffix in ("npz", "h5", "npy"):
        whole = (tmp_path / f"x.{suffix}").read_bytes()
        for number, cut in enumerate((0, 1, 8, 100, len(whole) // 2, len(whole) - 1)):
            path = tmp_path / f"{number}.{suffix}"
            path.write_bytes(whole[:cut])
            with pytest.raises(MediaError):
                read_value(f"{path}#{'' if suffix == 'npy' else 'a/'}{N - 1}")


def test_a_member_that_claims_more_than_it_has_is_not_allocated(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros((9, 2)))
    data = (tmp_path / "x.npz").read_bytes().replace(b"(9, 2), }", b"(9999999999999, 2), }")
    (tmp_path / "y.npz").write_bytes(data.replace(b" " * 12 + b"\n", b"\n"))
    with pytest.raises(MediaError, match=r"claims|cannot be read"):
        read_value(f"{tmp_path}/y.npz#a/0")


def test_unpacked_members_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros((100, 8)), b=np.ones((100, 8)))
    monkeypatch.setattr(module, "MAX_KEPT", 100 * 8 * 8 + 10)
    module._kept.clear()
    for _ in range(2):
        assert read_value(f"{tmp_path}/x.npz#a/1").sum() == 0
        assert read_value(f"{tmp_path}/x.npz#b/1").sum() == 8
        assert len(module._kept) == 1
    monkeypatch.setattr(module, "MAX_KEPT", 100 * 8 * 16 - 1)
    with pytest.raises(MediaError, match=r"compressed members have 12,800 bytes together[\s\S]*h5py"):
        read_arrays_as_table(tmp_path / "x.npz")
    monkeypatch.setattr(module, "MAX_PACKED", 1000)
    module._kept.clear()
    with pytest.raises(MediaError, match=r"compressed and has 6,400 bytes[\s\S]*h5py"):
        read_value(f"{tmp_path}/x.npz#a/1")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((4, 2)))
    assert read_value(f"{path}#1").sum() == 0
    np.save(path, np.ones((5, 2)))
    assert read_value(f"{path}#1").sum() == 2


# ------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("way", ["npz", "h5", "folder"])
def test_arrays_become_features(tmp_path: Path, way: str) -> None:
    found = plain(id=[f"s{n}" for n in range(N)], group=["g"] * 8 + ["h"] * 4, voice_lengths=[T] * 11 + [2])
    found["face"][3] = np.nan  # missing
    path = tmp_path / f"x.{way}"
    if way == "npz":
        np.savez(path, **found)
    elif way == "h5":
        write_h5(path, found)
    else:
        path.mkdir()
        for name, array in found.items():
            np.save(path / f"{name}.npy", array)
    stored = through(path, path if way == "folder" else tmp_path, tmp_path / "c")
    assert stored["ids"] == found["id"]
    assert stored["groups"] == found["group"]
    assert list(stored["splits"]) == SPLIT.tolist()
    assert stored["labels"].tolist() == LABEL.tolist()
    assert stored["mask"]["face"].tolist() == [n != 3 for n in range(N)]
    assert np.allclose(stored["features"]["face"], np.nan_to_num(found["face"]))
    assert stored["mask"]["voice"].sum(1).tolist() == [T] * 11 + [2]
    assert np.allclose(stored["features"]["voice"][:11], found["voice"][:11])


def test_groups_named_as_splits(tmp_path: Path) -> None:
    found: dict[str, Any] = {"classes": ["no", "yes"]}
    for part, count in (("train", 8), ("valid", 2), ("test", 2)):
        found |= {f"{part}/text": features(count, F), f"{part}/y": LABEL[:count]}
    raw = table(tmp_path, found)
    assert [row["split"] for _, row in raw.rows] == SPLIT.tolist()
    assert raw.rows[0][1]["id"] == "train-0"
    assert raw.rows[9][1]["text"] == "x.npz#valid/text/1"
    assert [row["label"] for _, row in raw.rows[:2]] == ["no", "yes"]
    assert raw.classes == ("no", "yes")


def test_is_test_and_masks(tmp_path: Path) -> None:
    mask = np.ones((N, T), bool)
    mask[0], mask[1, :2], mask[2, 3:], mask[4, 0], mask[4, 4] = False, False, False, False, False
    found = plain(mask_voice=mask, face_mask=np.arange(N) != 7, is_test=np.arange(N) >= 10)
    del found["split"]
    raw = table(tmp_path, found)
    voices = [row["voice"] for _, row in raw.rows[:5]]
    assert voices == [None, "x.npz#voice/1:-3", "x.npz#voice/2:3", "x.npz#voice/3", "x.npz#voice/4:1,4"]
    assert [n for n, (_, row) in enumerate(raw.rows) if row["face"] is None] == [7]
    assert [row["split"] for _, row in raw.rows] == ["train"] * 10 + ["test"] * 2
    mask[3, 2] = False
    raw = table(tmp_path, found | {"mask_voice": mask})
    assert "row 3 of 'voice' has holes" in str(raw.problems[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"face": features(N - 1, F)}, r"'face' has 11 rows \(shape \[11, 3\]\), the labels have 12"),
        ({"colour": np.zeros(N)}, r"'colour' of shape \[12\] and type float64 fits no rule"),
        ({"lable": LABEL}, "Did you mean 'label'"),
        ({"deep": np.zeros((N, 2, 2, 2))}, r"'deep' of shape \[12, 2, 2, 2\]"),
        ({"face": np.zeros((N, F), complex)}, "complex128 fits no rule"),
        ({"face": np.zeros(N, [("a", "f4")])}, "fits no rule"),
        ({"is_test": LABEL}, "both `split` and `is_test`"),
        ({"y": LABEL}, "are both the label"),
        ({"label": np.zeros((N, 3))}, r"'label' has the shape \[12, 3\]"),
        ({"voice_lengths": np.zeros(N)}, "'voice_lengths' has the shape .12. and type float64"),
        ({"mask_voice": np.ones((N, 2), bool)}, r"'mask_voice' has the shape \[12, 2\]"),
        ({"mask_voice": np.ones(N, bool), "voice_lengths": np.full(N, 2)}, "both lengths and a mask"),
        ({"train/face": features(N, F)}, "lies outside the groups train"),
        ({"Big Face": features(N, F)}, "'Big Face' of shape"),
    ],
)
def test_what_fits_no_rule_is_an_error_that_names_it(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ManifestError, match=says) as caught:
        table(tmp_path, plain() | change)
    assert caught.value.expected


@pytest.mark.parametrize("name", ["label", "split"])
def test_what_is_needed_and_not_there(tmp_path: Path, name: str) -> None:
    found = plain()
    del found[name]
    with pytest.raises(ManifestError, match=f"no `?{name}"):
        table(tmp_path, found)


def test_a_length_beyond_the_array_is_a_finding(tmp_path: Path) -> None:
    raw = table(tmp_path, plain(voice_lengths=[T] * 11 + [T + 1]))
    assert "row 11 has the length 6, the array has 5 steps" in str(raw.problems[0])


def test_object_arrays_in_npz_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"run any code when it is read \(member 'face'\)"):
        table(tmp_path, plain(face=np.array([None] * N, object)))


@pytest.mark.parametrize("name", ["aligned_50.pkl", "x.pickle", "x.pt", "x.joblib"])
def test_a_pickle_is_refused_unopened_with_the_lines_that_convert_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="pickle") as caught:
        read_arrays_as_table(tmp_path / name)  # there is no such file: nothing was opened
    assert "can run any code" in caught.value.expected
    assert name in caught.value.repair


def test_the_lines_that_convert_a_pickle_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle
    import textwrap

    part = {"text": features(4, T, 6), "audio": features(4, T, F), "id": ["v$_$1"] * 4, "raw_text": ["hi"] * 4,
            "regression_labels": np.zeros(4), "audio_lengths": [T] * 4}  # fmt: skip
    (tmp_path / "aligned_50.pkl").write_bytes(pickle.dumps({"train": part, "valid": part, "test": part}))
    with pytest.raises(ManifestError) as caught:
        read_arrays_as_table(tmp_path / "aligned_50.pkl")
    code = caught.value.repair.partition("\n\n")[2]
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(code), {})  # what a user is told to run
    with np.load(tmp_path / "aligned_50.npz", allow_pickle=False) as found:
        assert {"train/text", "valid/id", "test/audio_lengths"} <= set(found.files)
        assert found["train/id"].tolist() == part["id"]
        assert np.array_equal(found["test/audio"], part["audio"])
        assert "train/raw_text" not in found.files


def test_one_file_a_sample(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    lines = ["id,split,label,group"]
    for n in range(N):
        lines.append(f"s{n},{SPLIT[n]},{'ab'[LABEL[n]]},g{n}")
        for name, array in (("face", features(F, seed=n)), ("voice", features(2 + n % 3, F, seed=n))):
            (folder / name).mkdir(parents=True, exist_ok=True)
            if (name, n) != ("face", 2):
                np.save(folder / name / f"s{n}.npy", array)
    np.save(folder / "face" / "stray.npy", features(F))
    (folder / "labels.csv").write_text("\n".join(lines))
    raw = read_arrays_as_table(folder)
    assert raw.modalities == {"face": "vector", "voice": "vector"}
    assert [p.rule for p in raw.problems] == ["unlisted-file"]
    stored = through(folder, folder, tmp_path / "c")
    assert stored["features"]["voice"].shape == (N, 4, F)
    assert stored["mask"]["voice"].sum(1).tolist() == [2 + n % 3 for n in range(N)]
    assert np.flatnonzero(~stored["mask"]["face"]).tolist() == [2]
    assert np.array_equal(stored["features"]["voice"][3][:2], features(2, F, seed=3))


def test_an_encrypted_or_strange_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(MediaError, match=r"expected plain NAME\.npy"):
        read_arrays_as_table(tmp_path / "x.npz")


def test_a_changed_byte_of_an_array_that_is_not_compressed_is_found(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **plain())
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[data.index(plain()["face"].tobytes()) + 5] ^= 1  # in the fraction of a number: still finite
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(MediaError, match=r"CRC-32 for file 'face\.npy'"):
        read_arrays_as_table(tmp_path / "x.npz")


def test_a_row_of_another_shape_is_that_samples_fault(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    (folder / "a").mkdir(parents=True)
    lines = ["id,split,label"]
    for n in range(N):
        np.save(folder / "a" / f"{n}.npy", features(F + (n == 7), seed=n))
        lines.append(f"{n},{SPLIT[n]},{LABEL[n]}")
    (folder / "labels.csv").write_text("\n".join(lines))
    with pytest.raises(MediaError, match=r"7 \(train\): has shape \[4\], others \[3\]"):
        through(folder, folder, tmp_path / "c")


def test_the_example_of_the_documentation_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "features.md").read_text()
    monkeypatch.chdir(tmp_path)
    exec(text.split("```python\n")[1].split("```")[0], {})
    stored = through(tmp_path / "my.npz", tmp_path, tmp_path / "c")
    assert stored["features"]["voice"].shape == (60, 20, 8)
    with np.load("my.npz") as file:
        assert stored["mask"]["voice"].sum(1).tolist() == file["voice_lengths"].tolist()
    with pytest.raises(ManifestError) as caught:
        read_arrays_as_table(tmp_path / "aligned_50.pkl")
    shown = [line.strip() for line in caught.value.repair.splitlines()]
    said = text.split("```\nimport pickle")[1].split("```")[0].split("\n")
    assert {line.strip() for line in said} <= {*shown, ""}


def test_texts_that_hdf5_never_returns_from_cost_seconds_and_not_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_h5(tmp_path / "x.h5", plain())
    assert members(path)["split"].text() == SPLIT.tolist()
    monkeypatch.setattr(h5, "PATIENCE", 0.01)
    with pytest.raises(MediaError, match="the texts of 'split' cannot be read"):
        read_arrays_as_table(path)
    monkeypatch.undo()
    data = path.read_bytes()
    heap = data.index(b"GCOL")
    path.write_bytes(data[: heap + 16] + b"\xff" * 64 + data[heap + 80 :])
    monkeypatch.setattr(h5, "PATIENCE", 3.0)
    with pytest.raises(MediaError, match="the texts of 'split' cannot be read"):
        read_arrays_as_table(path)
