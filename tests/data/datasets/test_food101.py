"""UPMC Food-101: which form and version is there, columns of the titles, masked words, file names and labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbal_cli.data.datasets.food101 import masked, read, recognised
from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, NoLayout, Raw
from mmbal_cli.recipe import dataset_recipe, find_recipe
from tests.kit.minis import food101 as mini


def raw(root: Path, **options: str) -> Raw:
    return read(Folder(root), {"version": "auto", "mask": "no", **options})


def errors(found: Raw) -> list[Problem]:
    return [problem for problem in found.problems if problem.severity == "error"]


def samples(found: Raw) -> dict[str, tuple[str, str, str]]:
    return {row["id"]: (row["label"], row["text"], row["image"]) for _, row in found.rows}


def test_there_are_101_dishes_in_alphabetical_order() -> None:
    path = find_recipe("datasets", "UPMC_Food101")
    assert path
    classes = dataset_recipe(path).classes
    assert classes
    assert len(set(classes)) == 101
    assert classes == sorted(classes)
    assert (classes[0], classes[-1]) == ("apple_pie", "waffles")


def test_every_form_names_the_same_samples(tmp_path: Path) -> None:
    for name, build in {"titles": mini.build, **mini.VARIANTS}.items():
        build(tmp_path / name)
    found = {name: samples(raw(tmp_path / name)) for name in ("titles", *mini.VARIANTS)}
    assert found["titles"]["pho_pho_-12.jpg"] == (
        "pho",
        'easy "pho", cr\u00e8me no -12',
        "images/train/pho/pho_-12.jpg",
    )
    assert found["lists"] == found["titles"]
    assert {key: value[:2] for key, value in found["header"].items()} == {k: v[:2] for k, v in found["titles"].items()}
    assert found["header"]["pho_pho_0.jpg"][2] == "upmcfood101/images/train/pho/pho_0.jpg"
    assert found["full"].keys() == found["titles"].keys()
    assert found["full"]["pho_pho_-12.jpg"][1] == "file:texts_txt/pho/pho_-12.txt"


def test_only_the_lists_have_a_validation_part(tmp_path: Path) -> None:
    for name, build in {"titles": mini.build, **mini.VARIANTS}.items():
        build(tmp_path / name)
        splits = {row["split"] for _, row in raw(tmp_path / name).rows}
        assert splits == ({"train", "val", "test"} if name == "lists" else {"train", "test"})


def test_one_form_of_several_by_name(tmp_path: Path) -> None:
    mini.build(tmp_path)
    mini.write_lists(tmp_path)
    assert raw(tmp_path).layout.startswith("train.jsonl")
    assert raw(tmp_path, version="titles").layout.startswith("texts/train_titles.csv")
    with pytest.raises(NoLayout, match="for version=full"):
        raw(tmp_path, version="full")


@pytest.mark.parametrize(
    ("train", "val", "test", "version"),
    [
        (62_971, 5_000, 22_715, "titles, lists of QMF"),
        (67_972, 0, 22_716, "titles, raw folders"),
        (62_970, 0, 22_714, "titles, lists of MLA"),
        (60_101, 5_000, 21_695, "full texts, lists of MMBT"),
        (60_001, 5_000, 21_600, "full texts, lists of MMBT"),
        (64_000, 0, 22_000, "no published version"),
        (0, 0, 0, "no published version"),
    ],
)
def test_the_version_is_recognised_by_its_counts(train: int, val: int, test: int, version: str) -> None:
    assert recognised({"train": train, "val": val, "test": test}) == version


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (2, 0, 1)])
@pytest.mark.parametrize("header", [False, True])
def test_columns_in_any_order(tmp_path: Path, order: tuple[int, ...], header: bool) -> None:
    mini.write_pictures(tmp_path)
    names = tuple(("image_path", "Text", "label")[place] for place in order)
    mini.write_titles(tmp_path / "texts", names if header else (), order)
    found = raw(tmp_path)
    assert errors(found) == []
    assert len(found.rows) == len(mini.entries())
    assert samples(found)["waffles_waffles_6.jpg"][:2] == ("waffles", 'easy "waffles", cr\u00e8me no 6')


def test_columns_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    mini.write_pictures(tmp_path)
    mini.write_titles(tmp_path / "texts", (), (0, 1, 1))
    with pytest.raises(NoLayout, match="no column of class names"):
        raw(tmp_path)


def test_a_title_may_go_over_lines_and_the_numbers_stay_right(tmp_path: Path) -> None:
    mini.build(tmp_path)
    path = tmp_path / "texts/test_titles.csv"
    path.write_bytes(path.read_bytes() + b'pho_8.jpg,"two\nlines",pho\npho_9.jpg,only two\n')
    found = raw(tmp_path)
    assert samples(found)["pho_pho_8.jpg"][1] == "two\nlines"
    assert [(p.rule, p.line) for p in errors(found)] == [("bad-row", 9)]


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    mini.build(tmp_path)
    path = tmp_path / "texts/test_titles.csv"
    path.write_bytes(b"pho_8.jpg,cr\xe8me,pho\n" + path.read_bytes())
    found = raw(tmp_path)
    assert [(p.rule, p.line) for p in errors(found)] == [("bad-row", 1)]
    assert found.rows[-1][0] == ("texts/test_titles.csv", 7)


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [
        ("Easy Apple Pie", "apple_pie", "Easy _ _"),
        ("apple pies and pineapple piecrust", "apple_pie", "_ _ and pineapple piecrust"),
        ("CR\u00c8ME Br\u00fbl\u00e9e", "creme_brulee", "_ _"),
        ("cre\u0300me bru\u0302le\u0301e", "creme_brulee", "_ _"),
        ("pad_thai, pad-thai", "pad_thai", "___, _-_"),
        ("one waffle, two waffles", "waffles", "one _, two _"),
        ("pancake", "pancakes", "_"),
        ("sandwiches", "club_sandwich", "_"),
        ("nothing here", "pho", "nothing here"),
        ("phosphor", "pho", "phosphor"),
    ],
)
def test_words_of_the_label_are_masked(text: str, label: str, expected: str) -> None:
    assert masked(text, label) == expected


def test_masking_is_an_option_for_titles_lists_and_full_texts(tmp_path: Path) -> None:
    for name, build in {"titles": mini.build, **mini.VARIANTS}.items():
        build(tmp_path / name)
        assert "masked" not in raw(tmp_path / name).lists
        hidden = raw(tmp_path / name, mask="label-words")
        assert "words of the label are masked" in hidden.lists
        texts = [row["text"] for _, row in hidden.rows]
        assert all("_" in text for text in texts)
        assert not any(dish.split("_")[0] in text for text in texts for dish in mini.DISHES)
        assert hidden.rows[0][1]["text"].startswith('easy "_ _"')


def test_a_text_that_cannot_be_masked_is_left_to_the_decoder(tmp_path: Path) -> None:
    mini.build_full(tmp_path)
    (tmp_path / "texts_txt/pho/pho_0.txt").write_bytes(b"cr\xe8me pho")
    (tmp_path / "texts_txt/pho/pho_1.txt").write_bytes(b"x" * ((1 << 20) + 1))
    texts = {key: value[1] for key, value in samples(raw(tmp_path, mask="label-words")).items()}
    assert texts["pho_pho_0.jpg"] == "file:texts_txt/pho/pho_0.txt"
    assert texts["pho_pho_1.jpg"] == "file:texts_txt/pho/pho_1.txt"


def test_one_titles_file_alone_or_no_pictures(tmp_path: Path) -> None:
    mini.build(tmp_path / "a")
    (tmp_path / "a/texts/test_titles.csv").unlink()
    with pytest.raises(NoLayout, match=r"only one of texts/train_titles.csv"):
        raw(tmp_path / "a")
    mini.write_titles(tmp_path / "b/texts")
    with pytest.raises(NoLayout, match="no images/train/<class>/"):
        raw(tmp_path / "b")
    (tmp_path / "c").mkdir()
    with pytest.raises(NoLayout, match="found nothing"):
        raw(tmp_path / "c")
