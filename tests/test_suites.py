"""Suites as recipes: what is refused and where, how rows become runs, which candidate wins; the shipped ones."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest
import yaml

from mmbal_cli.cli.train import TrainDisplay, open_data, run_planned
from mmbal_cli.engine.plan import Data
from mmbal_cli.engine.runner import Job
from mmbal_cli.engine.runs import RunFolder
from mmbal_cli.engine.suite import Candidate, Row, candidates, choose, plan_suite, state_of
from mmbal_cli.errors import CacheError, RecipeError, UsageError
from mmbal_cli.methods import METHODS, known, method_class, with_every_method
from mmbal_cli.recipe import SuiteRecipe, recipe_folder, recipe_names, suite_recipe
from mmbal_cli.report.literature import ledger
from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared

STUDIES = ["ablation-arl", "ablation-bmlmi", "ablation-bmlr", "ablation-iibalance", "ablation-lfm", "founding"]
SHIPPED = sorted([*STUDIES, "benchmark", "poster", "quick"])
POSTER = (
    "Unimodal Concat Affine Channel ML-LSTM Sum Weight ETMC MSES G-Blend OGM Greedy DOMFN MSLR PMR AGM MLA ReconBoost "
    "MMPareto"
)
REFERENCES = ["unimodal", "unimodal-ensemble", "concat", "late-fusion", "heads"]


def data_of(folder: Path, M: int = 2, **settings: object) -> Data:
    write_prepared(folder, feature_set(M, n=36, easy=1.0, absent=0.1), **settings)
    return open_data(folder, "tiny")


def suite(folder: Path, rows: str) -> SuiteRecipe:
    path = folder / "own.yaml"
    path.write_text(f"name: own\nrows:\n{rows}")
    return suite_recipe(str(path))


# ------------------------------------------------------------------------------------------- recipes


def test_a_row_is_a_name_or_a_table(tmp_path: Path) -> None:
    rows = suite(
        tmp_path, "  - concat\n  - {method: arl, knobs: {modulate: off}, tune: {T: [2, 4], gamma: [1, 4]}}\n"
    ).rows
    assert (rows[0].method, rows[0].candidates()) == ("concat", [])
    assert rows[1].knobs == {"modulate": "off"}  # not YAML's false
    grid = [{"T": T, "gamma": gamma} for T, gamma in itertools.product("24", "14")]
    assert rows[1].candidates() == grid


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  - {method: arl, knob: {T: 1}}\n", "own.yaml:3: unknown key 'rows.0.knob'. Did you mean 'knobs'?"),
        ("  - concat\nnotes: x\n", "own.yaml:4: unknown key 'notes'. Did you mean 'note'?"),
        ("  - concat\n  - {label: x}\n", "own.yaml:4: 'rows.1.method': Field required"),
        ("  - {method: 'arl,concat'}\n", "own.yaml:3: 'rows.0.method'"),
        ("  - {method: arl, tune: {gamma: [1]}}\n", "own.yaml:3: 'rows.0.tune.gamma'"),
        ("  - {method: arl, tune: {gamma: 1}}\n", "own.yaml:3: 'rows.0.tune.gamma'"),
        ("  - {method: arl, knobs: {gamma: [1, 2]}}\n", "own.yaml:3: 'rows.0.knobs.gamma'"),
        ("  []\n", "own.yaml:2: 'rows'"),
        (
            "  - {method: uniform, tune: {gamma: [1, 2, 3]}}\n  - {method: arl, tune: {gamma: [1, 2], T: [1, 2]}}\n",
            "tuned rows have different numbers of candidates: uniform 3, arl 4",
        ),
        (
            "  - {method: arl, tune: {gamma: [1, 2, 3]}}\n  - {method: arl, tune: {gamma: [1, 2]}}\n",
            "tuned rows have different numbers of candidates: arl 3, arl 2",
        ),
    ],
)  # fmt: skip
def test_bad_recipes_are_refused_with_their_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        suite(tmp_path, text)
    assert words in str(refused.value)


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no suite 'foundin'. Did you mean 'founding'\?"):
        suite_recipe("foundin")
    with pytest.raises(RecipeError, match="No recipe file"):
        suite_recipe("nowhere.yaml")
    assert suite_recipe("Ablation_ARL").name == "ablation-arl"


# ------------------------------------------------------------------------------------------ planning


def test_rows_become_runs_with_labels_of_their_own(tmp_path: Path) -> None:
    data = data_of(tmp_path, epochs=7, lr=0.5)
    text = """
  - unimodal
  - {label: alone, method: unimodal}
  - OGM_GE
  - {method: arl, fusion: sum, knobs: {modulate: off}, train: {optimizer: adamw, epochs: 3}}
  - {label: mine, method: arl, fusion: concat}
  - {method: concat, tune: {train.lr: [0.1, 0.2]}}
  - concat
"""
    rows = plan_suite(data, suite(tmp_path, text), {"epochs": "5"})
    labels = ["unimodal:audio", "unimodal:video", "alone:audio", "alone:video", "ogm-ge"]
    labels += ["arl+sum, modulate=off, optimizer=adamw, epochs=3", "mine", "concat", "concat"]
    assert [row.label for row in rows] == labels
    assert rows[0].runs[0].spec == rows[2].runs[0].spec  # the label is no part of the spec
    special, tuned = rows[5].runs[0].spec.train, rows[7]
    assert (special.epochs, special.optimizer, special.lr) == (3, "adamw", 0.5)  # the row's own wins
    assert rows[4].runs[0].spec.train.epochs == 5
    assert [run.spec.train.lr for run in tuned.runs] == [0.1, 0.2]
    assert {run.below for run in tuned.runs} == {".tuning"}
    assert tuned.runs[0].title == "concat [lr=0.1]"
    assert tuned.chosen(1) == "concat (tuned: lr=0.2; best of 2 on validation)"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{label: odd one, method: sum, fusion: gated}", "Row 'odd one' of suite 'own': sum does not support"),
        ("{method: arl, knobs: {modulat: off}}", "Did you mean 'modulate'?"),
        ("{method: arl, knobs: {modulate: often}}", "dynamic, constant, off"),
        ("{method: arl, tune: {gamma: [1, -1]}}", "Row 'arl' of suite 'own': method.gamma=-1 of arl is out of range"),
        ("{method: arl, tune: {gamma: [1, 1.0]}}", "two candidates of its grid are the same"),
        ("{method: arl, tune: {train.lrr: [1, 2]}}", "Did you mean 'lr'?"),
        ("{method: concat, train: {epoch: 3}}", "Did you mean 'epochs'?"),
        ("arll", "Row 'arll' of suite 'own': Unknown method 'arll'. Did you mean 'arl'?"),
        ("unimodal:smell", "no modality 'smell'"),
        ("concat", "several rows 'concat'"),
    ],
)  # fmt: skip
def test_an_impossible_row_is_refused_by_its_label(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        plan_suite(data_of(tmp_path), suite(tmp_path, f"  - concat\n  - {row}\n"), {})
    assert words in str(refused.value)


def test_methods_that_need_more_modalities_are_refused_and_wrong_settings_blame_no_row(tmp_path: Path) -> None:
    data = data_of(tmp_path, M=1)
    with pytest.raises(RecipeError, match="Row 'arl' of suite 'own': arl cannot train on 1 modalities"):
        plan_suite(data, suite(tmp_path, "  - concat\n  - arl\n"), {})
    with pytest.raises(RecipeError, match=r"^train: unknown key 'lrr'. Did you mean 'lr'\?"):
        plan_suite(data, suite(tmp_path, "  - concat\n"), {"lrr": "1"})


# ----------------------------------------------------------------------------------------- selection


def candidate(*scores: tuple[float, float], failed: tuple[int, ...] = ()) -> Candidate:
    return Candidate({}, "x", dict(enumerate(scores, start=1)), failed)


@pytest.mark.parametrize(
    ("found", "best"),
    [
        ([candidate((0.5, 1), (0.7, 1)), candidate((0.9, 9), (0.4, 9)), candidate((0.6, 0), (0.6, 0))], 1),
        ([candidate((0.5, 1.0)), candidate((0.5, 0.9)), candidate((0.4, 0.1))], 1),  # a tie: the lower NLL
        ([candidate((0.1, 1), (0.2, 1), (0.6, 1)), candidate((0.6, 1), (0.2, 1), (0.1, 1))], 0),  # equal but rounding
        ([candidate((0.9, 1), failed=(2,)), candidate((0.3, 1), (0.3, 1))], 1),  # one that ends beats one that does not
        ([candidate(failed=(1, 2)), candidate((0.3, 1), failed=(1,))], 1),
        ([candidate(failed=(1,)), candidate(failed=(1,))], 0),
    ],
)  # fmt: skip
def test_the_choice(found: list[Candidate], best: int) -> None:
    assert choose(found) == best


def write_seed(folder: Path, seed: int, **facts: object) -> None:
    (folder / f"seed-{seed}").mkdir(parents=True)
    (folder / f"seed-{seed}" / "done.json").write_text(json.dumps({"seed": seed, "status": "done", **facts}))


def tuned_row(folder: Path) -> Row:
    text = "  - {method: uniform, tune: {gamma: [1, 2]}}\n"
    return plan_suite(data_of(folder / "cache"), suite(folder, text), {})[0]


def test_candidates_wait_for_every_seed_and_for_validation_scores(tmp_path: Path) -> None:
    row = tuned_row(tmp_path)
    places = [plan.folder(tmp_path / "runs").path for plan in row.runs]
    assert {place.parent for place in places} == {tmp_path / "runs" / ".tuning"}
    for place in places:
        write_seed(place, 1, val={"accuracy": 0.5, "nll": 1.0})
    with pytest.raises(CacheError, match=r"candidate gamma=1: 1 of 2 seeds missing"):
        candidates(row, tmp_path / "runs", (1, 2))
    assert [each.mean(0) for each in candidates(row, tmp_path / "runs", (1,))] == [0.5, 0.5]
    write_seed(places[0], 2, status="failed", val=None)
    write_seed(places[1], 2)
    with pytest.raises(CacheError, match="holds no validation scores"):
        candidates(row, tmp_path / "runs", (1, 2))


def test_states_in_words(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert state_of(folder, (1, 2)).text == "2 of 2 seeds missing"
    write_seed(folder.path, 1)
    folder.job((2, 3)).mkdir()
    assert state_of(folder, (1, 2)).text == "interrupted, 1 of 2 seeds missing"
    assert state_of(folder, (1, 7)).text == "1 of 2 seeds missing"  # nobody began seed 7
    (folder.path / ".lock").write_text(f"{os.getppid()}\n")
    assert state_of(folder, (1, 2)).text == f"in work (process {os.getppid()}), 1 of 2 seeds missing"
    write_seed(folder.path, 2, status="failed")
    assert state_of(folder, (1, 2)).text == "finished, seed 2 failed"
    assert state_of(folder, (1,)).text == "finished"


# ------------------------------------------------------------------------------------------ progress


def test_bars_count_the_epochs_of_all_phases_and_of_halves(tmp_path: Path) -> None:
    rows = plan_suite(data_of(tmp_path / "cache", epochs=10), suite(tmp_path, "  - concat\n  - sum\n"), {})
    plans = [row.runs[0] for row in rows]
    jobs = [Job(plan.spec, plan.folder(tmp_path), (1, 2, 3)) for plan in plans]
    display = TrainDisplay(jobs, {plan.folder(tmp_path).path: plan.title for plan in plans})

    def counts(path: Path | None) -> tuple[float, float | None]:
        task = display.whole if path is None else display.tasks[path]
        shown = next(each for each in display.progress.tasks if each.id == task)
        return shown.completed, shown.total

    first, other = (job.folder.path for job in jobs)
    assert (counts(first), counts(None)) == ((0, 30), (0, 60))
    display.update(jobs[0], {"event": "start", "epoch": 5, "epochs": 25})
    assert (counts(first), counts(None)) == ((15, 75), (15, 105))
    display.update(jobs[1], {"event": "memory", "reason": "out of memory"})
    assert display.left == 3
    for seeds in ((1, 2), (3,)):
        display.update(Job(jobs[1].spec, jobs[1].folder, seeds), {"event": "epoch", "epoch": 4, "epochs": 10})
    assert counts(other) == (12, 30)
    display.update(Job(jobs[1].spec, jobs[1].folder, (3,)), {"event": "memory", "reason": "out of memory"})
    assert (display.left, counts(other)) == (2, (12, 30))


# ------------------------------------------------------------------------------------------- shipped


def test_the_shipped_suites() -> None:
    assert recipe_names("suites") == SHIPPED


def test_the_poster_has_its_rows_in_its_order_and_is_linked_to_its_figures() -> None:
    rows = suite_recipe("poster").rows
    controls = [row.label for row in rows if row.label.startswith("control: ")]
    labels = [row.label for row in rows][: -len(controls)]
    assert labels == [*POSTER.split(), "Ours-H (LFM-H)", "Ours-LB (LFM-LB)"]
    assert controls == [row.label for row in rows[-len(controls) :]]
    printed = {figure.row: figure.method for each in ledger() if each.source == "lfm-poster" for figure in each.figures}
    ours = {row.label.partition(" (")[0]: known(row.method) for row in rows if row.label not in controls}
    assert {**ours, **{name: "unimodal" for name in printed if name.startswith("Unimodal-")}} == {
        **printed,
        "Unimodal": "unimodal",
    }


def test_the_benchmark_has_every_method_and_quick_has_six() -> None:
    assert [row.method for row in with_every_method(suite_recipe("benchmark").rows)] == list(METHODS)
    references = {name for name in METHODS if method_class(name).card.reference}
    assert len([row for row in suite_recipe("quick").rows if row.method not in references]) == 6


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_holds_the_references_and_an_equal_budget(name: str) -> None:
    found = suite_recipe(name)
    path = recipe_folder() / "suites" / f"{name}.yaml"
    assert found.name == name == yaml.safe_load(path.read_text())["name"]
    assert found.note
    assert [row.method for row in found.rows[:5]] == REFERENCES
    assert (found.rows[5].method, found.budget) == ("uniform", 4)
    founding = {"ablation-lfm": {"lfm-h", "lfm-lb"}}.get(name, {name.removeprefix("ablation-")})
    if name == "founding":
        founding = {"arl", "lfm-lb", "iibalance", "bmlr", "bmlmi"}
    assert {row.method for row in found.rows if row.tune} == founding | {"uniform"}
    plain = {row.method for row in found.rows if not (row.tune or row.knobs or row.train or row.fusion)}
    assert founding <= plain


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_suite_is_possible_and_its_rows_differ(tmp_path: Path, name: str, M: int) -> None:
    rows = plan_suite(data_of(tmp_path, M), suite_recipe(name), {})
    assert len(rows) == len(with_every_method(suite_recipe(name).rows)) + M - 1
    specs = [plan.spec.digest for row in rows if not row.values for plan in row.runs]
    assert len(set(specs)) == len(specs)


def test_every_row_of_every_shipped_suite_trains(tmp_path: Path) -> None:
    data = data_of(tmp_path / "cache", 3, width=8, epochs=1, batch=16)
    rows = [row for name in SHIPPED for row in plan_suite(data, suite_recipe(name), {})]
    planned = list({plan.spec.digest: plan for row in rows for plan in row.runs if not row.values}.values())
    assert run_planned(planned, (1,), tmp_path / "runs", tmp_path / "cache", "cpu", 2, resume=False) == []


def test_the_documented_example_is_a_suite(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "suites.md").read_text()
    (tmp_path / "mine.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    rows = plan_suite(data_of(tmp_path), suite_recipe(str(tmp_path / "mine.yaml")), {})
    labels = ["unimodal:audio", "unimodal:video", "concat", "uniform", "ARL, constant scale"]
    assert [row.label for row in rows] == [*labels, "arl+sum, optimizer=adamw, lr=1e-3", "concat"]
