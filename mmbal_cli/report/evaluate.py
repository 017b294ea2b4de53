"""All metrics of one run on one split: the fused prediction and each modality, for each seed and on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmbal_cli.report.captions import UNITS, failures
from mmbal_cli.report.measure import bounded, measure
from mmbal_cli.report.metrics import METRICS, absent, defined
from mmbal_cli.report.runs import DataFacts, Predictions, Run, coverage_note
from mmbal_cli.report.statistics import SAMPLES, Estimate, Summary
from mmbal_cli.report.tables import Entry, Sheet, number

SCHEMA = 1
NAMES = ("accuracy", "macro_f1", "map", "nll", "ece")  # where nothing else is asked for
FUSED = "fused"
LINE_HEAD = (
    *("run", "label", "dataset", "split", "source", "part", "seed", "samples", "metric", "value"),
    *("split_name", "split_hash", "subset", "subset_hash", "listed", "kept"),
)


@dataclass(frozen=True)
class Part:
    """The fused prediction (modality None) or one modality, scored where it is present."""

    modality: str | None
    values: Mapping[int, Mapping[str, float]]  # seed, metric
    samples: Mapping[int, int]
    estimates: Mapping[str, Estimate]  # metric

    @property
    def name(self) -> str:
        """What the part is called in tables."""
        return self.modality or FUSED

    def summary(self, metric: str) -> Summary:
        """Mean, sample standard deviation and n of one metric over seeds."""
        found = self.estimates[metric]
        return Summary(found.mean, found.sd, found.n)


@dataclass(frozen=True)
class Evaluation:
    """One run: where its predictions come from ("saved" or "fresh"), its parts and its failed seeds."""

    run: Run
    dataset: str
    split: str
    source: str
    parts: tuple[Part, ...]
    failed: Mapping[int, str]
    absent: tuple[str, ...]
    scored: int = 0
    kept: int = 0  # of them, those with any modality
    names: tuple[str, ...] = NAMES

    @property
    def data(self) -> DataFacts | None:
        """Split and subset of the run; None for another data set, which they say nothing about."""
        return self.run.facts.data if self.dataset == self.run.facts.dataset else None

    @property
    def coverage(self) -> dict[str, int]:
        """Samples of the split that are listed, scored, and have something to score."""
        if self.data is None:
            return {"listed": self.scored, "scored": self.scored, "kept": self.kept}
        return self.data.coverage(self.split, self.scored, self.kept)


def evaluate(
    run: Run,
    predictions: Mapping[int, Predictions],
    failed: Mapping[int, str],
    *,
    split: str,
    dataset: str | None = None,
    source: str = "saved",
    names: Sequence[str] = NAMES,
) -> Evaluation:
    """Score {seed: predictions} of `run` with the metrics `names`, fused and for each modality."""
    classes = run.facts.data.classes
    heads = {m for each in predictions.values() for m in each.logits}
    order = list(dict.fromkeys([*run.facts.data.modalities, *sorted(heads)]))
    parts = [_part(m, predictions, names) for m in (None, *order) if m is None or m in heads]
    missing = next((absent(each.labels, classes) for each in predictions.values()), [])
    dataset = dataset or run.facts.dataset
    first = next(iter(predictions.values()), None)
    seen = (len(first.ids), first.kept) if first else (0, 0)
    return Evaluation(run, dataset, split, source, tuple(parts), failed, tuple(missing), *seen, tuple(names))


def _part(modality: str | None, predictions: Mapping[int, Predictions], names: Sequence[str]) -> Part:
    samples = {
        seed: len(each.labels) if modality is None else int(each.present[modality].sum())
        for seed, each in predictions.items()
        if modality is None or modality in each.logits
    }
    measured = [(name, measure(predictions, name, modality)) for name in names]
    values = {seed: {name: each.values.get(seed, np.nan) for name, each in measured} for seed in samples}
    return Part(modality, values, samples, dict(zip(names, bounded(measured), strict=True)))


def sheet(evaluation: Evaluation, precision: int = 2) -> Sheet:
    """A table with one section a part: its seeds, then mean ± sample standard deviation and the 95% interval."""
    rows: list[list[Entry]] = []
    rules = set()
    names = evaluation.names
    for part in evaluation.parts:
        rules.add(len(rows))
        for seed in part.values:
            fields = (part.name if seed == min(part.values) else "", f"{seed}", f"{part.samples[seed]}")
            values = part.values[seed]
            rows.append([*map(Entry, fields), *(_entry(Summary(values[k], None, 1), k, precision) for k in names)])
        if len(part.values) > 1:
            summaries = [_entry(part.summary(key), key, precision, "bold") for key in names]
            rows.append([Entry(""), Entry("mean", style="bold"), Entry(""), *summaries])
        for end in ("low", "high") if part.values else ():
            ends = [_entry(Summary(getattr(part.estimates[k], end), None, 1), k, precision, "dim") for k in names]
            rows.append([Entry(""), Entry(end, style="dim"), Entry(""), *ends])
    run = evaluation.run
    last = len(names) + 2
    where = evaluation.data.where(evaluation.dataset) if evaluation.data else evaluation.dataset
    return Sheet(
        f"{run.name} · {run.facts.title} on {where} · {evaluation.split}, {evaluation.source} predictions",
        ("part", "seed", "samples", *(METRICS[key].title for key in names)),
        rows,
        _notes(evaluation),
        left=2,
        rules=frozenset(rules - {0}),
        hide=(*range(last, 3, -1), 2),
    )


def _entry(value: Summary, key: str, precision: int, style: str = "") -> Entry:
    if value.mean is None or not np.isfinite(value.mean):
        return Entry("–", style="dim")
    percent = METRICS[key].percent
    spread = "" if value.sd is None else number(value.sd, percent=percent, precision=precision)
    return Entry(number(value.mean, percent=percent, precision=precision), spread, style=style)


def _notes(evaluation: Evaluation) -> list[str]:
    whole = evaluation.parts[0]
    units = ", ".join(["Percent", *(UNITS[key] for key in evaluation.names if key in UNITS)])
    notes = [f"{units}; mean ± sample standard deviation (divisor n − 1) over seeds."]
    if whole.values:
        one = len(whole.values) == 1
        over = f"the {SAMPLES} alone, because there is one seed" if one else "seeds and samples"
        notes.append(f"low, high: 95% interval of the mean over {over}.")
    if any(part.modality for part in evaluation.parts):
        notes.append("Rows of a modality: softmax of its own logits inside the model, on samples that have it.")
    notes += failures(evaluation.failed)
    if not whole.values:
        notes.append("No seed has finished yet.")
    subset = evaluation.data.subset_title if evaluation.data else "none"
    notes += filter(None, [coverage_note(evaluation.split, evaluation.coverage, subset)])
    if evaluation.data and (evaluation.data.split or evaluation.data.subset):
        notes.append(f"Split {evaluation.data.split_title}; subset {subset}.")
    if evaluation.absent:
        notes.append(f"No sample here of {', '.join(evaluation.absent)}: left out of macro-F1 and mAP.")
    classes = len(evaluation.run.facts.data.classes)
    if "top5" in evaluation.names and not defined("top5", classes):
        notes.append(f"top-5 says nothing about {classes} classes.")
    return notes


def document(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """The evaluations as plain data; fractions instead of percent."""
    return {"schema": SCHEMA, "report": "eval", "runs": [_run_document(each) for each in evaluations]}


def _run_document(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "run": evaluation.run.name,
        "label": evaluation.run.facts.title,
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "source": evaluation.source,
        "split_facts": None if evaluation.data is None else _split_document(evaluation.data),
        "coverage": evaluation.coverage,
        "failed": {str(seed): reason for seed, reason in evaluation.failed.items()},
        "absent_classes": list(evaluation.absent),
        "parts": [
            {
                "modality": part.modality,
                "seeds": {str(seed): {"samples": part.samples[seed], **values} for seed, values in part.values.items()},
                "metrics": {key: _metric_document(part, key) for key in evaluation.names},
            }
            for part in evaluation.parts
        ],
    }


def _metric_document(part: Part, key: str) -> dict[str, Any]:
    """`ci` is the 95% interval of the mean, `over` what it generalises over."""
    found = part.estimates[key]
    ci = None if found.low is None else [found.low, found.high]
    return asdict(part.summary(key)) | {"ci": ci, "over": found.over}


def _split_document(data: DataFacts) -> dict[str, Any]:
    return {"hash": data.split_hash, **data.model_dump(mode="json", include={"split", "subset"})}


def _provenance(each: Evaluation) -> list[Any]:
    """Split, subset and samples, as the last columns of `LINE_HEAD`."""
    data, coverage = each.data, each.coverage
    subset = [data.subset.name, data.subset.hash] if data and data.subset else ["", ""]
    split = [data.split.name if data.split else "", data.split_hash] if data else ["", ""]
    return [*split, *subset, coverage["listed"], coverage["kept"]]


def lines(evaluations: Sequence[Evaluation]) -> list[list[Any]]:
    """Long format, one line for each run, part, seed and metric, `LINE_HEAD` first; fractions."""
    table: list[list[Any]] = [list(LINE_HEAD)]
    for each in evaluations:
        place = [each.run.name, each.run.facts.title, each.dataset, each.split, each.source]
        for part in each.parts:
            for seed, values in part.values.items():
                own = [*place, part.name, seed, part.samples[seed]]
                table += [[*own, key, value, *_provenance(each)] for key, value in values.items()]
    return table
