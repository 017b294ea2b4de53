"""Findings that run.json and the ends of the seeds show: protocol, data, method, failed and missing seeds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmbal_cli.encode import SHIPPED
from mmbal_cli.report.explain import LEAST_SAMPLES, Case, Check, Finding
from mmbal_cli.report.metrics import absent

MISSING_SHARE = 0.01  # below this share of samples a lacking modality cannot move any figure by more than a point
HAND_MADE = "hand-made"


def protocol(case: Case) -> Iterator[Finding]:
    """Numbers that were selected on test."""
    if case.run.facts.stamp:
        yield Finding(
            "warning",
            "protocol",
            f"The epoch was {case.run.facts.stamp}: its test figures are maxima over all epochs, not results.",
            {"protocol": dict(case.run.facts.protocol)},
            f"`mmbal audit {case.run.name}` measures by how much.",
        )


def seeds(case: Case) -> Iterator[Finding]:
    """Failed seeds and when, unfinished work, a single seed."""
    run, good = case.run, [each for each in case.run.seeds if each.facts.status == "done"]
    for each in run.seeds:
        if each.facts.status != "done":
            epoch = _last_epoch(case, each.facts.seed)
            when = f", in epoch {epoch}" if epoch else ""
            reason = each.facts.reason or f"status {each.facts.status}"
            yield Finding(
                "warning",
                "failed seed",
                f"Seed {each.facts.seed} failed ({reason}{when}): every figure rests on {len(good)} of {len(run.seeds)}"
                " seeds.",
                {"seed": each.facts.seed, "reason": reason},
                "A lower learning rate or train.clip often mends it: --set train.lr=... or --set train.clip=1.",
            )
    for seed, reason in case.records.unreadable.items():
        yield Finding("warning", "unreadable", f"The records of seed {seed} were left out: {reason}", {"seed": seed})
    if run.running:
        yield Finding("info", "unfinished", f"{len(good)} seeds are finished, others are in training or were "
                      "interrupted.", {"finished": len(good)}, "`mmbal train ... --resume` goes on.")  # fmt: skip
    if not good:
        yield Finding("warning", "no result", "No seed has finished: there is nothing to judge yet.", {"finished": 0})
    elif len(good) == 1:
        yield Finding(
            "notice",
            "one seed",
            "One seed: there is no spread over seeds, and a difference to another run may be luck of the draw.",
            {"seeds": 1},
            "`mmbal train ... --seeds 5` adds the missing ones.",
        )


def samples(case: Case) -> Iterator[Finding]:
    """A test split that is too small to judge by."""
    N = len(next(iter(case.test.values())).labels) if case.test else LEAST_SAMPLES
    if N < LEAST_SAMPLES:
        yield Finding("warning", "few samples", f"The test split has {N} samples: no figure of it means anything.",
                      {"samples": N})  # fmt: skip


def _last_epoch(case: Case, seed: int) -> int | None:
    """The last epoch that a seed recorded."""
    records = case.records
    if seed not in records.seeds:
        return None
    known = np.flatnonzero(np.isfinite(records.values("lr")[records.seeds.index(seed)]))
    return int(records.epochs[known[-1]]) if len(known) else None


def method(case: Case) -> Iterator[Finding]:
    """Reconstructed methods and deviations from their papers."""
    facts = case.run.facts
    if facts.deviates:
        what = "reconstructed" if facts.note == "reconstructed" else "not the published method in every point"
        yield Finding(
            "info",
            "method",
            f"{facts.label} is {what}: {'; '.join(facts.deviates)}.",
            {"deviates": list(facts.deviates)},
            f"`mmbal methods show {facts.method}` says more.",
        )
    elif facts.note == "reconstructed":
        yield Finding("info", "method", f"{facts.label} is reconstructed: its paper could not be checked.", {})


def encoders(case: Case) -> Iterator[Finding]:
    """Features that no trained network made."""
    made = {m: e for m, e in case.run.facts.data.modalities.items() if e in SHIPPED and HAND_MADE in SHIPPED[e].about}
    if made:
        listed = ", ".join(f"{m} ({encoder})" for m, encoder in made.items())
        yield Finding(
            "info",
            "encoders",
            f"Hand-made features: {listed}. How methods rank on them need not hold for pretrained encoders.",
            {"encoders": made},
            f"`mmbal prepare {case.run.facts.dataset} --pretrained` makes others.",
        )


def classes(case: Case) -> Iterator[Finding]:
    """Classes without a sample where the epoch is selected, or where figures are made."""
    names = case.run.facts.data.classes
    for split, found in (("validation", case.val), ("test", case.test)):
        labels = next((each.labels for each in found.values()), None)
        if labels is None or not len(labels) or not (missing := absent(labels, names)):
            continue
        why = "selection cannot see them" if split == "validation" else "macro-F1 and mAP leave them out"
        yield Finding(
            "notice" if split == "validation" else "info",
            "missing classes",
            f"{split.capitalize()} has {len(names) - len(missing)} of {len(names)} classes (none of "
            f"{', '.join(missing[:6])}{', ...' if len(missing) > 6 else ''}): {why}.",
            {"split": split, "missing": list(missing), "classes": len(names)},
            f"`mmbal data audit {case.run.facts.dataset}` looks at the split." if split == "validation" else "",
        )


def missing_modalities(case: Case) -> Iterator[Finding]:
    """Modalities that test samples lack, and how right the prediction is there."""
    first = next(iter(case.test.values()), None)
    for m, mask in (first.present if first else {}).items():
        share = float(1 - mask.mean()) if len(mask) else 0.0
        if share < MISSING_SHARE:
            continue
        right = np.array([each.probs.argmax(axis=1) == each.labels for each in case.test.values()])
        without = 100 * float(right[:, ~mask].mean())
        there = 100 * float(right[:, mask].mean()) if mask.any() else float("nan")
        rest = f"{there:.1f}% on the others" if mask.any() else "no sample has it"
        yield Finding(
            "notice" if share >= 0.5 else "info",
            "missing modality",
            f"{m} is missing in {100 * share:.1f}% of the test samples ({int((~mask).sum()):,} of {len(mask):,}); "
            f"accuracy there is {without:.1f}%, {rest}.",
            {"modality": m, "share": share, "accuracy_without": without / 100, "accuracy_with": there / 100},
        )


FACTS: tuple[Check, ...] = (protocol, seeds, samples, method, encoders, classes, missing_modalities)
