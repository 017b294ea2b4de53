"""The contract of methods as a library: what `mmbal methods check` runs on any method, and the tests on all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from traceback import extract_tb
from typing import NamedTuple

from mmbal_cli.conform.checks import CHECKS, Check
from mmbal_cli.conform.subject import Broken, Skip, Subject
from mmbal_cli.errors import UsageError, nearest

__all__ = ["CHECKS", "Check", "Finding", "Subject", "chosen", "examine"]


class Finding(NamedTuple):
    """What a check found: it holds, it breaks, or it says nothing about this method; and why."""

    check: Check
    verdict: str  # holds, breaks, none
    detail: str = ""


def chosen(names: Iterable[str]) -> tuple[Check, ...]:
    """The checks of these names, all of them for none; UsageError for a name that is no check's."""
    table = {check.name: check for check in CHECKS}
    for name in names:
        if name not in table:
            raise UsageError(f"Unknown check '{name}'.", nearest(name, table))
    return tuple(table[name] for name in names) or CHECKS


def examine(check: Check, subject: Subject) -> Finding:
    """Run one check; whatever a method raises is a finding, with the last place of the method's own file."""
    try:
        check.run(subject)
    except Skip as reason:
        return Finding(check, "none", str(reason))
    except Broken as found:
        return Finding(check, "breaks", str(found))
    except Exception as problem:
        own = subject.cls.__module__.rpartition(".")[2].removeprefix("mmbal_user_")
        places = [frame for frame in extract_tb(problem.__traceback__) if Path(frame.filename).stem == own]
        where = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""
        return Finding(check, "breaks", f"{type(problem).__name__}: {problem}{where}")
    return Finding(check, "holds")
