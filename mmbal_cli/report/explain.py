"""What is remarkable about one run, in plain words: findings from its records, predictions and facts.

A finding is an observation with its numbers, not a failure; thresholds are named constants beside the checks, each
with its reason. What needs other runs (a modality's own model, concat, the ensemble) is found among comparable ones:
same data, split, subset and protocol. Intervals are those of `statistics`: 95%, over seeds and test samples, one
comparison each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from mmbal_cli.errors import CacheError
from mmbal_cli.report.dynamics import Dynamics, Phase, dynamics
from mmbal_cli.report.runs import Predictions, Run
from mmbal_cli.report.tables import literal

SCHEMA = 1
Severity = Literal["warning", "notice", "info"]
SEVERITIES: tuple[Severity, ...] = ("warning", "notice", "info")
LEAST_SAMPLES = 20  # fewer test samples say nothing: the standard error of an accuracy is above 11 points at 0.5
INDEPENDENT = ("unimodal", "unimodal-ensemble")  # their parts share nothing: no modality can hold another back


@dataclass(frozen=True)
class Finding:
    """One remark: what was found with its numbers, the columns or values it rests on, and what can be done.

    "warning": a number may mislead or a result is lost; "notice": worth a look; "info": good to know.
    """

    severity: Severity
    topic: str
    sentence: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    advice: str = ""

    @property
    def text(self) -> str:
        """The sentence and the advice."""
        return " ".join(filter(None, (self.sentence, self.advice)))


@dataclass(frozen=True)
class Reference:
    """A comparable run that a check looks at beside the explained one."""

    run: Run
    good: Mapping[int, Predictions]

    @property
    def title(self) -> str:
        """How sentences name it."""
        return self.run.facts.title


@dataclass
class Case:
    """One run with all that checks look at; what cannot be read is empty and named in `problems`."""

    run: Run
    others: tuple[Run, ...]
    problems: dict[str, str] = field(default_factory=dict)

    @cached_property
    def records(self) -> Dynamics:
        """The records of all seeds."""
        return dynamics(self.run)

    @cached_property
    def phase(self) -> Phase | None:
        """The last phase, in which the result is selected; None without records."""
        return self.records.phases[-1] if self.records.phases else None

    @cached_property
    def test(self) -> dict[int, Predictions]:
        """Test predictions of the good seeds."""
        return self._collect(self.run, "test")

    @cached_property
    def val(self) -> dict[int, Predictions]:
        """Validation predictions of the good seeds."""
        return self._collect(self.run, "val")

    @cached_property
    def scored(self) -> dict[int, Predictions]:
        """The test predictions where there are enough samples to judge by; else none."""
        return {seed: each for seed, each in self.test.items() if len(each.labels) >= LEAST_SAMPLES}

    @property
    def name(self) -> str:
        """The label without fusion and modality: `unimodal` for `unimodal:audio`."""
        return self.run.facts.label.partition(":")[0]

    def reference(self, label: str) -> Reference | None:
        """The comparable run of that label with the most seeds in common; None when none was scored on these samples.

        Of several, those with the same training settings come first.
        """
        fits = [run for run in self.others if run.facts.label == label and run.folder != self.run.folder]
        train = self.run.facts.config.get("train")
        fits.sort(key=lambda run: (run.facts.config.get("train") != train, -len(self._shared(run)), run.name))
        mine = {each.samples() for each in self.test.values()}
        for run in fits:
            good = self._collect(run, "test")
            if good and (not mine or mine == {each.samples() for each in good.values()}):
                return Reference(run, good)
        return None

    def unimodals(self) -> dict[str, Reference]:
        """{modality: the run of that modality alone}, where there is one."""
        found = {m: self.reference(f"unimodal:{m}") for m in self.run.facts.data.modalities}
        return {m: each for m, each in found.items() if each is not None}

    def _shared(self, run: Run) -> set[int]:
        return {each.facts.seed for each in run.seeds} & {each.facts.seed for each in self.run.seeds}

    def _collect(self, run: Run, split: str) -> dict[int, Predictions]:
        try:
            return run.collect(split)[0]
        except CacheError as error:
            self.problems[f"{run.name}, {split}"] = error.found
            return {}


Check = Callable[[Case], Iterator[Finding]]


@dataclass(frozen=True)
class Explained:
    """The findings of one run, the titles of the comparable runs, and {what: why} of predictions left out."""

    run: Run
    findings: tuple[Finding, ...]
    compared: tuple[str, ...]
    problems: Mapping[str, str]


def explain(run: Run, others: Sequence[Run] = ()) -> list[Finding]:
    """The findings of `run`, the gravest first; `others` may hold the run itself and runs of other data."""
    return list(explained(run, others).findings)


def explained(run: Run, others: Sequence[Run] = ()) -> Explained:
    """The findings with what they were compared with and what could not be read."""
    from mmbal_cli.report.findings_facts import FACTS
    from mmbal_cli.report.findings_records import RECORDS
    from mmbal_cli.report.findings_scores import SCORES

    case = Case(run, comparable(run, others))
    found = [finding for check in (*FACTS, *RECORDS, *SCORES) for finding in check(case)]
    for where, problem in case.problems.items():
        found.append(Finding("warning", "unreadable", f"Predictions of {where} were left out: {problem}"))
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Explained(run, tuple(found), tuple(each.facts.title for each in case.others), case.problems)


def comparable(run: Run, others: Sequence[Run]) -> tuple[Run, ...]:
    """Those of `others` that may be compared with `run`, without itself."""
    return tuple(
        each
        for each in others
        if (each.facts.dataset, each.facts.identity) == (run.facts.dataset, run.facts.identity)
        and each.folder.resolve() != run.folder.resolve()
    )


# ------------------------------------------------------------------------------------------- display


def document(found: Explained) -> dict[str, Any]:
    """The findings as plain data."""
    return {
        "schema": SCHEMA,
        "report": "explain",
        "run": found.run.name,
        "label": found.run.facts.title,
        "dataset": found.run.facts.dataset,
        "compared_with": list(found.compared),
        "findings": [{**asdict(each), "evidence": _plain(each.evidence)} for each in found.findings],
    }


def _plain(value: Any) -> Any:
    """Evidence as JSON values; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def heading(found: Explained) -> str:
    """Run, data set, seeds and what it was compared with."""
    facts, done = found.run.facts, [each for each in found.run.seeds if each.facts.status == "done"]
    seeds = f"{len(done)} of {len(found.run.seeds)} seeds" if len(done) < len(found.run.seeds) else f"{len(done)} seeds"
    n = facts.data.counts.get("test", 0)
    return f"{found.run.name} · {facts.title} on {facts.data.where(facts.dataset)} · {seeds}, {n:,} test samples"


def basis(found: Explained) -> str:
    """One line about what findings rest on."""
    with_ = (
        f"{len(found.compared)} comparable runs"
        if found.compared
        else "no other run: checks that need one are left out"
    )
    return f"Compared with {with_}; intervals are 95%, over seeds and test samples, one comparison each."


def markdown(found: Explained) -> str:
    """A list for a document."""
    lines = [f"**{literal(heading(found))}**", ""]
    lines += [f"- **{each.severity}** ({each.topic}): {literal(each.text)}" for each in found.findings]
    lines += [] if found.findings else ["- nothing remarkable was found"]
    return "\n".join([*lines, "", basis(found), ""])
