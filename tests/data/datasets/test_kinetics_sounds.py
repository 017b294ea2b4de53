"""Kinetics-Sounds: the shipped list, two spellings of ids, four layouts, other versions of the classes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from mmbal_cli.data.datasets.kinetics_files import start_of
from mmbal_cli.data.datasets.kinetics_sounds import OPTIONS, classes, published, read
from mmbal_cli.data.lists import SHIPPED, shipped
from mmbal_cli.data.raw import Folder, NoLayout, Raw, chosen, listed_hash
from mmbal_cli.errors import ManifestError
from mmbal_cli.recipe import dataset_recipe, find_recipe
from tests.kit.minis import kinetics_sounds as mini

VIDEO = "-_aBcD_fGh0"  # begins with '-', holds '_', 11 characters


def empty(root: Path, *names: str) -> Path:
    """Empty files: the reader opens none of them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def plain(root: Path) -> Path:
    """The lists of the miniature, and empty files for its clips."""
    mini.lists(root)
    names = [(split, mini.long_name(video, start)) for split in mini.COUNTS for video, start, _ in mini.clips(split)]
    return empty(root, *(f"{split}/{name}.mp4" for split, name in names))


def read_(root: Path, **options: str) -> Raw:
    return read(Folder(root), chosen(OPTIONS, options, "ks"))


def listing(root: Path, train: str, test: str = "") -> None:
    (root / "my_train.txt").write_text(train)
    (root / "my_test.txt").write_text(test)


def paths(raw: Raw, modality: str = "video") -> list[str]:
    return [row[modality] for _, row in raw.rows]


def found(raw: Raw, rule: str) -> list[str]:
    return [problem.message for problem in raw.problems if problem.rule == rule]


# ------------------------------------------------------------------------------------ the shipped list


def test_the_shipped_list_is_the_published_one() -> None:
    rows = [row for _, row in published()]
    assert Counter(row["split"] for row in rows) == {"train": 14799, "test": 2597}
    assert len({row["id"] for row in rows}) == len({row["group"] for row in rows}) == 17396  # one clip for each video
    train = Counter(row["label"] for row in rows if row["split"] == "train")
    test = Counter(row["label"] for row in rows if row["split"] == "test")
    assert len(train) == len(test) == 31
    assert (min(test.values()), max(test.values())) == (63, 92)
    assert (train["stomping_grapes"], train["blowing_out_candles"]) == (197, 690)
    assert (min(train.values()), max(train.values())) == (197, 690)


def test_the_two_spellings_of_ids() -> None:
    for _, row in published():
        parts = row["id"][11:].split("_")
        assert parts[0] == ""
        assert [len(part) for part in parts[1:]] == [6, 6] if row["split"] == "train" else len(parts) == 2
        assert start_of(row["id"]) == (row["group"], int(parts[1]))


def test_the_recipe_has_counts_hash_and_order() -> None:
    path = find_recipe("datasets", "ks")
    assert path
    recipe = dataset_recipe(path)
    assert recipe.classes == sorted(classes()) == list(classes())
    assert recipe.splits["ogm-ge"].counts == {"train": 14799, "test": 2597}
    assert recipe.splits["ogm-ge"].hash == listed_hash(published(), recipe.classes)


def test_the_file_of_the_list_is_unchanged_and_its_two_statements_agree() -> None:
    rows = shipped("kinetics-sounds-ogmge")
    text = "".join(",".join(row.values()) + "\n" for row in rows)
    digest = hashlib.sha256(f"id,seconds,label_index,label,split\n{text}".encode()).hexdigest()
    assert digest == "c26d6e2535f280cbfbdcd390dfa84c9e8fa5533f43e3de4160c3f7d91a11be24"
    assert all(classes()[int(row["label_index"])] == row["label"] for row in rows)
    assert {row["seconds"] for row in rows} == {"10"}


def test_without_an_own_list_the_shipped_one_is_used(tmp_path: Path) -> None:
    raw = read_(empty(tmp_path, "train/--4-0ihtnBU_000058_000068.mp4", "test/zzzzzzzzzzz_000001_000011.mp4"))
    assert raw.lists == SHIPPED
    assert len(raw.rows) == 17396
    assert found(raw, "missing-rate")[:2] == [
        "train: 14798 of 14799 clips are missing (100.0%)",
        "test: 2597 of 2597 clips are missing (100.0%)",
    ]
    assert len(found(raw, "class-lost")) == 31
    assert found(raw, "unlisted-file") == ["video: 1 in no list: test/zzzzzzzzzzz_000001_000011.mp4"]


# -------------------------------------------------------------------------------------------------- ids


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (f"{VIDEO}_000012_000022", (VIDEO, 12)),
        (f"{VIDEO}_12", (VIDEO, 12)),
        (VIDEO, (VIDEO, None)),
        ("abcdefgh_12_3", ("abcdefgh_12", 3)),  # a YouTube id that ends like a start second
        ("abcdefghi_1", ("abcdefghi_1", None)),
        ("abcdefghijkl", None),
        (f"{VIDEO}_a", None),
        (f"{VIDEO}_1_2_3", None),
        ("short_1", None),
    ],
)
def test_the_youtube_id_is_the_first_11_characters(name: str, parts: tuple[str, int | None] | None) -> None:
    assert start_of(name) == parts


def test_match_by_name_then_start_then_video_alone(tmp_path: Path) -> None:
    exact, started, alone = f"{VIDEO}_5", "a_cdefghij0_7", "b-cdefghij0_9"
    empty(
        tmp_path,
        f"train/{VIDEO}_000005_000015.mp4",  # the same second, but another file has the name itself
        f"train/{VIDEO}_5.mp4",
        "train/a_cdefghij0_000007_000017.mp4",
        "train/a_cdefghij0_000070_000080.mp4",
        "train/b-cdefghij0_000011_000021.mp4",
    )
    listing(tmp_path, f"{exact},10,0\n{started},10,1\n{alone},10,2\n")
    raw = read_(tmp_path)
    assert paths(raw) == [
        f"train/{VIDEO}_5.mp4",
        "train/a_cdefghij0_000007_000017.mp4",
        "train/b-cdefghij0_000011_000021.mp4",
    ]
    assert paths(raw, "audio") == paths(raw)
    assert [row["group"] for _, row in raw.rows] == [VIDEO, "a_cdefghij0", "b-cdefghij0"]
    (loose,) = found(raw, "quirk")
    assert loose.startswith(f"1 clips begin at another second than the list says, such as '{alone}' is")


def test_a_video_with_two_other_seconds_is_missing_not_guessed(tmp_path: Path) -> None:
    empty(tmp_path, f"train/{VIDEO}_000001_000011.mp4", f"train/{VIDEO}_000021_000031.mp4")
    listing(tmp_path, f"{VIDEO}_000050_000060,10,0\n")
    raw = read_(tmp_path)
    assert paths(raw) == [f"train/{VIDEO}_000050_000060.mp4"]
    assert found(raw, "missing-rate") == [
        "train: 1 of 1 clips are missing (100.0%)",
        "train: 1 of 1 clips of blowing_nose are missing",
    ]


def test_a_file_is_not_given_to_two_rows_by_a_looser_rule(tmp_path: Path) -> None:
    empty(tmp_path, f"train/{VIDEO}_000001_000011.mp4", "test/x")
    listing(tmp_path, f"{VIDEO}_9,10,0\n{VIDEO}_1,10,0\n")
    raw = read_(tmp_path)
    assert paths(raw) == [f"train/{VIDEO}_9.mp4", f"train/{VIDEO}_000001_000011.mp4"]


def test_the_file_of_the_own_split_is_preferred(tmp_path: Path) -> None:
    empty(tmp_path, f"train/{VIDEO}_1.mp4", f"val/{VIDEO}_1.mp4")
    listing(tmp_path, "", f"{VIDEO}_1,10,0\n")
    raw = read_(tmp_path)
    assert paths(raw) == [f"val/{VIDEO}_1.mp4"]
    assert found(raw, "unlisted-file") == []


# ---------------------------------------------------------------------------------------------- layouts


def test_four_layouts_give_the_same_samples(tmp_path: Path) -> None:
    tables = {}
    for name, maker in {"": mini.build, **mini.VARIANTS}.items():
        root = tmp_path / f"root-{name}"
        root.mkdir()
        maker(root)
        raw = read_(root)
        assert raw.problems == []
        assert all((root / row[kind]).exists() for _, row in raw.rows for kind in ("audio", "video"))
        keys = ("id", "split", "label", "group")
        tables[raw.layout] = sorted(tuple(row[key] for key in keys) for _, row in raw.rows)
    assert len(tables) == 4
    assert all(table == next(iter(tables.values())) for table in tables.values())


@pytest.mark.parametrize("folder", ["playing bass guitar", "playing_bass_guitar", "Playing Bass_Guitar"])
def test_class_folders_with_spaces_or_underscores(tmp_path: Path, folder: str) -> None:
    empty(tmp_path, f"k400/train/{folder}/{VIDEO}_000001_000011.mp4", "k400/train/abseiling/x_y.mp4")
    listing(tmp_path, f"{VIDEO}_000001_000011,10,9\n{VIDEO[::-1]}_000002_000012,10,9\n")
    raw = read_(tmp_path)
    assert paths(raw) == [
        f"k400/train/{folder}/{VIDEO}_000001_000011.mp4",
        f"k400/train/{folder}/{VIDEO[::-1]}_000002_000012.mp4",  # where the missing one is expected
    ]
    assert found(raw, "label-mismatch") == found(raw, "unlisted-file") == []


def test_a_folder_without_its_sound_does_not_shift_the_pairs(tmp_path: Path) -> None:
    mini.build_arl(tmp_path)
    name = mini.FILE.removesuffix(".mp4")
    (tmp_path / f"audio/train/chopping_wood/{name}.wav").unlink()
    raw = read_(tmp_path)
    for _, row in raw.rows:
        assert Path(row["audio"]).stem == Path(row["video"]).name
    assert raw.rows[0][1]["audio"] == f"audio/train/chopping_wood/{name}.wav"  # stays, as missing
    assert found(raw, "missing-rate")[0] == "train: 1 of 12 clips are missing (8.3%)"


def test_sound_and_frames_of_different_seconds_are_no_pair(tmp_path: Path) -> None:
    empty(tmp_path, f"a/{VIDEO}_000003_000013.wav", f"v/{VIDEO}_000009_000019/frame_00001.jpg")
    listing(tmp_path, f"{VIDEO}_3,10,25\n")
    raw = read_(tmp_path)
    assert paths(raw, "audio") == [f"a/{VIDEO}_000003_000013.wav"]
    assert paths(raw) == [f"v/{VIDEO}_3"]  # missing
    assert found(raw, "missing-rate")[0].startswith("train: 1 of 1")
    listing(tmp_path, f"{VIDEO}_5,10,25\n")
    raw = read_(tmp_path)
    assert (paths(raw, "audio"), paths(raw)) == ([f"a/{VIDEO}_5.wav"], [f"v/{VIDEO}_5"])
    assert len(found(raw, "unlisted-file")) == 2


def test_a_clip_in_the_folder_of_another_class(tmp_path: Path) -> None:
    mini.build(tmp_path)
    (tmp_path / "train/singing").joinpath(mini.FILE).write_bytes(b"")
    (tmp_path / "train/chopping wood" / mini.FILE).unlink()
    (problem,) = read_(tmp_path).problems
    assert (problem.severity, problem.rule, problem.file, problem.line) == (
        "error",
        "label-mismatch",
        "my_train.txt",
        1,
    )


def test_links_are_not_followed_when_everything_is_searched(tmp_path: Path) -> None:
    mini.build_gewu(tmp_path / "root")
    (tmp_path / "root/train/again").symlink_to(tmp_path / "root", target_is_directory=True)
    assert read_(tmp_path / "root").problems == []


def test_no_layout(tmp_path: Path) -> None:
    with pytest.raises(NoLayout, match="0 sound files and 0 folders of frames"):
        read_(tmp_path)
    with pytest.raises(NoLayout, match="1 sound files and 0 folders of frames"):
        read_(empty(tmp_path, f"train/{VIDEO}_1.wav", "train/abseiling/other.mp4"))


# ------------------------------------------------------------------------------------------------ lists


@pytest.mark.parametrize(
    ("line", "rule", "says"),
    [
        (f"{VIDEO}_1,10,31", "refused-list", "33-class version"),
        (f"{VIDEO}_1,10,32", "refused-list", "33-class version"),
        (f"{VIDEO}_1,10,33", "unknown-label", "outside 0 to 30"),
        (f"{VIDEO}_1,10,-1", "unknown-label", "outside 0 to 30"),
        (f"{VIDEO}_1,10,singing", "unknown-label", "outside 0 to 30"),
        (f"{VIDEO}_1,10", "bad-row", "is not `id,seconds,label index`"),
        (f"singing,{VIDEO}_1", "bad-row", "is not `id,seconds,label index`"),  # columns of another loader
        ("../../../etc/passwd,10,3", "bad-row", "is not YOUTUBEID_start"),
        ("", "bad-row", "is not `id,seconds,label index`"),
    ],
)
def test_wrong_rows_are_reported_with_file_and_line(tmp_path: Path, line: str, rule: str, says: str) -> None:
    plain(tmp_path)
    first, *rest = (tmp_path / "my_train.txt").read_text().splitlines()
    (tmp_path / "my_train.txt").write_text("\n".join([first, line, *rest]))
    (problem,) = read_(tmp_path).problems
    assert (problem.severity, problem.rule) == ("error", rule)
    assert (problem.file, problem.line) == ("my_train.txt", 2)
    assert says in problem.message


def test_index_and_name_must_agree(tmp_path: Path) -> None:
    empty(tmp_path, f"train/{VIDEO}_1.mp4")
    rows = [f"{VIDEO}_1,10,25,singing,train", f"{VIDEO}_2,10,24,singing,test", f"{VIDEO}_3,10,30,tying_tie,test"]
    (tmp_path / "kinetics_sounds_ogmge.csv").write_text("\n".join(["id,seconds,label_index,label,split", *rows]))
    raw = read_(tmp_path)
    assert [row["id"] for _, row in raw.rows] == [f"{VIDEO}_1"]
    assert [(p.rule, p.line) for p in raw.problems] == [("label-mismatch", 3), ("refused-list", 4)]
    assert f"'{VIDEO}_2' has index 24 (shuffling_cards) and name singing" in found(raw, "label-mismatch")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["blowing nose", "bowling", "tying_tie", "finger snapping"], "finger_snapping and tying_tie"),
        (lambda: [*classes()[1:], classes()[0]], "class 0 is blowing_out_candles, expected blowing_nose"),
        (lambda: classes()[:30], "class 30 is nothing, expected tickling"),
        (lambda: [*classes(), "yodelling"], "32 classes with others"),
    ],
)
def test_classes_of_another_version_are_refused(tmp_path: Path, names, says: str) -> None:
    plain(tmp_path)
    (tmp_path / "class.txt").write_text(", ".join(names() if callable(names) else names))
    (problem,) = read_(tmp_path).problems
    assert (problem.severity, problem.rule, problem.file) == ("error", "refused-list", "class.txt")
    assert says in problem.message
    assert found(read_(tmp_path, lists="ogm-ge"), "refused-list") == []


def test_the_31_names_in_their_order_are_welcome(tmp_path: Path) -> None:
    plain(tmp_path)
    (tmp_path / "class.txt").write_text("\n".join(name.replace("_", " ") for name in classes()))
    assert read_(tmp_path).problems == []


def test_json_with_a_validation_part(tmp_path: Path) -> None:
    empty(tmp_path, f"train/{VIDEO}_1.mp4", f"train/{VIDEO}_2.mp4")
    database = {
        f"{VIDEO}_1": {"subset": "training", "label": "singing"},
        f"{VIDEO}_2": {"subset": "validation", "label": "tap dancing"},
        f"{VIDEO}_3": {"subset": "testing", "label": "yodelling"},
    }
    (tmp_path / "KS_train_val.json").write_text(json.dumps({"labels": [], "database": database}, indent=1))
    raw = read_(tmp_path)
    assert [(row["split"], row["label"]) for _, row in raw.rows] == [("train", "singing"), ("val", "tap_dancing")]
    (problem,) = [problem for problem in raw.problems if problem.severity == "error"]
    assert (problem.rule, problem.file, problem.line) == ("unknown-label", "KS_train_val.json", 12)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"database": 3}', '{"database": {"a": 1}}', "[" * 100_000])
def test_json_that_is_none(tmp_path: Path, text: str) -> None:
    empty(tmp_path, f"train/{VIDEO}_1.mp4")
    (tmp_path / "KS_train_val.json").write_text(text)
    with pytest.raises(ManifestError, match="is not an annotation file"):
        read_(tmp_path)


def test_missing_clips_by_class(tmp_path: Path) -> None:
    """A train class is worth a line from 15 %; a test class must keep half of its clips."""
    ids = [f"{number:011d}_1" for number in range(20)]
    empty(tmp_path, *(f"train/{name}.mp4" for name in ids[3:]))
    text = "".join(f"{name},10,5\n" for name in ids)
    listing(tmp_path, text)
    assert found(read_(tmp_path), "missing-rate") == ["train: 3 of 20 clips are missing (15.0%)"]
    for count, rule in ((10, "missing-rate"), (11, "class-lost")):
        listing(tmp_path, "", text)
        for name in ids[:count]:
            (tmp_path / f"train/{name}.mp4").unlink(missing_ok=True)
        raw = read_(tmp_path)
        assert f"test: {count} of 20 clips of laughing are missing" in found(raw, rule)[-1]
        assert [p.severity for p in raw.problems if p.rule == "class-lost"] == ["error"] * (rule == "class-lost")
