"""The embedded data set `demo`: an imbalance laboratory rendered to real files.

`generate` writes below its root

- `lab.json`: version, seed, dials, and the best accuracy reachable from each set of modalities, both
  exact (`reachable`) and for the symbols that the test split happened to get (`reachable_on_test`);
- `clips/00000.mp4`, ...: H.264 video and AAC audio in one container;
- `manifest.csv`, last: id, split, label, group (the speaker), both media columns, the caption.

`lab.json` decides whether what lies there belongs to the same request: if so, finished clips are kept
(files appear whole or not at all), else everything is made again.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmbal_cli.data.datasets.demo_media import caption
from mmbal_cli.data.datasets.lab import CLASSES, DEFAULT, MODALITIES, Dials, K, draw, reachable, reached, stream
from mmbal_cli.errors import CacheError, MediaError, UsageError
from mmbal_cli.media.pool import Pool
from mmbal_cli.store.atomic import best_effort_lock, canonical_json, check_space, publish, sweep_parts

VERSION = 1  # raise it whenever the same request would give other files
SHARES = (("train", 0.60), ("val", 0.15), ("test", 0.25))
SPEAKER_CLIPS = 20
LEAST = 40  # every split then has every class
CLIP_BYTES = 40_000
COLUMNS = ("id", "split", "label", "group", "video:video", "audio:audio", "text:text")


@dataclass(frozen=True)
class Clip:
    """One planned clip; everything about it follows from (seed, index) and the dials."""

    index: int
    split: str
    speaker: int
    label: int
    symbols: dict[str, int]

    @property
    def file(self) -> str:
        """Path below the root."""
        return f"clips/{self.index:05d}.mp4"


def plan(clips: int, seed: int, dials: Dials) -> list[Clip]:
    """The clips in manifest order: labels balanced in each split, no speaker in two splits."""
    if clips < LEAST or seed < 0:
        raise UsageError(f"{clips} clips, seed {seed}.", f"Expected at least {LEAST} clips and a seed from 0.")
    sizes = {split: round(share * clips) for split, share in SHARES}
    sizes["train"] += clips - sum(sizes.values())
    made: list[Clip] = []
    speaker = 0
    for split, size in sizes.items():
        for within in range(size):
            index, label = len(made), within % K
            symbols = draw(label, dials, stream(seed, "symbols", index))
            made.append(Clip(index, split, speaker + within // SPEAKER_CLIPS, label, symbols))
        speaker = made[-1].speaker + 1
    return made


def generate(
    root: Path,
    *,
    clips: int = 1200,
    seed: int = 0,
    dials: Dials = DEFAULT,
    on_progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Path:
    """Write the data set below `root` and return its manifest; `on_progress(clips ready, clips)`.

    The files depend on clips, seed and dials only. Raises UsageError, CacheError (a folder that holds
    something else, a full disk) or MediaError (a clip that cannot be rendered).
    """
    planned = plan(clips, seed, dials)
    description, table = canonical_json(_describe(planned, seed, dials)), _table(planned, seed, dials)
    with best_effort_lock(root):
        _make_room(root, description)
        _publish(root, "lab.json", description)  # before the first clip, which it vouches for
        sweep_parts(root)
        missing = [clip for clip in planned if not (root / clip.file).is_file()]
        check_space(root, CLIP_BYTES * len(missing))
        report = on_progress or (lambda done, total: None)
        report(clips - len(missing), clips)
        jobs = [_job(clip, seed, dials) for clip in missing]
        pool = Pool([sys.executable, "-P", "-m", "mmbal_cli.data.datasets.demo_media"], workers or _cores())
        with closing(pool.run(jobs, ordered=False)) as results:
            for done, (number, header, arrays) in enumerate(results, start=clips - len(missing) + 1):
                if error := header.get("error"):
                    raise MediaError(f"{missing[number].file} was not rendered: {error['reason']}.")
                publish(root / "clips", Path(missing[number].file).name, arrays[0].tobytes())
                report(done, clips)
        return _publish(root, "manifest.csv", table)


def _describe(planned: list[Clip], seed: int, dials: Dials) -> dict[str, Any]:
    test = [clip for clip in planned if clip.split == "test"]
    on_test = reached(dials, [clip.label for clip in test], [clip.symbols for clip in test])
    return {
        "generator": "demo",
        "version": VERSION,
        "clips": len(planned),
        "seed": seed,
        "classes": list(CLASSES),
        "counts": Counter(clip.split for clip in planned),
        "dials": asdict(dials),
        "reachable": {name: round(value, 6) for name, value in reachable(dials).items()},
        "reachable_on_test": {name: round(value, 6) for name, value in on_test.items()},
    }


def _make_room(root: Path, description: bytes) -> None:
    """Remove another request's files, the manifest first; refuse a folder that is not ours."""
    lab, folder, manifest = root / "lab.json", root / "clips", root / "manifest.csv"
    if _holds(lab, description) or not (lab.exists() or folder.exists() or manifest.exists()):
        return
    try:
        ours = json.loads(lab.read_bytes())["generator"] == "demo"
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise CacheError(f"{root} holds other files.", "Expected an empty folder or a demo data set.")
    manifest.unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def _job(clip: Clip, seed: int, dials: Dials) -> dict[str, Any]:
    shown = {m: [clip.symbols[m], getattr(dials, m).ease] for m in MODALITIES if m != "text"}
    return {"seed": seed, "index": clip.index, "speaker": clip.speaker, **shown}


def _table(planned: list[Clip], seed: int, dials: Dials) -> bytes:
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(COLUMNS)
    for clip in planned:
        text = caption(clip.symbols["text"], dials.text.ease, stream(seed, "text", clip.index))
        who = f"speaker{clip.speaker:02d}"
        name = f"clip{clip.index:05d}"
        rows.writerow((name, clip.split, CLASSES[clip.label], who, clip.file, clip.file, text))
    return out.getvalue().encode()


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _publish(root: Path, name: str, content: bytes) -> Path:
    """As `publish`, but a file that holds the content already is left alone."""
    return root / name if _holds(root / name, content) else publish(root, name, content)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
