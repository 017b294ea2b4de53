"""Pictures of runs: what is drawn equals the data, bytes repeat, labels cannot break them, too little is refused."""

from __future__ import annotations

import io
import itertools
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

from mmbal_cli.cli.plot import FORMATS as OFFERED
from mmbal_cli.cli.plot import Kind, plot
from mmbal_cli.errors import CacheError, MmbalError, UsageError
from mmbal_cli.report.metrics import metrics
from mmbal_cli.report.plots import (
    FORMATS,
    KINDS,
    Options,
    Picture,
    bars,
    curves,
    draw,
    dynamics,
    embedding,
    pareto,
    placing,
    ranks,
    reliability,
    render,
    save,
    series,
    svg,
)
from mmbal_cli.report.plots.study import gather
from mmbal_cli.report.runs import Run, find_runs, read_run
from tests.kit.cli import ROOT, mmbal
from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared
from tests.kit.runs import write_run, write_study

SAVED = [kind for kind in KINDS if kind != "embedding"]
HOSTILE = (
    "$\\frac{1}{0}$",
    "_under",
    "a^b_c\\d",
    "x" * 150,
    "漢字 ☃",
    "tab\there\nnew\x1b[31mline",
    '50% & <b>"q"</b>',
    "",
)
FEW = ("concat", "ogm-ge", "arl")
SVG = "{http://www.w3.org/2000/svg}"


def write_records(folder: Path, mods: Sequence[str] = ("audio", "video"), epochs: int = 12, **extra: Any) -> None:
    """Records with all common columns; some are probed every third epoch only, one is null once."""
    for place in sorted(folder.glob("seed-*")):
        rng = np.random.default_rng([int(place.name[5:]), len(folder.name)])
        rows = []
        for epoch in range(1, epochs + 1):
            row: dict[str, Any] = {"epoch": epoch, "phase": "warm" if epoch <= 4 else "train"}
            row["val/accuracy"] = 0.4 + 0.03 * epoch + 0.02 * rng.normal()
            for m in mods:
                row[f"val/accuracy/{m}"] = None if epoch == 7 else 0.3 + 0.02 * epoch + 0.01 * rng.normal()
                if epoch % 3 == 1:
                    row |= {f"train/nll/{m}": 1 / epoch, f"grad/{m}": float(rng.random()), f"discrepancy/{m}": 1.5}
            rows.append(row | extra)
        (place / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study of the kit, with records of all columns."""
    root = tmp_path_factory.mktemp("plots")
    for label, folder in write_study(root).items():
        mods = (label.partition(":")[2],) if ":" in label else ("audio", "video")
        write_records(folder, mods, **({"coef/k/audio": 0.5, "coef/tau": 2.0} if label == "ogm-ge" else {}))
    return root


def read(root: Path) -> list[Run]:
    return [read_run(folder) for folder in find_runs([], root)]


def some(root: Path, labels: Collection[str] = FEW) -> list[Run]:
    return [run for run in read(root) if run.facts.label in labels]


def only(pictures: list[Picture]) -> Picture:
    assert len(pictures) == 1
    return pictures[0]


def texts(picture: Picture) -> list[str]:
    root = ElementTree.fromstring(render(picture, "svg"))
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


def lines(figure: Figure) -> list[np.ndarray]:
    """Points of every solid or dashed data line of all axes, [n,2]."""
    return [np.asarray(line.get_xydata()) for axes in figure.axes for line in axes.get_lines()]


# ------------------------------------------------------------------------------------------- pictures of every kind


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("width", ["page", "column"])
def test_every_kind_is_a_png_of_its_size_and_an_svg_with_its_labels(study: Path, kind: str, width: str) -> None:
    wide, names = (7.0, {"unimodal:audio", "concat", "ogm-ge", "arl"}) if width == "page" else (3.4, set(FEW))
    pictures = draw(kind, some(study, names), Options(width=width))
    shown = [text for picture in pictures for text in texts(picture)]
    if kind == "critical-difference":
        shown = [text.partition("  ")[2] or text for text in shown] + [text.partition("  ")[0] for text in shown]
    assert names <= set(shown)
    for picture in pictures:
        image = Image.open(io.BytesIO(render(picture, "png", 100)))
        assert image.size == pytest.approx(picture.figure.get_size_inches() * 100, abs=1)
        assert image.size[0] <= wide * 100 + 1
        assert image.info["Description"] == picture.caption
        assert np.asarray(image.convert("L")).min() < 100
        assert "demo" in picture.caption
        assert "n = 5 seeds each" in picture.caption or kind == "critical-difference"


@pytest.mark.parametrize("kind", SAVED)
def test_the_same_runs_give_the_same_bytes(study: Path, kind: str) -> None:
    runs = some(study)
    made = [[render(p, format, 80) for p in draw(kind, runs) for format in FORMATS] for _ in range(2)]
    assert made[0] == made[1]
    assert not re.search(rb"20\d\d-\d\d-\d\dT|CreationDate", b"".join(made[0]))


def test_an_svg_stands_in_a_page_beside_others(study: Path) -> None:
    runs = some(study)
    pictures = [*draw("bars", runs), *draw("curves", runs), *draw("dynamics", runs)]
    page = ElementTree.fromstring(f"<div>{''.join(svg(picture) for picture in pictures)}</div>")
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', "".join(svg(picture) for picture in pictures))
    assert {one or other for one, other in used} <= set(ids)
    for picture, element in zip(pictures, page, strict=True):
        assert element.tag == f"{SVG}svg"
        assert element.get("aria-label") == picture.caption
        assert not svg(picture).startswith("<?xml")


def test_an_svg_names_itself_and_fonts_that_are_everywhere(study: Path) -> None:
    picture = only(draw("bars", read(study)))
    root = ElementTree.fromstring(render(picture, "svg"))
    assert [root.findtext(f"{SVG}title"), root.findtext(f"{SVG}desc")] == [picture.title, picture.caption]
    fonts = set(re.findall(r"font-family: ([^;\"]*)", render(picture, "svg").decode()))
    assert fonts == {"'DejaVu Sans', Verdana, Arial, Helvetica, sans-serif"}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs and a modality with labels that could break a figure, an SVG or a terminal."""
    root = tmp_path_factory.mktemp("hostile")
    for i, label in enumerate(HOSTILE):
        folder = write_run(root, label, {"audio": 1.5, "$m_1^2$ & <x>": 0.5 + 0.1 * i}, seeds=(1, 2), method=f"m{i}")
        write_records(folder, ("audio", "$m_1^2$ & <x>"), 2)
    return root


@pytest.mark.parametrize("kind", SAVED)
def test_hostile_labels_are_drawn_as_they_are(hostile: Path, kind: str, recwarn: pytest.WarningsRecorder) -> None:
    pictures = draw(kind, read(hostile), Options(bins=3))
    shown = "\n".join(text for picture in pictures for text in texts(picture))
    for text in (
        "$\\frac{1}{0}$",
        "_under",
        "a^b_c\\d",
        "漢字",
        "tab\\there\\nnew\\x1b[31mline",
        "(no name)",
        "xxx…xxx",
    ):
        assert text in shown
    ElementTree.fromstring(svg(pictures[0]))
    assert render(pictures[0], "png", 60).startswith(b"\x89PNG")
    assert render(pictures[0], "pdf").startswith(b"%PDF")
    assert [str(warning.message) for warning in recwarn if issubclass(warning.category, UserWarning)] == []


def test_legacy_runs_are_stamped_in_every_picture(tmp_path: Path) -> None:
    protocol = {"name": "legacy", "selection": "TEST accuracy"}
    for label, strength in (("concat", 1.0), ("arl", 1.2), ("lfm-h", 1.4)):
        write_records(write_run(tmp_path, label, {"audio": 1.0, "video": strength}, protocol=protocol))
    for kind in SAVED:
        shown = [text for picture in draw(kind, read(tmp_path)) for text in texts(picture)]
        for label in ("concat", "arl", "lfm-h"):
            found = [text for text in shown if label in text and "×" not in text]
            assert found, kind
            assert all("TEST" in text for text in found), kind


def test_fifty_runs_fit(tmp_path: Path) -> None:
    for i in range(50):
        write_run(tmp_path, f"method-{i:02d}", {"audio": 1 + i / 50, "video": 0.5}, seeds=(1, 2), samples=30)
    runs = read(tmp_path)
    for kind in ("curves", "bars", "pareto", "critical-difference"):
        shown = "\n".join(texts(only(draw(kind, runs))))
        assert all(f"method-{i:02d}" in shown for i in range(50)), kind
    pages = draw("dynamics", runs[:12])
    assert [picture.file for picture in pages] == ["dynamics-demo-part-1", "dynamics-demo-part-2"]
    shown = [text for picture in pages for text in texts(picture)]
    assert all(shown.count(run.facts.label) == 1 for run in runs[:12])


def test_groups_that_do_not_compare_get_a_picture_each(tmp_path: Path) -> None:
    for label in ("concat", "arl", "lfm-h"):
        write_run(tmp_path, label, {"audio": 1.0, "video": 0.5})
    write_run(tmp_path, "concat", {"audio": 1.0, "video": 0.5}, fingerprint="two")
    write_run(tmp_path, "concat", {"audio": 1.0, "video": 0.5}, dataset="other")
    pictures = draw("bars", read(tmp_path))
    assert [picture.file for picture in pictures] == ["bars-demo", "bars-demo-2", "bars-other"]
    assert pictures[1].caption.startswith("Not comparable with the first group of demo: data fingerprint")


def test_failed_and_single_seeds_are_said(tmp_path: Path) -> None:
    write_records(write_run(tmp_path, "concat", {"audio": 1.0, "video": 0.5}, seeds=(1,)))
    write_records(write_run(tmp_path, "arl", {"audio": 1.0, "video": 0.5}, seeds=(1, 2), failed={3: "loss"}))
    captions = {kind: draw(kind, read(tmp_path))[0].caption for kind in ("curves", "bars", "dynamics", "reliability")}
    assert all("arl seed 3" in text for text in captions.values())
    assert all("n = 2 seeds, but concat 1" in text for text in captions.values())
    assert "Runs with one seed have no band" in captions["curves"]
    assert "smallest to largest seed (too few seeds" in captions["curves"]
    assert "One seed: the interval says nothing about other seeds" in captions["bars"]
    alone = [run for run in read(tmp_path) if run.facts.label == "concat"]
    assert "One seed: no band." in draw("curves", alone)[0].caption


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
    mmbal("train", "-m", "concat", "-s", "2", "-j", "1", cwd=work)
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


# ------------------------------------------------------------------------------------------------ command line


def call(*args: str, code: int = 0) -> Any:
    app = typer.Typer()
    app.command("plot")(plot)
    result = CliRunner().invoke(app, list(args))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def test_kinds_and_formats_of_the_command_are_those_of_the_package() -> None:
    assert {kind.value for kind in Kind} == {*KINDS, "all"}
    assert OFFERED == FORMATS


def test_a_folder_of_pictures(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "pictures"
    result = call("--runs", str(study), "-k", "bars", "-k", "pareto", "-o", str(out))
    names = ["bars-demo.png", "bars-demo.svg", "pareto-demo.png", "pareto-demo.svg"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert result.stdout.split() == [str(out / name) for name in names]
    assert "n = 5 seeds each" in result.stderr


def test_a_file_decides_its_format(study: Path, tmp_path: Path) -> None:
    for suffix, head in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        call("--runs", str(study), "-k", "bars", "-o", str(tmp_path / f"one{suffix}"), "--dpi", "60")
        assert (tmp_path / f"one{suffix}").read_bytes().startswith(head)
    names = [run.name for run in some(study)]
    call(*names, "--runs", str(study), "-k", "dynamics", "-o", str(tmp_path / "two.svg"))
    assert [path.name for path in sorted(tmp_path.glob("two*"))] == ["two-1.svg", "two-2.svg"]


def test_all_says_what_could_not_be_drawn(study: Path, tmp_path: Path) -> None:
    names = [run.name for run in some(study)]
    options = (*names, "--runs", str(study), "--cache", str(tmp_path / "none"), "--dpi", "50")
    result = call(*options, "-k", "all", "-o", str(tmp_path / "all"), "-f", "png")
    assert "no embedding: An embedding needs the prepared features" in result.stderr
    kinds = {path.name.partition("-demo")[0] for path in (tmp_path / "all").iterdir()}
    assert kinds == set(SAVED)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-o", "x.jpg"), "no picture format"),
        (("-f", "gif"), "Unknown picture format 'gif'"),
        (("-f", ""), "Unknown picture format"),
        (("-k", "bars", "-k", "curves", "-o", "x.png"), "do not fit in one file"),
        (("-o", "/dev/null/x"), "cannot be written"),
        (("-o", "missing/x.png"), "cannot be written"),
        (("-m", "acuracy"), "Did you mean 'accuracy'"),
    ],
)
def test_refusals_before_any_work(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MmbalError, match=message):
        call("nothing-there", "--runs", str(study), *args)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_be_read_is_a_finding(study: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "arl", {"audio": 1.0, "video": 0.5})
    broken = write_run(tmp_path / "runs", "concat", {"audio": 1.0, "video": 0.5})
    (broken / "seed-1" / "predictions-test.safetensors").write_bytes(b"torn")
    result = call("--runs", str(tmp_path / "runs"), "-o", str(tmp_path / "p.svg"), code=1)
    assert f"left out: {broken.name}" in result.stderr
    assert "arl" in (tmp_path / "p.svg").read_text()


def test_saving_by_suffix(study: Path, tmp_path: Path) -> None:
    picture = only(draw("bars", read(study)))
    for format in FORMATS:
        save(picture, tmp_path / f"p.{format}", 60)
        assert (tmp_path / f"p.{format}").read_bytes() == render(picture, format, 60)


def test_the_command_loads_matplotlib_only_when_it_draws() -> None:
    code = "import sys, mmbal_cli.cli.plot; sys.exit(bool({'matplotlib', 'numpy', 'scipy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_no_run_has_a_finished_seed(tmp_path: Path) -> None:
    write_run(tmp_path, "concat", {"audio": 1.0}, seeds=(), failed={1: "loss"})
    for kind in SAVED:
        with pytest.raises(MmbalError):
            draw(kind, read(tmp_path))


def test_curves_of_a_label_that_appears_twice(tmp_path: Path) -> None:
    for rate in (0.1, 0.2):
        folder = write_run(tmp_path, "arl", {"audio": 1.0, "video": 0.5}, config={"train": {"lr": rate}})
        write_records(folder, epochs=3)
    assert {"arl [lr=0.1]", "arl [lr=0.2]"} <= set(texts(only(draw("curves", read(tmp_path)))))
    assert curves.OVERLAID >= 2
