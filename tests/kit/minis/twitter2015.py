"""Twitter-2015 in small: invented tweets, each with two targets, in the tab-separated lists of TomBERT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.kit.minis.common import Pitfall, picture, replace

SIZES = {"train": 9, "dev": 6, "test": 6}  # tweets; each is two rows
NAMES = ("Ada Byron", "Lake Olm", "Quux", 'the "Grand" Hotel', "Miss T", "Zed's")


def samples(first: int = 7000000) -> dict[str, list[tuple[int, str, str, str]]]:
    """(label 0 1 2, picture, tweet, target) of each list; some tweets hold lone quotation marks or end with $T$."""
    found: dict[str, list[tuple[int, str, str, str]]] = {}
    number = first
    for split, size in SIZES.items():
        rows = []
        for tweet in range(size):
            for place in range(2):
                label = (tweet + place) % 3
                mood = ("cannot stand", "on the way to", "so proud of")[label]
                quote = '"' * (tweet % 2)
                end = "" if tweet % 3 else f" tonight {quote}, day {number % 1000}"
                rows.append(
                    (label, f"{number}.jpg", f"RT @ nobody : {quote}{mood} $T${end}", NAMES[(tweet + place) % 6])
                )
            number += 1
        found[split] = rows
    return found


def write_tsv(folder: Path, first: int = 7000000) -> None:
    """train.tsv, dev.tsv and test.tsv; the header of the last has a field less than its rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in samples(first).items():
        header = "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String"
        if split == "test":
            header = "index\t#1 ImageID\t#2 String\t#2 String"
        lines = [f"{n}\t{label}\t{image}\t{tweet}\t{target}" for n, (label, image, tweet, target) in enumerate(rows, 1)]
        (folder / f"{split}.tsv").write_text("\n".join([header, *lines, ""]), "utf-8")


def write_txt(folder: Path, first: int = 7000000) -> None:
    """The raw lists: four lines a sample, labels -1, 0 and 1, a space after a final $T$."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in samples(first).items():
        lines = [f"{tweet} \n{target}\n{label - 1}\n{image}\n" for label, image, tweet, target in rows]
        (folder / f"{split}.txt").write_text("".join(lines), "utf-8")


def write_pictures(folder: Path, first: int = 7000000) -> None:
    """One picture for each tweet."""
    for number in range(first, first + sum(SIZES.values())):
        picture(folder / f"{number}.jpg", number)


def build(root: Path) -> None:
    """twitter2015/ and twitter2015_images/."""
    write_tsv(root / "twitter2015")
    write_pictures(root / "twitter2015_images")


def build_raw(root: Path) -> None:
    """The raw lists in a clone, pictures one folder too deep."""
    write_txt(root / "TomBERT/absa_data/twitter2015")
    write_pictures(root / "twitter15_images/twitter15_images")


def build_flat(root: Path) -> None:
    """Lists in the root, images/; some suffixes in capitals."""
    write_tsv(root)
    write_pictures(root / "images")
    for path in sorted((root / "images").iterdir())[::3]:
        path.rename(path.with_suffix(".JPG"))


VARIANTS = {"raw": build_raw, "flat": build_flat}


def append(path: Path, line: str) -> None:
    """One more line at the end of a list."""
    path.write_bytes(path.read_bytes().rstrip() + f"\n{line}\n".encode())


def pitfalls(lists: str, images: str, first: int) -> Iterator[Pitfall]:
    """What can be wrong with either year."""
    train, test = f"{lists}/train.tsv", f"{lists}/test.tsv"

    def row(text: str, path: str = train) -> Callable[[Path], None]:
        return lambda root: append(root / path, text)

    yield Pitfall("four-fields", row("9\t1\t7.jpg\tall about $T$"), "bad-row", f"{train}, line 20: 4 fields")
    yield Pitfall("tab-in-tweet", row("9\t1\t7.jpg\tall\tabout $T$\tQuux"), "bad-row", f"{train}, line 20: 6 fields")
    yield Pitfall("no-target-mark", row("9\t1\t7.jpg\tall about Quux\tQuux"), "bad-row", "no $T$ in 'all about Quux'")
    yield Pitfall(
        "no-target",
        lambda root: replace(root / train, "\tQuux\n", "\t \n"),
        "bad-row",
        "no target for 'RT @ nobody",
    )
    yield Pitfall("image-id", row("9\t1\t7.gif\tall about $T$\tQuux"), "bad-row", "'7.gif' does not end with .jpg")
    yield Pitfall("raw-label", row("9\t-1\t7.jpg\tall about $T$\tQuux"), "unknown-label", "label '-1'")
    yield Pitfall(
        "label", row("9\t3\t7.jpg\tall about $T$\tQuux", test), "unknown-label", f"{test}, line 14: label '3'"
    )
    yield Pitfall("leaves-root", row("9\t1\t../../7.jpg\tall about $T$\tQuux"), "unsafe-path", "7.jpg")
    yield Pitfall(
        "shared-picture",
        row(f"9\t1\t{first}.jpg\tall about $T$\tQuux", test),
        "group-overlap",
        f"{first}.jpg",
    )
    yield Pitfall(
        "not-utf8",
        lambda root: (root / train).write_bytes((root / train).read_bytes() + b"9\t1\t7.jpg\t\xe9 $T$\tQuux\n"),
        "bad-row",
        f"{train}, line 20: byte 0xe9 is not UTF-8",
    )
    yield Pitfall("missing", lambda root: (root / f"{images}/{first}.jpg").unlink(), "missing-file", f"{first}.jpg")
    yield Pitfall(
        "no-picture",
        lambda root: (root / f"{images}/{first}.jpg").write_bytes(b"not found"),
        "undecodable",
        f"{first}.jpg",
    )
    yield Pitfall(
        "stand-in-is-no-picture",
        lambda root: (picture(root / f"{images}/17_06_4705.jpg", 1), (root / f"{images}/{first + 1}.jpg").unlink()),
        "missing-file",
        f"{first + 1}.jpg",
    )
    yield Pitfall(
        "repeated-row",
        lambda root: append(root / train, (root / train).read_text("utf-8").splitlines()[1]),
        "quirk",
        "1 rows repeat another row",
    )


PITFALLS = (
    *pitfalls("twitter2015", "twitter2015_images", 7000000),
    Pitfall(
        "same-picture-twice",
        lambda root: (root / "twitter2015_images/7000020.jpg").write_bytes(
            (root / "twitter2015_images/7000000.jpg").read_bytes()
        ),
        "duplicate-source",
        "7000020.jpg",
    ),
    Pitfall(
        "control-character",
        lambda root: replace(root / "twitter2015/dev.tsv", "RT @ nobody", "RT \x1f nobody"),
        "bad-row",
        "twitter2015/dev.tsv, line 2: the text holds the character U+001F",
    ),
)
