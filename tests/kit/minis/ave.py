"""AVE in small: three classes whose names hold commas, ids that begin with '-', real MP4 files of two seconds."""

from __future__ import annotations

from pathlib import Path

from tests.kit.minis.common import Pitfall, clip, replace

CLASSES = ("Bark", "Violin, fiddle", "Male speech, man speaking")
COUNTS = {"train": 4, "val": 2, "test": 2}  # clips of each class
HEADER = "Category&VideoID&Quality&StartTime&EndTime"


def name(split: str, label: int, number: int) -> str:
    """An invented YouTube id of 11 characters; some begin with '-' or hold '_'."""
    return f"{'-_Ab'[number]}{split[:2]}_x{label}-{'yz0q'[number]}_{number}Z"


IDS = {split: [name(split, label, n) for label in range(3) for n in range(count)] for split, count in COUNTS.items()}
FIRST, LAST = IDS["train"][0], IDS["test"][-1]


def rows(split: str) -> list[str]:
    """The list of a split; the second clip of each class has its event in the second second."""
    found = []
    for label, text in enumerate(CLASSES):
        for number in range(COUNTS[split]):
            found.append(f"{text}&{name(split, label, number)}&good&{'1&2' if number == 1 else '0&10'}")
    return found


def build(root: Path) -> None:
    """AVE/<id>.mp4, the three lists, Annotations.txt with the header of the archive."""
    for seed, one in enumerate(one for ids in IDS.values() for one in ids):
        clip(root / f"AVE/{one}.mp4", seed, frames=20)
    lists(root)
    text = "\n".join([HEADER, *(row for split in COUNTS for row in rows(split)), ""])
    (root / "Annotations.txt").write_text(text)


def lists(root: Path) -> None:
    """trainSet.txt, valSet.txt and testSet.txt."""
    root.mkdir(parents=True, exist_ok=True)
    for split in COUNTS:
        (root / f"{split}Set.txt").write_text("".join(f"{row}\n" for row in rows(split)))


def build_archive(root: Path) -> None:
    """One folder deeper, CRLF lists with a byte order mark, no Annotations.txt."""
    build(root / "AVE_Dataset")
    (root / "AVE_Dataset/Annotations.txt").unlink()
    for split in COUNTS:
        path = root / f"AVE_Dataset/{split}Set.txt"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))


def build_data(root: Path) -> None:
    """The lists in data/, as in repositories that use them."""
    build(root)
    (root / "data").mkdir()
    for path in root.glob("*.txt"):
        path.rename(root / "data" / path.name)


VARIANTS = {"archive": build_archive, "lists-in-data": build_data}


def _append(root: Path, line: str, split: str = "train") -> None:
    with (root / f"{split}Set.txt").open("a") as file:
        file.write(f"{line}\n")


def _in_test_too(root: Path) -> None:
    row = f"{CLASSES[1]}&{FIRST}&good&0&10"
    _append(root, row, "test")
    replace(root / "Annotations.txt", f"{HEADER}\n", f"{HEADER}\n{row}\n")


def _cut(root: Path, one: str) -> None:
    path = root / f"AVE/{one}.mp4"
    path.write_bytes(path.read_bytes()[:800])


PITFALLS = (
    Pitfall(
        "two-events",
        lambda root: _append(root, f"{CLASSES[1]}&{FIRST}&good&0&10"),
        "quirk",
        f"'{FIRST}' is also on line 1 (Bark), which is the row that counts",
    ),
    Pitfall(
        "train-and-test",
        _in_test_too,
        "duplicate-source",
        f"'{FIRST}' is in train (trainSet.txt line 1, Bark) and test",
    ),
    Pitfall(
        "length-0",
        lambda root: replace(root / "trainSet.txt", f"{FIRST}&good&0&10", f"{FIRST}&good&0&0"),
        "quirk",
        f"event of '{FIRST}' from 0 to 0 s: the whole clip is used",
    ),
    Pitfall(
        "reversed",
        lambda root: replace(root / "trainSet.txt", f"{FIRST}&good&0&10", f"{FIRST}&good&9&2"),
        "quirk",
        f"event of '{FIRST}' from 9 to 2 s",
    ),
    Pitfall(
        "beyond-the-end",
        lambda root: replace(root / "valSet.txt", "&0&10", "&0&12"),
        "quirk",
        "from 0 to 12 s",
    ),
    Pitfall(
        "label-typo",
        lambda root: replace(root / "testSet.txt", "Violin, fiddle", "Violin fiddle"),
        "unknown-label",
        "Did you mean 'Violin, fiddle'",
    ),
    Pitfall("comma-separated", lambda root: _append(root, f"Bark,{FIRST},good,0,10"), "bad-row", "1 fields"),
    Pitfall("bad-id", lambda root: _append(root, "Bark&short&good&0&10"), "bad-row", "'short' is not a YouTube id"),
    Pitfall("bad-second", lambda root: _append(root, "Bark&aBcDeFgHiJ0&good&x&10"), "bad-row", "'x' is not a number"),
    Pitfall(
        "not-utf8",
        lambda root: (root / "valSet.txt").write_bytes((root / "valSet.txt").read_bytes() + b"B\xe9rk&a&good&0&1\n"),
        "bad-row",
        "is not UTF-8",
    ),
    Pitfall("quality", lambda root: replace(root / "testSet.txt", "good", "poor"), "quirk", "quality of"),
    Pitfall(
        "other-annotation",
        lambda root: replace(root / "Annotations.txt", f"Bark&{FIRST}", f"Bus&{FIRST}"),
        "label-mismatch",
        f"'{FIRST}' is Bark, Annotations.txt line 2 says Bus",
    ),
    Pitfall("missing", lambda root: (root / f"AVE/{FIRST}.mp4").unlink(), "missing-file", f"AVE/{FIRST}.mp4"),
    Pitfall("empty", lambda root: (root / f"AVE/{LAST}.mp4").write_bytes(b""), "empty-file", LAST),
    Pitfall("no-sound", lambda root: clip(root / f"AVE/{LAST}.mp4", 99, frames=20, sound=False), "no-audio", LAST),
    Pitfall("cut-off", lambda root: _cut(root, FIRST), "undecodable", FIRST),
    Pitfall("too-short", lambda root: clip(root / f"AVE/{FIRST}.mp4", 99, frames=4), "too-short", FIRST),
    Pitfall("not-listed", lambda root: clip(root / "AVE/-otherClip_.mp4", 99), "unlisted-file", "-otherClip_"),
)
