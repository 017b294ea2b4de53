"""What every command prints with: results on stdout, progress and errors on stderr, both injectable.

Long jobs call `stage`: a live bar with ETA on a terminal, otherwise one plain line every ten seconds,
so that a log file never looks like a hang.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mmbal_cli.errors import MmbalError

LINE_EVERY_S = 10.0


def out() -> Console:
    """Console for results (stdout)."""
    return Console(file=sys.stdout, highlight=False)


def err() -> Console:
    """Console for progress, notes and errors (stderr)."""
    return Console(file=sys.stderr, highlight=False)


def visible(text: str) -> str:
    """`text` with control characters, but for line ends, shown as escapes: names come from files of others."""
    from mmbal_cli.report.tables import literal

    return "\n".join(map(literal, text.split("\n")))


def note(message: str) -> None:
    """One line for the reader on stderr, printed literally (no markup)."""
    err().print(Text(visible(message)), soft_wrap=True)


def emit_json(document: Any) -> None:
    """Write one JSON document, and nothing else, to stdout."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def error_panel(error: MmbalError) -> Panel:
    """One panel: what was found, what was expected, which command repairs it; literal text."""
    body = Text(visible(error.found))
    if error.expected:
        body.append("\n" + visible(error.expected))
    if error.repair:
        body.append("\n\nTry: ", style="bold").append(visible(error.repair), style="cyan")
    return Panel(body, title=Text(f"{error.title} error" if error.title != "error" else "error"), border_style="red")


def bars(counts: ProgressColumn, *, live: bool = True) -> Progress:
    """Bars on stderr: name, bar, `counts`, elapsed and remaining time, and the field `detail`."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        counts,
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        console=err(),
        disable=not live,
    )


@contextmanager
def stage(label: str, total: int) -> Iterator[Callable[..., None]]:
    """Show progress of `total` steps; the yielded function takes (n=1, detail="")."""
    console = err()
    if console.is_terminal:
        with bars(MofNCompleteColumn()) as bar:
            task = bar.add_task(label, total=total, detail="")
            yield lambda n=1, detail="": bar.update(task, advance=n, detail=visible(detail))
        return
    start = last = time.monotonic()
    done = 0

    def advance(n: int = 1, detail: str = "") -> None:
        nonlocal last, done
        done += n
        now = time.monotonic()
        if now - last >= LINE_EVERY_S or done == total:
            last = now
            eta = (now - start) / max(done, 1) * (total - done)
            line = f"{label}: {done}/{total}, {now - start:.0f} s, eta {eta:.0f} s {visible(detail)}"
            console.print(Text(line.rstrip()))

    yield advance
