"""CREMA-D: the shipped list, and what is special in its names, lists and layouts."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from mmbal_cli.cli.checking import examine
from mmbal_cli.cli.target import Request
from mmbal_cli.data.datasets.cremad import ID, OPTIONS, published, read
from mmbal_cli.data.lists import SHIPPED, shipped
from mmbal_cli.data.raw import Folder, NoLayout, Raw, chosen, listed_hash
from mmbal_cli.recipe import DatasetRecipe, dataset_recipe, find_recipe
from tests.kit.minis.common import clip, sound
from tests.kit.minis.cremad import TEST, TRAIN, build, build_frames, build_mp4, lists

COUNTS = {  # of the spec, counted in the published files
    "train": {"anger": 1166, "happy": 1148, "disgust": 1142, "fear": 1138, "sad": 1131, "neutral": 973},
    "test": {"sad": 140, "fear": 133, "disgust": 129, "happy": 123, "neutral": 114, "anger": 105},
}


@pytest.fixture(scope="module")
def recipe() -> DatasetRecipe:
    path = find_recipe("datasets", "crema_d")
    assert path
    return dataset_recipe(path)


def empty(root: Path, *names: str) -> Path:
    """A root with empty files of the given names: the reader opens none of them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def files(root: Path, names: list[str], video: str = "flv") -> Path:
    (root / "VideoFlash").mkdir(parents=True, exist_ok=True)
    (root / "AudioWAV").mkdir(exist_ok=True)
    return empty(root, *(f"AudioWAV/{n}.wav" for n in names), *(f"VideoFlash/{n}.{video}" for n in names))


def read_(root: Path, **options: str) -> Raw:
    return read(Folder(root), chosen(OPTIONS, options, "cremad"))


def rules(raw: Raw) -> Counter[str]:
    return Counter(problem.rule for problem in raw.problems)


# ------------------------------------------------------------------------------------ the shipped list


def test_the_shipped_list_is_the_published_one() -> None:
    rows = [row for _, row in published()]
    assert len(rows) == len({row["id"] for row in rows}) == 7442
    found = {split: Counter(row["label"] for row in rows if row["split"] == split) for split in ("train", "test")}
    assert found == COUNTS
    assert sum(COUNTS["train"].values()) == 6698
    assert sum(COUNTS["test"].values()) == 744


def test_ids_levels_and_actors_are_as_the_spec_counts_them() -> None:
    rows = [row for _, row in published()]
    parts = [ID.fullmatch(row["id"]) for row in rows]
    assert all(parts)
    assert Counter(part[2] for part in parts if part) == {"XX": 6077, "LO": 455, "MD": 455, "HI": 455}
    actors = {split: {row["group"] for row in rows if row["split"] == split} for split in ("train", "test")}
    assert len(actors["train"]) == len(actors["test"]) == len(actors["train"] & actors["test"]) == 91


def test_pairs_of_equal_sound_are_where_the_recipe_says() -> None:
    split = {row["id"]: row["split"] for _, row in published()}
    assert {split["1013_WSI_DIS_XX"], split["1013_WSI_SAD_XX"]} == {"train", "test"}
    for pair in (("1006_TIE_HAP_XX", "1006_TIE_NEU_XX"), ("1017_IWW_ANG_XX", "1017_IWW_FEA_XX")):
        assert len({split[name] for name in pair}) == 1
    assert {split[name] for name in ("1076_MTI_NEU_XX", "1064_TIE_SAD_XX", "1064_IEO_DIS_MD")} == {"train"}


def test_the_recipe_has_counts_hash_and_order(recipe: DatasetRecipe) -> None:
    assert recipe.classes == ["neutral", "happy", "sad", "fear", "disgust", "anger"]
    entry = recipe.splits["ogm-ge"]
    assert entry.counts == {split: sum(counts.values()) for split, counts in COUNTS.items()}
    assert entry.hash == listed_hash(published(), recipe.classes)


def test_the_file_of_the_list_is_unchanged() -> None:
    text = "".join(",".join(row.values()) + "\n" for row in shipped("cremad-ogmge"))
    digest = hashlib.sha256(f"id,label,split\n{text}".encode()).hexdigest()
    assert digest == "95ee884c04b44d86d61f3aad66739209d4049e8ab5cb8e7f0cd0c5dd94a596db"


# ------------------------------------------------------------------------------------------- which list


def test_without_an_own_list_the_shipped_one_is_used_and_missing_files_are_named_where_expected(tmp_path: Path) -> None:
    raw = read_(files(tmp_path, ["1001_DFA_ANG_XX"]))
    assert raw.lists == SHIPPED
    assert len(raw.rows) == 7442
    rows = {row["id"]: row for _, row in raw.rows}
    assert rows["1001_DFA_DIS_XX"]["video"] == "VideoFlash/1001_DFA_DIS_XX.flv"
    assert raw.problems == []


def test_an_own_list_wins_unless_told_otherwise(tmp_path: Path) -> None:
    lists(files(tmp_path, [*TRAIN, *TEST]))
    own, other = read_(tmp_path), read_(tmp_path, lists="ogm-ge")
    assert (own.lists, len(own.rows)) == ("train.csv, test.csv", len(TRAIN) + len(TEST))
    assert (other.lists, len(other.rows)) == (SHIPPED, 7442)
    assert rules(other) == {"unlisted-file": 2}


def test_lists_are_found_in_the_folders_of_the_repository(tmp_path: Path) -> None:
    files(tmp_path, TRAIN[:2])
    for split, name in (("train", TRAIN[0]), ("test", TRAIN[1])):
        path = empty(tmp_path, f"OGM-GE_CVPR2022/data/CREMAD/{split}.csv") / f"OGM-GE_CVPR2022/data/CREMAD/{split}.csv"
        path.write_text(f"{name},{name.split('_')[2]}\n")
    raw = read_(tmp_path)
    assert "OGM-GE_CVPR2022/data/CREMAD/train.csv" in raw.lists
    assert [(tuple(spot)[1], row["split"]) for spot, row in raw.rows] == [(1, "train"), (1, "test")]


def test_list_of_names_with_extension_and_words(tmp_path: Path) -> None:
    """`name.flv Word`, space separated, and a header of another repository."""
    files(tmp_path, TRAIN[:3])
    (tmp_path / "train.txt").write_text(f"{TRAIN[0]}.flv Neutral\n{TRAIN[1]}.flv Happy\n")
    (tmp_path / "test.csv").write_text(f'name,label\n"{TRAIN[2]}",ANG\n')
    raw = read_(tmp_path)
    assert [row["label"] for _, row in raw.rows] == ["neutral", "happy", "anger"]
    assert raw.problems == []


# ------------------------------------------------------------------------------------------ single rows


@pytest.mark.parametrize(
    ("line", "rule", "says"),
    [
        ("9001_ABC_HAP_XX,SAD", "label-mismatch", "listed as SAD, its name says HAP"),
        ("9001_ABC_HAP_YY,HAP", "bad-row", "9001_ABC_HAP_YY"),
        ("9001_ABC_HAP_XX", "bad-row", "is not `id,emotion`"),
        ("9001_ABC_HAP_XX,HAP,1", "bad-row", "is not `id,emotion`"),
        ("9001_ABC_HAP_XX,JOY", "unknown-label", "'JOY'"),
        ("../../etc/passwd,HAP", "bad-row", "passwd"),
        pytest.param("9" * 200_000 + ",HAP", "bad-row", "99999", id="long"),
        ("", "bad-row", "''"),
    ],
)
def test_wrong_rows_are_reported_with_file_and_line(tmp_path: Path, line: str, rule: str, says: str) -> None:
    lists(files(tmp_path, [*TRAIN, *TEST]))
    text = (tmp_path / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(text.replace("\n", f"\n{line}\n", 1))
    (found,) = [problem for problem in read_(tmp_path).problems if problem.severity == "error"]
    assert (found.rule, found.file, found.line) == (rule, "train.csv", 2)
    assert says in found.message


def test_the_old_name_is_taken_from_either_side(tmp_path: Path) -> None:
    name = "1040_ITH_SAD_XX"
    files(tmp_path, [name[:-1], TRAIN[0]])
    (tmp_path / "train.csv").write_text(f"{name},SAD\n{TRAIN[0]},NEU\n")
    (tmp_path / "test.csv").write_text("")
    raw = read_(tmp_path)
    assert raw.rows[0][1]["audio"] == f"AudioWAV/{name[:-1]}.wav"
    assert raw.rows[0][1]["video"] == f"VideoFlash/{name[:-1]}.flv"
    assert rules(raw) == {"quirk": 2}
    (tmp_path / "train.csv").write_text(f"{name[:-1]},SAD\n{TRAIN[0]},NEU\n")
    raw = read_(tmp_path)
    assert raw.rows[0][1]["id"] == name
    assert rules(raw) == {"quirk": 3}


def test_files_that_no_list_names_are_counted(tmp_path: Path) -> None:
    lists(files(tmp_path, [*TRAIN, *TEST]))
    empty(tmp_path, *(f"AudioWAV/9009_ABC_SAD_{level}.wav" for level in ("LO", "MD", "HI", "XX")))
    (found,) = read_(tmp_path).problems
    assert found.rule == "unlisted-file"
    assert found.message.startswith("audio: 4 in no list: AudioWAV/9009_ABC_SAD_HI.wav, ")
    assert found.message.endswith(", ...")


# ---------------------------------------------------------------------------------------------- layouts


def test_layouts_are_named(tmp_path: Path) -> None:
    for name, maker, says in (
        ("flv", build, "AudioWAV/*.wav, VideoFlash/*.flv"),
        ("mp4", build_mp4, "CREMA-D/AudioWAV/*.wav, CREMA-D/VideoFlash/*.mp4"),
        ("frames", build_frames, "AudioWAV/*.wav, Image-01-FPS/<id>/*.jpg"),
    ):
        (tmp_path / name).mkdir()
        maker(tmp_path / name)
        raw = read_(tmp_path / name)
        assert raw.layout == says
        assert raw.problems == []
        assert all((tmp_path / name / row[kind]).exists() for _, row in raw.rows for kind in ("audio", "video"))


def test_videos_or_frames_on_request(tmp_path: Path) -> None:
    lists(files(tmp_path, [*TRAIN, *TEST]))
    for name in [*TRAIN, *TEST]:
        (tmp_path / "Image-01-FPS" / name).mkdir(parents=True)
    assert read_(tmp_path).rows[0][1]["video"] == f"VideoFlash/{TRAIN[0]}.flv"
    assert read_(tmp_path, video="frames").rows[0][1]["video"] == f"Image-01-FPS/{TRAIN[0]}"


def test_a_remuxed_video_replaces_its_flv(tmp_path: Path) -> None:
    lists(files(tmp_path, [*TRAIN, *TEST]))
    empty(tmp_path, f"VideoFlash/{TRAIN[0]}.mp4")
    raw = read_(tmp_path)
    assert raw.rows[0][1]["video"].endswith(".mp4")
    assert raw.rows[1][1]["video"].endswith(".flv")
    assert raw.problems == []


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ((), "no folder AudioWAV; there is no folders"),
        (("AudioMP3/a.mp3",), "AudioMP3 is no substitute"),
        (("AudioWAV/a.wav",), "no VideoFlash or Image-01-FPS"),
    ],
)
def test_other_folders_are_no_layout(tmp_path: Path, made: tuple[str, ...], says: str) -> None:
    with pytest.raises(NoLayout, match=says):
        read_(empty(tmp_path, *made))


def test_nothing_but_lists_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists(files(tmp_path, [*TRAIN, *TEST]))
    sound(tmp_path / f"AudioWAV/{TRAIN[0]}.wav", 1)
    opened: list[str] = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (opened.append(path.name), plain(path))[1])
    read_(tmp_path)
    assert sorted(opened) == ["test.csv", "train.csv"]


def test_a_video_that_is_cut_off_under_a_whole_header_is_found_by_decoding(tmp_path: Path) -> None:
    build(tmp_path)
    path = clip(tmp_path / f"VideoFlash/{TRAIN[0]}.flv", 99, frames=60, size=64)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 10])
    request = Request("cremad", data_root=str(tmp_path))
    found = examine(request, tmp_path / "cache", full=True, workers=1).findings
    assert [problem.rule for problem in found] == ["too-short"]
    assert f"video of '{TRAIN[0]}': cut off, " in found[0].message
