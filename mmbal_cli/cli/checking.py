"""The work behind `mmbal data check`: every finding on a data set and its files, before anything is computed."""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbal_cli.cli.console import stage
from mmbal_cli.cli.target import Request, choose_encoders, inspect_samples, place_of, resolve
from mmbal_cli.data.manifest import SPLITS, Manifest, Sample
from mmbal_cli.data.problems import RULES, Problem
from mmbal_cli.data.sources import check_duplicates, digest_sources, keep_twins_in_train
from mmbal_cli.data.values import file_of, part_of
from mmbal_cli.encode.base import Encoder
from mmbal_cli.encode.prepare import DEADLINE
from mmbal_cli.encode.worker import command, read_job, readings
from mmbal_cli.errors import ManifestError, MediaError
from mmbal_cli.media.pool import Pool
from mmbal_cli.media.probe import MAX_SECONDS
from mmbal_cli.media.text import read_text_file
from mmbal_cli.recipe import DatasetRecipe, ModalityRecipe

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN = 20  # findings of one rule in the table; json has all
STATES = ("named", "found", "missing", "unusable")


@dataclass(frozen=True)
class Report:
    """What was looked at, what stops `prepare` or makes a sample bad (findings), and what is only worth knowing.

    `files` counts for each modality the samples that name a file or text, and of those what was found, is missing
    (nothing, an empty file or a Git LFS pointer is there) or cannot be used.
    """

    place: Path
    manifest: Manifest
    findings: list[Problem]
    notes: list[Problem]
    files: dict[str, dict[str, int]]
    complete: tuple[str, ...]

    def tables(self) -> list[RenderableType]:
        """For people: findings by rule, files of each modality, classes in each split, notes, one summary line."""
        from rich.table import Table
        from rich.text import Text

        parts: list[RenderableType] = []
        if self.findings:
            found = Table("rule", "n", "where and what", box=None, header_style="bold", pad_edge=False)
            for rule, count in Counter(problem.rule for problem in self.findings).items():
                lines = [str(problem) for problem in self.findings if problem.rule == rule]
                more = [f"... and {count - SHOWN} more: --format json"] if count > SHOWN else []
                expected, repair = RULES.get(rule, ("", ""))
                hint = " ".join(part for part in (expected, f"Try: {repair}" if repair else "") if part)
                body = Text("\n".join([*lines[:SHOWN], *more]), overflow="fold")
                found.add_row(rule, str(count), Text.assemble((hint + "\n" if hint else "", "dim"), body))
            parts += [found, ""]
        files = Table("modality", "kind", *STATES, box=None, header_style="bold", pad_edge=False)
        for modality, counts in self.files.items():
            files.add_row(modality, self.manifest.kinds[modality], *(str(counts[state]) for state in STATES))
        classes = Table("class", *SPLITS, box=None, header_style="bold", pad_edge=False)
        for name, counts in self.class_counts().items():
            classes.add_row(Text(name), *(str(counts[split]) for split in SPLITS))
        notes = [Text(f"note: {problem}", overflow="fold") for problem in self.notes[:SHOWN]]
        if len(self.notes) > SHOWN:
            notes.append(Text(f"note: ... and {len(self.notes) - SHOWN} more: --format json"))
        return [*parts, files, "", classes, "", *notes, Text(self.summary(), overflow="fold")]

    def summary(self) -> str:
        """One line: how many findings in how many samples."""
        counts = ", ".join(f"{count} {split}" for split, count in self.manifest.counts().items())
        found = f"{len(self.findings)} findings" if self.findings else "no findings"
        return f"{self.place}: {found} in {len(self.manifest.samples)} samples ({counts}; {self.manifest.split_note})"

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "schema": 2,
            "table": str(self.place),
            "ok": not self.findings,
            "samples": len(self.manifest.samples),
            "complete": len(self.complete),
            "counts": self.manifest.counts(),
            "classes": self.class_counts(),
            "split_note": self.manifest.split_note,
            "modalities": {m: {"kind": self.manifest.kinds[m], **counts} for m, counts in self.files.items()},
            "findings": [_entry(problem) for problem in self.findings],
            "notes": [_entry(problem) for problem in self.notes],
        }

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Samples of each class in each split."""
        found = Counter((sample.label, sample.split) for sample in self.manifest.samples)
        return {
            name: {split: found[label, split] for split in SPLITS} for label, name in enumerate(self.manifest.classes)
        }


def _entry(problem: Problem) -> dict[str, Any]:
    return {"rule": problem.rule, "file": problem.file or None, "line": problem.line, "message": problem.message}


def examine(request: Request, cache: Path, *, full: bool = False, workers: int | None = None) -> Report:
    """All problems of a data set: its annotations, names, digests, and the header of every file.

    With `full` each sample is decoded and encoded by the default encoders as well. Raises ManifestError when it
    cannot be read at all.
    """
    request, recipe = resolve(request, cache)
    place = place_of(request, recipe)
    if recipe.source.generator and not place.exists():
        raise ManifestError(
            f"{place} does not exist yet.", "This data set is generated.", f"mmbal prepare {recipe.name}"
        )
    manifest, problems = inspect_samples(request, recipe)
    with ExitStack() as stack:
        bar = stack.enter_context(stage("hash source files", len(manifest.sizes)))
        digests = digest_sources(manifest, on_progress=bar)
    manifest = keep_twins_in_train(manifest, digests)
    problems = problems + check_duplicates(manifest, digests, known=recipe.duplicates == "keep")
    bad = _look(manifest, request, recipe, workers)
    if full:
        seen = {(sample, modality) for sample, modality, _ in bad}
        for found in _decode_all(manifest, choose_encoders(manifest.kinds, request, recipe), workers):
            if found[:2] not in seen:
                bad.append(found)
    problems += [problem for _, _, problem in bad if problem.rule != "lfs-pointer"]  # found by their names already
    stops = [p.severity == "error" or p.rule == "empty-file" for p in problems]
    findings = [problem for problem, stop in zip(problems, stops, strict=True) if stop]
    unusable = {(sample, modality) for sample, modality, _ in bad}
    return Report(
        place,
        manifest,
        findings,
        [p for p, stop in zip(problems, stops, strict=True) if not stop],
        _states(manifest, unusable),
        tuple(s.id for s in manifest.samples if all(_state(manifest, s, m, unusable) == "found" for m in s.values)),
    )


def _states(manifest: Manifest, unusable: set[tuple[str, str]]) -> dict[str, dict[str, int]]:
    counts = {m: dict.fromkeys(STATES, 0) for m in manifest.kinds}
    for sample in manifest.samples:
        for modality, value in sample.values.items():
            if value is not None:
                counts[modality]["named"] += 1
                counts[modality][_state(manifest, sample, modality, unusable)] += 1
    return counts


def _state(manifest: Manifest, sample: Sample, modality: str, unusable: set[tuple[str, str]]) -> str:
    value = sample.values[modality]
    path = file_of(manifest.kinds[modality], value)
    if value is None or (path is not None and not manifest.sizes.get(path, (0, 0))[0]):
        return "missing"
    return "unusable" if (sample.id, modality) in unusable else "found"


Bad = tuple[str, str, Problem]  # sample id, modality, what is wrong


def _look(manifest: Manifest, request: Request, recipe: DatasetRecipe, workers: int | None) -> list[Bad]:
    """What the headers of all media files say: no sound, no pictures, too short, no media at all."""
    found: list[Bad] = []
    expected = {m: _expected(m, kind, request, recipe) for m, kind in manifest.kinds.items()}
    jobs, names = [], []
    for sample in manifest.samples:
        items = []
        for modality, kind in manifest.kinds.items():
            value: Any = sample.values[modality]
            path = file_of(kind, value)
            if path is None or not manifest.sizes.get(path, (0, 0))[0]:
                continue
            if kind == "text":
                found += _read(sample.id, modality, manifest.root, path)
            else:
                where = f"{manifest.root / path}{part_of(kind, value)}"
                items.append({"modality": modality, "kind": kind, "value": where, "expect": expected[modality]})
        if items:
            jobs.append({"items": items})
            names.append(sample.id)
    pool = Pool([sys.executable, "-P", "-m", "mmbal_cli.media.look"], _cores(workers), DEADLINE)
    with stage("look at headers", len(jobs)) as advance, closing(pool.run(jobs)) as results:
        for position, header, _ in results:
            for item, rule, reason in _seen(jobs[position]["items"], header):
                reason = reason.replace(f"{manifest.root}/", "")
                message = f"{item['modality']} of '{names[position]}': {reason}"
                found.append((names[position], item["modality"], Problem("error", rule, message)))
            advance(1)
    return found


def _expected(modality: str, kind: str, request: Request, recipe: DatasetRecipe) -> dict[str, Any]:
    """What the recipe says of usual files; sound that would be decoded whole has a longest length in any case."""
    own = recipe.modalities.get(modality) or ModalityRecipe(kind=kind)
    found = own.expect.model_dump(exclude_none=True) if own.kind == kind else {}
    cut = own.seconds or any(item.startswith(f"{modality}.seconds=") for item in request.sets)
    if kind == "audio" and not cut:
        found.setdefault("seconds", (0.0, MAX_SECONDS))
    return found


def _read(name: str, modality: str, root: Path, path: str) -> list[Bad]:
    try:
        read_text_file(root / path)
    except MediaError as error:
        reason = error.found.replace(f"{root}/", "")
        return [(name, modality, Problem("error", "undecodable", f"{modality} of '{name}': {reason}"))]
    return []


def _seen(items: list[dict[str, Any]], header: dict[str, Any]) -> list[tuple[dict[str, Any], str, str]]:
    if "error" in header:
        return [(item, "undecodable", header["error"]["reason"]) for item in items]
    return [(items[index], rule, reason) for index, rule, reason in header["found"]]


def _decode_all(manifest: Manifest, encoders: dict[str, list[Encoder]], workers: int | None) -> list[Bad]:
    jobs, names = [], []
    for sample in manifest.samples:
        reads = []
        for modality, (encoder, *_) in encoders.items():
            value: Any = sample.values[modality]
            path = file_of(encoder.kind, value)
            usable = path is None or (manifest.sizes.get(path, (0, 0))[0] and encoder.kind != "text")
            if value is not None and usable:  # missing and empty files are findings already
                where = f"{manifest.root / path}{part_of(encoder.kind, value)}" if path else value
                reads.append(read_job(modality, where, encoder))
        if reads:
            jobs.append({"reads": reads})
            names.append(sample.id)
    found: list[Bad] = []
    pool = Pool(command(), _cores(workers), DEADLINE)
    with stage("decode", len(jobs)) as advance, closing(pool.run(jobs)) as results:
        for position, header, arrays in results:
            for modality, reading in readings(jobs[position], header, arrays).items():
                rule, reason = "undecodable", (reading.error or {}).get("reason")
                if reading.facts.get("short"):  # decoders end quietly where a file was cut off
                    rule, reason = "too-short", f"cut off, {reading.facts['short']} decoded"
                if reason:
                    message = f"{modality} of '{names[position]}': {reason.replace(f'{manifest.root}/', '')}"
                    found.append((names[position], modality, Problem("error", rule, message)))
            advance(1)
    return found


def _cores(workers: int | None) -> int:
    return workers or len(os.sched_getaffinity(0))
