"""Runs trained in this process: the same files as `mmbal train` makes, without starting any."""

from __future__ import annotations

from pathlib import Path

from mmbal_cli.cli.train import open_data
from mmbal_cli.engine.job import run_job
from mmbal_cli.engine.plan import environment, expand_methods, plan_run
from mmbal_cli.engine.runs import Protocol


def train(
    work: Path, methods: str, seeds: int = 2, dataset: str | None = None, protocol: Protocol = "", **knobs: str
) -> list[Path]:
    """Train `methods` on a data set in work/cache with seeds 1, 2, ..., into work/runs; the run folders."""
    data, folders = open_data(work / "cache", dataset), []
    for name, implied in expand_methods([methods], tuple(data.shapes)):
        planned = plan_run(data, name, implied, None, {}, dict(knobs), protocol)
        folder = planned.folder(work / "runs")
        folder.create(planned.facts, environment("cpu"))
        last = list(run_job(planned.spec, tuple(range(1, seeds + 1)), folder, work / "cache", "cpu", lambda: False))[-1]
        assert last["event"] == "done", last
        folders.append(folder.path)
    return folders
