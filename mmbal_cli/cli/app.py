"""The command line: commands, the one error panel, and exit codes.

Nothing here imports torch, numpy or h5py: `--help` answers at once, commands load what they need when they run.
"""

from __future__ import annotations

import errno
import inspect
import os
import signal
import sys
import traceback
import weakref
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from mmbal_cli import __version__
from mmbal_cli.cli import (
    audit,
    bundle,
    cache,
    compare,
    data,
    demo,
    encoders,
    eval,
    explain,
    methods,
    plan,
    plot,
    prepare,
    report,
    suite,
    train,
)
from mmbal_cli.cli.console import err, error_panel
from mmbal_cli.errors import EXIT_INTERRUPT, Interrupted, MmbalError, UsageError

EPILOG = (
    "Exit codes: 0 done · 1 a check or comparison has findings · 2 usage or recipe · 3 data or cache · "
    "4 training failed for at least one seed · 75 stopped by a signal, resumable · 130 Ctrl-C, resumable."
)

app = typer.Typer(
    name="mmbal",
    help="Compare multimodal balancing methods: prepare features once, train all seeds at once, read honest tables.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
RUNNING, RESULTS, SHARING, LOOKING = "Prepare and train", "Results", "Share and reproduce", "Look up and keep in order"
app.command("demo", rich_help_panel=RUNNING)(demo.demo)
app.command("prepare", rich_help_panel=RUNNING)(prepare.prepare)
app.command("plan", rich_help_panel=RUNNING)(plan.plan)
app.command("train", rich_help_panel=RUNNING)(train.train)
app.add_typer(suite.app, name="suite", rich_help_panel=RUNNING)
app.command("eval", rich_help_panel=RESULTS)(eval.evaluate)
app.command("compare", rich_help_panel=RESULTS)(compare.compare)
app.add_typer(report.app, name="report", rich_help_panel=RESULTS)
app.command("plot", rich_help_panel=RESULTS)(plot.plot)
app.command("explain", rich_help_panel=RESULTS)(explain.explain)
app.command("audit", rich_help_panel=RESULTS)(audit.audit)
app.command("bundle", rich_help_panel=SHARING)(bundle.bundle)
app.command("replay", rich_help_panel=SHARING)(bundle.replay)
app.add_typer(methods.app, name="methods", rich_help_panel=LOOKING)
app.add_typer(data.app, name="data", rich_help_panel=LOOKING)
app.add_typer(encoders.app, name="encoders", rich_help_panel=LOOKING)
app.add_typer(cache.app, name="cache", rich_help_panel=LOOKING)


def _unwrap(group: typer.Typer) -> None:
    """Each paragraph of a command's help in one line: where it breaks is the terminal's choice, not the source's."""
    for command in group.registered_commands:
        paragraphs = inspect.cleandoc((command.callback and command.callback.__doc__) or "").split("\n\n")
        command.help = command.help or "\n\n".join(" ".join(text.split()) for text in paragraphs)
    for each in group.registered_groups:
        if each.typer_instance is not None:
            _unwrap(each.typer_instance)


_unwrap(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"mmbal {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks of errors.")] = False,
) -> None:
    if verbose:
        os.environ["MMBAL_VERBOSE"] = "1"


KEPT = "Finished work is kept; the same command goes on (train: with --resume)."


def _stop(number: int, frame: FrameType | None) -> None:
    """Raise where the program is, but for callbacks of weak references: what is raised there is lost."""
    if frame is not None and frame.f_code.co_filename == weakref.__file__:
        signal.signal(signal.SIGALRM, lambda _, later: _stop(number, later))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        return
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Interrupted(f"Stopped by {signal.Signals(number).name}.", KEPT)


def _named(bug: Exception) -> MmbalError:
    """The error to show for what nobody foresaw: no room for the output, or a fault of ours with its place."""
    if isinstance(bug, OSError) and bug.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UsageError(f"{bug.filename or 'The output'} cannot be written: {bug.strerror}.", "Expected more room.")
    where = traceback.extract_tb(bug.__traceback__)[-1]
    found = f"{type(bug).__name__}: {bug} ({Path(where.filename).name}:{where.lineno})"
    return MmbalError(found, "This is a fault of mmbal.", "mmbal -v ... shows the traceback")


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the documented code."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    try:
        app(args=argv)
    except MmbalError as error:
        if os.environ.get("MMBAL_VERBOSE"):
            traceback.print_exc()
        err().print(error_panel(error))
        sys.exit(error.exit_code)
    except Exception as bug:
        if os.environ.get("MMBAL_VERBOSE"):
            traceback.print_exc()
        named = _named(bug)
        err().print(error_panel(named))
        sys.exit(named.exit_code)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # `mmbal compare | head`: the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(0)
        if end.code == EXIT_INTERRUPT:  # the framework turned Ctrl-C into an exit without a word
            err().print(error_panel(Interrupted("Stopped by Ctrl-C.", KEPT)))
        raise
    sys.exit(0)
