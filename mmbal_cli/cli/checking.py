"""The work behind `mmbal data check`: every finding on a table and its files, before anything is computed."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbal_cli.cli.console import stage
from mmbal_cli.cli.target import Request, choose_encoders, resolve, root_of, table_of
from mmbal_cli.data.manifest import RULES, Manifest, Problem, file_of, inspect_manifest
from mmbal_cli.data.sources import check_duplicates, digest_sources, keep_twins_in_train
from mmbal_cli.encode.base import Encoder
from mmbal_cli.encode.prepare import DEADLINE
from mmbal_cli.encode.worker import command, read_job, readings
from mmbal_cli.errors import ManifestError
from mmbal_cli.media.pool import Pool


@dataclass(frozen=True)
class Report:
    """What was looked at, what stops `prepare` or makes a sample bad (findings), and what is only worth knowing."""

    table: Path
    manifest: Manifest
    findings: list[Problem]
    notes: list[Problem]

    def text(self) -> str:
        """For people: findings grouped by rule with what is expected, then notes, then a summary."""
        lines = []
        for rule, count in Counter(problem.rule for problem in self.findings).items():
            expected, repair = RULES.get(rule, ("", ""))
            lines.append(f"{rule}: {count}   {expected}" + (f" Try: {repair}" if repair else ""))
            lines += [f"  {problem}" for problem in self.findings if problem.rule == rule]
        lines += [f"note: {problem}" for problem in self.notes]
        lines += [f"{m}: {kind}, {present} present" for m, (kind, present) in self._present().items()]
        counts = ", ".join(f"{count} {split}" for split, count in self.manifest.counts().items())
        found = f"{len(self.findings)} findings" if self.findings else "no findings"
        lines.append(f"{self.table}: {found} in {len(self.manifest.samples)} samples ({counts})")
        return "\n".join(lines)

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "schema": 1,
            "table": str(self.table),
            "ok": not self.findings,
            "samples": len(self.manifest.samples),
            "counts": self.manifest.counts(),
            "classes": list(self.manifest.classes),
            "split_note": self.manifest.split_note,
            "modalities": {m: {"kind": kind, "present": n} for m, (kind, n) in self._present().items()},
            "findings": [_entry(problem) for problem in self.findings],
            "notes": [_entry(problem) for problem in self.notes],
        }

    def _present(self) -> dict[str, tuple[str, int]]:
        samples = self.manifest.samples
        return {m: (kind, sum(s.values[m] is not None for s in samples)) for m, kind in self.manifest.kinds.items()}


def _entry(problem: Problem) -> dict[str, Any]:
    return {"rule": problem.rule, "line": problem.line, "message": problem.message}


def examine(request: Request, cache: Path, *, full: bool = False, workers: int | None = None) -> Report:
    """All problems of a table; with `full` each sample is decoded and encoded by the default encoders as well.

    Raises ManifestError when the table cannot be read at all.
    """
    request, recipe = resolve(request, cache)
    table = table_of(request, recipe)
    if recipe.source.generator and not table.exists():
        raise ManifestError(
            f"{table} does not exist yet.", "This data set is generated.", f"mmbal prepare {recipe.name}"
        )
    classes = request.classes or recipe.classes
    manifest, problems = inspect_manifest(table, root_of(request, recipe), classes, request.name or recipe.name)
    with ExitStack() as stack:
        bar = stack.enter_context(stage("hash source files", len(manifest.sizes)))
        digests = digest_sources(manifest, on_progress=bar)
    manifest = keep_twins_in_train(manifest, digests)
    problems = problems + check_duplicates(manifest, digests)
    if full:
        problems += _decode_all(manifest, choose_encoders(manifest.kinds, request, recipe), workers)
    stops = [p.severity == "error" or p.rule == "empty-file" for p in problems]
    findings = [problem for problem, stop in zip(problems, stops, strict=True) if stop]
    return Report(table, manifest, findings, [p for p, stop in zip(problems, stops, strict=True) if not stop])


def _decode_all(manifest: Manifest, encoders: dict[str, Encoder], workers: int | None) -> list[Problem]:
    jobs, names = [], []
    for sample in manifest.samples:
        reads = []
        for modality, encoder in encoders.items():
            value: Any = sample.values[modality]
            path = file_of(encoder.kind, value)
            usable = path is None or (manifest.sizes.get(path, (0, 0))[0] and encoder.kind != "text")
            if value is not None and usable:  # missing and empty files are findings already
                reads.append(read_job(modality, str(manifest.root / path) if path else value, encoder))
        if reads:
            jobs.append({"reads": reads})
            names.append(sample.id)
    found = []
    pool = Pool(command(), workers or len(os.sched_getaffinity(0)), DEADLINE)
    with stage("decode", len(jobs)) as advance, closing(pool.run(jobs)) as results:
        for position, header, arrays in results:
            for modality, reading in readings(jobs[position], header, arrays).items():
                if reading.error:
                    reason = reading.error["reason"].replace(f"{manifest.root}/", "")
                    found.append(Problem("error", "undecodable", f"{modality} of '{names[position]}': {reason}"))
            advance(1)
    return found
