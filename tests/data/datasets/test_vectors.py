"""Plain vector sets: three layouts of the six views, tables of omics with gaps, and what cannot be joined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmbal_cli.data.datasets.vectors import OPTIONS, VIEWS, read
from mmbal_cli.data.raw import Folder, NoLayout, Raw, chosen
from mmbal_cli.errors import ManifestError
from mmbal_cli.media.text import read_vector
from tests.kit.minis import handwritten, multi_omics


def found(root: Path, set_: str, **options: str) -> Raw:
    return read(Folder(root), chosen(OPTIONS, {"set": set_, **options}, set_))


def numbers(root: Path, value: object) -> np.ndarray:
    return read_vector(value if isinstance(value, list) else str(root / str(value)))


def test_all_three_layouts_give_the_same_numbers(tmp_path: Path) -> None:
    made = {}
    for name, build in (("npz", handwritten.build), ("mat", handwritten.tmc), ("uci", handwritten.uci)):
        build(tmp_path / name)
        raw = found(tmp_path / name, "handwritten")
        assert list(raw.modalities) == list(VIEWS)
        said = ["50 lines, UCI's have 2000; as many of each digit are assumed"] if name == "uci" else []
        assert [problem.message for problem in raw.problems] == said
        made[name] = raw
    first, second = made["npz"], made["mat"]
    same = [[{k: row[k] for k in ("id", "split", "label", "group")} for _, row in raw.rows] for raw in (first, second)]
    assert same[0] == same[1]
    for n in (0, 7, 44):
        for view in VIEWS:
            ours = numbers(tmp_path / "npz", first.rows[n][1][view])
            assert np.array_equal(ours, numbers(tmp_path / "mat", second.rows[n][1][view]))
    order = np.argsort([int(row["label"]) for _, row in first.rows], kind="stable")
    for view in VIEWS:  # UCI: digits in order
        theirs = [numbers(tmp_path / "uci", row[view]) for _, row in made["uci"].rows]
        ours = [numbers(tmp_path / "npz", first.rows[n][1][view]) for n in order]
        assert np.allclose(theirs, ours, atol=1e-3)


def test_uci_holds_out_the_last_of_each_digit_under_ids_of_its_own(tmp_path: Path) -> None:
    handwritten.uci(tmp_path)
    raw = found(tmp_path, "handwritten")
    assert [(row["label"], row["split"]) for _, row in raw.rows[3:7]] == [
        ("0", "train"), ("0", "test"), ("1", "train"), ("1", "train")
    ]  # fmt: skip
    assert raw.rows[0][1]["id"] == "uci-0000"
    assert "UCI publishes no split" in raw.lists


def test_objects_in_a_matlab_file_are_not_touched(tmp_path: Path) -> None:
    from scipy.io import savemat

    cells = np.empty(6, object)
    cells[:] = [np.zeros((2, 2))] * 6
    savemat(tmp_path / "handwritten_6views.mat", {"X": cells, "gt_train": np.ones((2, 1))})
    with pytest.raises(ManifestError, match="holds no x1_train"):
        found(tmp_path, "handwritten")
    (tmp_path / "handwritten_6views.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(512, b"\0"))
    with pytest.raises(ManifestError, match=r"MATLAB 7\.3"):
        found(tmp_path, "handwritten")
    (tmp_path / "handwritten_6views.mat").write_bytes(b"nothing of the kind")
    with pytest.raises(ManifestError, match="cannot be read as MATLAB"):
        found(tmp_path, "handwritten")


@pytest.mark.parametrize("name", ["fou", "label"])
def test_a_view_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    handwritten.build(tmp_path)
    with np.load(tmp_path / "handwritten6.npz") as file:
        np.savez(tmp_path / "handwritten6.npz", **{key: file[key] for key in file.files if key != name})
    with pytest.raises(ManifestError, match=f"holds no '{name}'"):
        found(tmp_path, "handwritten")


def test_a_view_of_another_width_is_refused(tmp_path: Path) -> None:
    handwritten.build(tmp_path)
    with np.load(tmp_path / "handwritten6.npz") as file:
        arrays = dict(file)
    arrays["mor"] = arrays["mor"][:, :5]
    np.savez(tmp_path / "handwritten6.npz", **arrays)
    with pytest.raises(ManifestError, match=r"view 'mor' is \[50, 5\], expected \[50, 6\]"):
        found(tmp_path, "handwritten")


def test_tables_join_by_patient_whatever_the_order(tmp_path: Path) -> None:
    multi_omics.build(tmp_path)
    before = found(tmp_path, "multi-omics")
    lines = (tmp_path / "meth.csv").read_text().splitlines()
    (tmp_path / "meth.csv").write_text("\r\n".join([lines[0], *reversed(lines[1:])]) + "\r\n\r\n")
    after = found(tmp_path, "multi-omics")
    assert [row for _, row in before.rows] == [row for _, row in after.rows]
    assert before.classes == multi_omics.TYPES
    assert before.rows[0][0] == ("labels.csv", 2)


def gap(root: Path) -> Raw:
    """Patient P002 has no number in the third column of meth."""
    multi_omics.build(root)
    lines = (root / "meth.csv").read_text().splitlines()
    cells = lines[3].split(",")
    cells[3] = ""
    lines[3] = ",".join(cells)
    (root / "meth.csv").write_text("\n".join(lines))
    return found(root, "multi-omics", gaps="mean")


def test_gaps_are_filled_with_the_mean_of_the_training_patients_only(tmp_path: Path) -> None:
    raw = gap(tmp_path)
    rows = {row["id"]: row for _, row in raw.rows}
    trained = [row["meth"][2] for row in rows.values() if row["split"] == "train" and row["id"] != "P002"]
    tested = [row["meth"][2] for row in rows.values() if row["split"] == "test"]
    assert rows["P002"]["meth"][2] == pytest.approx(np.mean(trained))
    assert rows["P002"]["meth"][2] != pytest.approx(np.mean(trained + tested))
    assert [p.severity for p in raw.problems] == ["warning"]


def test_gaps_are_an_error_unless_the_user_says_what_becomes_of_them(tmp_path: Path) -> None:
    gap(tmp_path)
    raw = found(tmp_path, "multi-omics")
    assert [(p.severity, p.rule) for p in raw.problems] == [("error", "bad-value")]
    raw = found(tmp_path, "multi-omics", gaps="missing")
    assert [row["id"] for _, row in raw.rows if row["meth"] is None] == ["P002"]


def test_mogonet_knows_its_studies_by_their_widths(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for part, count in (("tr", 6), ("te", 4)):
        np.savetxt(tmp_path / f"labels_{part}.csv", np.arange(count) % 2)
        for number in (1, 2, 3):
            np.savetxt(tmp_path / f"{number}_{part}.csv", random.normal(size=(count, 200)), delimiter=",")
    raw = found(tmp_path, "multi-omics")
    assert raw.classes == ("control", "alzheimer")
    assert raw.rows[1][1]["label"] == "alzheimer"
    assert list(raw.modalities) == ["mrna", "meth", "mirna"]
    assert [row["id"] for _, row in raw.rows][5:7] == ["tr-0005", "te-0000"]
    assert np.array_equal(raw.rows[6][1]["meth"], np.loadtxt(tmp_path / "2_te.csv", delimiter=",")[0])


@pytest.mark.parametrize("part", ["tr", "te"])
def test_a_view_of_mogonet_with_one_part_is_not_left_out(tmp_path: Path, part: str) -> None:
    multi_omics.mogonet(tmp_path)
    (tmp_path / f"3_{part}.csv").unlink()
    with pytest.raises(ManifestError, match=f"3_{part}.csv"):
        found(tmp_path, "multi-omics")


def test_nothing_there_is_said(tmp_path: Path) -> None:
    for name in OPTIONS["set"]:
        with pytest.raises(NoLayout):
            found(tmp_path, name)
    (tmp_path / "labels.csv").write_text("id,label\nP1,a\n")
    with pytest.raises(ManifestError, match="no column 'split'"):
        found(tmp_path, "multi-omics")
