"""What makes the splits of a data set doubtful: leaks between them, labels and modalities that are spread unevenly.

Works on samples alone (ids, splits, labels, groups), and on more where it is given: digests of the source files,
features. Nothing here is changed or removed; an `error` says that test was seen in training, a `warning` that a figure
means less than it seems to, a `note` is worth knowing.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

from mmbal_cli.data.manifest import SPLITS, Sample
from mmbal_cli.data.problems import EXAMPLES, some
from mmbal_cli.data.values import file_of, part_of

if TYPE_CHECKING:
    from mmbal_cli.data.near import Comparable, Twins

NEAR = 0.999  # cosine
IMBALANCE = 10  # largest over smallest class of train
SHIFT = 0.2  # total variation between the labels of two parts, beyond what chance explains
UNEVEN = 0.1  # difference in the share that has a modality, beyond what chance explains


@dataclass(frozen=True)
class Finding:
    """`count` of `total` things of one rule, some of them as examples."""

    severity: str
    rule: str
    message: str
    count: int = 0
    total: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Audit:
    """All findings, and the tables behind them; `looked_at` says what was compared, `left_out` what was not and why."""

    counts: dict[str, int]
    classes: tuple[str, ...]
    groups: dict[str, int]
    balance: dict[str, dict[str, int]]  # class, split
    present: dict[str, dict[str, float]]  # modality, split: share
    findings: tuple[Finding, ...]
    looked_at: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """No error and no warning."""
        return all(finding.severity == "note" for finding in self.findings)

    @property
    def overlaps(self) -> bool:
        """Some group is in two parts."""
        return any(finding.rule == "group-overlap" for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """As plain data."""
        return {"clean": self.clean, **asdict(self)}


@dataclass(frozen=True)
class _Given:
    """What there is to audit, and views of it."""

    samples: Sequence[Sample]
    classes: tuple[str, ...]
    kinds: Mapping[str, str]
    carved: bool

    @cached_property
    def parts(self) -> dict[str, list[Sample]]:
        """Samples of each part that has any, in the order train, val, test."""
        found = {split: [s for s in self.samples if s.split == split] for split in SPLITS}
        return {split: members for split, members in found.items() if members}

    def pairs(self) -> Iterator[tuple[str, str]]:
        """(train, val), (train, test), (val, test), of those that are there: the later is judged by the earlier."""
        return combinations(self.parts, 2)

    def severity(self, earlier: str, later: str) -> str:
        """What training saw of test is an error, what it saw of validation and selection of test a warning."""
        return "error" if (earlier, later) == ("train", "test") else "warning"


def audit(
    samples: Sequence[Sample],
    classes: Sequence[str],
    kinds: Mapping[str, str],
    digests: Mapping[str, str] | None = None,
    features: Comparable | None = None,
    *,
    near: float = NEAR,
    carved: bool = False,
    left_out: Sequence[str] = (),
) -> Audit:
    """Everything that can be said of `samples`.

    `kinds` maps modalities to kinds, `digests` source paths to SHA-256, `features` has the rows of `samples`; `carved`
    says that validation was carved out of train.
    """
    given = _Given(samples, tuple(classes), kinds, carved)
    findings = [*_groups(given), *_labels(given), *_modalities(given), *_texts(given)]
    looked_at = ["groups", "labels", "modalities", *(["texts"] if _has_texts(given) else [])]
    if digests:
        findings += _sources(given, digests)
        looked_at.append("source files")
    if features is not None:
        findings += _features(given, features, near)
        looked_at.append("features")
    findings.sort(key=_gravest_first)
    return Audit(
        {split: len(given.parts.get(split, [])) for split in SPLITS},
        given.classes,
        {split: len({s.group for s in members if s.group}) for split, members in given.parts.items()},
        _balance(given),
        _present(given),
        tuple(findings),
        tuple(looked_at),
        tuple(left_out),
    )


# ------------------------------------------------------------------------------------------- groups


def _groups(given: _Given) -> Iterator[Finding]:
    alone = [s for s in given.samples if not s.group]
    if len(alone) == len(given.samples):
        yield Finding("note", "no-groups", "No sample names a group: whether splits share speakers, source videos or "
                      "subjects cannot be seen. A column `group` says so.")  # fmt: skip
        return
    if alone:
        listed = tuple(s.id for s in alone[:EXAMPLES])
        text = f"{len(alone):,} of {len(given.samples):,} samples have no group."
        yield Finding("warning", "without-group", text, len(alone), len(given.samples), listed)
    for earlier, later in given.pairs():
        seen = {s.group for s in given.parts[earlier] if s.group}
        own = {s.group for s in given.parts[later] if s.group}
        if not (shared := sorted(seen & own)):
            continue
        reached = sum(s.group in seen for s in given.parts[later])
        every = len(given.parts[later])
        how = " (validation was carved out of train)" if given.carved and (earlier, later) == ("train", "val") else ""
        text = (
            f"{len(shared):,} of {len(own):,} groups of {later} are also in {earlier}{how}: "
            f"{reached:,} of {every:,} {later} samples are of a group that {earlier} has."
        )
        severity = given.severity(earlier, later)
        yield Finding(severity, "group-overlap", text, len(shared), len(own), tuple(shared[:EXAMPLES]))


# ------------------------------------------------------------------------------------------- labels


def _balance(given: _Given) -> dict[str, dict[str, int]]:
    found = {split: Counter(s.label for s in members) for split, members in given.parts.items()}
    return {name: {split: counts[label] for split, counts in found.items()} for label, name in enumerate(given.classes)}


def _labels(given: _Given) -> Iterator[Finding]:
    balance = _balance(given)
    train = {name: row["train"] for name, row in balance.items() if row.get("train")}
    if train and (ratio := max(train.values()) / min(train.values())) >= IMBALANCE:
        most, least = max(train, key=lambda name: train[name]), min(train, key=lambda name: train[name])
        text = f"The largest class of train has {ratio:.1f} times the samples of the smallest."
        listed = (f"{most}: {train[most]:,}", f"{least}: {train[least]:,}")
        yield Finding("warning", "imbalance", text, train[most], train[least], listed)
    for split in given.parts:
        gone = [name for name in given.classes if not balance[name][split]]
        unlearnt = split == "train" and any(sum(balance[name].values()) for name in gone)
        if gone:
            text = f"{len(gone)} of {len(given.classes)} classes are not in {split}: {some(gone)}."
            severity = "error" if unlearnt else "warning"
            yield Finding(severity, "class-absent", text, len(gone), len(given.classes), tuple(gone[:EXAMPLES]))
    for earlier, later in given.pairs():
        shift, chance = _shift(balance, earlier, later)
        if shift > SHIFT + chance:
            text = (
                f"Labels are distributed differently in {earlier} and {later}: total variation {shift:.2f}, "
                f"of which chance explains about {chance:.2f}."
            )
            yield Finding("warning", "label-shift", text)


def _shift(balance: Mapping[str, Mapping[str, int]], one: str, other: str) -> tuple[float, float]:
    """Total variation between two label distributions, and what two samples of one distribution would show."""
    n, k = (sum(row[split] for row in balance.values()) for split in (one, other))
    shares = [(row[one] / n, row[other] / k, (row[one] + row[other]) / (n + k)) for row in balance.values()]
    chance = sum(math.sqrt(2 / math.pi * p * (1 - p) * (1 / n + 1 / k)) for _, _, p in shares) / 2
    return sum(abs(a - b) for a, b, _ in shares) / 2, chance


# --------------------------------------------------------------------------------------- modalities


def _present(given: _Given) -> dict[str, dict[str, float]]:
    return {
        m: {
            split: round(sum(s.values.get(m) is not None for s in members) / len(members), 4)
            for split, members in given.parts.items()
        }
        for m in given.kinds
    }


def _modalities(given: _Given) -> Iterator[Finding]:
    if not given.kinds:
        return
    nothing = [s for s in given.samples if all(s.values.get(m) is None for m in given.kinds)]
    if nothing:
        by_part = Counter(s.split for s in nothing)
        counted = ", ".join(f"{by_part[split]} {split}" for split in SPLITS if by_part[split])
        text = f"{len(nothing):,} samples have no modality at all ({counted})."
        listed = tuple(s.id for s in nothing[:EXAMPLES])
        yield Finding("warning", "no-modality", text, len(nothing), len(given.samples), listed)
    for m in given.kinds:
        has = [s.values.get(m) is not None for s in given.samples]
        if all(has):
            continue
        shares = ", ".join(f"{100 * share:.1f}% of {split}" for split, share in _present(given)[m].items())
        text = f"{m} is there in {shares}."
        yield Finding("note", "partial-modality", text, sum(has), len(has))
        yield from _uneven(given, m, has, {"split": [s.split for s in given.samples],
                                           "class": [given.classes[s.label] for s in given.samples]})  # fmt: skip


def _uneven(given: _Given, m: str, has: Sequence[bool], ways: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Absence that tells something: a part or a class that lacks the modality more often than the others."""
    for way, names in ways.items():
        totals, there = Counter(names), Counter(name for name, here in zip(names, has, strict=True) if here)
        share = {name: there[name] / n for name, n in totals.items()}
        low, high = min(share, key=lambda name: share[name]), max(share, key=lambda name: share[name])
        mean = sum(has) / len(has)
        chance = 3 * math.sqrt(mean * (1 - mean) * (1 / totals[low] + 1 / totals[high]))
        if share[high] - share[low] > UNEVEN + chance:
            text = (
                f"Whether a sample has {m} depends on its {way}: "
                f"{100 * share[high]:.1f}% in {high}, {100 * share[low]:.1f}% in {low}."
            )
            yield Finding("warning", "uneven-modality", text, there[low], totals[low])


# ------------------------------------------------------------------------------------------- copies


def _has_texts(given: _Given) -> bool:
    return any(True for _ in _contents(given, None))


def _contents(given: _Given, digests: Mapping[str, str] | None) -> Iterator[tuple[str, str, Sample]]:
    """(modality, content, sample): literal texts without digests, else files by their digest and part."""
    for sample in given.samples:
        for m, kind in given.kinds.items():
            value = sample.values.get(m)
            path = file_of(kind, value)
            if digests is None:
                if kind == "text" and isinstance(value, str) and path is None and value.strip():
                    yield m, " ".join(value.split()).casefold(), sample
            elif path is not None and path in digests:
                yield m, digests[path] + part_of(kind, value), sample


def _texts(given: _Given) -> Iterator[Finding]:
    for m, homes in _homes(given, None).items():
        yield from _copies(given, homes, "same-text", f"{m}: the same words are", "warning")


def _gravest_first(finding: Finding) -> int:
    return ("error", "warning", "note").index(finding.severity)


def copies(samples: Sequence[Sample], kinds: Mapping[str, str], digests: Mapping[str, str] | None) -> list[Finding]:
    """The same bytes in two parts of `samples`."""
    given = _Given(samples, (), kinds, False)
    found = _homes(given, digests).items() if digests else ()
    return sorted((finding for m, homes in found for finding in _same_bytes(given, m, homes)), key=_gravest_first)


def _same_bytes(given: _Given, m: str, homes: Mapping[str, list[Sample]]) -> Iterator[Finding]:
    return _copies(given, homes, "duplicate-source", f"{m}: the same bytes are", None)


def _sources(given: _Given, digests: Mapping[str, str]) -> Iterator[Finding]:
    for m, homes in _homes(given, digests).items():
        yield from _same_bytes(given, m, homes)
        pairs = [found for found in homes.values() if len({s.label for s in found}) > 1]
        if pairs:
            text = f"{m}: the same bytes have different labels, {len(pairs):,} times."
            listed = tuple(" = ".join(f"{s.id} ({given.classes[s.label]}, {s.split})" for s in found[:3])
                           for found in pairs[:EXAMPLES])  # fmt: skip
            yield Finding("warning", "conflicting-label", text, len(pairs), len(homes), listed)


def _homes(given: _Given, digests: Mapping[str, str] | None) -> dict[str, dict[str, list[Sample]]]:
    """Modality -> content -> the samples that have it, where there are several."""
    found: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for m, content, sample in _contents(given, digests):
        found[m][content].append(sample)
    return {m: {content: one for content, one in homes.items() if len(one) > 1} for m, homes in found.items()}


def _copies(
    given: _Given, homes: Mapping[str, list[Sample]], rule: str, what: str, severity: str | None
) -> Iterator[Finding]:
    for earlier, later in given.pairs():
        hit = []
        for found in homes.values():
            source = next((s for s in found if s.split == earlier), None)
            hit += [(s, source) for s in found if s.split == later and source is not None]
        if hit:
            other = sum(s.label != source.label for s, source in hit)
            labels = f", {other:,} of them under another label" if other else ""
            text = (
                f"{what} in {earlier} and {later}: {len(hit):,} of {len(given.parts[later]):,} {later} samples{labels}."
            )
            listed = tuple(f"{source.id} ({earlier}) = {s.id} ({later})" for s, source in hit[:EXAMPLES])
            level = severity or given.severity(earlier, later)
            yield Finding(level, rule, text, len(hit), len(given.parts[later]), listed)


def _features(given: _Given, data: Comparable, near: float) -> Iterator[Finding]:
    import numpy as np

    from mmbal_cli.data.near import ALL, exact_twins, near_twins

    rows = {split: np.array([i for i, s in enumerate(given.samples) if s.split == split]) for split in given.parts}
    for m, count in data.constant.items():
        if count:
            text = f"{m}: {count:,} samples have constant features (silence, nothing to see); they are not compared."
            yield Finding("note", "constant-features", text, count, len(given.samples))
    for earlier, later in given.pairs():
        exact = exact_twins(data, rows[later], rows[earlier])
        close = near_twins(data, rows[later], rows[earlier], near)
        ways = (
            ("equal-features", exact, "exactly the features of"),
            ("near-duplicate", close, f"features within cosine {near:g} of"),
        )
        for rule, found, words in ways:
            for m, twins in found.items():
                if twins.rows:
                    whole = m == ALL or len(data.code) == 1
                    severity = given.severity(earlier, later) if whole else "warning"
                    yield _twin_finding(given, severity, rule, f"{m}: ", twins, words, (earlier, later))


def _twin_finding(
    given: _Given, severity: str, rule: str, head: str, twins: Twins, words: str, pair: tuple[str, str]
) -> Finding:
    earlier, later = pair
    n, every = len(twins.rows), len(given.parts[later])
    text = f"{head}{n:,} of {every:,} {later} samples have {words} a {earlier} sample ({twins.pairs:,} pairs)."
    listed = []
    for row, other, cosine in twins.examples[:EXAMPLES]:
        one, two = given.samples[row], given.samples[other]
        labels = "" if one.label == two.label else f", {given.classes[two.label]} and {given.classes[one.label]}"
        listed.append(f"{two.id} ({earlier}) ~ {one.id} ({later}): {cosine:.6f}{labels}")
    return Finding(severity, rule, text, n, every, tuple(listed))
