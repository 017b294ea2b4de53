"""What each kind of picture draws equals the data, and too little is refused."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mmbal_cli.errors import CacheError, UsageError
from mmbal_cli.report.metrics import metrics
from mmbal_cli.report.plots import (
    Options,
    bars,
    draw,
    dynamics,
    embedding,
    pareto,
    placing,
    ranks,
    reliability,
    render,
    series,
)
from mmbal_cli.report.plots.study import gather
from mmbal_cli.report.plots.style import canvas, look
from mmbal_cli.report.runs import Run, read_run
from tests.kit.features import feature_set
from tests.kit.plots import lines, only, read, some, texts, write_recorded_study, write_records
from tests.kit.prepared import write_prepared
from tests.kit.runs import write_run
from tests.kit.trained import train


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recorded_study(tmp_path_factory.mktemp("plots"))


# ------------------------------------------------------------------------------------------------------ curves


def test_curves_are_the_means_of_the_records_with_a_t_interval(study: Path) -> None:
    runs = some(study, ("concat", "arl"))
    figure = only(draw("curves", runs)).figure
    drawn = [points for points in lines(figure) if len(points) > 2]
    for run in runs:
        records = [result.records()[0] for result in run.seeds]
        values = np.array([[row["val/accuracy"] for row in own] for own in records])
        assert any(np.allclose(points[:, 1], values.mean(axis=0)[:4]) for points in drawn if len(points) == 4)
        assert any(np.allclose(points[:, 1], values.mean(axis=0)[4:]) for points in drawn if len(points) == 8)
        bands = [band.get_paths()[0].vertices for band in figure.axes[0].collections]
        low, high = stats.t.interval(0.95, 4, values.mean(axis=0), stats.sem(values, axis=0))
        for x, one, other in zip(range(1, 13), low, high, strict=True):
            assert any({(x, round(one, 9)), (x, round(other, 9))} <= {(a, round(b, 9)) for a, b in v} for v in bands)


def test_selected_epochs_lie_on_the_curve(study: Path) -> None:
    run = next(run for run in read(study) if run.facts.label == "concat")  # selects 11, 12, 13, 14, 15 of 12
    kept = next(points for points in lines(only(draw("curves", [run])).figure) if list(points[:, 0]) == [11, 12])
    means = np.mean([[row["val/accuracy"] for row in result.records()[0]] for result in run.seeds], axis=0)
    assert kept[:, 1] == pytest.approx(means[[10, 11]])


def test_a_null_breaks_a_line_and_an_epoch_without_a_probe_does_not(study: Path) -> None:
    entrant = next(e for e in gather(read(study), "test").groups[0].entrants if e.label == "concat")
    found = series.recorded(entrant)
    null, probed = found.series("val/accuracy/audio"), found.series("grad/audio")
    assert null is not None
    assert probed is not None
    assert np.isnan(null.mean[6])
    assert np.isfinite(null.mean).sum() == 11
    assert list(probed.epochs) == [1, 4, 7, 10]
    assert np.isfinite(probed.mean).all()
    assert [(phase.name, phase.first, phase.last) for phase in found.phases] == [("warm", 1, 4), ("train", 5, 12)]
    assert found.series("grad/nothing") is None


def test_bands_by_hand() -> None:
    values = np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan], [8.0, 4.0, 5.0]])
    found = series.Series(np.arange(3), values, ())
    assert found.mean == pytest.approx([4.0, 3.0, 5.0])
    low, high = found.band("range")
    assert (low[0], high[0], low[1], high[1]) == (1, 8, 2, 4)
    assert np.isnan([low[2], high[2]]).all()
    low, high = found.band("t")
    for i, own in enumerate(([1, 3, 8], [2, 4])):
        expected = stats.t.interval(0.95, len(own) - 1, np.mean(own), stats.sem(own))
        assert (low[i], high[i]) == pytest.approx(expected)
    assert np.isnan([low[2], high[2]]).all()


def test_an_unknown_column_names_the_nearest(study: Path) -> None:
    with pytest.raises(UsageError, match=r"val/acuracy.*Did you mean 'val/accuracy'"):
        draw("curves", read(study), Options(column="val/acuracy"))


def test_many_curves_stand_apart_and_few_lie_over_each_other(study: Path, tmp_path: Path) -> None:
    few = some(study, ("concat", "arl"))
    assert len(only(draw("curves", few)).figure.axes) == 1
    assert len(only(draw("curves", read(study))).figure.axes) >= 7


def test_missing_records_are_a_note(tmp_path: Path) -> None:
    write_records(write_run(tmp_path, "arl", {"audio": 1.0, "video": 0.5}))
    folder = write_run(tmp_path, "concat", {"audio": 1.0, "video": 0.5})
    for path in folder.glob("seed-*/records.jsonl"):
        path.unlink()
    caption = only(draw("curves", read(tmp_path))).caption
    assert "Not recorded: concat" in caption
    assert "concat seed 1 has no readable records" in caption


# ---------------------------------------------------------------------------------------------------- dynamics


def test_dynamics_have_a_row_a_method_and_common_axes(study: Path) -> None:
    first, coefficients = draw("dynamics", read(study))
    rows = len(read(study))
    grid = np.array(first.figure.axes).reshape(rows, 4)
    for column in grid.T:
        assert len({axes.get_ylim() for axes in column if axes.axison}) == 1
    label = next(i for i, axes in enumerate(grid[:, 0]) if "concat" in [t.get_text() for t in axes.texts])
    run = next(run for run in read(study) if run.facts.label == "concat")
    means = np.mean([[row["val/accuracy/audio"] or np.nan for row in r.records()[0]] for r in run.seeds], axis=0)
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in grid[label, 0].get_lines()])
    assert all(np.isclose(drawn, value).any() for value in means[np.isfinite(means)])
    assert {"k", "tau", "ogm-ge", "whole model", "audio"} <= set(texts(coefficients))


def test_dynamics_with_old_records_show_what_there_is(tmp_path: Path) -> None:
    write_run(tmp_path, "concat", {"audio": 1.0, "video": 0.5})
    picture = only(draw("dynamics", read(tmp_path)))
    assert len(picture.figure.axes) == 1


def test_an_axis_is_logarithmic_where_values_span_it() -> None:
    def limits(*values: float) -> tuple[float, float, bool]:
        line = series.Series(np.arange(len(values)), np.array([values]), ())
        return dynamics._limits([dynamics.Panel("", {"audio": line}, log=True)])

    assert limits(0.1, 1.0, 100.0)[2]
    assert not limits(1.0, 2.0)[2]
    assert not limits(-1.0, 100.0)[2]
    low, high, _ = limits(3.0, 3.0)
    assert low < 3 < high


# -------------------------------------------------------------------------------------------------------- bars


def test_bars_are_the_means_and_whiskers_the_intervals(study: Path) -> None:
    group = gather(read(study), "test").groups[0]
    entrants = [each for each in group.entrants if each.good]
    panels = bars.measured(entrants, group, "accuracy")
    assert [panel.modality for panel in panels] == ["", "audio", "video"]
    axes = only(draw("bars", read(study))).figure.axes
    for panel, own in zip(panels, axes, strict=True):
        widths = [patch.get_width() for patch in own.patches]
        for entrant, value, width in zip(entrants, panel.values, widths, strict=True):
            if panel.modality and panel.modality not in entrant.modalities:
                assert value is None
                continue
            assert value is not None
            assert value.low is not None
            assert value.high is not None
            mean = np.mean(list(entrant.values("accuracy", panel.modality).values()))
            assert width == pytest.approx(mean)
            assert value.low < mean < value.high
            assert any(np.allclose(line.get_xdata(), [value.low, value.high]) for line in own.get_lines())
    alone = next(e for e in entrants if e.label == "unimodal:audio")
    expected = np.mean([metrics(p.probs, p.labels, ("a", "b", "c"))["accuracy"] for p in alone.good.values()])
    assert panels[0].lines["audio"] == pytest.approx(expected)
    assert set(panels[1].lines) == {"audio"}


@pytest.mark.parametrize("metric", ["macro_f1", "map", "nll", "ece"])
def test_bars_of_other_metrics(study: Path, metric: str) -> None:
    picture = only(draw("bars", read(study)[:2], Options(metric=metric)))
    assert len(picture.figure.axes) == 3


# ------------------------------------------------------------------------------------------------------ pareto


@pytest.mark.parametrize("down", [False, True])
def test_the_front_by_brute_force(down: bool) -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 30):
        points = rng.integers(0, 6, size=(n, 2)).astype(float)
        cloud = pareto.Cloud({str(i): tuple(p) for i, p in enumerate(points)}, "x", "y", down)
        signed = points * [1, 1 if down else -1]
        expected = [not any((q <= p).all() and (q < p).any() for q in signed) for p in signed]
        assert list(pareto.front(cloud)) == expected


def test_cost_and_imbalance_by_hand(study: Path) -> None:
    group = gather(read(study), "test").groups[0]
    cost, unit = pareto.costs(group.entrants)
    assert unit == "training time (× concat)"
    assert set(cost.values()) == {1.0}
    uneven, meaning = pareto.imbalance(group.entrants, group.alone())
    by = {each.label: each for each in group.entrants}
    gaps = [by[f"unimodal:{m}"].mean("accuracy") - by["concat"].mean("accuracy", m) for m in ("audio", "video")]  # type: ignore[operator]
    assert uneven["concat"] == pytest.approx(100 * (max(gaps) - min(gaps)))
    assert "unimodal gap" in meaning
    assert not any(label.startswith("unimodal:") for label in uneven)
    without = [each for each in group.entrants if not each.unimodal]
    uneven, meaning = pareto.imbalance(without, {})
    inside = [by["concat"].mean("accuracy", m) for m in ("audio", "video")]
    assert uneven["concat"] == pytest.approx(100 * abs(inside[0] - inside[1]))  # type: ignore[operator]
    assert "no unimodal models" in meaning


def test_names_in_a_cloud_do_not_overlap(study: Path) -> None:
    figure = only(draw("pareto", read(study))).figure
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for axes in figure.axes:
        boxes = [text.get_window_extent(renderer) for text in axes.texts]
        assert len(boxes) >= 4
        overlaps = [one.overlaps(other) for one, other in itertools.combinations(boxes, 2)]
        assert not any(overlaps)


def test_every_point_of_a_crowd_is_named() -> None:
    with look():
        axes = canvas(3.0, 2.0).add_subplot()
        points = [(0.5 + 0.001 * i, 0.5) for i in range(40)]
        axes.plot(*zip(*points, strict=True), "o")
        placing.around(axes, points, [f"a rather long name {i}" for i in range(40)], np.array(points))
        placing.around(axes, [(0.51, 0.5)], ["wider than all of the axes " * 5])
    assert len({text.get_text() for text in axes.texts}) == 41


def test_names_at_ends_stand_apart_in_order() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        wanted = rng.uniform(0, 100, size=rng.integers(1, 12))
        placed = placing.apart(wanted, 8.0)
        order = np.argsort(wanted, kind="stable")
        assert (np.diff(placed[order]) >= 8 - 1e-9).all()
        if len(wanted) == 1 or np.diff(np.sort(wanted)).min() >= 8:
            assert placed == pytest.approx(wanted)


# ----------------------------------------------------------------------------------------- critical difference


def test_ranks_by_scipy_with_ties() -> None:
    rng = np.random.default_rng(1)
    scores = {f"set {b}": {m: float(v) for m, v in zip("abcde", rng.integers(0, 4, 5), strict=True)} for b in range(9)}
    found = ranks.ranking(scores)
    table = np.array([[scores[b][m] for m in "abcde"] for b in scores])
    expected = np.array([stats.rankdata(-row) for row in table]).mean(axis=0)
    assert dict(zip(found.labels, found.ranks, strict=True)) == pytest.approx(dict(zip("abcde", expected, strict=True)))
    assert list(found.ranks) == sorted(found.ranks)
    assert (found.statistic, found.p) == pytest.approx(tuple(stats.friedmanchisquare(*-table.T)))
    turned = ranks.ranking(scores, larger_is_better=False)
    expected = np.array([stats.rankdata(row) for row in table]).mean(axis=0)
    assert dict(zip(turned.labels, turned.ranks, strict=True)) == pytest.approx(
        dict(zip("abcde", expected, strict=True))
    )


@pytest.mark.parametrize(("k", "q"), [(3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_is_that_of_the_published_table(k: int, q: float) -> None:
    scores = {f"{b}": {f"m{i}": float(i + b % 2) for i in range(k)} for b in range(14)}
    assert ranks.ranking(scores).critical == pytest.approx(q * np.sqrt(k * (k + 1) / (6 * 14)), abs=2e-3)


def test_bars_join_the_largest_sets_that_cannot_be_told_apart() -> None:
    rng = np.random.default_rng(2)
    for _ in range(40):
        mean = tuple(np.sort(rng.uniform(1, 8, 8)))
        found = ranks.Ranking(tuple("abcdefgh"), mean, ("x",), 2.0, 9.0, 0.001)
        alike = [(i, j) for i in range(8) for j in range(i + 1, 8) if mean[j] - mean[i] < 2.0]
        largest = [(i, j) for i, j in alike if not any(a <= i and j <= b and (a, b) != (i, j) for a, b in alike)]
        assert found.cliques() == largest
    assert ranks.Ranking(("a", "b", "c"), (1.0, 2.0, 3.0), ("x",), 0.1, 1.0, 0.4).cliques() == [(0, 2)]


def test_methods_that_are_all_alike_are_joined() -> None:
    found = ranks.ranking({b: {"x": 0.5, "y": 0.5, "z": 0.5} for b in "ab"})
    assert found.ranks == (2.0, 2.0, 2.0)
    assert found.p == 1.0
    assert found.cliques() == [(0, 2)]


def write_sets(root: Path, sets: Mapping[str, Sequence[str]]) -> None:
    rng = np.random.default_rng(0)
    for dataset, labels in sets.items():
        for label in labels:
            strengths = {"audio": 0.5 + float(rng.random()), "video": 0.5}
            write_run(root, label, strengths, dataset=dataset, fingerprint=dataset, seeds=(1, 2))


def test_several_data_sets_are_the_blocks(tmp_path: Path) -> None:
    write_sets(tmp_path, {"one": ("concat", "arl", "lfm-h", "ogm-ge"), "two": ("concat", "arl", "lfm-h")})
    picture = only(draw("critical-difference", read(tmp_path)))
    assert picture.file == "critical-difference"
    assert "over 2 data sets (one, two)" in picture.caption
    assert "Not on every data set, left out: ogm-ge" in picture.caption
    groups = gather(read(tmp_path), "test").groups
    scores = {group.facts.dataset: {e.label: e.mean("accuracy") for e in group.entrants} for group in groups}
    shared = ("concat", "arl", "lfm-h")
    expected = np.mean([stats.rankdata([-scores[s][m] for m in shared]) for s in scores], axis=0)  # type: ignore[operator]
    assert {f"{rank:.2f}  {m}" for m, rank in zip(shared, expected, strict=True)} & set(texts(picture))


def test_seeds_of_one_data_set_are_said_to_be_seeds(study: Path) -> None:
    caption = only(draw("critical-difference", read(study))).caption
    assert "5 common seeds (1, 2, 3, 4, 5)" in caption
    assert "One data set: the ranks speak of training again on it" in caption
    assert "p " in caption


@pytest.mark.parametrize("labels", [("concat", "arl"), ("concat",)])
def test_too_few_methods_for_ranks(tmp_path: Path, labels: Sequence[str]) -> None:
    write_sets(tmp_path, {"one": labels, "two": labels})
    with pytest.raises(UsageError, match=r"Too little for ranks.*3 methods"):
        draw("critical-difference", read(tmp_path))


def test_one_seed_is_too_little_for_ranks(tmp_path: Path) -> None:
    for label in ("concat", "arl", "lfm-h"):
        write_run(tmp_path, label, {"audio": 1.0, "video": 0.5}, seeds=(1,))
    with pytest.raises(UsageError, match="3 methods, 1 common seeds"):
        draw("critical-difference", read(tmp_path))


# ------------------------------------------------------------------------------------------------- reliability


def test_reliability_by_brute_force(study: Path) -> None:
    entrant = next(e for e in gather(read(study), "test").groups[0].entrants if e.label == "concat")
    found = reliability.diagram(entrant, "", 10)
    assert found is not None
    confidences, accuracies = [], []
    for each in entrant.good.values():
        top, right = each.probs.max(axis=1), each.probs.argmax(axis=1) == each.labels
        bins = np.array_split(np.argsort(top, kind="stable"), 10)
        confidences.append([top[own].mean() for own in bins])
        accuracies.append([right[own].mean() for own in bins])
    assert found.confidence == pytest.approx(np.mean(confidences, axis=0))
    assert found.accuracy == pytest.approx(np.mean(accuracies, axis=0))
    assert found.low == pytest.approx(np.min(accuracies, axis=0))
    assert found.share.sum() == pytest.approx(1)
    ece = [metrics(e.probs, e.labels, ("a", "b", "c"))["ece"] for e in entrant.good.values()]
    assert found.ece.mean == pytest.approx(np.mean(ece))
    figure = only(draw("reliability", [entrant.run], Options(bins=10))).figure
    assert any(len(p) == 10 and np.allclose(p, np.c_[found.confidence, found.accuracy]) for p in lines(figure))


def test_reliability_of_constant_and_one_class_predictions(tmp_path: Path) -> None:
    write_run(tmp_path, "concat", {"audio": 0.0}, seeds=(1,), samples=3, classes=("only",))
    picture = only(draw("reliability", read(tmp_path)))
    assert "ECE 0.0" in "\n".join(texts(picture))


# --------------------------------------------------------------------------------------------------- embedding


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of two modalities, some samples without one."""
    work = tmp_path_factory.mktemp("embedding")
    write_prepared(work / "cache", feature_set(2, n=90, easy=1.0, absent=0.1), epochs=3, width=8, batch=16)
    train(work, "concat")
    return work


def test_an_embedding_is_the_projection_of_adapter_outputs(trained: Path) -> None:
    from mmbal_cli.engine.opened import open_run

    run = only_run(trained)
    picture = only(draw("embedding", [run], Options(cache=trained / "cache")))
    opened = open_run(run.folder, trained / "cache")
    saved = run.seeds[0].predictions("test")
    order = np.argsort(np.array(opened.ids("test"), dtype=object), kind="stable")
    h = np.hstack([value[0].double().numpy()[order] for value in opened.features("test").values()])
    u, s, _ = np.linalg.svd(h - h.mean(axis=0), full_matrices=False)
    points = np.concatenate([np.asarray(c.get_offsets()) for c in picture.figure.axes[-1].collections])
    expected = np.concatenate([(u * s)[saved.labels == c, :2] for c in range(len(run.facts.data.classes))])
    assert np.abs(points) == pytest.approx(np.abs(expected), abs=1e-5)
    assert f"PC 1 ({100 * s[0] ** 2 / (s**2).sum():.0f}%)" in texts(picture)
    shown = [len(np.concatenate([c.get_offsets() for c in axes.collections])) for axes in picture.figure.axes]
    assert shown == [*(int(saved.present[m].sum()) for m in saved.logits), len(saved.labels)]
    assert set(run.facts.data.classes) <= set(texts(picture))


def only_run(work: Path) -> Run:
    (run,) = read(work / "runs")
    return run


@pytest.mark.parametrize("projection", ["pca", "tsne"])
def test_an_embedding_repeats(trained: Path, projection: str) -> None:
    options = Options(cache=trained / "cache", projection=projection)
    one, two = (render(only(draw("embedding", [only_run(trained)], options)), "svg") for _ in range(2))
    assert one == two


def test_an_embedding_needs_the_cache(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="needs the prepared features"):
        draw("embedding", [only_run(trained)], Options(cache=tmp_path / "none"))
    with pytest.raises(UsageError, match="Unknown projection"):
        draw("embedding", [only_run(trained)], Options(cache=trained / "cache", projection="umap"))


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (5, 1), (6, 3)])
def test_projections_of_little(shape: tuple[int, int]) -> None:
    for h in (np.random.default_rng(0).normal(size=shape), np.ones(shape)):
        for projection in ("pca", "tsne"):
            points, shares = embedding.project(h, projection)
            assert points.shape == (shape[0], 2)
            assert np.isfinite(points).all()
            assert not shares[0] > 1


def test_many_classes_get_a_scale() -> None:
    rng = np.random.default_rng(0)
    cloud = embedding.Cloud(rng.normal(size=(60, 2)), np.arange(60) % 30, (0.5, 0.2))
    found = [embedding.Embedded("concat", 1, {"audio": cloud})]
    figure = embedding.figure(found, ["audio"], [f"class {i}" for i in range(30)], Options())
    assert len(figure.axes) == 2
    assert "30 classes" in figure.axes[1].get_xlabel()


def test_a_label_that_only_looks_like_a_unimodal_model_is_a_row_like_others(tmp_path: Path) -> None:
    for label in ("unimodal:audio", "unimodal:audio-large", "concat"):
        write_run(tmp_path, label, {"audio": 1.0, "video": 0.5}, samples=30)
    runs = [read_run(folder) for folder in sorted(tmp_path.iterdir())]
    assert list(gather(runs, "test").groups[0].alone()) == ["audio"]
    assert len(draw("bars", runs)) == 1
