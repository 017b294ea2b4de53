"""CMU-MOSI and CMU-MOSEI as the feature sets of MMSA, MulT and MultiBench, after conversion from pickles.

One .npz or HDF5 file with the groups train, valid, test, or one HDF5 file a part. Each group holds text, audio, vision
[N,T,F], a score (`regression_labels`, or `labels` in MulT) and, where there are some, `id`, `audio_lengths`,
`vision_lengths`, `text_bert`. MMSA pads at the end, MulT and MultiBench at the front: steps outside the data are
masked, found by the lengths, else by the zeros at both ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmbal_cli.data.arrays import PICKLES, refuse_pickle, run_of, split_parts
from mmbal_cli.data.problems import Problem, some
from mmbal_cli.data.raw import Folder, NoLayout, Raw, Row, Spot
from mmbal_cli.errors import ManifestError

if TYPE_CHECKING:
    import numpy as np

    from mmbal_cli.media.arrays import Member

OPTIONS = {
    "set": ("mosi", "mosei"),
    "labels": ("acc2_nonneg", "acc2_nonzero", "acc3", "acc7"),
    "alignment": ("any", "aligned", "unaligned"),
}
CLASSES = {
    "acc2_nonneg": ("negative", "non-negative"),
    "acc2_nonzero": ("negative", "positive"),
    "acc3": ("negative", "positive", "neutral"),
    "acc7": ("-3", "-2", "-1", "0", "1", "2", "3"),
}
WIDTHS = {
    "mosi": {"text": (768, 300), "audio": (5,), "video": (20,)},
    "mosei": {"text": (768, 300), "audio": (74,), "video": (35,)},
}
NAMES = {"text": ("text",), "audio": ("audio",), "video": ("vision", "video")}
STEMS = {  # as MMSA, MulT and MultiBench name their files
    "aligned": ("aligned_50", "{set}_data", "{set}_senti_data", "{set}", "{set}_aligned_50"),
    "unaligned": ("unaligned_50", "{set}_data_noalign", "{set}_senti_data_noalign", "{set}_unaligned_50", "{set}_raw"),
}
PLACES = ("", "{SET}", "{set}", "Processed", "{SET}/Processed", "{set}/Processed")
SHOWN = 3


class Part(NamedTuple):
    """The arrays of one split by name, each with the beginning of its values."""

    split: str
    arrays: dict[str, tuple[str, Member]]


def read(folder: Folder, options: Mapping[str, str]) -> Raw:
    """The segments of all three parts; the score of each becomes a class as the option `labels` says."""
    problems: list[Problem] = []
    layout, parts = _parts(folder, options, problems)
    rows: list[Row] = []
    for part in parts:
        rows += _rows(part, options, problems)
    lists = f"the parts of {layout}"
    return Raw(layout, lists, dict.fromkeys(NAMES, "vector"), rows, problems, CLASSES[options["labels"]])


# --------------------------------------------------------------------------------------------- files


def _parts(folder: Folder, options: Mapping[str, str], problems: list[Problem]) -> tuple[str, list[Part]]:
    from mmbal_cli.media.arrays import check_packed, check_stored, members

    found, pickled = _candidates(folder, options)
    if not found and pickled:
        raise refuse_pickle(folder.root / pickled)
    if not found:
        raise NoLayout(f"no {options['set']}.npz, aligned_50.npz or train.h5, valid.h5, test.h5")
    alignments = list(found)
    if len(alignments) > 1:
        text = f"both {found['aligned'][0]} and {found['unaligned'][0]} are there; the first is used"
        problems.append(Problem("warning", "quirk", f"{text} (--set source.alignment=unaligned)"))
    files = found[alignments[0]]
    parts = []
    for file in files:
        arrays = members(folder.root / file)
        check_packed(folder.root / file, arrays.values())
        check_stored(folder.root / file)
        groups = split_parts(arrays) if len(files) == 1 else {_part_of(file): {name: name for name in arrays}}
        for split, names in groups.items():
            if split:
                parts.append(
                    Part(split, {low.lower(): (f"{file}#{full}/", arrays[full]) for low, full in names.items()})
                )
    order = ("train", "val", "test")
    if sorted(part.split for part in parts) != sorted(order):
        raise ManifestError(
            f"{folder.root / files[0]} holds the parts {', '.join(part.split for part in parts) or 'none'}.",
            "Expected arrays train/text, valid/text, test/text and so on.",
            "docs/features.md shows the conversion.",
        )
    return ", ".join(files), sorted(parts, key=lambda part: order.index(part.split))


def _part_of(file: str) -> str:
    stem = Path(file).stem
    return "val" if stem.endswith(("valid", "val", "dev")) else stem.rpartition("_")[2]


def _candidates(folder: Folder, options: Mapping[str, str]) -> tuple[dict[str, tuple[str, ...]], str]:
    """{alignment: files}, and a pickle where there are no such files."""
    found: dict[str, tuple[str, ...]] = {}
    pickled = ""
    names = {"set": options["set"], "SET": options["set"].upper()}
    for place in (part.format(**names) for part in PLACES):
        start = f"{place}/" if place else ""
        for alignment, stems in STEMS.items():
            if options["alignment"] not in ("any", alignment):
                continue
            for stem in (f"{start}{stem.format(**names)}" for stem in stems):
                one = folder.first(f"{stem}.npz", f"{stem}.h5", f"{stem}.hdf5")
                split = [folder.first(*(f"{stem}_{name}.h5" for name in part)) for part in _PARTS]
                if one or all(split):
                    found.setdefault(alignment, (one,) if one else tuple(file for file in split if file))
                pickled = pickled or folder.first(*(f"{stem}{suffix}" for suffix in PICKLES)) or ""
        plain = [folder.first(*(f"{start}{name}.h5" for name in part)) for part in _PARTS]
        if all(plain) and not found:
            found["aligned"] = tuple(file for file in plain if file)
    return found, pickled


_PARTS = (("train",), ("valid", "val", "dev"), ("test",))


# ---------------------------------------------------------------------------------------------- rows


def _rows(part: Part, options: Mapping[str, str], problems: list[Problem]) -> list[Row]:
    begin, scores = _scores(part)
    file = begin.rstrip("/")
    ids, groups = _names(part, len(scores))
    columns = {m: _column(part, m, len(scores), ids, options["set"], problems) for m in NAMES}
    _compare(part, scores, problems)
    rows: list[Row] = []
    dropped = 0
    for n, score in enumerate(scores):
        if not math.isfinite(score) or abs(score) > 3:
            problems.append(Problem("error", "bad-row", f"'{ids[n]}': score {score:g}, expected -3 to 3", n + 1, file))
            continue
        label = label_of(score, options["labels"])
        dropped += label is None
        if label is not None:
            fixed = {"id": ids[n], "split": part.split, "label": label, "group": groups[n]}
            rows.append((Spot(file, n + 1), fixed | {m: column[n] for m, column in columns.items()}))
    if dropped:
        text = f"{dropped} of {len(scores)} samples of {part.split} have the score 0 and are left out (acc2_nonzero)"
        problems.append(Problem("warning", "quirk", text))
    return rows


def label_of(score: float, labels: str) -> str | None:
    """The class of a score in -3..3 under a labelling of the literature; None where it leaves the sample out."""
    negative, positive = CLASSES[labels][:2]
    if labels == "acc2_nonneg":
        return negative if score < 0 else positive
    if labels == "acc2_nonzero":
        return None if score == 0 else negative if score < 0 else positive
    if labels == "acc3":
        return negative if score < -0.5 else positive if score > 0.5 else "neutral"
    return str(round(score))  # halves to even, as numpy rounds


def _scores(part: Part) -> tuple[str, list[float]]:
    import numpy as np

    for name in ("regression_labels", "labels", "label"):
        if name in part.arrays:
            begin, one = part.arrays[name]
            if one.dtype.kind not in "fiu" or one.shape[:1] != (math.prod(one.shape),):
                raise _wrong(begin, one, "one score a sample: [N] or [N,1,1]")
            return begin, np.asarray(one.read(), np.float64).reshape(-1).tolist()
    raise ManifestError(
        f"The part {part.split} holds no regression_labels; it holds {', '.join(sorted(part.arrays))}.",
        "Expected the scores of the samples.",
    )


def _wrong(begin: str, one: Member, expected: str) -> ManifestError:
    found = f"{begin.rstrip('/')} has the shape {list(one.shape)} and type {one.dtype}."
    return ManifestError(found, f"Expected {expected}.")


def _names(part: Part, count: int) -> tuple[list[str], list[str]]:
    """Ids, and the video of each sample; MulT has rows of video, start and end."""
    if "id" not in part.arrays:
        return [f"{part.split}-{n}" for n in range(count)], [""] * count
    begin, one = part.arrays["id"]
    if one.shape[:1] != (count,) or len(one.shape) > 2:
        raise _wrong(begin, one, f"{count} ids")
    if len(one.shape) == 2:
        flat, width = one.text(), one.shape[1]
        table = [flat[start : start + width] for start in range(0, len(flat), width)]
        return ["_".join(row) for row in table], [row[0] for row in table]
    ids = one.text()
    return ids, [name.partition("$_$")[0] if "$_$" in name else "" for name in ids]


def _compare(part: Part, scores: list[float], problems: list[Problem]) -> None:
    """classification_labels (0 negative, 1 neutral, 2 positive) against the scores; the scores count."""
    if "classification_labels" not in part.arrays:
        return
    begin, one = part.arrays["classification_labels"]
    if one.shape != (len(scores),) or one.dtype.kind not in "fiu":
        raise _wrong(begin, one, f"[{len(scores)}]")
    given = [int(value) for value in one.read().tolist()]
    other = [n for n, score in enumerate(scores) if math.isfinite(score) and given[n] != 1 + (score > 0) - (score < 0)]
    if other:
        text = f"{len(other)} of {len(scores)} classification_labels of {part.split} have another sign than the score"
        problems.append(Problem("warning", "label-mismatch", f"{text}, the first in row {other[0]}; the score counts"))


# ------------------------------------------------------------------------------------------ features


def _column(
    part: Part, modality: str, count: int, ids: list[str], set_: str, problems: list[Problem]
) -> list[str | None]:
    import numpy as np

    name = next((name for name in NAMES[modality] if name in part.arrays), None)
    if name is None:
        raise ManifestError(f"The part {part.split} holds no '{modality}'.", f"Found {', '.join(sorted(part.arrays))}.")
    begin, one = part.arrays[name]
    if len(one.shape) not in (2, 3) or one.shape[0] != count or one.dtype.kind != "f":
        raise _wrong(begin, one, f"[{count},T,F] of real numbers")
    _check_width(begin, modality, one.shape[-1], set_, problems)
    lengths = _lengths(part, modality, one.shape, problems)
    values: list[str | None] = []
    odd: list[str] = []
    unusable: set[str] = set()
    beyond = 0
    for start, block in one.blocks():
        there, unclean = _looked_at(block)
        for n in range(len(block)):
            row = start + n
            if unclean[n] and not there[n].any():
                unusable.add(ids[row])
            fill = "&fill=0" if unclean[n] and modality == "audio" else ""
            odd += [ids[row]] * bool(fill)
            steps = there[n]
            if lengths is not None and steps.ndim and steps.any():
                beyond += bool(steps[lengths[row] :].any())
                steps = np.arange(len(steps)) < lengths[row]
            values.append(f"{begin}{row}{_ends(steps)}{fill}" if there[n].any() and steps.any() else None)
    empty = [ids[n] for n, value in enumerate(values) if value is None]
    where = f"of {part.split} "
    if empty:
        what = "is all zeros" + " or not finite" * bool(unusable & {*empty})
        problems.append(_noted(f"{modality} {where}{what} in {len(empty)} samples and counts as missing", empty))
    if odd:
        problems.append(
            _noted(f"{modality} {where}holds -inf or NaN in {len(odd)} samples; those values become 0", odd)
        )
    if beyond:
        text = f"{modality} {where}holds numbers beyond the stated length in {beyond} samples; they are masked"
        problems.append(_noted(text, []))
    return values


def _noted(text: str, ids: list[str]) -> Problem:
    return Problem("warning", "quirk", f"{text}: {some(ids, SHOWN)}" if ids else text)


def _looked_at(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps that are not all zero ([n,T], or [n] of flat rows), and rows that hold values that are not finite."""
    import numpy as np

    finite = np.isfinite(block)
    there = ((block != 0) & finite).any(-1)
    return there, ~finite.reshape(len(block), -1).all(1)


def _ends(steps: np.ndarray) -> str:
    """From the first to the last step with data; a zero step between them is data."""
    import numpy as np

    if not steps.ndim:
        return ""
    at = np.flatnonzero(steps)
    whole = np.zeros(len(steps), bool)
    whole[at[0] : at[-1] + 1] = True
    return run_of(whole) or ""


def _lengths(part: Part, modality: str, shape: tuple[int, ...], problems: list[Problem]) -> list[int] | None:
    import numpy as np

    if len(shape) != 3:
        return None
    for name in (f"{name}_lengths" for name in NAMES[modality]):
        if name in part.arrays:
            begin, one = part.arrays[name]
            if one.shape != shape[:1] or one.dtype.kind not in "iu":
                raise _wrong(begin, one, f"[{shape[0]}] whole numbers")
            lengths: list[int] = one.read().tolist()
            for n in [n for n, length in enumerate(lengths) if not 0 <= length <= shape[1]]:
                text = f"length {lengths[n]}, but the array has {shape[1]} steps"
                problems.append(Problem("error", "bad-row", text, n + 1, begin.rstrip("/")))
            return lengths
    if modality == "text" and "text_bert" in part.arrays:
        begin, one = part.arrays["text_bert"]
        if one.shape == (shape[0], 3, shape[1]):  # token numbers, mask, segment
            return [int(n) for n in np.asarray(one.read()[:, 1]).sum(1)]
    return None


def _check_width(begin: str, modality: str, width: int, set_: str, problems: list[Problem]) -> None:
    if width in WIDTHS[set_][modality]:
        return
    other = [name for name in WIDTHS if name != set_ and width in WIDTHS[name][modality]]
    expected = " or ".join(str(number) for number in WIDTHS[set_][modality])
    found = f"{modality} has {width} numbers a step, {set_} of MMSA and MulT has {expected}"
    if other:
        text = f"{found}: this is {other[0]}"
        problems.append(Problem("error", "refused-list", text, None, begin.rstrip("/")))
    elif not any(found in str(one) for one in problems):
        problems.append(Problem("warning", "quirk", f"{found}: other features than those of the literature"))
