"""All metrics of one run on one split: the fused prediction and each modality, for each seed and on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmbal_cli.report.metrics import METRICS, absent, metrics
from mmbal_cli.report.runs import Predictions, Run
from mmbal_cli.report.statistics import Summary, summary
from mmbal_cli.report.tables import Entry, Sheet, number

SCHEMA = 1
FUSED = "fused"
LINE_HEAD = ("run", "label", "dataset", "split", "source", "part", "seed", "samples", "metric", "value")


@dataclass(frozen=True)
class Part:
    """The fused prediction (modality None) or one modality, scored where it is present."""

    modality: str | None
    values: Mapping[int, Mapping[str, float]]  # seed, metric
    samples: Mapping[int, int]

    @property
    def name(self) -> str:
        """What the part is called in tables."""
        return self.modality or FUSED

    def summary(self, metric: str) -> Summary:
        """Mean, sample standard deviation and n of one metric over seeds."""
        return summary({seed: values[metric] for seed, values in self.values.items()})


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


def evaluate(
    run: Run,
    predictions: Mapping[int, Predictions],
    failed: Mapping[int, str],
    *,
    split: str,
    dataset: str | None = None,
    source: str = "saved",
) -> Evaluation:
    """Score {seed: predictions} of `run` with all metrics, fused and for each modality."""
    classes = run.facts.data.classes
    heads = {m for each in predictions.values() for m in each.logits}
    order = list(dict.fromkeys([*run.facts.data.modalities, *sorted(heads)]))
    parts = [_part(None, predictions, classes)]
    parts += [_part(m, predictions, classes) for m in order if m in heads]
    missing = next((absent(each.labels, classes) for each in predictions.values()), [])
    dataset = dataset or run.facts.dataset
    return Evaluation(run, dataset, split, source, tuple(parts), failed, tuple(missing))


def _part(modality: str | None, predictions: Mapping[int, Predictions], classes: Sequence[str]) -> Part:
    values, samples = {}, {}
    for seed, each in predictions.items():
        if modality is None:
            probs, labels = each.probs, each.labels
        elif modality in each.logits:
            probs, labels, _ = each.modality(modality)
        else:
            continue
        values[seed], samples[seed] = metrics(probs, labels, classes), len(labels)
    return Part(modality, values, samples)


def sheet(evaluation: Evaluation, precision: int = 2) -> Sheet:
    """A table with one section a part: its seeds, then mean ± sample standard deviation."""
    rows: list[list[Entry]] = []
    rules = set()
    for part in evaluation.parts:
        rules.add(len(rows))
        for seed in part.values:
            fields = (part.name if seed == min(part.values) else "", f"{seed}", f"{part.samples[seed]}")
            values = part.values[seed]
            rows.append([*map(Entry, fields), *(_entry(Summary(values[k], None, 1), k, precision) for k in METRICS)])
        if len(part.values) > 1:
            summaries = [_entry(part.summary(key), key, precision, "bold") for key in METRICS]
            rows.append([Entry(""), Entry("mean", style="bold"), Entry(""), *summaries])
    run = evaluation.run
    last = len(METRICS) + 2
    return Sheet(
        f"{run.name} · {run.facts.title} on {evaluation.dataset} · {evaluation.split}, {evaluation.source} predictions",
        ("part", "seed", "samples", *(metric.title for metric in METRICS.values())),
        rows,
        _notes(evaluation),
        left=2,
        rules=frozenset(rules - {0}),
        hide=(last, last - 1, last - 2, last - 3, 2),
    )


def _entry(value: Summary, key: str, precision: int, style: str = "") -> Entry:
    percent = METRICS[key].percent
    spread = "" if value.sd is None else number(value.sd, percent=percent, precision=precision)
    return Entry(number(value.mean, percent=percent, precision=precision), spread, style=style)


def _notes(evaluation: Evaluation) -> list[str]:
    notes = ["Percent, NLL in nats; mean ± sample standard deviation (divisor n − 1) over seeds."]
    if any(part.modality for part in evaluation.parts):
        notes.append("Rows of a modality: softmax of its own logits inside the model, on samples that have it.")
    notes += [f"Seed {seed} failed and is left out ({reason})." for seed, reason in evaluation.failed.items()]
    if not evaluation.parts[0].values:
        notes.append("No seed has finished yet.")
    if evaluation.absent:
        notes.append(f"No sample here of {', '.join(evaluation.absent)}: left out of macro-F1 and mAP.")
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
        "failed": {str(seed): reason for seed, reason in evaluation.failed.items()},
        "absent_classes": list(evaluation.absent),
        "parts": [
            {
                "modality": part.modality,
                "seeds": {str(seed): {"samples": part.samples[seed], **values} for seed, values in part.values.items()},
                "metrics": {key: asdict(part.summary(key)) for key in METRICS},
            }
            for part in evaluation.parts
        ],
    }


def lines(evaluations: Sequence[Evaluation]) -> list[list[Any]]:
    """Long format, one line for each run, part, seed and metric, `LINE_HEAD` first; fractions."""
    table: list[list[Any]] = [list(LINE_HEAD)]
    for each in evaluations:
        place = [each.run.name, each.run.facts.title, each.dataset, each.split, each.source]
        for part in each.parts:
            for seed, values in part.values.items():
                table += [[*place, part.name, seed, part.samples[seed], key, v] for key, v in values.items()]
    return table
