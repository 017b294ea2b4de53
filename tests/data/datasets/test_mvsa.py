"""MVSA-Single: the two variants, cp1252 texts, JSON-lines lists, the split that mmbal makes where none is published."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from mmbal_cli.data.datasets.imagetext import json_rows
from mmbal_cli.data.datasets.mvsa import decoded, label_of, read
from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, NoLayout, Raw
from tests.kit.cli import invoke
from tests.kit.minis import mvsa as mini


def raw(root: Path, labels: str = "agree") -> Raw:
    return read(Folder(root), {"labels": labels})


@pytest.fixture
def built(tmp_path: Path) -> Path:
    mini.build(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "image", "agree", "resolved"),
    [
        ("positive", "positive", "positive", "positive"),
        ("neutral", "neutral", "neutral", "neutral"),
        ("neutral", "positive", None, "positive"),
        ("negative", "neutral", None, "negative"),
        ("positive", "negative", None, None),
        ("negative", "positive", None, None),
    ],
)
def test_two_labels_become_one(text: str, image: str, agree: str | None, resolved: str | None) -> None:
    assert label_of(text, image, "agree") == agree
    assert label_of(text, image, "resolved") == resolved


def test_the_published_lists_are_taken_as_they_are(built: Path) -> None:
    found = raw(built)
    assert found.lists == "train.jsonl, dev.jsonl, test.jsonl"
    assert Counter(row["split"] for _, row in found.rows) == {"train": 18, "val": 6, "test": 6}
    assert {row["id"]: row["label"] for _, row in found.rows} == {str(n): label for n, label in mini.AGREED.items()}
    assert found.rows[4][1]["text"] == "positive view no5 #invented caf\u00e9 \u2026".replace("positive", "lovely")


def test_resolved_uses_the_file_of_labels_and_says_that_no_split_is_published(built: Path) -> None:
    found = raw(built, "resolved")
    labels = {row["id"]: row["label"] for _, row in found.rows}
    assert labels["31"] == "positive"
    assert labels["32"] == labels["34"] == "negative"
    assert "33" not in labels
    assert len(labels) == 33
    assert "variant resolved, 33 of 34 posts; no published list" in found.lists


def test_the_made_split_is_stratified_and_depends_on_ids_only(built: Path) -> None:
    mini.without_lists(built)
    found = raw(built)
    splits = {row["id"]: row["split"] for _, row in found.rows}
    for label in mini.CLASSES:
        counts = Counter(row["split"] for _, row in found.rows if row["label"] == label)
        assert counts == {"train": 6, "val": 2, "test": 2}
    path = built / "labelResultAll.txt"
    header, *rows = path.read_text().splitlines()
    random.Random(1).shuffle(rows)
    path.write_text("\n".join([header, *rows]))
    assert {row["id"]: row["split"] for _, row in raw(built).rows} == splits


def test_a_text_is_utf8_or_else_cp1252() -> None:
    assert decoded("café …".encode()) == ("café …", "utf-8")
    assert decoded("\ufeffcafé".encode()) == ("café", "utf-8")
    assert decoded(b"caf\xe9 \x85 \x93so\x94") == ("caf\u00e9 \u2026 \u201cso\u201d", "cp1252")
    assert decoded(b"http:/\xa1\xad") == ("http:/\u00a1\u00ad", "cp1252"), "as the published lists hold it"
    assert decoded(b"\x81\xe9") == ("\ufffd\u00e9", "cp1252"), "0x81 means nothing in cp1252"


def test_texts_are_read_into_the_rows(built: Path) -> None:
    mini.without_lists(built)
    (built / "data/2.txt").write_text("file:secret\n")
    texts = {row["id"]: row["text"] for _, row in raw(built).rows}
    assert texts["5"] == texts["5"].strip() == mini.text_of(5)
    assert texts["2"] == " file:secret"


def test_a_text_outside_the_root_is_not_read(built: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    mini.without_lists(built)
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.txt"
    secret.write_text("secret words")
    (built / "data/3.txt").unlink()
    (built / "data/3.txt").symlink_to(secret)
    (built / "data/4.txt").write_bytes(b"x" * ((1 << 20) + 1))
    (built / "data/6.txt").unlink()
    os.mkfifo(built / "data/6.txt")
    texts = {row["id"]: row["text"] for _, row in raw(built).rows}
    assert [texts[n] for n in ("3", "4", "6")] == ["file:data/3.txt", "file:data/4.txt", "file:data/6.txt"]
    report = json.loads(invoke("data", "check", "mvsa", "--data-root", str(built), "--format", "json", code=1).stdout)
    said = {
        (problem["rule"], text)
        for problem in report["findings"]
        for text in texts.values()
        if text[5:] in problem["message"]
    }
    assert ("unsafe-path", "file:data/3.txt") in said
    assert ("missing-file", "file:data/6.txt") in said
    assert "secret words" not in json.dumps(report)


LINES = (
    ('{"id": "1"', "Expecting"),
    ("[1, 2]", "no object"),
    ('{"id": "1", "label": "a", "text": "b"}', "no key 'img'"),
    ('{"id": null, "label": "a", "text": "b", "img": "c"}', "'id' is 'None'"),
    ('{"id": true, "label": "a", "text": "b", "img": "c"}', "'id' is 'True'"),
    ('{"id": 1.5, "label": "a", "text": "b", "img": "c"}', "'id' is '1.5'"),
    ('{"id": "1", "label": {"a": 1}, "text": "b", "img": "c"}', "'label' is"),
    ('{"id": "1", "label": "a", "text": ["b"], "img": "c"}', "'text' is"),
    ('{"id": "1", "label": "a", "text": "b", "img": ""}', "'img' is empty"),
    ('{"id": "1", "id": "2", "label": "a", "text": "b", "img": "c"}', "a key occurs twice"),
    ('{"id": "1", "label": "a", "text": "\\ud800", "img": "c"}', "U+D800"),
    ('{"id": "1", "label": "a", "text": "a\\u001fb", "img": "c"}', "U+001F"),
    ('{"id": "1", "label": "a", "text": "a\\u0000b", "img": "c"}', "U+0000"),
    ("[" * 100_000, ""),
    ('{"id": ' + "9" * 10_000 + "}", ""),
    ("", "Expecting value"),
)


@pytest.mark.parametrize(("line", "said"), LINES, ids=[line[:50] for line, _ in LINES])
def test_a_line_that_is_no_sample(tmp_path: Path, line: str, said: str) -> None:
    good = '{"id": 7, "label": 1, "text": null, "img": null, "more": 0}'
    (tmp_path / "train.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    problems: list[Problem] = []
    rows = json_rows(Folder(tmp_path), {"train": "train.jsonl"}, "", problems)
    assert [(p.severity, p.rule, p.line) for p in problems] == [("error", "bad-row", 2)]
    assert said in problems[0].message
    assert len(problems[0].message) < 400
    assert rows[0][1] == {"id": "7", "split": "train", "label": 1, "group": "", "text": None, "image": None}
    assert [spot for spot, _ in rows] == [("train.jsonl", 1), ("train.jsonl", 3)]


def test_lists_may_lie_in_a_folder_and_their_paths_start_there(tmp_path: Path) -> None:
    mini.build(tmp_path / "MVSA_Single")
    found = raw(tmp_path)
    assert found.rows[0][1]["image"] == "MVSA_Single/data/1.jpg"
    assert found.lists == "MVSA_Single/train.jsonl, MVSA_Single/dev.jsonl, MVSA_Single/test.jsonl"


def test_a_missing_list_is_refused_not_carved(built: Path) -> None:
    (built / "dev.jsonl").unlink()
    with pytest.raises(NoLayout, match=r"train.jsonl is there, but not dev.jsonl"):
        raw(built)


def test_nothing_that_is_known(tmp_path: Path) -> None:
    with pytest.raises(NoLayout, match=r"looked for train.jsonl or labelResultAll.txt and found nothing"):
        raw(tmp_path)
