"""Twitter-2015 and Twitter-2017 (Yu and Jiang, IJCAI 2019): a tweet with `$T$` in place of its target, and a picture.

A tweet occurs once for each target, so pictures repeat; the picture is the group of a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from mmbal_cli.data.datasets.imagetext import Pictures, at, listing, literal, places, split_files, text_fault
from mmbal_cli.data.problems import Problem
from mmbal_cli.data.raw import Folder, NoLayout, Raw, Row, Spot
from mmbal_cli.media.text import PAIR

OPTIONS: dict[str, tuple[str, ...]] = {"year": ("2015", "2017"), "text": ("pair", "substituted")}

CLASSES = ("negative", "neutral", "positive")
TARGET = "$T$"
LISTS = {"2015": ("twitter2015", "absa_data/twitter2015"), "2017": ("twitter2017", "absa_data/twitter", "twitter")}
IMAGES = {
    "2015": ("twitter2015_images", "twitter15_images", "images"),
    "2017": ("twitter2017_images", "twitter17_images", "twitter_subimages", "images"),
}

COUNTS = {"2015": (3179, 1122, 1037), "2017": (3562, 1176, 1234)}

Entry = tuple[str, str, str, str]  # label as written, picture, tweet, target


def read(folder: Folder, options: Mapping[str, str]) -> Raw:
    """The table of the raw folder: .tsv lists, or where there are none the raw .txt lists with four lines a sample."""
    year = options["year"]
    bases = [*(at(place, name) for place in places(folder) for name in LISTS[year]), ""]
    problems: list[Problem] = []
    files, parse, written = split_files(folder, bases, ".tsv"), _tabbed, ("0", "1", "2")
    if files is None:
        files, parse, written = split_files(folder, bases, ".txt"), _fours, ("-1", "0", "1")
    if files is None:
        looked = ", ".join(f"{name}/train.tsv" for name in LISTS[year])
        raise NoLayout(f"looked for {looked} or train.tsv and found {listing(folder)}")
    pictures = Pictures(folder, IMAGES[year])
    rows: list[Row] = []
    entries: Counter[Entry] = Counter()
    for split, path in files.items():
        for number, (line, entry) in enumerate(parse(folder, path, problems), start=1):
            entries[entry] += 1
            label, image, tweet, target = entry
            if label not in written:
                found = f"label {label!r}; lists of this kind hold {', '.join(written)}"
                problems.append(Problem("error", "unknown-label", found, line, path))
            elif fault := _fault(image, tweet, target):
                problems.append(Problem("error", "bad-row", fault, line, path))
            else:
                cells = {"id": f"{split}-{number}", "split": split, "label": CLASSES[written.index(label)]}
                text = tweet.replace(TARGET, target) if options["text"] != "pair" else f"{tweet}{PAIR}{target}"
                picture = pictures.path(image.removesuffix(".jpg"))
                rows.append((Spot(path, line), {**cells, "group": image, "text": literal(text), "image": picture}))
    counts = Counter(row["split"] for _, row in rows)
    other = next(name for name in COUNTS if name != year)
    if COUNTS[other] == tuple(counts[split] for split in files):
        found = f"these {entries.total()} rows are Twitter-{other}, not Twitter-{year}"
        problems.append(Problem("error", "refused-list", found, file=files["train"]))
    repeated = entries.total() - len(entries)
    if repeated:
        problems.append(Problem("warning", "quirk", f"{repeated} rows repeat another row word for word"))
    layout = f"{files['train']}, {pictures.home}/<image id>"
    return Raw(layout, ", ".join(files.values()), {"text": "text", "image": "image"}, rows, problems)


def _fault(image: str, tweet: str, target: str) -> str:
    if not image.endswith(".jpg") or len(image) < 5:
        return f"the image id {image[:80]!r} does not end with .jpg"
    if TARGET not in tweet:
        return f"no {TARGET} in {tweet[:80]!r}"
    if not target:
        return f"no target for {tweet[:80]!r}"
    return text_fault(tweet + target)


def _tabbed(folder: Folder, path: str, problems: list[Problem]) -> Iterator[tuple[int, Entry]]:
    """Rows of a .tsv list. Quotation marks are letters of tweets; the header of test.tsv has a field less."""
    for line, text in folder.lines(path, problems):
        cells = [cell.strip() for cell in text.split("\t")]
        if line == 1 and cells[0] == "index":
            continue
        if len(cells) == 5:
            yield line, (cells[1], cells[2], cells[3], cells[4])
        else:
            found = f"{len(cells)} fields, expected index, label, image id, tweet, target: {text[:80]!r}"
            problems.append(Problem("error", "bad-row", found, line, path))


def _fours(folder: Folder, path: str, problems: list[Problem]) -> Iterator[tuple[int, Entry]]:
    """Samples of a raw list: tweet, target, -1, 0 or 1, image id, each on its own line."""
    lines = {line: text.strip() for line, text in folder.lines(path, problems)}
    last = max(lines, default=0)
    for first in range(1, last + 1, 4):
        block = [lines.get(line) for line in range(first, first + 4)]
        tweet, target, label, image = block
        if None not in block:
            yield first, (str(label), str(image), str(tweet), str(target))
        elif first + 3 > last:
            found = f"{last - first + 1} lines, expected tweet, target, label, image id"
            problems.append(Problem("error", "bad-row", found, first, path))
        # else a line that is not UTF-8, which has been reported
