"""Every error a user can meet: what was found, what was expected, which command repairs it.

Each class is also a subclass of the built-in exception a caller would expect, and carries the exit
code of the command line (documented in `mmbal --help`, stable).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK, EXIT_FINDINGS, EXIT_USAGE, EXIT_DATA, EXIT_TRAINING = 0, 1, 2, 3, 4
EXIT_RESUMABLE, EXIT_INTERRUPT = 75, 130


class MmbalError(Exception):
    """Base of all errors: `found`, `expected` and the `repair` command, each one short sentence."""

    exit_code = EXIT_FINDINGS
    title = "error"

    def __init__(self, found: str, expected: str = "", repair: str = "") -> None:
        super().__init__(found)
        self.found, self.expected, self.repair = found, expected, repair

    def __str__(self) -> str:
        return " ".join(part for part in (self.found, self.expected, self.repair) if part)


class UsageError(MmbalError, ValueError):
    """A wrong name, option or combination on the command line."""

    exit_code, title = EXIT_USAGE, "usage"


class RecipeError(UsageError):
    """A recipe, override or knob that is unknown, mistyped or out of range."""

    title = "recipe"


class DeviceError(MmbalError, RuntimeError):
    """A device that was asked for by name and is not there."""

    exit_code, title = EXIT_USAGE, "device"


class ManifestError(MmbalError, ValueError):
    """A sample table that cannot be used, with the row that shows it."""

    exit_code, title = EXIT_DATA, "manifest"


class CacheError(MmbalError, OSError):
    """A feature cache or run folder that is missing, damaged, full or of another version."""

    exit_code, title = EXIT_DATA, "cache"


class MediaError(MmbalError, RuntimeError):
    """A media file that cannot be decoded."""

    exit_code, title = EXIT_DATA, "media"


class EncoderError(MmbalError, RuntimeError):
    """A frozen encoder that is unknown, not on this machine, or not loadable safely."""

    exit_code, title = EXIT_DATA, "encoder"


class TrainError(MmbalError, RuntimeError):
    """Training failed for at least one seed."""

    exit_code, title = EXIT_TRAINING, "training"


class Interrupted(MmbalError):
    """Stopped by a signal; what was finished is kept and the same command continues."""

    exit_code, title = EXIT_RESUMABLE, "interrupted"


def nearest(name: str, choices: Iterable[str]) -> str:
    """One sentence that lists the valid names and, when there is one, the nearest to `name`."""
    names = sorted(choices)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean '{match[0]}'? " if match else ""
    shown = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    return f"{hint}Known: {shown or 'none'}."
