"""IEMOCAP: utterances by session; text, sound, and their window in one half of the dialogue's video.

Which half of the picture shows whom: `Ses01F_impro01_M003` is a dialogue of session 1 in which the woman (F) wears the
motion capture markers, and an utterance of the man (M). The actor with markers is taken to be on the left, so the
speaker is on the left where the two letters agree. That is the rule of public preprocessing code; the documentation of
the corpus does not state it, and it could not be checked on the data here. Look at a few clips, and use
`half=markers-right` if they show the listener, `half=whole` to keep both actors.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, NoLayout, Raw, Row, Spot
from mmbal_cli.errors import nearest

SESSIONS = (1, 2, 3, 4, 5)
OPTIONS: dict[str, tuple[str, ...]] = {
    "split": ("session5", "session1", "session2", "session3", "session4", "lists"),
    "happy": ("plain", "excited"),
    "half": ("markers-left", "markers-right", "whole"),
}

BASES = ("", "IEMOCAP_full_release/", "IEMOCAP/")
CODES = {"neu": "neutral", "hap": "happy", "sad": "sad", "ang": "angry"}
OTHERS = {"exc": "excited", "fru": "frustrated", "sur": "surprised", "fea": "afraid", "dis": "disgusted"}
OTHERS |= {"oth": "other", "xxx": "no agreement"}
WORDS = {name: name for name in CODES.values()}
SEPARATOR = " [split|sign] "

UTTERANCE = re.compile(r"(?P<dialog>Ses0(?P<session>[1-5])(?P<markers>[FM])_\w+)_(?P<speaker>[FM])\d+")
VERDICT = re.compile(
    r"\[(?P<start>\d+\.?\d*) - (?P<end>\d+\.?\d*)\]\t(?P<id>\S+)\t(?P<code>\S+)"
    r"\t\[(?P<scores>-?\d+\.?\d*, -?\d+\.?\d*, -?\d+\.?\d*)\]"
)
RATER = re.compile(r"[CA]-\w+:.*")  # what a single rater said, below the verdict of all
SPOKEN = re.compile(r"(?P<id>\S+) \[(?P<start>\d+\.?\d*) ?- ?(?P<end>\d+\.?\d*)\]:(?P<text>.*)")
UNTIMED = re.compile(r"\w+:.*")  # a remark without a time, `M: [LAUGHTER]`


@dataclass
class _Utterance:
    """One utterance with the emotion that the raters agreed on."""

    id: str
    session: int
    dialog: str
    markers: str
    speaker: str
    start: float
    end: float
    code: str


@dataclass
class _Corpus:
    """What the annotation files of all sessions say: utterances with their places, and texts by utterance."""

    base: str
    spoken: list[tuple[Spot, _Utterance]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    videos: bool = False


def read(folder: Folder, options: Mapping[str, str]) -> Raw:
    """Utterances labelled neutral, happy, sad or angry; `happy=excited` counts excited ones as happy.

    `split=sessionN` tests on session N and validates on the one before; `split=lists` takes split, text and label
    from lists of utterances (`train`, `dev` or `val`, `test` in their names; cells between ` [split|sign] `). A group
    is a session, that is both its speakers.
    """
    base = next((base for base in BASES if any(folder.first(f"{base}Session{n}") for n in SESSIONS)), None)
    if base is None:
        raise NoLayout("Session1 to Session5, here or in IEMOCAP_full_release: there is none of them")
    problems: list[Problem] = []
    corpus = _Corpus(base)
    for session in SESSIONS:
        _session(folder, session, corpus, problems)
    if not corpus.videos:
        said = "no session has dialog/avi/DivX: text and audio only, no video"
        problems.append(Problem("warning", "quirk", said))
    if options["split"] == "lists":
        rows, lists = _by_lists(folder, corpus, options, problems)
    else:
        rows = _by_session(corpus, options, problems)
        lists = f"test {options['split']}, validation session{_before(int(options['split'][-1]))}"
    kinds = {"text": "text", "audio": "audio"} | ({"video": "video"} if corpus.videos else {})
    layout = f"{base}Session*/dialog/EmoEvaluation/*.txt, sentences/wav/*/*.wav"
    return Raw(layout + (", dialog/avi/DivX/*.avi" if corpus.videos else ""), lists, kinds, rows, problems)


def _session(folder: Folder, session: int, corpus: _Corpus, problems: list[Problem]) -> None:
    dialog = f"{corpus.base}Session{session}/dialog"
    verdicts = folder.stems(f"{dialog}/EmoEvaluation", ".txt")
    if not verdicts:
        said = f"'{dialog}/EmoEvaluation' holds no verdicts: session {session} is left out"
        problems.append(Problem("error", "missing-file", said))
    corpus.videos |= folder.first(f"{dialog}/avi/DivX") is not None
    transcripts = folder.stems(f"{dialog}/transcriptions", ".txt")
    for stem, path in verdicts.items():
        corpus.spoken += _verdicts(folder, path, stem, problems)
        if stem in transcripts:
            _transcript(folder, transcripts[stem], corpus.texts, problems)
        else:
            said = f"'{dialog}/transcriptions/{stem}.txt': the dialogue has no transcription"
            problems.append(Problem("error", "missing-file", said))
            corpus.texts |= {spoken.id: "" for _, spoken in corpus.spoken if spoken.dialog == stem}


def _verdicts(folder: Folder, path: str, stem: str, problems: list[Problem]) -> Iterator[tuple[Spot, _Utterance]]:
    """Utterances of one dialogue; lines of single raters, the heading (`%`) and blank lines are passed over."""
    for line, text in folder.lines(path, problems):
        if not text.strip() or text.startswith("%") or RATER.fullmatch(text):
            continue
        try:
            yield Spot(path, line), _verdict(text.rstrip(), stem)
        except ValueError as error:
            problems.append(Problem("error", "bad-row", str(error), line, path))
        except KeyError as error:
            code = str(error.args[0])
            said = f"emotion '{code}'. {nearest(code, [*CODES, *OTHERS])}"
            problems.append(Problem("error", "unknown-label", said, line, path))


def _verdict(text: str, stem: str) -> _Utterance:
    found = VERDICT.fullmatch(text)
    if found is None:
        raise ValueError(f"'{text}' is not of the form [START - END] UTTERANCE EMOTION [V, A, D] with tabs between")
    name = UTTERANCE.fullmatch(found["id"])
    if name is None or name["dialog"] != stem:
        raise ValueError(f"'{found['id']}' is no utterance of the dialogue {stem}")
    start, end = float(found["start"]), float(found["end"])
    if start >= end:
        raise ValueError(f"'{found['id']}' ends at {end:g} s and starts at {start:g} s")
    code = found["code"].lower()
    if code not in CODES and code not in OTHERS:
        raise KeyError(found["code"])
    session, markers, speaker = int(name["session"]), name["markers"], name["speaker"]
    return _Utterance(found["id"], session, stem, markers, speaker, start, end, code)


def _transcript(folder: Folder, path: str, texts: dict[str, str], problems: list[Problem]) -> None:
    """Texts of one dialogue; remarks in brackets (`[LAUGHTER]`) stay, the first of two lines on an utterance counts."""
    for line, text in folder.lines(path, problems):
        found = SPOKEN.fullmatch(text.rstrip())
        if found and found["id"] not in texts:
            texts[found["id"]] = found["text"].strip()
            if not texts[found["id"]]:
                problems.append(Problem("warning", "quirk", f"'{found['id']}' has no words", line, path))
        elif found:
            said = f"'{found['id']}' is transcribed twice; the first text counts"
            problems.append(Problem("warning", "duplicate-id", said, line, path))
        elif text.strip() and (text.startswith("Ses") or not UNTIMED.fullmatch(text.strip())):
            said = f"'{text.strip()}' is not of the form UTTERANCE [START-END]: TEXT"
            problems.append(Problem("error", "bad-row", said, line, path))


def _by_session(corpus: _Corpus, options: Mapping[str, str], problems: list[Problem]) -> list[Row]:
    test = int(options["split"][-1])
    names = CODES | ({"exc": "happy"} if options["happy"] == "excited" else {})
    rows: list[Row] = []
    left: Counter[str] = Counter()
    for spot, spoken in corpus.spoken:
        if spoken.code not in names:
            left[spoken.code] += 1
            continue
        split = "test" if spoken.session == test else "val" if spoken.session == _before(test) else "train"
        text = corpus.texts.get(spoken.id)
        if text is None:
            said = f"'{spoken.id}' is not in the transcription of its dialogue"
            problems.append(Problem("error", "missing-file", said, spot.line, spot.file))
        rows.append((spot, _row(corpus, spoken, split, names[spoken.code], text or None, options["half"])))
    if left:
        listed = ", ".join(f"{count} {code} ({OTHERS[code]})" for code, count in sorted(left.items()))
        said = f"{left.total()} utterances with another emotion are left out, as in the literature: {listed}"
        problems.append(Problem("warning", "left-out", said))
    return rows


def _before(session: int) -> int:
    """The session that validates: the one before the test session, 5 before 1."""
    return session - 1 or SESSIONS[-1]


def _row(corpus: _Corpus, spoken: _Utterance, split: str, label: str, text: str | None, half: str) -> dict[str, Any]:
    session = f"{corpus.base}Session{spoken.session}"
    row: dict[str, Any] = {"id": spoken.id, "split": split, "label": label, "group": f"session{spoken.session}"}
    row |= {"text": text, "audio": f"{session}/sentences/wav/{spoken.dialog}/{spoken.id}.wav"}
    if corpus.videos:
        part = f"t={round(spoken.start, 4)},{round(spoken.end, 4)}"
        part += "" if half == "whole" else f"&xywh=percent:{_left_edge(spoken, half)},0,50,100"
        row["video"] = f"{session}/dialog/avi/DivX/{spoken.dialog}.avi#{part}"
    return row


def _left_edge(spoken: _Utterance, half: str) -> int:
    """Where the half with the speaker begins, in percent of the width."""
    wears = spoken.speaker == spoken.markers
    return 0 if wears == (half == "markers-left") else 50


def _by_lists(
    folder: Folder, corpus: _Corpus, options: Mapping[str, str], problems: list[Problem]
) -> tuple[list[Row], str]:
    """Rows of lists of utterances (file, text, label); media and times come from the sessions."""
    lists = _find_lists(folder)
    if not {"train", "test"} <= set(lists):
        raise NoLayout(f"split=lists: *train*.txt and *test*.txt with '{SEPARATOR.strip()}' between the cells")
    known = {spoken.id: spoken for _, spoken in corpus.spoken}
    rows: list[Row] = []
    for split, path in lists.items():
        for line, text in folder.lines(path, problems):
            cells = [cell.strip() for cell in text.split(SEPARATOR.strip())]
            name = re.split(r"[\\/]", cells[0])[-1].rpartition(".")[0] or cells[0]
            if len(cells) != 3:
                said = f"{len(cells)} cells in '{text}', expected FILE{SEPARATOR}TEXT{SEPARATOR}LABEL"
                problems.append(Problem("error", "bad-row", said, line, path))
            elif name not in known:
                said = f"'{name}' has no verdict in EmoEvaluation"
                problems.append(Problem("error", "missing-file", said, line, path))
            elif cells[2].lower() not in WORDS:
                said = f"label '{cells[2]}'. {nearest(cells[2].lower(), WORDS)}"
                problems.append(Problem("error", "unknown-label", said, line, path))
            else:
                spoken, label = known[name], WORDS[cells[2].lower()]
                verdict = "happy" if spoken.code == "exc" else CODES.get(spoken.code, OTHERS.get(spoken.code))
                if verdict != label:
                    said = f"'{name}' is {label} here and {verdict} ({spoken.code}) in EmoEvaluation"
                    problems.append(Problem("error", "label-mismatch", said, line, path))
                rows.append((Spot(path, line), _row(corpus, spoken, split, label, cells[1] or None, options["half"])))
    return rows, ", ".join(lists.values())


def _find_lists(folder: Folder) -> dict[str, str]:
    """Split -> path of the lists in the folder itself or in `data`, by a word in their names."""
    words = {"train": "train", "dev": "val", "val": "val", "test": "test"}
    found: dict[str, str] = {}
    for place in ("", "data"):
        for stem, path in folder.stems(place, ".txt").items():
            split = next((split for word, split in words.items() if word in stem.lower()), None)
            if split and split not in found and SEPARATOR.strip() in folder.text(path).partition("\n")[0]:
                found[split] = path
    return {split: found[split] for split in ("train", "val", "test") if split in found}
