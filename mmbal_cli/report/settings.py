"""Which rows of a comparison are shown, and the settings of their runs as columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmbal_cli.errors import UsageError
from mmbal_cli.report.runs import RunFacts

IDENTITY = ("dataset", "label", "method", "method_source", "fingerprint", "split_hash", "split", "subset")


@dataclass(frozen=True)
class Look:
    """What is shown: rows whose label has a match of one of `keep` (all for none) and none of `drop`; settings.

    Display only: rows that are not shown take part in every mark, rank and correction.
    """

    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    params: bool = False
    only_changed: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError for what is no regular expression."""
        for option, patterns in (("--keep", self.keep), ("--drop", self.drop)):
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    expected = "Expected a regular expression, searched for in the labels of the rows."
                    raise UsageError(f"{option} '{pattern}': {error}.", expected) from error

    def shows(self, label: str) -> bool:
        """Whether the row of this label is shown."""
        wanted = not self.keep or any(re.search(pattern, label) for pattern in self.keep)
        return wanted and not any(re.search(pattern, label) for pattern in self.drop)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def setting_columns(runs: Sequence[RunFacts], look: Look) -> tuple[list[str], list[list[str]]]:
    """Heads, and for each run the texts, of the settings that `look` asks for; "–" where a run has none."""
    if not (look.params or look.only_changed):
        return [], [[] for _ in runs]
    every = [{key: value for key, value in flat(facts.config).items() if key not in IDENTITY} for facts in runs]
    keys = list(dict.fromkeys(key for settings in every for key in settings))
    if look.only_changed:
        keys = [key for key in keys if len({repr(settings.get(key, _Missing)) for settings in every}) > 1]
    short = [key.rpartition(".")[2] for key in keys]
    heads = [last if short.count(last) == 1 else key for key, last in zip(keys, short, strict=True)]
    return heads, [[_text(settings[key]) if key in settings else "–" for key in keys] for settings in every]


class _Missing:
    """Stands for a setting that a run does not have."""


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(_text, value)) if isinstance(value, (list, tuple)) else str(value)
