"""UCF-101: three published splits; colour from videos or extracted frames, flow supplied as u and v or computed.

The sound track is never used: about half of the clips have none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mmbal_cli.data.datasets import flows
from mmbal_cli.data.problems import Problem, some
from mmbal_cli.data.raw import Folder, NoLayout, Raw, Row, Spot
from mmbal_cli.errors import nearest

OPTIONS: dict[str, tuple[str, ...]] = {
    "split": ("1", "2", "3"),
    "rgb": ("auto", "videos", "frames"),
    "flow": flows.CHOICES,
}

LISTS = (
    "ucfTrainTestlist",
    "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist",
    "UCF101TrainTestSplits-RecognitionTask",
    "annotations",
    "",
)
VIDEOS = ("UCF-101", "UCF101", "videos")
FRAMES, FLOW = "jpegs_256", "tvl1_flow"
CLASSES, FEWEST = 101, 28
SPELLED = {"handstandpushups": "HandstandPushups"}  # of files and of some copies of the lists: HandStandPushups
CLIP = re.compile(
    r"(?P<class>[^/\s]+)/(?P<id>v_(?P<again>[^/\s]+)_g(?P<group>\d+)_c\d+)\.avi(?:\s+(?P<index>\d{1,4}))?"
)


@dataclass
class _Media:
    """Where colour and flow lie; names are compared without regard to case."""

    folder: Folder
    rgb: str  # "videos" or "frames"
    place: str  # the folder of colour
    flow: str  # "components", "computed" or "difference"
    clips: dict[str, str]  # lower-case id -> path of colour
    flows: dict[str, str]  # lower-case id -> name of the folder with its u component

    def colour(self, name: str, clip: str) -> str:
        """Path of the colour of a clip, where it is or where it was expected."""
        expected = f"{self.place}/{name}/{clip}.avi" if self.rgb == "videos" else f"{self.place}/{clip}"
        return self.clips.get(clip.lower(), expected)

    def motion(self, clip: str) -> str:
        """The two folders of the flow of a clip."""
        return f"{FLOW}/{{u,v}}/{self.flows.get(clip.lower(), clip)}"

    def count(self, rgb: str, flow: str) -> Iterator[Problem]:
        """Findings on the numbers of pictures of one clip; a folder that is missing is found with the paths."""
        frames = flows.numbers(self.folder, rgb) if self.rgb == "frames" else []
        if frames:
            yield from self._enough(rgb, frames)
        if self.flow == "components":
            u = flow.replace("{u,v}", "u")  # where v has another number, that is found with the paths
            found = flows.numbers(self.folder, u)
            if found:
                yield from self._enough(u, found)
            if found and len(found) < len(frames) - 1:
                said = f"'{u}' holds {len(found)} pictures for {len(frames)} frames, expected {len(frames) - 1}"
                yield Problem("error", "too-short", said)

    def _enough(self, path: str, found: list[int]) -> Iterator[Problem]:
        yield from flows.gaps(path, found)
        if len(found) < FEWEST:
            yield Problem("error", "too-short", f"'{path}' holds {len(found)} pictures, clips have {FEWEST} or more")


def read(folder: Folder, options: Mapping[str, str]) -> Raw:
    """Samples of one of the three splits, by `split`; group is the source video, `Class_gNN`."""
    place = next((path for path in LISTS if folder.first(f"{path}/classInd.txt".lstrip("/"))), None)
    if place is None:
        raise NoLayout(f"classInd.txt in {', '.join(LISTS[:-1])} or the folder itself: no such file is there")
    names = {split: f"{place}/{split}list0{options['split']}.txt".lstrip("/") for split in ("train", "test")}
    lost = [path for path in names.values() if not folder.first(path)]
    if lost:
        raise NoLayout(f"the lists of split {options['split']}: {' and '.join(lost)} missing")
    media = _media(folder, options)
    problems: list[Problem] = []
    classes = _classes(folder, f"{place}/classInd.txt".lstrip("/"), problems)
    rows: list[Row] = []
    for split, path in names.items():
        rows += _rows(folder, path, split, classes, media, problems)
    listed = {row["id"].lower() for _, row in rows}
    unlisted = [path for clip, path in media.clips.items() if clip not in listed]
    if unlisted:
        found = f"{len(unlisted)} clips are in neither list: {some(unlisted)}"
        problems.append(Problem("warning", "unlisted-file", found))
    colour = f"{media.place}/Class/*.avi" if media.rgb == "videos" else f"{media.place}/v_*/"
    motion = {
        "components": f"{FLOW}/u, {FLOW}/v",
        "computed": "flow from colour",
        "difference": "differences of colour",
    }
    kinds = {"rgb": "video", flows.NAMES[media.flow]: "video"}
    return Raw(f"{colour}, {motion[media.flow]}", ", ".join(names.values()), kinds, rows, problems)


def _media(folder: Folder, options: Mapping[str, str]) -> _Media:
    videos, frames = folder.first(*VIDEOS), folder.first(FRAMES)
    wanted = options["rgb"] if options["rgb"] != "auto" else "videos" if videos else "frames"
    place = videos if wanted == "videos" else frames
    if place is None:
        looked = {"auto": f"{', '.join(VIDEOS)} or {FRAMES}", "videos": ", ".join(VIDEOS), "frames": FRAMES}
        raise NoLayout(f"a folder {looked[options['rgb']]} with the clips: there is none")
    both = folder.first(f"{FLOW}/u") and folder.first(f"{FLOW}/v")
    flow = flows.decide(options["flow"], "components" if both else None, f"{FLOW}/u and {FLOW}/v")
    if wanted == "videos":
        found = [folder.stems(path, ".avi") for path in folder.folders(place).values()]
        clips = {stem.lower(): path for stems in found for stem, path in stems.items()}
    else:
        clips = {name.lower(): path for name, path in folder.folders(place).items()}
    components = {name.lower(): name for name in folder.folders(f"{FLOW}/u")} if flow == "components" else {}
    return _Media(folder, wanted, place, flow, clips, components)


def _classes(folder: Folder, path: str, problems: list[Problem]) -> dict[str, tuple[str, int]]:
    """Lower-case name -> (name, index from 1) of classInd.txt."""
    found: dict[str, tuple[str, int]] = {}
    for line, text in folder.lines(path, problems):
        cells = text.split()
        if len(cells) != 2 or not re.fullmatch(r"\d{1,4}", cells[0]):
            problems.append(Problem("error", "bad-row", f"'{text}' is not of the form NUMBER NAME", line, path))
        elif cells[1].lower() in found or any(int(cells[0]) == index for _, index in found.values()):
            problems.append(Problem("error", "bad-row", f"'{text}' repeats a name or a number", line, path))
        else:
            key = cells[1].lower()
            found[key] = SPELLED.get(key, cells[1]), int(cells[0])
    if len(found) != CLASSES:
        problems.append(Problem("warning", "quirk", f"{len(found)} classes, not {CLASSES}", None, path))
    return found


def _rows(
    folder: Folder,
    path: str,
    split: str,
    classes: dict[str, tuple[str, int]],
    media: _Media,
    problems: list[Problem],
) -> Iterator[Row]:
    """Rows of one list. Lines of trainlist end in the class number; a number in testlist is checked as well."""
    for line, text in folder.lines(path, problems):
        found = CLIP.fullmatch(text.strip())
        if found is None:
            said = f"'{text}' is not of the form Class/v_Class_gNN_cNN.avi" + (" NUMBER" if split == "train" else "")
            problems.append(Problem("error", "bad-row", said, line, path))
            continue
        name, index = classes.get(found["class"].lower(), ("", 0))
        if not name:
            hint = nearest(found["class"], [spelled for spelled, _ in classes.values()])
            said = f"class '{found['class']}' is not in classInd.txt. {hint}"
            problems.append(Problem("error", "unknown-label", said, line, path))
            continue
        if found["again"].lower() != name.lower():
            said = f"'{found['id']}' is listed under the class {found['class']}"
            problems.append(Problem("error", "label-mismatch", said, line, path))
            continue
        if split == "train" and found["index"] is None:
            problems.append(Problem("error", "bad-row", f"no class number in '{text}'", line, path))
            continue
        if found["index"] and int(found["index"]) != index:
            said = f"'{found['id']}' has the class number {found['index']}, in classInd.txt {name} is {index}"
            problems.append(Problem("error", "label-mismatch", said, line, path))
            continue
        rgb, flow = media.colour(found["class"], found["id"]), media.motion(found["id"])
        problems += media.count(rgb, flow)
        motion = flow if media.flow == "components" else rgb
        group = f"{name}_g{found['group']}"
        values = {"rgb": rgb, flows.NAMES[media.flow]: motion}
        yield Spot(path, line), {"id": found["id"], "split": split, "label": name, "group": group, **values}
