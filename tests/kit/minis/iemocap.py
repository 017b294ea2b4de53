"""A miniature IEMOCAP: five sessions of two dialogues; ids follow the naming of the corpus, every word is invented."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.kit.minis.common import Pitfall, clip, replace, sound

HEADING = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
DIALOGS = {  # emotion and speaker of each utterance, by the dialogue's name behind `SesNN`
    "F_impro01": (("neu", "F"), ("hap", "M"), ("sad", "F"), ("ang", "M"), ("xxx", "F"), ("exc", "M")),
    "M_script01_1": (("ang", "M"), ("neu", "F"), ("fru", "M"), ("hap", "F"), ("sad", "M")),
}
WORDS = {
    "neu": "the parcel is on the table by the door",
    "hap": "we found the kitten [LAUGHTER] it was in the shed",
    "sad": "nobody waters the plants any more",
    "ang": "you moved my ladder, again",
    "exc": "they said yes, both of them",
    "fru": "this form has the same question twice",
    "xxx": "hm",
}
EMO, SAID = "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "Session1/dialog/transcriptions/Ses01F_impro01.txt"
WAVE = "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
VIDEO = "Session1/dialog/avi/DivX/Ses01F_impro01.avi"
SEPARATOR = " [split|sign] "


def build(root: Path) -> None:
    """Verdicts, transcriptions, sound of utterances and videos of dialogues."""
    seed = 0
    for session in range(1, 6):
        for name, utterances in DIALOGS.items():
            dialog = f"Ses0{session}{name}"
            base = root / f"Session{session}"
            verdicts, spoken = HEADING, ""
            for number, (code, speaker) in enumerate(utterances):
                seed += 1
                utterance = f"{dialog}_{speaker}{number:03d}"
                start = 0.2 + 0.6 * number
                verdicts += verdict(utterance, code, start)
                spoken += f"{utterance} [{start:08.4f}-{start + 0.5:08.4f}]: {WORDS[code]}, {seed}.\n"
                sound(base / f"sentences/wav/{dialog}/{utterance}.wav", seed)
            _write(base / f"dialog/EmoEvaluation/{dialog}.txt", verdicts)
            _write(base / f"dialog/EmoEvaluation/Categorical/{dialog}_e1_cat.txt", "not read\n")
            _write(base / f"dialog/EmoEvaluation/._{dialog}.txt", "not read\n")
            _write(base / f"dialog/transcriptions/{dialog}.txt", spoken + "M: [BREATHING]\n")
            clip(base / f"dialog/avi/DivX/{dialog}.avi", seed + 500, frames=40, fps=10)


def verdict(utterance: str, code: str, start: float) -> str:
    """The block of one utterance in EmoEvaluation: the verdict, and what two raters said."""
    raters = "C-E1:\tNeutral;\t()\nA-E1:\tval 3; act 2; dom  2;\t()\n"
    return f"[{start:.4f} - {start + 0.5:.4f}]\t{utterance}\t{code}\t[2.5000, 2.5000, 3.0000]\n{raters}\n"


def full_release(root: Path) -> None:
    """Below the folder of the archive."""
    build(root / "IEMOCAP_full_release")


def without_videos(root: Path) -> None:
    """Sound and text only, as many keep it."""
    build(root)
    for session in range(1, 6):
        shutil.rmtree(root / f"Session{session}/dialog/avi")


def with_lists(root: Path) -> None:
    """The sessions, and lists that mix them: every fifth utterance is test; excited counts as happy."""
    build(root)
    words = {"neu": "Neutral", "hap": "Happy", "exc": "Happy", "sad": "Sad", "ang": "Angry"}
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for session in range(1, 6):
        for name, utterances in DIALOGS.items():
            for number, (code, speaker) in enumerate(utterances):
                if code in words:
                    file = f"Ses0{session}{name}_{speaker}{number:03d}.wav"
                    split = "train" if (session + number) % 5 else "test"
                    lines[split].append(SEPARATOR.join((file, WORDS[code], words[code])))
    for split, found in lines.items():
        _write(root / "data" / f"my_{split}_iemo.txt", "\n".join(found) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _pointer(root: Path) -> None:
    (root / WAVE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 9\n")


def _not_utf8(root: Path) -> None:
    path = root / SAID
    path.write_bytes(path.read_bytes().replace(b"parcel", b"parc\x92l", 1))


def swap(file: str, old: str, new: str) -> Callable[[Path], None]:
    """Plants another text in a file."""
    return lambda root: replace(root / file, old, new)


def twice(file: str) -> Callable[[Path], object]:
    """Plants every line of a file a second time."""
    return lambda root: (root / file).write_text((root / file).read_text() * 2)


PITFALLS = (
    Pitfall("no sound of an utterance", lambda root: (root / WAVE).unlink(), "missing-file", WAVE),
    Pitfall("no video of a dialogue", lambda root: (root / VIDEO).unlink(), "missing-file", VIDEO),
    Pitfall("no transcription of a dialogue", lambda root: (root / SAID).unlink(), "missing-file", SAID),
    Pitfall(
        "a session missing", lambda root: shutil.rmtree(root / "Session2"), "missing-file", "session 2 is left out"
    ),
    Pitfall("utterance not transcribed", swap(SAID, "F000 [", "F900 ["), "missing-file", "Ses01F_impro01_F000"),
    Pitfall("no agreement, other emotions", lambda root: None, "left-out", "5 xxx (no agreement)"),
    Pitfall("excited left out", lambda root: None, "left-out", "5 exc (excited)"),
    Pitfall("misspelt emotion", swap(EMO, "\tang\t", "\tagn\t"), "unknown-label", "ang"),
    Pitfall("spaces for tabs", swap(EMO, "\tneu\t", " neu "), "bad-row", f"{EMO}, line 3"),
    Pitfall(
        "utterance of another dialogue",
        swap(EMO, "Ses01F_impro01_F000", "Ses01F_impro02_F000"),
        "bad-row",
        "no utterance of the dialogue",
    ),
    Pitfall(
        "window that ends before it starts",
        swap(EMO, "[0.2000 - 0.7000]", "[0.7000 - 0.2000]"),
        "bad-row",
        "ends at 0.2 s",
    ),
    Pitfall(
        "window behind the video",
        lambda root: clip(root / VIDEO, 901, frames=10, fps=10),
        "too-short",
        "Ses01F_impro01",
    ),
    Pitfall("cut line in a transcription", swap(SAID, " [000.2000-000.7000]:", ""), "bad-row", f"{SAID}, line 1"),
    Pitfall("transcription not UTF-8", _not_utf8, "bad-row", "byte 0x92 is not UTF-8"),
    Pitfall("no words", swap(SAID, f" {WORDS['neu']}, 1.", ""), "quirk", "has no words"),
    Pitfall("empty sound", lambda root: (root / WAVE).write_bytes(b""), "empty-file", WAVE),
    Pitfall("pointer instead of a file", _pointer, "lfs-pointer", WAVE),
    Pitfall("utterance judged twice", twice(EMO), "duplicate-id", "Ses01F_impro01_F000"),
)
VARIANTS = {"full release": full_release, "with lists": with_lists}
