"""The report card of trained runs, against predictions made one by one; and its command line."""

from __future__ import annotations

import csv
import io
import json
import shutil
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from mmbal_cli.engine.changes import absent
from mmbal_cli.engine.opened import open_run
from mmbal_cli.report import card_model
from mmbal_cli.report.card import Card
from mmbal_cli.report.card_parts import NOBODY, joined
from mmbal_cli.report.card_probe import probe_hits
from mmbal_cli.report.fresh import fresh
from mmbal_cli.report.metrics import METRICS
from tests.kit.cards import call, cards, mean, only, text
from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared
from tests.kit.trained import train

PARTS = ("accuracy", "inside", "coalition", "shapley", "interaction", "utilisation", "discrepancy", "gradient share",
         "who was right", "oracle", "class")  # fmt: skip
WAYS = ("masked", "zeros", "mean", "resampled")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained runs: two and three modalities, some samples without one; and a graph over complete features."""
    folder = tmp_path_factory.mktemp("card")
    settings = {"epochs": 6, "batch": 16, "width": 8, "lr": 0.05}
    write_prepared(folder / "cache", feature_set(2, n=120, easy=0.7, absent=0.2), name="two", **settings)
    write_prepared(folder / "cache", feature_set(3, n=120, easy=0.7, absent=0.1), name="three", **settings)
    write_prepared(folder / "cache", feature_set(2, n=60, easy=0.7, flat=True), name="whole", **settings)
    train(folder, "concat,heads,unimodal", dataset="two")
    train(folder, "concat", dataset="three")
    train(folder, "bmlmi", 1, "whole", graph="snf")
    return folder


def run_of(work: Path, name: str) -> Path:
    return next((work / "runs").glob(f"{name}-????????"))


@pytest.fixture(scope="module")
def made(work: Path) -> dict[str, list[Card]]:
    """The cards that need models, made once."""
    two = [run_of(work, f"two-{label}") for label in ("concat", "heads", "unimodal-audio", "unimodal-video")]
    return {
        "two": cards(*two, cache=work / "cache", fresh=True),
        "three": cards(run_of(work, "three-concat"), cache=work / "cache", fresh=True),
        "whole": cards(run_of(work, "whole-bmlmi"), cache=work / "cache", fresh=True),
    }


@pytest.mark.parametrize("name", ["two", "three"])
@pytest.mark.parametrize("way", WAYS)
def test_shapley_values_are_efficient(made: dict[str, list[Card]], name: str, way: str) -> None:
    row = made[name][0].rows[0]
    total = sum(mean(row, "shapley", "value", m, way) for m in row.mods)
    everybody = mean(row, "coalition", "accuracy", joined(row.mods), way)
    assert everybody == pytest.approx(mean(row, "accuracy", "fused"))
    assert total == pytest.approx(everybody - mean(row, "coalition", "accuracy", NOBODY, way))


@pytest.mark.parametrize(("name", "way"), [("two", "masked"), ("three", "masked"), ("three", "mean")])
def test_shapley_values_of_a_trained_run_by_orders(work: Path, made: dict[str, list[Card]], name: str, way) -> None:
    row = made[name][0].rows[0]
    opened = open_run(row.run.folder, work / "cache", device="cpu")

    def accuracy(there: frozenset[str]) -> float:
        gone = [m for m in row.mods if m not in there]
        found = fresh(opened, "test", absent(gone, way)).values()
        return float(np.mean([np.mean(each.probs.argmax(1) == each.labels) for each in found]))

    orders = list(permutations(row.mods))
    phi = dict.fromkeys(row.mods, 0.0)
    for order in orders:
        for i, m in enumerate(order):
            phi[m] += (accuracy(frozenset(order[: i + 1])) - accuracy(frozenset(order[:i]))) / len(orders)
    for m, value in phi.items():
        assert mean(row, "shapley", "value", m, way) == pytest.approx(value)
    values = np.array(list(phi.values()))
    degree = (values.max() - values.min()) / np.abs(values).sum()
    assert mean(row, "shapley", "imbalance", "", way) == pytest.approx(degree)


def test_utilisation_interaction_and_spread_follow_from_the_accuracies(made: dict[str, list[Card]]) -> None:
    row = made["two"][0].rows[0]
    for way in WAYS:
        a, v, both, none = (
            mean(row, "coalition", "accuracy", of, way) for of in ("audio", "video", "audio+video", NOBODY)
        )
        assert mean(row, "interaction", "index", "audio+video", way) == pytest.approx(both - a - v + none)
        assert mean(row, "utilisation", "rate", "audio", way) == pytest.approx((both - v) / both)
        assert mean(row, "utilisation", "difference", "audio+video", way) == pytest.approx((a - v) / both)
    values = [mean(row, "shapley", "value", "audio", way) for way in WAYS]
    assert mean(row, "shapley", "spread", "audio") == pytest.approx(max(values) - min(values))


def test_all_numbers_have_an_interval_around_them_and_n(made: dict[str, list[Card]]) -> None:
    for name, n in (("two", 2), ("three", 2), ("whole", 1)):
        for row in made[name][0].rows:
            for key, found in row.numbers.items():
                assert found.n == n, key
                if found.low is None or found.high is None:
                    assert key.part in ("discrepancy", "gradient share") or found.mean is None, key
                elif found.mean is not None and key.what not in ("imbalance", "share", "spread", "range"):
                    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9, key


def test_class_values_weighted_by_their_samples_are_those_of_all(made: dict[str, list[Card]]) -> None:
    row = made["three"][0].rows[0]
    for m in row.mods:
        whole = sum(n * mean(row, "class", "shapley", m, name) for name, n in row.sizes.items())
        assert whole / sum(row.sizes.values()) == pytest.approx(mean(row, "shapley", "value", m, "masked"))


def test_a_probe_is_the_regression_of_scikit_learn_on_the_adapter_features(work: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from mmbal_cli.report.probe import CANDIDATES

    opened = open_run(run_of(work, "two-concat"), work / "cache", device="cpu")
    found = probe_hits(opened, "test")["audio"]
    rows = {split: opened.feed.rows[split] for split in ("train", "test")}
    mask = opened.feed.mask["audio"]
    assert mask is not None
    order = np.argsort(opened.ids("test"))
    for s, seed in enumerate(opened.seeds):
        has = {split: mask[rows[split]].numpy() for split in rows}
        x = {split: opened.features(split)["audio"][s].numpy()[has[split]] for split in rows}
        y = {split: opened.feed.y[rows[split]].numpy()[has[split]] for split in rows}
        scale = StandardScaler().fit(x["train"])
        candidates = []
        for C in CANDIDATES:
            model = LogisticRegression(C=C, max_iter=1000, tol=1e-6).fit(scale.transform(x["train"]), y["train"])
            hits = np.full(len(rows["test"]), np.nan)
            hits[has["test"]] = model.predict(scale.transform(x["test"])) == y["test"]
            candidates.append(hits[order])
        assert np.isnan(found[seed]).tolist() == (~has["test"][order]).tolist()
        assert any(np.array_equal(found[seed], each, equal_nan=True) for each in candidates)


def test_a_card_says_where_declared_logits_come_from(made: dict[str, list[Card]]) -> None:
    sources = {row.label: row.source for row in made["two"][0].rows}
    assert sources == {
        "concat": "each modality's term of fusion concat",
        "heads": "heads that the method has for each modality",
    }
    assert "Declared logits of heads: heads that the method has" in text(made["two"])


def test_a_transductive_model_is_asked_in_the_ways_that_it_can_answer(made: dict[str, list[Card]]) -> None:
    row = only(made["whole"])
    assert row.get("shapley", "value", "audio", "masked") is None
    assert row.get("shapley", "value", "audio", "zeros") is not None
    assert any("modalities cannot be taken away as 'masked'" in text for text in row.notes)
    assert "modalities cannot be taken away as 'masked'" in text(made["whole"])


def test_too_many_modalities_are_said(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_model, "MOST_MODALITIES", 2)
    row = only(cards(run_of(work, "three-concat"), cache=work / "cache", fresh=True))
    assert row.get("shapley", "value", "audio", "masked") is None
    assert row.get("inside", "probe", "audio") is not None
    assert any("3 modalities have 8 coalitions, too many" in note for note in row.notes)


def test_predictions_that_the_models_no_longer_make_are_said(work: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "two-concat"
    shutil.copytree(run_of(work, "two-concat"), folder)
    one, two = (folder / f"seed-{seed}" / "model.safetensors" for seed in (1, 2))
    one.write_bytes(two.read_bytes())
    row = only(cards(folder, cache=work / "cache", fresh=True))
    assert any("now answer otherwise than in their saved predictions" in note for note in row.notes)


# ------------------------------------------------------------------------------------------ the command line


def test_the_command_shows_a_summary_of_many_and_all_tables_of_one(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    runs = [run_of(work, f"two-{label}").name for label in ("concat", "heads", "unimodal-audio", "unimodal-video")]
    many, one = call(*runs), call(runs[0])
    assert "each alone" in many.stdout
    assert "who was right" not in many.stdout
    for title in ("inside the model", "owes to each", "what training gave", "who was right", "headroom", "each class"):
        assert title in one.stdout
    assert "who was right" in call(*runs, "--full").stdout
    assert "val, 40 samples" in call(runs[0], "--split", "val", "--no-fresh").stdout


def test_machine_formats_hold_every_number(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    name = run_of(work, "two-concat").name
    found = json.loads(call(name, "--format", "json").stdout)
    assert (found["schema"], found["report"], len(found["cards"])) == (1, "card", 1)
    row = found["cards"][0]["rows"][0]
    table = list(csv.DictReader(io.StringIO(call(name, "--format", "csv").stdout)))
    assert len(table) == len(row["numbers"])
    for line, number in zip(table, row["numbers"], strict=True):
        assert [line[key] for key in ("part", "what", "of", "at")] == [number[k] for k in ("part", "what", "of", "at")]
        assert (float(line["mean"]) if line["mean"] else None) == number["mean"]
    assert {way for number in row["numbers"] if (way := number["at"]) in WAYS} == set(WAYS)
    for kind in ("md", "latex"):
        assert "headroom" in call(name, "--format", kind).stdout


def test_features_that_are_gone_cost_only_what_needs_them(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    name = run_of(work, "two-concat").name
    result = call(name, "--cache", "elsewhere", code=1)
    assert "who was right" in result.stdout
    assert "its models cannot be asked again" in " ".join(result.stderr.split())
    assert "mmbal prepare" in result.stderr
    assert "owes to each" not in result.stdout
    assert call(name, "--cache", "elsewhere", "--no-fresh").stderr.count("cannot be asked") == 0


def test_damaged_weights_are_named(work: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two-concat"
    shutil.copytree(run_of(work, "two-concat"), folder)
    (folder / "seed-1" / "model.safetensors").write_bytes(b"damaged")
    result = call(folder, "--cache", work / "cache", code=1)
    assert "cannot be read" in result.stderr
    assert "who was right" in result.stdout


def test_every_number_is_defined_in_the_documents(made: dict[str, list[Card]]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    defined = {part: text.partition(f"`{part} / ")[2] for part in PARTS}
    for each in made.values():
        for key in each[0].rows[0].numbers:
            assert f"`{key.part} / {key.what}`" in text or f"`{key.what}`" in defined[key.part], key
    for name in METRICS:
        assert f"| `{name}` |" in text
