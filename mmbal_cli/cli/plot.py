"""`mmbal plot`: pictures of runs for papers and slides, as PNG, SVG or PDF."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mmbal_cli.cli.compare import Saved, metric_names
from mmbal_cli.cli.console import note, out, stage
from mmbal_cli.cli.options import CACHE, RUNS, Cache, Device, RunNames, Runs, Split
from mmbal_cli.cli.output import check_output, say_left_out, write_bytes
from mmbal_cli.errors import EXIT_FINDINGS, MmbalError, UsageError, nearest

if TYPE_CHECKING:
    from mmbal_cli.report.plots import Gathered, Options, Picture

FORMATS = ("png", "svg", "pdf")


class Kind(StrEnum):
    """Kinds of pictures; `all` is every one that these runs allow."""

    curves = "curves"
    dynamics = "dynamics"
    bars = "bars"
    pareto = "pareto"
    critical = "critical-difference"
    reliability = "reliability"
    embedding = "embedding"
    all = "all"


class Width(StrEnum):
    """Width on paper: 3.4 or 7 inches."""

    column = "column"
    page = "page"


class Projection(StrEnum):
    """How adapter outputs become two-dimensional."""

    pca = "pca"
    tsne = "tsne"


@dataclass(frozen=True)
class Target:
    """Where pictures go: into `folder` under their own names, or into one `file`."""

    folder: Path
    file: Path | None
    formats: tuple[str, ...]

    def paths(self, pictures: Sequence[Picture]) -> Iterable[tuple[Picture, Path]]:
        """Each picture with the files it is written to; several pictures of one file name are numbered."""
        for number, picture in enumerate(pictures, start=1):
            if self.file is not None:
                several = f"-{number}" if len(pictures) > 1 else ""
                yield picture, self.file.with_stem(self.file.stem + several)
            else:
                yield from ((picture, self.folder / f"{picture.file}.{format}") for format in self.formats)


Kinds = Annotated[list[Kind], typer.Option("--kind", "-k", help="What to draw; repeatable.")]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder for the pictures, or a file (its suffix decides the format).")
]
Formats = Annotated[str, typer.Option("--format", "-f", help="Formats in a folder: png, svg, pdf, with commas.")]


def plot(
    names: RunNames = None,
    kind: Kinds = [Kind.bars],  # noqa: B006 (typer copies it)
    output: Out = Path("plots"),
    format: Formats = "png,svg",
    metric: Annotated[
        str, typer.Option("--metric", "-m", help="For bars, pareto, critical-difference; as of compare.")
    ] = "accuracy",
    column: Annotated[str, typer.Option(help="For curves: a column of the records.")] = "val/accuracy",
    split: Saved = Split.test,
    width: Annotated[Width, typer.Option(help="Width on paper: 3.4 or 7 inches.")] = Width.page,
    dpi: Annotated[int, typer.Option(min=50, max=1200, help="Dots per inch of PNG.")] = 300,
    projection: Annotated[Projection, typer.Option(help="For embedding.")] = Projection.pca,
    runs: Runs = RUNS,
    cache: Cache = CACHE,
    device: Device = "auto",
) -> None:
    """Draw runs: curves, dynamics, bars, pareto, critical-difference, reliability, embedding or all.

    One picture (or a few parts) for each group of comparable runs; the same runs give the same bytes. Paths go to
    stdout, captions to stderr and into the files. Exit code 1 when a run cannot be read.
    """
    target = _target(output, format, kind)
    measure = metric_names(metric)[0]

    from mmbal_cli.report.plots import Options, gather
    from mmbal_cli.report.runs import find_runs, read_runs

    found, damaged = read_runs(find_runs(names or [], runs))
    options = Options(
        split.value, measure, column, width.value, cache=cache, device=device, projection=projection.value
    )
    gathered = gather(found, split.value)
    if not gathered.groups:
        raise UsageError(f"No run could be read: {next(iter(gathered.unreadable.values()), 'there is none')}")
    written = _draw(_wanted(kind), gathered, options, target, dpi)
    unreadable = {**damaged, **gathered.unreadable}
    say_left_out(unreadable)
    if unreadable or not written:
        raise typer.Exit(EXIT_FINDINGS)


def _draw(kinds: Sequence[Kind], gathered: Gathered, options: Options, target: Target, dpi: int) -> int:
    """Draw and write every kind; of several, one that these runs do not allow is a note. How many were written."""
    from mmbal_cli.report.plots import draw_gathered, render

    written = 0
    with stage("plots", len(kinds)) as advance:
        for kind in kinds:
            try:
                pictures = draw_gathered(kind.value, gathered, options)
            except MmbalError as error:
                if len(kinds) == 1:
                    raise
                note(f"no {kind.value}: {error}")
                advance(detail=kind.value)
                continue
            target.folder.mkdir(parents=True, exist_ok=True)
            for picture, path in target.paths(pictures):
                write_bytes(path, render(picture, path.suffix.lower().removeprefix("."), dpi))
                out().print(Text(str(path)), soft_wrap=True)
                written += 1
            for picture in pictures:
                note(f"{picture.file}: {picture.caption}")
            advance(detail=kind.value)
    return written


def _wanted(kinds: Sequence[Kind]) -> list[Kind]:
    """The kinds asked for, each once."""
    return [k for k in Kind if k is not Kind.all] if Kind.all in kinds else list(dict.fromkeys(kinds))


def _target(output: Path, format: str, kinds: Sequence[Kind]) -> Target:
    """Where to write. Raises UsageError when that cannot be done, before any work."""
    formats = tuple(dict.fromkeys(name.strip().lower() for name in format.split(",") if name.strip()))
    for name in formats or ("",):
        if name not in FORMATS:
            raise UsageError(f"Unknown picture format '{name}'.", nearest(name, FORMATS))
    suffix = output.suffix.lower().removeprefix(".")
    if suffix and not output.is_dir():
        if suffix not in FORMATS:
            raise UsageError(f"'{output.name}' is no picture format.", nearest(suffix, FORMATS), "-o FOLDER")
        if len(_wanted(kinds)) > 1:
            raise UsageError(f"{len(_wanted(kinds))} kinds do not fit in one file.", repair="-o FOLDER")
        check_output(output)
        return Target(output.parent, output, (suffix,))
    _check_folder(output)
    return Target(output, None, formats)


def _check_folder(folder: Path) -> None:
    try:
        above = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
        usable = above.is_dir() and os.access(above, os.W_OK)
    except (OSError, RuntimeError) as error:  # a name that is too long, a link to itself
        raise UsageError(f"{folder} cannot be written: {getattr(error, 'strerror', error)}.") from error
    if not usable:
        why = "is read-only" if above.is_dir() else "is a file"
        raise UsageError(f"{folder} cannot be written: {above} {why}.", "Expected a folder, there or to be made.")
