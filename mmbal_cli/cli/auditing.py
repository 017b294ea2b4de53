"""The work behind `mmbal data audit`: samples from a prepared set, a download, a published list or a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbal_cli.cli.console import emit_json, note, stage
from mmbal_cli.cli.listing import say, show_rows
from mmbal_cli.cli.options import Listing
from mmbal_cli.cli.target import TABLES, Request, inspect_samples, place_of, resolve
from mmbal_cli.data.audit import Audit, Finding, audit, copies
from mmbal_cli.data.datasets import get_reader
from mmbal_cli.data.disjoint import SHARES, propose
from mmbal_cli.data.manifest import AS_GIVEN, FIXED, KINDS, SPLITS, Manifest, Sample, inspect_raw
from mmbal_cli.data.named import NamedSplit, Subset, list_splits, named_split, read_ids, read_split, store_split
from mmbal_cli.data.problems import Problem, summary_error
from mmbal_cli.data.raw import Raw, Row
from mmbal_cli.data.sources import digest_sources, keep_twins_in_train
from mmbal_cli.data.tables import read_rows
from mmbal_cli.errors import EXIT_FINDINGS, EXIT_OK, ManifestError, MmbalError, UsageError
from mmbal_cli.recipe import DatasetRecipe, canonical
from mmbal_cli.store.sets import list_sets, read_arrays, read_set

if TYPE_CHECKING:
    from mmbal_cli.data.near import Comparable

IN_THE_WAY = {"bad-id", "duplicate-id", "unknown-label", "label-kind", "unknown-split", "bad-group", "unknown-id"}
DEFAULT_NAME = "group"
SHOWN = 3  # examples of a finding in the table; json has more


@dataclass(frozen=True)
class Subject:
    """What is audited: `origin` says in words where the samples come from, `group` what a group is."""

    name: str
    origin: str
    group: str
    kinds: Mapping[str, str]
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    carved: bool
    digests: Mapping[str, str] | None = None
    features: Comparable | None = None
    left_out: tuple[str, ...] = ()


def run(
    request: Request,
    cache: Path,
    *,
    near: float = 0.999,
    wanted: bool = False,
    name: str | None = None,
    shares: str | None = None,
    seed: int = 0,
    store: bool = True,
    format: Listing = Listing.table,
) -> int:
    """Audit, propose and store a split that keeps groups whole, print both; the exit code (1 with findings).

    `wanted` proposes also where no group is in two parts, `name` is that of the stored split, `shares` its parts.
    """
    if not 0.5 <= near < 1:
        raise UsageError(f"--near {near:g}", "Expected a cosine of 0.5 or more, and below 1.")
    parts = parse_shares(shares)
    subject = find(request, cache)
    report = audit(
        subject.samples,
        subject.classes,
        subject.kinds,
        subject.digests,
        subject.features,
        near=near,
        carved=subject.carved,
        left_out=subject.left_out,
    )
    split, why = None, ""
    if report.overlaps or wanted:
        split, why = proposal(subject, report, name, parts, seed)
    stored = _store(cache, subject.name, split) if split and store else ""
    twice = _copies(subject, split) if split else []
    if format is Listing.json:
        emit_json(document(subject, report, split, why, stored, twice))
    else:
        show(subject, report)
        if split or why:
            _show_proposal(subject.name, split, why, stored)
        for finding in twice:
            note(f"{finding.severity}: in '{split.name if split else ''}' too, {finding.message}")
    return EXIT_OK if report.clean else EXIT_FINDINGS


# ------------------------------------------------------------------------------------ the samples


def find(request: Request, cache: Path) -> Subject:
    """The prepared set of that name, unless a folder is given; else the download, the published list or the table."""
    for spelled in (request.name or request.target, canonical(request.target)):
        if request.data_root is None and request.root is None and spelled in list_sets(cache):
            return _prepared(request, cache, spelled)
    request, recipe = resolve(request, cache)
    place, group = place_of(request, recipe), recipe.group or DEFAULT_NAME
    if recipe.source.reader and not place.is_dir():
        return _published(recipe, place, group)
    if recipe.source.generator and not place.exists():
        raise ManifestError(
            f"{place} does not exist yet.", "This data set is generated.", f"mmbal prepare {recipe.name}"
        )
    plain = None if recipe.source.reader or place.suffix.lower() not in TABLES else _without_modalities(request, recipe)
    manifest, problems = plain or inspect_samples(request, recipe, missing_ok=True)
    _refuse(request.target, problems)
    left_out = _unread(request.target, problems) if manifest.kinds else ["source files: the table names none"]
    digests = None
    if manifest.sizes:
        with stage("hash source files", len(manifest.sizes)) as advance:
            digests = digest_sources(manifest, cache / manifest.name, on_progress=advance)
        manifest = keep_twins_in_train(manifest, digests)
    left_out += ["features: not prepared"]
    return _subject(manifest, str(place), group, digests, left_out)


def _subject(
    manifest: Manifest, origin: str, group: str, digests: Mapping[str, str] | None, left_out: list[str]
) -> Subject:
    found = (manifest.name, origin, group, manifest.kinds, manifest.classes, manifest.samples, manifest.carved)
    return Subject(*found, digests, None, tuple(left_out))


def _refuse(what: str, problems: list[Problem]) -> None:
    """Stop where it is not clear what the samples are; problems of files are for `data check`."""
    if found := [problem for problem in problems if problem.severity == "error" and problem.rule in IN_THE_WAY]:
        raise summary_error(what, found)


def _unread(what: str, problems: list[Problem]) -> list[str]:
    files = [problem for problem in problems if problem.severity == "error" or problem.rule == "missing-file"]
    return [f"{len(files):,} problems with the files: mmbal data check {what}"] if files else []


def _published(recipe: DatasetRecipe, place: Path, group: str) -> Subject:
    """The samples of a known data set without any file, from the list that is shipped."""
    reader = get_reader(recipe.source.reader or "")
    if not hasattr(reader, "published"):
        raise ManifestError(
            f"The folder {place} does not exist.",
            f"The lists of '{recipe.name}' come with its download.",
            f"mmbal data audit {recipe.name} --data-root DIR",
        )
    raw = Raw("", "the published list", {}, reader.published())
    manifest, problems = inspect_raw(raw, Path(), recipe.classes, recipe.name)
    _refuse(recipe.name, problems)
    left_out = ["source files: no folder is given (--data-root DIR)", "features: not prepared"]
    return _subject(manifest, "the published list shipped with mmbal", group, None, left_out)


def _without_modalities(request: Request, recipe: DatasetRecipe) -> tuple[Manifest, list[Problem]] | None:
    """A table that names samples, splits and labels and nothing else; None where it has more."""
    place = place_of(request, recipe)
    columns, rows = read_rows(place)
    folded = {column.strip().lower(): column for column in columns}
    if not set(FIXED[:3]) <= folded.keys() or any(":" in name or name in KINDS for name in folded):
        return None
    plain: list[Row] = [(line, {name: row.get(folded.get(name, ""), "") for name in FIXED}) for line, row in rows]
    name = request.name or recipe.name
    return inspect_raw(Raw("", "", {}, plain), place.parent, request.classes or recipe.classes, name)


def _prepared(request: Request, cache: Path, name: str) -> Subject:
    """A prepared set: its features, and its files where they can still be found."""
    from mmbal_cli.data.near import as_arrays

    prepared = read_set(cache, name)
    arrays = read_arrays(cache, prepared)
    if request.subset:
        arrays = _only(read_ids(Path(request.subset)), name, arrays)
    here = {m: (mask if mask.ndim == 1 else mask.any(1)).tolist() for m, mask in arrays["mask"].items()}
    columns = zip(arrays["ids"], arrays["splits"], arrays["labels"].tolist(), arrays["groups"], strict=True)
    samples = tuple(
        Sample(one, split, label, group, {m: "" if has[row] else None for m, has in here.items()})
        for row, (one, split, label, group) in enumerate(columns)
    )
    digests, group, left_out = None, DEFAULT_NAME, []
    try:
        manifest, group, digests = _again(replace(request, target=name), cache, samples)
        samples = tuple(
            replace(sample, values={m: source.values[m] if has[row] else None for m, has in here.items()})
            for row, (sample, source) in enumerate(zip(samples, manifest.samples, strict=True))
        )
    except MmbalError as error:
        left_out.append(f"source files and texts: {error.found.splitlines()[0]}")
    carved = bool(prepared.split_note) and not prepared.split_note.endswith(AS_GIVEN)
    origin = f"the prepared set {cache / name}"
    found = (name, origin, group, prepared.kinds, prepared.classes, samples, carved)
    return Subject(*found, digests, as_arrays(arrays), tuple(left_out))


def _only(subset: Subset, name: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """The rows of a subset."""
    subset.check(name, arrays["ids"])
    rows = [row for row, one in enumerate(arrays["ids"]) if one in subset.ids]
    found: dict[str, Any] = {column: [arrays[column][row] for row in rows] for column in ("ids", "splits", "groups")}
    found["labels"] = arrays["labels"][rows]
    return found | {kind: {m: x[rows] for m, x in arrays[kind].items()} for kind in ("features", "mask")}


def _again(request: Request, cache: Path, samples: tuple[Sample, ...]) -> tuple[Manifest, str, Mapping[str, str]]:
    """The manifest behind a prepared set, what its groups are, and digests of its files, if all is as it was."""
    request, recipe = resolve(request, cache)
    manifest, _ = inspect_samples(request, recipe, missing_ok=True)
    if [s.id for s in manifest.samples] != [s.id for s in samples]:
        raise ManifestError("the samples have changed since the set was prepared.")
    with stage("hash source files", len(manifest.sizes)) as advance:
        digests = digest_sources(manifest, cache / manifest.name, on_progress=advance)
    return manifest, recipe.group or DEFAULT_NAME, digests


# ------------------------------------------------------------------------------------- the proposal


def parse_shares(text: str | None) -> dict[str, int] | None:
    """`70/10/20` (or with commas) as parts of the whole; UsageError for anything else."""
    if text is None:
        return None
    try:
        values = [int(part) for part in text.replace("/", ",").split(",")]
        if len(values) != len(SPLITS) or min(values) < 0 or not values[0] or not values[1] or max(values) > 1_000_000:
            raise ValueError
    except ValueError:
        raise UsageError(f"--shares {text}", "Expected train/val/test such as 70/10/20; only test may be 0.") from None
    return dict(zip(SPLITS, values, strict=True))


def proposal(
    subject: Subject, report: Audit, name: str | None, shares: Mapping[str, int] | None, seed: int
) -> tuple[NamedSplit | None, str]:
    """A split that keeps groups whole, with the sizes of the current one unless told; or why there is none."""
    groups = [sample.group for sample in subject.samples]
    every = sum(report.counts.values())  # in whole percent: a sample more or less must not make another split
    current = {split: max(1, round(100 * n / every)) for split, n in report.counts.items() if n}
    current = current if len(current) == len(SPLITS) else {}
    parts = shares or current or SHARES
    whole = len(set(filter(None, groups))) + sum(not group for group in groups)
    if not any(groups) or whole < len(parts):
        return None, f"{whole} groups are too few for {len(parts)} parts" if any(groups) else "no sample has a group"
    found = propose([s.id for s in subject.samples], [s.label for s in subject.samples], groups, parts, seed)
    sizes = ", ".join(f"{100 * parts[split] / sum(parts.values()):.0f}% {split}" for split in SPLITS)
    way = f"whole groups ({subject.group}), stratified, {sizes}, seed {seed}"
    return named_split(name or subject.group, found, way, subject.group, seed), ""


def _copies(subject: Subject, split: NamedSplit) -> list[Finding]:
    """The same bytes in two parts of a proposal: groups are kept whole, and copies may be in two groups."""
    samples = [replace(sample, split=split.parts[sample.id]) for sample in subject.samples]
    return copies(samples, subject.kinds, subject.digests)


def _store(cache: Path, dataset: str, split: NamedSplit) -> str:
    """Store a proposal: what became of it, in a word."""
    if split.name in list_splits(cache, dataset):
        return "stored before" if read_split(cache, dataset, split.name).hash == split.hash else "name taken"
    store_split(cache, dataset, split)
    return "stored"


# -------------------------------------------------------------------------------------- the report


def document(
    subject: Subject, report: Audit, split: NamedSplit | None, why: str, stored: str, twice: Sequence[Finding]
) -> dict[str, Any]:
    """For programs."""
    found: dict[str, Any] | None = None
    if split is not None:
        found = split.model_dump(mode="json", include={"name", "way", "by", "seed", "hash"})
        found |= {"counts": split.counts, "state": stored or "not stored"}
        found |= {"findings": [asdict(finding) for finding in twice]}
    where = {"dataset": subject.name, "origin": subject.origin, "group": subject.group, "carved": subject.carved}
    return {"schema": 1, "report": "audit", **where, **report.document(), "proposal": found, "no_proposal": why}


def show(subject: Subject, report: Audit) -> None:
    """For people: sizes, classes, findings with examples, and what was not looked at."""
    counts = ", ".join(f"{count:,} {split}" for split, count in report.counts.items())
    groups = (
        ", ".join(f"{count:,} in {split}" for split, count in report.groups.items())
        if any(report.groups.values())
        else "none"
    )
    say(f"{subject.name}: {counts}; groups ({subject.group}): {groups}; from {subject.origin}")
    rows = [(name, *(counts.get(split) for split in SPLITS)) for name, counts in report.balance.items()]
    show_rows(("class", *SPLITS), rows)
    if report.present:
        say("")
        shares = [(m, *(None if (share := by.get(split)) is None else f"{100 * share:.1f}%" for split in SPLITS))
                  for m, by in report.present.items()]  # fmt: skip
        show_rows(("has", *SPLITS), shares)
    say("")
    if report.findings:
        show_rows(("severity", "rule", "finding"), [(f.severity, f.rule, f.message) for f in report.findings])
    examples = {}  # equal ones once: the same speakers may be in all three parts
    for finding in report.findings:
        if finding.examples and finding.severity != "note":
            more = " ..." if finding.count > SHOWN else ""
            examples[f"  {finding.rule}: {'; '.join(finding.examples[:SHOWN])}{more}"] = True
    for line in examples:
        say(line)
    for line in report.left_out:
        note(f"not compared: {line}")
    found = Counter(finding.severity for finding in report.findings)
    counted = ", ".join(
        f"{found[level]} {level}{'s' * (found[level] > 1)}" for level in ("error", "warning") if found[level]
    )
    say(f"{subject.name}: {counted or 'no findings'}; looked at {', '.join(report.looked_at)}")


def _show_proposal(dataset: str, split: NamedSplit | None, why: str, stored: str) -> None:
    if split is None:
        return note(f"no split can be proposed: {why}")
    counts = ", ".join(f"{count:,} {part}" for part, count in split.counts.items())
    say(f"proposed split '{split.name}': {counts}; {split.way}; hash {split.hash}")
    if stored == "name taken":
        return note(f"another split '{split.name}' is stored and is kept; to store this one as well: --name OTHER")
    if stored:
        note(f"{stored}; next: mmbal train --dataset {dataset} --split {split.name} --method concat")
