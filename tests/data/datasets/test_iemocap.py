"""IEMOCAP: verdicts, transcriptions, folds by session, the half of the picture, lists of utterances."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mmbal_cli.data.datasets import iemocap
from mmbal_cli.data.raw import Folder, NoLayout, Raw
from mmbal_cli.media.video import decode_video
from tests.kit.media import write_clip
from tests.kit.minis.iemocap import SEPARATOR, verdict


def corpus(root: Path, *utterances: tuple[str, str], texts: dict[str, str] | None = None, videos: bool = True) -> Path:
    """Verdicts and transcriptions of (utterance, emotion), one second each, in as many dialogues as they name."""
    dialogs: dict[str, list[tuple[str, str]]] = {}
    for utterance, code in utterances:
        dialogs.setdefault(utterance.rpartition("_")[0], []).append((utterance, code))
    for dialog, said in dialogs.items():
        base = root / f"Session{dialog[4]}/dialog"
        for folder in ("EmoEvaluation", "transcriptions", *(("avi/DivX",) if videos else ())):
            (base / folder).mkdir(parents=True, exist_ok=True)
        heading = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        blocks = (verdict(utterance, code, float(n)) for n, (utterance, code) in enumerate(said))
        (base / f"EmoEvaluation/{dialog}.txt").write_text(heading + "".join(blocks))
        spoken = (f"{name} [000.0000-001.0000]: {(texts or {}).get(name, 'so it is')}\n" for name, _ in said)
        (base / f"transcriptions/{dialog}.txt").write_text("".join(spoken))
    for session in range(1, 6):
        (root / f"Session{session}").mkdir(exist_ok=True)
    return root


def read(root: Path, **options: str) -> Raw:
    return iemocap.read(Folder(root), {"split": "session5", "happy": "plain", "half": "markers-left"} | options)


def rows(raw: Raw) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for _, row in raw.rows}


def errors(raw: Raw) -> list[str]:
    """Without those on sessions that a test leaves out."""
    found = [f"{p.rule}: {p}" for p in raw.problems if p.severity == "error"]
    return [text for text in found if "holds no verdicts" not in text]


def test_a_row_has_text_sound_and_a_part_of_the_video(tmp_path: Path) -> None:
    name = "Ses03M_script02_1_F012"
    raw = read(corpus(tmp_path, (name, "hap"), texts={name: "oh [LAUGHTER] : well -- yes."}))
    assert errors(raw) == []
    assert rows(raw)[name] == {
        "id": name,
        "split": "train",
        "label": "happy",
        "group": "session3",
        "text": "oh [LAUGHTER] : well -- yes.",
        "audio": "Session3/sentences/wav/Ses03M_script02_1/Ses03M_script02_1_F012.wav",
        "video": "Session3/dialog/avi/DivX/Ses03M_script02_1.avi#t=0.0,0.5&xywh=percent:50,0,50,100",
    }


@pytest.mark.parametrize(("markers", "speaker", "left"), [("F", "F", 0), ("M", "M", 0), ("F", "M", 50), ("M", "F", 50)])
def test_who_wears_the_markers_is_taken_to_be_on_the_left(
    tmp_path: Path, markers: str, speaker: str, left: int
) -> None:
    name = f"Ses01{markers}_impro04_{speaker}001"
    corpus(tmp_path, (name, "sad"))
    assert rows(read(tmp_path))[name]["video"].endswith(f"&xywh=percent:{left},0,50,100")
    assert rows(read(tmp_path, half="markers-right"))[name]["video"].endswith(f"&xywh=percent:{50 - left},0,50,100")
    assert rows(read(tmp_path, half="whole"))[name]["video"].endswith(".avi#t=0.0,0.5")


def test_the_half_of_the_speaker_is_what_is_decoded(tmp_path: Path) -> None:
    corpus(tmp_path, ("Ses01F_impro01_F000", "sad"), ("Ses01F_impro01_M000", "sad"))
    write_clip(tmp_path / "Session1/dialog/avi/DivX/Ses01F_impro01.avi", codec="mpeg4", sound="", corner=True)
    found = rows(read(tmp_path))
    woman, man = (
        decode_video(tmp_path / found[f"Ses01F_impro01_{who}000"]["video"], frames=2, size=32)[0] for who in "FM"
    )
    assert woman[:, :12].mean() > 240  # the white quarter of the clip is on the left, at the top
    assert man[:, :12].mean() < 210


def test_times_keep_their_digits(tmp_path: Path) -> None:
    corpus(tmp_path, ("Ses01F_impro01_F000", "neu"))
    path = tmp_path / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    path.write_text(path.read_text().replace("[0.0000 - 0.5000]", "[1006.2901 - 1008.2357]"))
    assert "#t=1006.2901,1008.2357&" in rows(read(tmp_path))["Ses01F_impro01_F000"]["video"]


@pytest.mark.parametrize(("test", "val"), [(5, 4), (4, 3), (3, 2), (2, 1), (1, 5)])
def test_each_session_can_be_the_test_and_the_one_before_validates(tmp_path: Path, test: int, val: int) -> None:
    corpus(tmp_path, *((f"Ses0{session}F_impro01_F000", "ang") for session in range(1, 6)))
    found = {row["group"]: row["split"] for row in rows(read(tmp_path, split=f"session{test}")).values()}
    assert found == {f"session{n}": "test" if n == test else "val" if n == val else "train" for n in range(1, 6)}


def test_other_emotions_are_left_out_and_counted_and_excited_can_be_happy(tmp_path: Path) -> None:
    codes = ("neu", "hap", "sad", "ang", "exc", "exc", "fru", "xxx", "xxx", "xxx", "oth", "dis", "fea", "sur")
    corpus(tmp_path, *((f"Ses01F_impro01_F{n:03d}", code) for n, code in enumerate(codes)))
    plain = read(tmp_path)
    assert Counter(row["label"] for _, row in plain.rows) == {"neutral": 1, "happy": 1, "sad": 1, "angry": 1}
    (note,) = (problem for problem in plain.problems if problem.rule == "left-out")
    assert note.severity == "warning"
    assert note.message.startswith("10 utterances")
    assert "2 exc (excited)" in note.message
    assert "3 xxx (no agreement)" in note.message
    merged = read(tmp_path, happy="excited")
    assert Counter(row["label"] for _, row in merged.rows)["happy"] == 3


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("\tneu\t", "\tnew\t", "unknown-label: {emo}, line 3: emotion 'new'. Did you mean 'neu'"),
        ("\tneu\t", "\t", "bad-row: {emo}, line 3: '[0.0000 - 0.5000]"),
        (" - 0.5000]", "-0.5000]", "bad-row: {emo}, line 3"),
        ("2.5000, 2.5000, ", "2.5000, ", "bad-row: {emo}, line 3"),
        (
            "0.5000]\tSes01F_impro01_F000",
            "0.5000]\tSes01F_impro01_X000",
            "bad-row: {emo}, line 3: 'Ses01F_impro01_X000'",
        ),
        ("0.5000]\tSes01F", "0.5000]\tSes02F", "bad-row: {emo}, line 3: 'Ses02F_impro01_F000' is no utterance"),
        ("C-E1:\t", "see above\t", "bad-row: {emo}, line 4"),
    ],
)
def test_a_bad_verdict_is_reported_with_its_line(tmp_path: Path, old: str, new: str, finding: str) -> None:
    corpus(tmp_path, ("Ses01F_impro01_F000", "neu"), ("Ses01F_impro01_M000", "sad"))
    emo = "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    text = (tmp_path / emo).read_text()
    assert old in text
    (tmp_path / emo).write_text(text.replace(old, new, 1))
    raw = read(tmp_path)
    (only,) = errors(raw)
    assert only.startswith(finding.format(emo=emo)), only
    assert "Ses01F_impro01_M000" in rows(raw)


def test_other_files_of_the_folder_are_not_read(tmp_path: Path) -> None:
    corpus(tmp_path, ("Ses01F_impro01_F000", "neu"))
    folder = tmp_path / "Session1/dialog/EmoEvaluation"
    (folder / "._Ses01F_impro01.txt").write_bytes(b"\x00\x05\x16\x07")
    (folder / "Categorical").mkdir()
    (folder / "Categorical/Ses01F_impro01_e1_cat.txt").write_text("Ses01F_impro01_F000 :Neutral; ()")
    raw = read(tmp_path)
    assert errors(raw) == []
    assert len(raw.rows) == 1


def test_transcriptions(tmp_path: Path) -> None:
    name, other = "Ses01F_impro01_F000", "Ses01F_impro01_M000"
    corpus(tmp_path, (name, "neu"), (other, "sad"))
    path = tmp_path / "Session1/dialog/transcriptions/Ses01F_impro01.txt"
    lines = ["M: [BREATHING]", "", "Ses01F_impro01_FXX0 [1.0-2.0]: uh", f"{name} [000.0000-001.0000]: one"]
    path.write_text("\r\n".join([*lines, f"{name} [000.0000-001.0000]: two", f"{other} 001.0: three"]))
    raw = read(tmp_path)
    assert rows(raw)[name]["text"] == "one"
    assert rows(raw)[other]["text"] is None
    assert [(p.rule, p.line) for p in raw.problems if "Ses01" in p.message and p.file] == [
        ("duplicate-id", 5),
        ("bad-row", 6),
        ("missing-file", 7),
    ]


def test_a_dialogue_without_transcription_is_one_finding(tmp_path: Path) -> None:
    corpus(tmp_path, *((f"Ses01F_impro01_F{n:03d}", "neu") for n in range(5)))
    (tmp_path / "Session1/dialog/transcriptions/Ses01F_impro01.txt").unlink()
    raw = read(tmp_path)
    assert errors(raw) == [
        "missing-file: 'Session1/dialog/transcriptions/Ses01F_impro01.txt': the dialogue has no transcription"
    ]
    assert {row["text"] for row in rows(raw).values()} == {None}


def test_sessions_that_are_missing_are_findings(tmp_path: Path) -> None:
    raw = read(corpus(tmp_path, ("Ses01F_impro01_F000", "neu"), ("Ses05F_impro01_F000", "neu")))
    lost = [str(problem) for problem in raw.problems if problem.rule == "missing-file"]
    assert len(lost) == 3
    for session, text in zip((2, 3, 4), lost, strict=True):
        assert text == f"'Session{session}/dialog/EmoEvaluation' holds no verdicts: session {session} is left out"
    with pytest.raises(NoLayout, match="Session1 to Session5"):
        read(tmp_path / "Session1")


def test_without_any_video_there_are_two_modalities_and_a_note(tmp_path: Path) -> None:
    raw = read(corpus(tmp_path, ("Ses01F_impro01_F000", "neu"), videos=False))
    assert list(raw.modalities) == ["text", "audio"]
    assert "video" not in rows(raw)["Ses01F_impro01_F000"]
    assert any("no session has dialog/avi/DivX" in problem.message for problem in raw.problems)


def test_lists_of_utterances_give_split_text_and_label(tmp_path: Path) -> None:
    codes = ("neu", "hap", "exc", "sad", "ang", "ang")
    names = [f"Ses01F_impro01_F{n:03d}" for n in range(6)]
    corpus(tmp_path, *zip(names, codes, strict=True))
    lines = {
        "my_train_iemo.txt": [("wav/" + names[0] + ".wav", "said in the list", "Neutral"), (names[1], "b", "Happy")],
        "my_dev_iemo.txt": [(names[2] + ".wav", "c", "Happy")],
        "my_test_iemo.txt": [(names[3], "d", "Sad"), (names[4], "e", "Sad"), ("Ses01F_impro09_F000", "f", "Sad")],
    }
    (tmp_path / "data").mkdir()
    for file, cells in lines.items():
        (tmp_path / "data" / file).write_text("".join(SEPARATOR.join(cell) + "\n" for cell in cells))
    with (tmp_path / "data/my_test_iemo.txt").open("a") as file:
        file.write(f"{names[5]}{SEPARATOR}g\n{names[5]}{SEPARATOR}g{SEPARATOR}Angri\n")
    raw = read(tmp_path, split="lists")
    assert [(row["split"], row["label"]) for _, row in raw.rows] == [
        ("train", "neutral"),
        ("train", "happy"),
        ("val", "happy"),
        ("test", "sad"),
        ("test", "sad"),
    ]
    assert raw.rows[0][1]["text"] == "said in the list"
    assert raw.rows[0][1]["video"].startswith("Session1/dialog/avi/DivX/Ses01F_impro01.avi#t=")
    found = {(p.rule, p.line) for p in raw.problems if p.file == "data/my_test_iemo.txt"}
    assert found == {("label-mismatch", 2), ("missing-file", 3), ("bad-row", 4), ("unknown-label", 5)}


def test_lists_that_are_asked_for_must_be_there(tmp_path: Path) -> None:
    corpus(tmp_path, ("Ses01F_impro01_F000", "neu"))
    (tmp_path / "train.txt").write_text("another list\n")
    with pytest.raises(NoLayout, match="split=lists"):
        read(tmp_path, split="lists")
