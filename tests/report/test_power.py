"""Plans: half-widths and smallest differences against formulas and simulation, assumptions from runs, the command."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from scipy import stats
from typer.testing import CliRunner

from mmbal_cli.cli.plan import plan as command
from mmbal_cli.errors import UsageError
from mmbal_cli.report.power import (
    Assumed,
    Components,
    assumed,
    components,
    from_runs,
    half_width,
    plan,
    smallest_difference,
)
from mmbal_cli.report.statistics import Measured, drawn, measured_mean
from tests.kit.runs import write_run, write_study

APP = typer.Typer()
APP.command()(command)
OF = Components(seed=2e-4, sample=0.1, interaction=0.08)


def invoke(*args: str) -> Any:
    result = CliRunner().invoke(APP, list(args), env={"COLUMNS": "160"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def experiment(rng: np.random.Generator, of: Components, mean: float, seeds: int, samples: int) -> Measured:
    by_seed = of.seed**0.5 * rng.normal(size=(seeds, 1)) * (seeds > 1)
    by_sample = of.sample**0.5 * rng.normal(size=samples)
    rest = of.interaction**0.5 * rng.normal(size=(seeds, samples))
    return measured_mean(dict(enumerate(mean + by_seed + by_sample + rest)))


def test_one_seed_on_crema_d() -> None:
    """744 clips at 65%: 1.96 standard errors of a share."""
    expected = stats.norm.ppf(0.975) * (0.65 * 0.35 / 744) ** 0.5
    assert half_width(assumed().one, 1, 744) == pytest.approx(expected, rel=0.003)
    assert expected == pytest.approx(0.034, abs=0.0005)


def test_variance_of_a_mean_is_that_of_simulated_means() -> None:
    rng = np.random.default_rng(0)
    for seeds in (1, 4):
        means = [np.mean(list(experiment(rng, OF, 0.0, seeds, 50).values.values())) for _ in range(4000)]
        assert np.var(means) == pytest.approx(OF.of_mean(seeds, 50)[0], rel=0.08)


def test_smallest_difference_solves_the_noncentral_t() -> None:
    for seeds, alpha, power in ((1, 0.05, 0.8), (5, 0.05, 0.8), (3, 0.01, 0.9)):
        variance, freedom = OF.of_mean(seeds, 200)
        shift = smallest_difference(OF, seeds, 200, alpha, power) / variance**0.5
        critical = stats.t.ppf(1 - alpha / 2, freedom)
        assert stats.nct.sf(critical, freedom, shift) == pytest.approx(power, abs=1e-6)


@pytest.mark.parametrize("seeds", [1, 3, 5, 10])
def test_power_is_what_simulated_experiments_show(seeds: int) -> None:
    rng, times, samples = np.random.default_rng(seeds), 400, 150
    difference = smallest_difference(OF, seeds, samples)
    found = drawn([experiment(rng, OF, difference, seeds, samples) for _ in range(times)])
    shown = np.mean([each is not None and (each.p() or 1) <= 0.05 for each in found])
    assert shown == pytest.approx(0.8, abs=0.05)
    halves = [(e.high or 0) - (e.low or 0) for e in (each.estimate() for each in found if each)]
    assert np.mean(halves) / 2 == pytest.approx(half_width(OF, seeds, samples), rel=0.06)


def test_components_are_found_again() -> None:
    found = components(experiment(np.random.default_rng(0), Components(0.04, 1.0, 0.25), 0.0, 40, 3000))
    assert found is not None
    assert (found.sample, found.interaction) == pytest.approx((1.0, 0.25), rel=0.1)
    assert found.seed == pytest.approx(0.04, rel=0.5)
    assert components(measured_mean({1: np.arange(9.0)})) is None


def test_more_of_everything_shows_smaller_differences() -> None:
    rows = plan("x", 744, assumed(), counted="", seeds=7, comparisons=18).rows
    assert [row.seeds for row in rows] == [1, 3, 5, 7, 10, 20]
    shown = [row.difference or 1 for row in rows]
    assert shown == sorted(shown, reverse=True)
    assert all((row.corrected or 1) > (row.difference or 0) for row in rows)
    larger = plan("x", 7440, assumed(), counted="").rows[0]
    assert larger.difference == pytest.approx(shown[0] / 10**0.5, rel=0.01)


def test_what_cannot_be_shown_is_none() -> None:
    few = plan("x", 20, assumed(discordance=0.02), counted="").rows
    assert {row.difference for row in few} == {None}  # no difference exceeds the discordance
    many = plan("x", 744, assumed(), counted="", comparisons=300).rows
    assert {row.corrected for row in many} == {None}  # 0.05 / 300 is below 2 / 10,001
    assert None not in {row.difference for row in many}


def test_warnings_name_the_seeds_that_were_asked_for() -> None:
    assert [w.partition(" the ")[0] for w in plan("x", 744, assumed(), counted="").warnings] == ["With 5 paired seeds"]
    assert plan("x", 744, assumed(), counted="", seeds=6).warnings == []
    assert "18 comparisons" in plan("x", 744, assumed(), counted="", seeds=6, comparisons=18).warnings[0]
    assert len(plan("x", 744, assumed(), counted="", seeds=1).warnings) == 2  # sign-flip and Welch


def test_what_is_given_counts_before_defaults() -> None:
    found = assumed(accuracy=0.9, discordance=0.1, seed_sd=0.02, stable=0.25)
    assert astuple(found.one) == pytest.approx((0.02**2, 0.09, 0))
    assert found.difference is not None
    assert astuple(found.difference) == pytest.approx((2 * 0.02**2, 0.025, 0.075))
    assert set(found.sources.values()) == {"given"}
    default = assumed()
    assert default.discordance == pytest.approx(0.65 * 0.35)
    assert "assumed" in default.sources["accuracy"]


def test_assumptions_from_runs(tmp_path: Path) -> None:
    write_study(tmp_path)
    found = from_runs(tmp_path, "demo", "concat", "accuracy")
    assert found is not None
    assert found.difference is not None
    assert "demo-concat" in found.sources["accuracy"]
    assert "3 runs" in found.sources["discordance"]  # ogm-ge, arl, lfm-h; references do not count
    assert 0 < (found.discordance or 0) < 2 * found.mean * (1 - found.mean)
    assert found.one.sample + found.one.interaction == pytest.approx(found.mean * (1 - found.mean), rel=0.05)
    assert assumed(found) == found
    assert assumed(found, accuracy=0.5).one.interaction == found.one.interaction
    assert from_runs(tmp_path, "demo", "nothing", "accuracy") is None
    assert from_runs(tmp_path, "other", "concat", "accuracy") is None


def test_one_seed_or_no_other_run_leaves_the_rest_to_defaults(tmp_path: Path) -> None:
    write_run(tmp_path, "concat", {"audio": 1.5}, seeds=(1,))
    write_run(tmp_path, "ogm-ge", {"audio": 1.6}, fingerprint="another")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    found = from_runs(tmp_path, "demo", "concat", "accuracy")
    assert found is not None
    assert found.difference is None
    assert found.one.sample == pytest.approx(found.mean * (1 - found.mean))
    whole = assumed(found)
    assert whole.difference is not None
    assert "assumed" in whole.sources["seed sd"]
    assert "assumed" in whole.sources["discordance"]


def test_command_with_a_recipe_and_no_data(tmp_path: Path) -> None:
    where = ("--cache", str(tmp_path), "--runs", str(tmp_path))
    shown = invoke("crema-d", "--comparisons", "18", *where).stdout
    assert "744 test samples" in shown
    assert "published split ogm-ge" in shown
    assert "0.0625" in shown
    document = json.loads(invoke("cremad", "--format", "json", *where).stdout)
    assert (document["schema"], document["report"], document["samples"]) == (1, "plan", 744)
    assert document["rows"][0]["half_width"] == pytest.approx(0.0343, abs=1e-4)
    assert document["warnings"]
    rows = list(csv.reader(io.StringIO(invoke("mine", "--samples", "500", "--format", "csv", *where).stdout)))
    assert len(rows) == 6
    assert {len(row) for row in rows} == {len(rows[0])}


def test_command_with_runs(tmp_path: Path) -> None:
    write_study(tmp_path)
    where = ("--cache", str(tmp_path / "none"), "--runs", str(tmp_path), "--samples", "120")
    shown = invoke("demo", *where).stdout
    assert "from demo-concat" in shown
    assert "± NLL" in invoke("demo", "--metric", "nll", *where).stdout
    with pytest.raises(UsageError, match="are for --metric accuracy"):
        invoke("demo", "--metric", "nll", "--accuracy", "50", *where)


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (("nothing",), "There is no data set 'nothing'"),
        (("demo",), "states no published test set"),
        (("cremad", "--metric", "f2"), "Unknown metric 'f2'"),
        (("cremad", "--metric", "map"), "There is no finished run 'concat' of cremad"),
        (("cremad", "--accuracy", "100"), "--accuracy 100 is no such percentage"),
        (("cremad", "--discordance", "0"), "--discordance 0"),
        (("cremad", "--seed-sd", "-1"), "--seed-sd -1"),
    ],
)
def test_refusals(args: tuple[str, ...], found: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        invoke(*args, "--cache", str(tmp_path), "--runs", str(tmp_path))
    assert found in caught.value.found


def test_a_baseline_is_not_held_against_itself_nor_sealed_runs_against_legacy_ones(tmp_path: Path) -> None:
    write_study(tmp_path)
    alone = from_runs(tmp_path, "demo", "ogm-ge", "accuracy")
    assert alone is not None
    assert "mean over 2 runs" in alone.sources["discordance"]  # arl and lfm-h, no reference
    assert alone.discordance
    legacy = {"name": "legacy", "selection": "TEST accuracy", "epochs": 30}
    write_run(tmp_path, "arl", {"audio": 0.1, "video": 0.1}, protocol=legacy)
    assert from_runs(tmp_path, "demo", "ogm-ge", "accuracy") == alone


def test_a_validation_split_without_a_mistake_plans_nothing() -> None:
    of = Assumed(1.0, Components(0.0, 0.0, 0.0), Components(0.0, 0.0, 0.0), 0.0, dict(assumed().sources))
    found = plan("demo", 100, of, counted="given")
    assert all(row.difference is None for row in found.rows)
    assert any("nothing varies" in warning for warning in found.warnings)
    assert not any("nothing varies" in warning for warning in plan("demo", 100, assumed(), counted="given").warnings)
