"""MOSI and MOSEI: labellings of the score, padding at either end, values that are not finite, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbal_cli.data.datasets import read_folder
from mmbal_cli.data.datasets.mmsa import CLASSES, OPTIONS, label_of, read
from mmbal_cli.data.raw import Folder, NoLayout, Raw, chosen
from mmbal_cli.errors import ManifestError
from mmbal_cli.recipe import dataset_recipe, find_recipe
from tests.kit.minis.sentiment import COUNTS, STEPS, Sentiment

MOSI = Sentiment("mosi")


def found(root: Path, **options: str) -> Raw:
    return read(Folder(root), chosen(OPTIONS, {"set": "mosi", **options}, "mosi"))


def cells(raw: Raw, column: str) -> list[Any]:
    return [row[column] for _, row in raw.rows]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("acc2_nonneg", ["negative", "negative", "non-negative", "non-negative", "non-negative"]),
        ("acc2_nonzero", ["negative", "negative", None, "positive", "positive"]),
        ("acc3", ["negative", "neutral", "neutral", "neutral", "positive"]),
        ("acc7", ["-3", "0", "0", "0", "3"]),
    ],
)
def test_a_score_becomes_a_class(labels: str, expected: list[str | None]) -> None:
    assert [label_of(score, labels) for score in (-3.0, -0.5, 0.0, 0.5, 2.6)] == expected
    assert {label_of(score / 10, labels) for score in range(-30, 31)} - {None} == set(CLASSES[labels])


@pytest.mark.parametrize("labels", OPTIONS["labels"])
def test_the_option_decides_labels_and_classes(tmp_path: Path, labels: str) -> None:
    MOSI.build(tmp_path)
    raw = found(tmp_path, labels=labels)
    assert raw.classes == CLASSES[labels]
    assert set(cells(raw, "label")) <= set(CLASSES[labels])
    dropped = [str(p) for p in raw.problems if "left out" in str(p)]
    assert len(dropped) == (3 if labels == "acc2_nonzero" else 0)
    assert len(raw.rows) == sum(COUNTS.values()) - (5 if labels == "acc2_nonzero" else 0)


def test_rows_of_mmsa(tmp_path: Path) -> None:
    MOSI.build(tmp_path)
    raw = found(tmp_path)
    assert raw.layout == "MOSI/Processed/aligned_50.npz"
    assert raw.problems == []
    spot, row = raw.rows[24]
    assert spot == ("MOSI/Processed/aligned_50.npz#valid/regression_labels", 1)
    assert row == {
        "id": "clip50$_$0",
        "split": "val",
        "label": "negative",
        "group": "clip50",
        "text": "MOSI/Processed/aligned_50.npz#valid/text/0",
        "audio": "MOSI/Processed/aligned_50.npz#valid/audio/0",
        "video": "MOSI/Processed/aligned_50.npz#valid/vision/0",
    }
    assert raw.rows[26][1]["audio"].endswith("#valid/audio/2:3")  # two of five steps are padding, at the end


def test_padding_at_the_front_is_seen(tmp_path: Path) -> None:
    MOSI.save(tmp_path / "mosi_data.npz", front=True, text=300)
    raw = found(tmp_path)
    assert raw.rows[2][1]["audio"] == "mosi_data.npz#train/audio/2:-3"
    assert raw.rows[2][1]["id"] == "clip1_0.0_0.9"
    assert raw.rows[2][1]["group"] == "clip1"


def test_lengths_count_even_where_numbers_follow(tmp_path: Path) -> None:
    arrays = {f"{part}/{key}": value for part in COUNTS for key, value in MOSI.part(part, aligned=False).items()}
    arrays["train/audio"][1, :] = 1.0  # its length is 6 of 7
    np.savez(tmp_path / "unaligned_50.npz", **arrays)
    raw = found(tmp_path)
    assert raw.rows[1][1]["audio"].endswith("/1:6")
    assert any("beyond the stated length in 1 samples" in str(p) for p in raw.problems)
    arrays["train/audio_lengths"][1] = STEPS["audio"] + 1
    np.savez(tmp_path / "unaligned_50.npz", **arrays)
    assert any("length 8, but the array has 7 steps" in str(p) for p in found(tmp_path).problems)


def test_the_mask_of_the_tokens_is_the_length_of_the_text(tmp_path: Path) -> None:
    arrays = {f"{part}/{key}": value for part in COUNTS for key, value in MOSI.part(part).items()}
    for part, count in COUNTS.items():
        tokens = np.zeros((count, 3, STEPS["text"]), np.float32)
        tokens[:, 1, :2] = 1
        arrays[f"{part}/text_bert"] = tokens
    np.savez(tmp_path / "aligned_50.npz", **arrays)
    assert {text.rpartition(":")[2] for text in cells(found(tmp_path), "text")} == {"2"}


def test_audio_that_is_not_finite_becomes_zero_and_nothing_else_does(tmp_path: Path) -> None:
    arrays = {f"{part}/{key}": value for part in COUNTS for key, value in MOSI.part(part).items()}
    arrays["train/audio"][0, 1, 1] = -np.inf
    arrays["train/vision"][1, 1, 1] = np.nan
    arrays["train/audio"][2] = np.nan
    np.savez(tmp_path / "mosi.npz", **arrays)
    raw = found(tmp_path)
    assert raw.rows[0][1]["audio"] == "mosi.npz#train/audio/0&fill=0"
    assert raw.rows[1][1]["video"] == "mosi.npz#train/vision/1:4"
    assert raw.rows[2][1]["audio"] is None
    said = " ".join(str(p) for p in raw.problems)
    assert "audio of train holds -inf or NaN in 2 samples" in said
    assert "audio of train is all zeros or not finite in 1 samples and counts as missing: clip1$_$0" in said


def test_other_widths_are_said_and_the_other_set_is_refused(tmp_path: Path) -> None:
    arrays = {f"{part}/{key}": value for part in COUNTS for key, value in MOSI.part(part, text=32).items()}
    np.savez(tmp_path / "mosi.npz", **arrays)
    assert [(p.severity, "text has 32" in str(p)) for p in found(tmp_path).problems] == [("warning", True)]
    np.savez(tmp_path / "mosei.npz", **arrays)
    raw = found(tmp_path, set="mosei")
    assert {(p.severity, p.rule) for p in raw.problems} == {("error", "refused-list"), ("warning", "quirk")}


def test_a_folder_with_the_pickle_alone_says_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "Processed").mkdir()
    (tmp_path / "Processed" / "unaligned_50.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ManifestError, match=r"unaligned_50\.pkl is a pickle") as caught:
        found(tmp_path)
    assert "np.savez" in caught.value.repair


def test_nothing_there_shows_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(NoLayout):
        found(tmp_path)
    path = find_recipe("datasets", "mosi")
    assert path
    with pytest.raises(ManifestError, match=r"(?s)aligned_50\.npz"):
        read_folder(dataset_recipe(path), tmp_path, {})


def test_parts_that_are_missing_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "mosi.npz", **{f"train/{key}": value for key, value in MOSI.part("train").items()})
    with pytest.raises(ManifestError, match="holds the parts train"):
        found(tmp_path)


def test_the_alignment_can_be_chosen(tmp_path: Path) -> None:
    MOSI.save(tmp_path / "aligned_50.npz")
    MOSI.save(tmp_path / "unaligned_50.npz", aligned=False)
    assert found(tmp_path).layout == "aligned_50.npz"
    assert found(tmp_path, alignment="unaligned").layout == "unaligned_50.npz"
    assert found(tmp_path, alignment="unaligned").problems == []
