"""Robustness of really trained tiny runs against predictions made by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmbal_cli.engine.changes import ABSENT, absent, mispaired, noisy
from mmbal_cli.engine.opened import open_run
from mmbal_cli.errors import CacheError, UsageError
from mmbal_cli.report.fresh import fresh
from mmbal_cli.report.metrics import metrics
from mmbal_cli.report.robustness import (
    Asked,
    Condition,
    Robustness,
    check,
    document,
    lines,
    robustness,
    sheets,
    weights,
)
from mmbal_cli.report.runs import Run, read_run
from mmbal_cli.report.stress import conditions, stressed
from tests.kit.cli import invoke
from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared
from tests.kit.runs import write_run
from tests.kit.trained import train

SHORT = Asked(snr=(0.0, -10.0), draws=2)
SETTINGS = {"epochs": 5, "batch": 16, "width": 8, "lr": 0.05}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained runs on two modalities that some samples lack, and one over a graph of complete features."""
    folder = tmp_path_factory.mktemp("robust")
    write_prepared(folder / "cache", feature_set(2, n=120, easy=0.8, absent=0.2), name="two", **SETTINGS)
    write_prepared(folder / "cache", feature_set(2, n=60, easy=0.8, flat=True), name="whole", **SETTINGS)
    train(folder, "concat,late-fusion,unimodal", dataset="two")
    train(folder, "bmlmi", 1, "whole", graph="snf")
    return folder


def run_of(work: Path, name: str) -> Run:
    return read_run(next((work / "runs").glob(f"{name}-????????")))


@pytest.fixture(scope="module")
def study(work: Path) -> dict[str, Robustness]:
    names = ("two-concat", "two-late-fusion", "two-unimodal-audio")
    found = robustness([run_of(work, name) for name in names], work / "cache", asked=SHORT)
    return {each.run.facts.label: each for each in found}


def accuracy(work: Path, name: str, change, split: str = "test", dataset: str | None = None) -> dict[int, float]:
    made = fresh(open_run(run_of(work, name).folder, work / "cache", dataset), split, change)
    return {s: metrics(p.probs, p.labels, range(4), ["accuracy"])["accuracy"] for s, p in made.items()}


def averaged(many: list[dict[int, float]]) -> dict[int, float]:
    return {seed: float(np.mean([each[seed] for each in many])) for seed in many[0]}


@pytest.mark.parametrize("snr", [(20.0, 10.0, 5.0, 0.0, -5.0), (0.0,), (40.0, -20.0)])
def test_weights_are_the_trapezoid_rule_on_amplitudes(snr: tuple[float, ...]) -> None:
    x = np.array([0.0, *(10 ** (-level / 20) for level in snr)])
    values = np.random.default_rng(0).random(len(x))
    assert weights(snr) @ values == pytest.approx(np.trapezoid(values, x) / x[-1])
    assert weights(snr).sum() == pytest.approx(1)


@pytest.mark.parametrize("M", [1, 2, 3, 4])
def test_there_are_all_subsets_levels_and_pairs(M: int) -> None:
    mods = ("a", "b", "c", "d")[:M]
    found = list(conditions(mods, SHORT))
    kinds = [each.kind for each in found]
    assert len(set(found)) == len(found)
    assert kinds.count("subset") == 2**M - 2
    assert kinds.count("noise") == 2 * (M + 1 if M > 1 else 1)
    assert kinds.count("mispaired") == (M if M > 1 else 0)


def test_clean_and_changed_inputs_are_scored_as_predicted(work: Path, study: dict[str, Robustness]) -> None:
    one = study["concat"]
    saved, _ = one.run.collect("test")
    by_hand = {s: float((p.probs.argmax(1) == p.labels).mean()) for s, p in saved.items()}
    assert one.clean is not None
    assert one.clean.values == pytest.approx(by_hand)
    assert one.differs == 0
    expected = {
        Condition("subset", ("audio",)): [absent(["video"])],
        Condition("noise", ("video",), 0.0, 2): [noisy(["video"], 0.0, draw) for draw in (0, 1)],
        Condition("noise", ("audio", "video"), -10.0, 2): [noisy(one.mods, -10.0, draw) for draw in (0, 1)],
        Condition("mispaired", ("audio",), draws=2): [mispaired(["audio"], draw) for draw in (0, 1)],
    }
    for condition, changes in expected.items():
        values = averaged([accuracy(work, "two-concat", change) for change in changes])
        result = one.results[condition]
        assert result.values == pytest.approx(values), condition
        drops = [by_hand[seed] - values[seed] for seed in values]
        assert result.drop.mean == pytest.approx(np.mean(drops))
        assert result.drop.sd == pytest.approx(np.std(drops, ddof=1))
        assert result.drop.low <= result.drop.mean <= result.drop.high


def test_a_masked_subset_is_a_data_set_without_the_others(work: Path, study: dict[str, Robustness]) -> None:
    features = feature_set(2, n=120, easy=0.8, absent=0.2)
    test = features.rows["test"]
    for m, kept in (("video", "audio"), ("audio", "video")):
        gone = feature_set(2, n=120, easy=0.8, absent=0.2)
        mask = gone.mask[m]
        assert mask is not None
        mask[test] = False
        write_prepared(work / "cache", gone, name=f"no-{m}", **SETTINGS)
        values = accuracy(work, "two-concat", None, dataset=f"no-{m}")
        assert study["concat"].results[Condition("subset", (kept,))].values == pytest.approx(values)
    some = {m: (mask if mask.ndim == 1 else mask.any(1))[test] for m, mask in features.mask.items() if mask is not None}
    for m, present in some.items():
        assert study["concat"].empty[Condition("subset", (m,))] == int((~present).sum()) > 0


@pytest.mark.parametrize("target", [("audio",), ("audio", "video")])
def test_relative_retained_and_effective_robustness(study: dict[str, Robustness], target: tuple[str, ...]) -> None:
    x = [0.0, 1.0, 10**0.5]

    def area(one: Robustness, seed: int) -> tuple[float, float]:
        assert one.clean is not None
        levels = [one.results[Condition("noise", target, snr, 2)].values[seed] for snr in (0.0, -10.0)]
        clean = one.clean.values[seed]
        return float(np.trapezoid([clean, *levels], x) / x[-1]), clean

    one, base = study["concat"], study["late-fusion"]
    curve = one.curves[target]
    areas, basic = [area(one, s) for s in (1, 2)], [area(base, s) for s in (1, 2)]
    assert curve.relative.mean == pytest.approx(np.mean([a for a, _ in areas]))
    assert curve.retained.mean == pytest.approx(np.mean([a for a, _ in areas]) / np.mean([c for _, c in areas]))
    beyond = [a - (b + c - d) for (a, c), (b, d) in zip(areas, basic, strict=True)]  # predicted: b shifted by c - d
    assert curve.effective is not None
    assert curve.effective.mean == pytest.approx(np.mean(beyond), abs=1e-12)
    assert curve.effective.sd == pytest.approx(np.std(beyond, ddof=1), abs=1e-12)
    own = base.curves[target].effective
    assert own is not None
    assert (own.mean, own.low, own.high) == (0, 0, 0)
    assert {each.baseline for each in study.values()} == {"late-fusion"}


def test_one_modality_has_nothing_to_remove_or_to_mispair(study: dict[str, Robustness]) -> None:
    one = study["unimodal:audio"]
    assert one.mods == ("audio",)
    assert {condition.kind for condition in one.results} == {"noise"}
    made = sheets(list(study.values()))
    titles = [sheet.title.partition("accuracy with ")[2] for sheet in made]
    assert titles == [
        "modalities absent (masked)",
        "noise on audio",
        "noise on video",
        "noise on all modalities",
        "modalities mis-paired",
    ]
    subset = next(row for row in made[0].rows if row[0].text == "unimodal:audio")
    assert subset[2] == subset[list(made[0].heads).index("audio")]
    assert subset[list(made[0].heads).index("video")].text == "–"
    assert "unimodal:audio" not in [row[0].text for row in (*made[2].rows, *made[4].rows)]
    assert any("nothing to remove" in note and "unimodal:audio" in note for note in made[0].notes)
    (alone,) = sheets([one])
    assert alone.title.endswith("noise on audio")
    assert any("nothing to remove" in note for note in alone.notes)


def test_without_a_baseline_there_is_no_effective_robustness(work: Path) -> None:
    (one,) = robustness([run_of(work, "two-unimodal-audio")], work / "cache", asked=SHORT)
    assert one.curves[("audio",)].effective is None
    assert any("needs a measured baseline" in note for note in sheets([one])[0].notes)
    runs = [run_of(work, f"two-{name}") for name in ("concat", "late-fusion")]
    asked = Asked(snr=(0.0,), draws=1, baseline="concat")
    found = robustness(runs, work / "cache", asked=asked)
    assert {each.baseline for each in found} == {"concat"}
    with pytest.raises(UsageError, match="conkat"):
        robustness(runs, work / "cache", asked=replace(asked, baseline="conkat"))


@pytest.mark.parametrize("way", ABSENT)
def test_each_convention_is_the_one_asked_for(work: Path, way: str) -> None:
    asked = Asked(way=way, snr=(0.0,), draws=2)  # type: ignore[arg-type]
    (one,) = robustness([run_of(work, "two-concat")], work / "cache", asked=asked)
    (condition,) = [c for c in one.results if c.kind == "subset" and c.mods == ("video",)]
    assert condition.draws == (2 if way == "resampled" else 1)
    values = [accuracy(work, "two-concat", absent(["audio"], way, draw)) for draw in range(condition.draws)]  # type: ignore[arg-type]
    assert one.results[condition].values == pytest.approx(averaged(values))
    assert way in sheets([one])[0].title


def test_a_transductive_method_sees_the_changes_in_its_graph(work: Path) -> None:
    run = run_of(work, "whole-bmlmi")
    opened = open_run(run.folder, work / "cache")
    clean, noise = fresh(opened, "val")[1], fresh(opened, "test", noisy(["audio"], -10.0))[1]
    assert np.abs(noise.probs - fresh(opened, "test")[1].probs).max() > 0.01
    assert np.array_equal(fresh(opened, "val")[1].probs, clean.probs)  # nothing of the change is left
    masked = robustness([run], work / "cache", asked=SHORT)[0]
    assert {c.kind for c in masked.refused} == {"subset"}
    assert len(masked.refused) == 2
    assert any("graph=snf" in note for note in sheets([masked])[0].notes)
    meant = robustness([run], work / "cache", asked=replace(SHORT, way="mean"))[0]
    assert not meant.refused
    assert meant.clean is not None
    assert any(result.values != meant.clean.values for result in meant.results.values())
    assert meant.clean.value.sd is None
    assert meant.clean.value.over == "samples"
    assert any("one seed" in note for note in sheets([meant])[0].notes)


def test_one_class_and_a_modality_that_nobody_has(work: Path) -> None:
    features = feature_set(2, n=120, easy=0.8, absent=0.2)
    test, mask = features.rows["test"], features.mask["video"]
    assert mask is not None
    features.y[test], mask[test] = 0, False
    write_prepared(work / "cache", features, name="odd", **SETTINGS)
    run = run_of(work, "two-concat")
    opened = open_run(run.folder, work / "cache", "odd")
    for metric in ("accuracy", "macro_f1", "map"):
        made = stressed(run, opened, "test", replace(SHORT, metric=metric), {})
        assert all(np.isfinite(list(each.values.values())).all() for each in (made.clean, *made.changed.values()))
        assert made.changed[Condition("noise", ("video",), 0.0, 2)].values == pytest.approx(made.clean.values)
        assert made.refused == {Condition("mispaired", ("video",), draws=2): "fewer than two samples have video"}
        assert made.empty[Condition("subset", ("video",))] == 40
    assert made.clean.values == {1: 1.0, 2: 1.0}  # the average precision of the only class
    with pytest.raises(CacheError, match="other samples"):
        stressed(run, opened, "test", SHORT, run.collect("test")[0])


def test_broken_weights_and_lost_features_are_said(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "runs", tmp_path / "runs")
    run = read_run(next((tmp_path / "runs").glob("two-concat-????????")))
    path = run.folder / "seed-2" / "model.safetensors"
    weights_ = load_file(path)
    name = next(key for key in sorted(weights_) if key.startswith("model/") and weights_[key].ndim > 1)
    save_file(weights_ | {name: torch.full_like(weights_[name], torch.nan)}, path)
    (one,) = robustness([run], work / "cache", asked=SHORT)
    assert one.seeds == (1,)
    assert "not finite" in one.flaws[2]
    assert any("seed 2 is left out" in note for note in sheets([one])[0].notes)
    (lost,) = robustness([run], tmp_path / "nowhere", asked=SHORT)
    assert lost.problem
    assert not lost.results
    assert any("not measured" in note for note in sheets([lost])[0].notes)
    json.dumps(document([one, lost]), allow_nan=False)
    (never,) = robustness([read_run(write_run(tmp_path, "arl", {"audio": 1.0}, seeds=()))], work / "cache")
    assert "no seed has finished" in never.problem


def test_impossible_requests_are_refused() -> None:
    for wrong in ({"metric": "nll"}, {"metric": "acuracy"}, {"snr": ()}, {"snr": (float("nan"),)}, {"draws": 0}):
        with pytest.raises(UsageError):
            check(replace(Asked(), **wrong))
    with pytest.raises(UsageError, match="zeroes"):
        check(Asked(way="zeroes"))  # type: ignore[arg-type]
    assert check(Asked(snr=(0, 10, 0))).snr == (10.0, 0.0)


def test_command(work: Path, study: dict[str, Robustness]) -> None:
    place = ("--runs", str(work / "runs"), "--cache", str(work / "cache"))
    runs = [study[label].run.name for label in ("concat", "late-fusion")]
    options = ("--snr", "0,-10", "--draws", "2")
    found = json.loads(invoke("report", "robustness", *runs, *place, *options, "-f", "json").stdout)
    by_label = {each["label"]: each for each in found["runs"]}
    values = {(c["kind"], tuple(c["modalities"]), c["snr_db"]): c["values"] for c in by_label["concat"]["conditions"]}
    for condition, result in study["concat"].results.items():
        kept = {int(seed): value for seed, value in values[condition.kind, condition.mods, condition.snr].items()}
        assert kept == pytest.approx(result.values)
    assert (found["metric"], found["absent"], found["snr"], found["draws"]) == ("accuracy", "masked", [0.0, -10.0], 2)
    rows = lines(list(study.values()))
    assert {len(row) for row in rows} == {len(rows[0])}
    shown = invoke("report", "robustness", *runs, *place, *options, "--metric", "macro-f1").stdout
    assert "macro-F1 with modalities absent (masked)" in shown
    with pytest.raises(UsageError, match="no list of numbers"):
        invoke("report", "robustness", *runs, *place, "--snr", "loud")


def test_effective_robustness_says_on_which_seeds_it_rests(work: Path, tmp_path: Path) -> None:
    runs = [run_of(work, "two-late-fusion"), run_of(work, "two-concat")]
    shutil.copytree(runs[1].folder, tmp_path / runs[1].folder.name)
    cut = tmp_path / runs[1].folder.name
    seeds = sorted(cut.glob("seed-*"))
    shutil.rmtree(seeds[0])
    base = robustness(
        [run_of(work, "two-concat"), replace(read_run(cut), facts=runs[0].facts)], work / "cache", asked=SHORT
    )
    shown = "".join(note for sheet in sheets(base) for note in sheet.notes)
    assert f"Only on the seeds of both: concat n = {len(seeds) - 1}." in shown
    assert "Only on the seeds of both" not in "".join(
        n for s in sheets(robustness(runs, work / "cache", asked=SHORT)) for n in s.notes
    )


def test_lost_weights_are_said(work: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lost"
    shutil.copytree(run_of(work, "two-concat").folder, folder)
    next(folder.glob("seed-*/model.safetensors")).unlink()
    (found,) = robustness([read_run(folder)], work / "cache", asked=SHORT)
    assert found.problem.startswith("its weights cannot be read")
