"""The sample table: what real files look like, and every way in which one can be wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mmbal_cli.data.manifest import (
    Manifest,
    Problem,
    file_of,
    inspect_manifest,
    read_manifest,
)
from mmbal_cli.data.sources import check_duplicates, keep_twins_in_train
from mmbal_cli.errors import ManifestError

ROWS = [("a", "train", "cat"), ("b", "train", "dog"), ("c", "val", "cat"), ("d", "test", "dog")]


def table(tmp_path: Path, *, header: str = "id,split,label,text", rows: list[str] | None = None) -> Path:
    path = tmp_path / "my.csv"
    lines = rows if rows is not None else [f"{i},{s},{label},words" for i, s, label in ROWS]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def problems(path: Path, **options: object) -> list[Problem]:
    return inspect_manifest(path, **options)[1]  # type: ignore[arg-type]


def fails(path: Path, *parts: str, **options: object) -> None:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, **options)  # type: ignore[arg-type]
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_plain_table(tmp_path: Path) -> None:
    manifest = read_manifest(table(tmp_path))
    assert manifest.name == "my"
    assert manifest.kinds == {"text": "text"}
    assert manifest.classes == ("cat", "dog")
    assert manifest.counts() == {"train": 2, "val": 1, "test": 1}
    assert [sample.label for sample in manifest.samples] == [0, 1, 0, 1]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_spreadsheet_quirks(tmp_path: Path, newline: str) -> None:
    """Byte-order mark, CRLF, quoted newlines, doubled quotes, blank last lines, aliases, upper case."""
    lines = [
        "ID,Split,Label,Text:Caption",
        'a,TRAIN,x,"two',
        'lines, ""quoted"""',
        "b,dev,y,é",
        "",
        ",,,",
        "c,test,x,z",
    ]
    path = tmp_path / "My Data.csv"
    path.write_bytes(("\ufeff" + newline.join([*lines, "b2,train,y,q", ""])).encode())
    manifest = read_manifest(path)
    assert manifest.name == "my-data"
    assert manifest.samples[0].values == {"caption": f'two{newline}lines, "quoted"'}
    assert [sample.split for sample in manifest.samples] == ["train", "val", "test", "train"]


def test_line_numbers_survive_quoted_newlines(tmp_path: Path) -> None:
    path = table(tmp_path, rows=['a,train,x,"one', 'two"', "b,train,y,t", "a,test,x,t"])
    fails(path, "duplicate-id x 1", "line 5: id 'a' is already on line 2")


def test_semicolon_and_tabs(tmp_path: Path) -> None:
    semicolons = table(
        tmp_path, header="id;split;label;vector", rows=["a;train;x;1,5 2", "b;train;y;3 4", "c;test;x;1 2"]
    )
    with pytest.raises(ManifestError, match="bad-value"):  # 1,5 is two numbers, not a decimal comma
        read_manifest(semicolons)
    tabbed = tmp_path / "tweets.tsv"
    tabbed.write_text('id\tsplit\tlabel\ttext\na\ttrain\tx\the said "hi\nb\ttrain\ty\tz\nc\ttest\tx\tq\n')
    assert read_manifest(tabbed).samples[0].values["text"] == 'he said "hi'


def test_json_lines(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "split": "train", "label": 0, "text": "one", "vector:v": [1, 2.5]},
        {"id": 2, "split": "train", "label": 1, "text": None, "vector:v": "3 4"},
        {"id": 3, "split": "valid", "label": 1, "text": "three"},
        {"id": 4, "split": "test", "label": 0, "text": "four", "vector:v": []},
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8-sig")
    manifest = read_manifest(path)
    assert manifest.kinds == {"text": "text", "v": "vector"}
    assert [sample.values["v"] for sample in manifest.samples] == [(1.0, 2.5), (3.0, 4.0), None, None]
    assert manifest.samples[1].values["text"] is None
    path.write_text(json.dumps(rows[0]) + '\n{"id": 2, "id": 3}\n')
    fails(path, "line 2", "a key occurs twice")
    path.write_text("[1]\n")
    fails(path, "line 1", "not an object")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [(["10", "9", "2"], ("2", "9", "10")), (["1", "-1", "0"], ("-1", "0", "1")), (["b", "a", "10"], ("10", "a", "b"))],
)
def test_class_order_is_sorted_never_first_seen(tmp_path: Path, labels: list[str], classes: tuple[str, ...]) -> None:
    rows = [f"{n},{'test' if n == 2 else 'train'},{label},t" for n, label in enumerate(labels)]
    assert read_manifest(table(tmp_path, rows=rows)).classes == classes


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["-1.4", "0.2", "2.0", "0.25"], "labels are real numbers, such as -1.4"),
        (["joy|fear", "joy", "fear", "fear|joy"], "2 labels name several classes, such as 'fear|joy'"),
    ],
)
def test_regression_targets_and_several_labels_are_refused(tmp_path: Path, labels: list[str], message: str) -> None:
    rows = [f"{n},train,{label},t" for n, label in enumerate(labels)]
    fails(table(tmp_path, rows=rows), message, "Every sample has one class")
    assert len(read_manifest(table(tmp_path, rows=rows), classes=sorted(set(labels))).classes) == 4  # if asked for


def test_a_list_as_label_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = ['{"id": "a", "split": "train", "label": ["x", "y"], "text": "t"}',
             '{"id": "b", "split": "train", "label": "x", "text": "t"}']  # fmt: skip
    path.write_text("\n".join(lines))
    fails(path, "line 1: the label is a list")


def test_whole_numbers_and_names_with_a_bar_are_classes(tmp_path: Path) -> None:
    rows = ["a,train,1.0,t", "b,train,2.0,t", "c,test,1.0,t"]
    assert read_manifest(table(tmp_path, rows=rows)).classes == ("1.0", "2.0")
    rows = ["a,train,rock;pop,t", "b,train,folk,t", "c,test,folk,t"]
    assert read_manifest(table(tmp_path, rows=rows)).classes == ("folk", "rock;pop")


def test_given_classes_by_name_and_position(tmp_path: Path) -> None:
    path = table(tmp_path, rows=["a,train,dog,t", "b,train,0,t", "c,test,2,t"])
    manifest = read_manifest(path, classes=["cat", "dog", "eel"])
    assert [sample.label for sample in manifest.samples] == [1, 0, 2]
    fails(path, "line 4: label 2 is outside 0 to 1", classes=["cat", "dog"])
    fails(path, "label 'dog'", "Did you mean 'dogs'?", classes=["cat", "dogs", "eel"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,train,x,t", "a,test,y,t"], "line 3: id 'a' is already on line 2"),
        (["a,train,x,t", "b,tset,y,t"], "Did you mean 'test'?"),
        (["a,train,x,t", "b,,y,t"], "line 3: split ''"),
        (["a,train,x,t", "b,test,,t"], "line 3: label ''"),
        (["a,train,x,t", ",test,y,t"], "line 3: id ''"),
        (["a,train,x,t", "b\x1b[31m,test,y,t"], r"line 3: id 'b\x1b[31m'"),
        (["a,train,x,t", '"b\nc",test,y,t'], r"line 3: id 'b\nc'"),
        (["a,train,x,t", "b,test,y,nul\x00"], "line 3: text holds a NUL character"),
        (["a,train,x,t", "b,test,y,"], "line 3: sample 'b' has none"),
        (["a,train,x,t", "b,train,x,t", "c,test,x,t"], "single-class"),
        (["a,test,x,t", "b,test,y,t"], "no-train"),
        (["a,train,x,t", "b,test,y,t,more"], "line 3: 5 cells under 4 columns"),
        (["a,train,x,t", 'b,test,y,"open'], "line 3: unexpected end of data"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, rows: list[str], message: str) -> None:
    fails(table(tmp_path, rows=rows), message)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("id,split,lable,text", "has no column 'label'; found id, split, lable, text"),
        ("id,split,label,words", "has no modality column"),
        ("id,split,label,vidoe:face", "Did you mean 'video'?"),
        ("id,split,label,text,text", "column 'text' occurs twice"),
        ("id,split,label,text:a,audio:a", "'a' is used twice"),
        ("id,split,label,text:../up", "'../up' cannot name a modality"),
        ("id,split,label,text,", "a column has no name"),
    ],
)
def test_wrong_headers_are_named(tmp_path: Path, header: str, message: str) -> None:
    cells = ",".join(["x"] * header.count(","))
    fails(table(tmp_path, header=header, rows=[f"a,{cells}"]), message)


def test_wrong_files(tmp_path: Path) -> None:
    fails(tmp_path / "none.csv", "No such file")
    fails(tmp_path / "set.xlsx", "not a sample table")
    (tmp_path / "latin.csv").write_bytes("id,split,label,text\na,train,x,é\n".encode("latin-1"))
    fails(tmp_path / "latin.csv", "line 2: byte 0xe9 is not UTF-8")
    fails(table(tmp_path, rows=[]), "holds no samples")
    fails(table(tmp_path), "does not exist", root=tmp_path / "nowhere")


def media(tmp_path: Path, paths: list[str]) -> Path:
    rows = [
        {"id": f"s{n}", "split": ("train", "test")[n % 2], "label": n // 2 % 2, "audio": path}
        for n, path in enumerate(paths)
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_attacks_open_nothing_outside_the_root(tmp_path: Path) -> None:
    """Traversal, absolute, drive, UNC and symbolic-link escapes: refused by line, and never opened."""
    root, secret = tmp_path / "root", tmp_path / "secret"
    (root / "in").mkdir(parents=True)
    secret.mkdir()
    (secret / "x.wav").write_bytes(b"private")
    (root / "link.wav").symlink_to(secret / "x.wav")
    (root / "folder").symlink_to(secret)
    (root / "in" / "twice").symlink_to(root / "folder")
    bad = [
        "../secret/x.wav", "in/../../secret/x.wav", "in/../link.wav",
        str(secret / "x.wav"), "/etc/passwd", "..", ".", "/",
        "C:\\x.wav", "c:/x.wav", "\\\\host\\x.wav", "link.wav", "folder/x.wav",
        "in/twice/x.wav", "a\0b.wav", "a\nb.wav",
        "./../secret/x.wav", "in/./../../secret/x.wav", "a\x7f.wav", "\x1b]0;t\x07.wav",
        "file:///etc/passwd", "~/x.wav",
        "in//..//..//secret/x.wav", "root/../../secret/x.wav", "link.wav/", "folder/../secret/x.wav", "a\x85.wav",
        "in/twice/../x.wav", f"{root}/../secret/x.wav", "a\ud800.wav",
    ]  # fmt: skip
    path = media(tmp_path, bad)
    opened: list[str] = []
    active = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if active and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    _, found = inspect_manifest(path, root)
    active = False
    refused = {problem.line for problem in found if problem.severity == "error" and problem.line}
    assert refused == set(range(1, len(bad) + 1))
    assert opened == [str(path)]


def test_odd_names_round_trip(tmp_path: Path) -> None:
    names = [
        "plain.wav", "with space.wav", "Ünïcödé.wav", "日本語/音.wav", "🙂.wav", "a'b.wav", 'q"q.wav', "comma,.wav",
        "#h.wav",
        "%41.wav", "$HOME.wav", "-rf.wav", "[red]x[/red].wav", "semi;colon.wav", "back\\slash.wav", "x" * 250 + ".wav",
        "a..b.wav", "...wav", ".hidden.wav", "tab\u00a0nbsp.wav", "e\u0301.wav", "é.wav", "مرحبا.wav",
        "z\u200djoin.wav", "*.wav", "?.wav",
    ]  # fmt: skip
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * (number + 1))
    manifest = read_manifest(media(tmp_path, names))
    assert [sample.values["audio"] for sample in manifest.samples] == names
    assert [manifest.sizes[name][0] for name in names] == list(range(1, len(names) + 1))


def test_links_and_absolute_paths_inside_the_root_work(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"a")
    (tmp_path / "l.wav").symlink_to("a.wav")
    manifest = read_manifest(media(tmp_path, [str(tmp_path / "a.wav"), "l.wav", "./a.wav", "a.wav"]))
    assert [sample.values["audio"] for sample in manifest.samples] == ["a.wav", "l.wav", "a.wav", "a.wav"]


def test_missing_empty_and_pointer_files(tmp_path: Path) -> None:
    (tmp_path / "ok.wav").write_bytes(b"RIFF")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "lfs.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (tmp_path / "dir.wav").mkdir()
    absent = [f"no{n}.wav" for n in range(7)]
    path = media(tmp_path, ["ok.wav", "ok.wav", "empty.wav", "lfs.wav", "dir.wav", "y" * 300, *absent])
    fails(path, "missing-file x 9", "and 4 more", "lfs-pointer x 1", "line 4: audio: 'lfs.wav'")
    rules = [problem.rule for problem in problems(path, missing_ok=True) if problem.severity == "error"]
    assert rules == ["lfs-pointer"]
    assert [str(problem) for problem in problems(path) if problem.rule == "empty-file"] == [
        "line 3: audio: 'empty.wav' is empty"
    ]


def test_vectors(tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_bytes(b"x")
    rows = ["a,train,x,1;2;3", 'b,train,y,"1, 2, nan"', "c,test,x, 1  2 3 ", "d,test,y,v.npy", "e,test,y,"]
    manifest = read_manifest(table(tmp_path, header="id,split,label,vector", rows=[*rows[:4], "e,val,y,4 5 6"]))
    assert manifest.samples[2].values["vector"] == (1.0, 2.0, 3.0)
    assert file_of("vector", manifest.samples[3].values["vector"]) == "v.npy"
    fails(
        table(tmp_path, header="id,split,label,vector", rows=[*rows[:2], "c,test,x,1 2"]),
        "line 4: vector has 2 numbers",
    )
    fails(table(tmp_path, header="id,split,label,vector", rows=[*rows[:2], "c,test,x,1 two"]), "'1 two'")


def test_text_files(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("hello")
    path = table(tmp_path, rows=["a,train,x,file:t.txt", "b,train,y,file: no", "c,test,x,plain"])
    fails(path, "line 3: text: ' no'")
    path = table(tmp_path, rows=["a,train,x,file:t.txt", "b,train,y,file", "c,test,x,plain"])
    manifest = read_manifest(path)
    assert [file_of("text", sample.values["text"]) for sample in manifest.samples] == ["t.txt", None, None]


def test_missing_modalities_are_kept_as_none(tmp_path: Path) -> None:
    path = table(
        tmp_path, header="id,split,label,text,vector:v", rows=["a,train,x,t,", "b,train,y,,1 2", "c,test,x,,3 4"]
    )
    assert [sample.values for sample in read_manifest(path).samples] == [
        {"text": "t", "v": None}, {"text": None, "v": (1.0, 2.0)}, {"text": None, "v": (3.0, 4.0)},
    ]  # fmt: skip
    fails(
        table(tmp_path, header="id,split,label,text,vector:v", rows=["a,train,x,t,", "b,test,y,,1 2"]),
        "no train sample has v",
    )


def test_warnings_are_kept_as_notes(tmp_path: Path) -> None:
    rows = ["a,train,x,g,t,1", "b,train,y,g,t,2", "c,val,x,h,t,3", "d,test,x,g,t,4"]
    manifest = read_manifest(table(tmp_path, header="id,split,label,group,text,extra", rows=rows))
    assert manifest.notes == (
        "column 'extra' names no modality and is ignored",
        "1 of 2 groups are in two splits: g",
        "1 of 2 classes are not in val: y",
        "1 of 2 classes are not in test: y",
    )


def test_a_path_is_put_in_order_where_it_stands(tmp_path: Path) -> None:
    """Also when it is a letter of `file:`, and with the part of the clip behind it."""
    for name in ("e", "i.mp4"):
        (tmp_path / name).write_bytes(b"x")
    splits = ("train", "train", "test", "test")
    rows = [f's{n},{split},c{n % 2},file:./e,"./i.mp4#t=1,2"' for n, split in enumerate(splits)]
    manifest = read_manifest(table(tmp_path, header="id,split,label,text,video", rows=rows))
    assert manifest.samples[0].values == {"text": "file:e", "video": "i.mp4#t=1,2"}


def test_many_notes_of_one_kind_are_counted(tmp_path: Path) -> None:
    manifest = read_manifest(media(tmp_path, [f"{n}.wav" for n in range(12)]), missing_ok=True)
    gone = [note for note in manifest.notes if "No such file" in note]
    assert len(gone) == 5
    assert manifest.notes[-1] == "... and 7 more: missing-file (mmbal data check lists them)"


def carved(tmp_path: Path, order: int, groups: str) -> Manifest:
    """`groups`: apart (those of test are its own), shared (with train), or none."""
    named = {"apart": lambda n: f"{n % 5 == 4}{n // 6}", "shared": lambda n: f"g{n // 6}"}.get(groups, lambda n: "")
    rows = [f"s{n},{'test' if n % 5 == 4 else 'train'},c{n % 3},{named(n)},t" for n in range(300)]
    return read_manifest(table(tmp_path, header="id,split,label,group,text", rows=rows[::order]))


def test_validation_is_stratified_and_independent_of_order(tmp_path: Path) -> None:
    one, other = carved(tmp_path, 1, "none"), carved(tmp_path, -1, "none")
    assert one.counts() == {"train": 216, "val": 24, "test": 60}
    assert one.split_note == "validation: 10% of train, stratified, seed 0"
    assert [sum(s.split == "val" and s.label == c for s in one.samples) for c in range(3)] == [8, 8, 8]
    assert {s.id: s.split for s in one.samples} == {s.id: s.split for s in other.samples}


def test_validation_takes_whole_groups(tmp_path: Path) -> None:
    manifest = carved(tmp_path, 1, "apart")
    assert "whole groups" in manifest.split_note
    val = {sample.group for sample in manifest.samples if sample.split == "val"}
    train = {sample.group for sample in manifest.samples if sample.split == "train"}
    assert val
    assert not val & train


def test_validation_shares_its_groups_with_train_where_test_does(tmp_path: Path) -> None:
    manifest = carved(tmp_path, 1, "shared")
    assert "stratified (groups are shared with train, as those of test are)" in manifest.split_note
    val = {sample.group for sample in manifest.samples if sample.split == "val"}
    assert val <= {sample.group for sample in manifest.samples if sample.split == "train"}


def test_groups_of_one_class_leave_no_class_without_validation(tmp_path: Path) -> None:
    """50 classes in groups of four samples of one class, as in UCF-101; no group of test is in train."""
    rows = [f"s{n},{'test' if n < 200 else 'train'},c{n // 4 % 50},g{n // 4},t" for n in range(1200)]
    manifest = read_manifest(table(tmp_path, header="id,split,label,group,text", rows=rows))
    assert "whole groups" in manifest.split_note
    val = [sample for sample in manifest.samples if sample.split == "val"]
    assert {sample.label for sample in val} == set(range(50))
    assert len(val) <= 0.2 * 1000


def test_validation_falls_back_when_one_group_is_all(tmp_path: Path) -> None:
    rows = [f"s{n},{'test' if n % 5 == 4 else 'train'},c{n % 3},one,t" for n in range(60)]
    manifest = read_manifest(table(tmp_path, header="id,split,label,group,text", rows=rows))
    assert manifest.counts()["val"] > 0
    assert "stratified" in manifest.split_note


def test_same_bytes_across_and_within_splits(tmp_path: Path) -> None:
    names = [f"{n}.wav" for n in range(8)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    manifest = read_manifest(media(tmp_path, names))
    unique = {name: str(n) for n, name in enumerate(names)}
    assert check_duplicates(manifest, unique) == []
    within = check_duplicates(manifest, unique | {"3.wav": "1", "5.wav": "1"})
    assert [(problem.severity, problem.message) for problem in within] == [
        ("warning", "2 sources occur twice within a split")
    ]
    across = check_duplicates(manifest, unique | {"3.wav": "0"})
    assert [problem.severity for problem in across] == ["error"]
    assert "'s0' (val) and 's3' (test)" in across[0].message


def test_carving_does_not_part_twins(tmp_path: Path) -> None:
    """Two train rows of equal bytes would leak into the validation set that we make ourselves."""
    names = [f"{n}.wav" for n in range(8)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    manifest = read_manifest(media(tmp_path, names))
    assert [sample.id for sample in manifest.samples if sample.split == "val"] == ["s0", "s6"]
    digests = {name: str(n) for n, name in enumerate(names)} | {"4.wav": "0"}
    assert check_duplicates(manifest, digests)[0].severity == "error"
    kept = keep_twins_in_train(manifest, digests)
    assert [sample.id for sample in kept.samples if sample.split == "val"] == ["s6"]
    assert [problem.severity for problem in check_duplicates(kept, digests)] == ["warning"]
