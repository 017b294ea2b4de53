"""Linear probes: figures against a bare regression, who leads, gaps in the data, and the sealed test split."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mmbal_cli.data.features import FeatureSet, from_arrays
from mmbal_cli.errors import CacheError
from mmbal_cli.report import probe as module
from mmbal_cli.report.probe import ALL, CANDIDATES, INNER, Probe, Row, probe

TEST = 30


def made(
    strength: dict[str, float], train: int = 120, val: int = 60, classes: int = 3, width: int = 6, seed: int = 0
) -> FeatureSet:
    """Gaussian classes around random means; `strength` scales the means of each modality."""
    g = np.random.default_rng(seed)
    total = train + val + TEST
    labels = np.arange(total) % classes
    x = {m: g.normal(size=(total, width)) + s * g.normal(size=(classes, width))[labels] for m, s in strength.items()}
    arrays = {
        "ids": [f"s{i}" for i in range(total)],
        "splits": ["train"] * train + ["val"] * val + ["test"] * TEST,
        "labels": labels,
        "features": {m: (3 * values + 5).astype("float32") for m, values in x.items()},
        "mask": {m: np.ones(total, bool) for m in x},
    }
    return from_arrays("made", "f" * 64, tuple(f"c{i}" for i in range(classes)), arrays)


def absent(features: FeatureSet, m: str, gone: np.ndarray) -> FeatureSet:
    """The set without modality m on the rows of a bool array."""
    mask = torch.from_numpy(~gone)
    x = features.x | {m: torch.where(mask[:, None], features.x[m], 0.0)}
    return replace(features, x=x, mask=features.mask | {m: mask})


def split_rows(features: FeatureSet, *splits: str) -> np.ndarray:
    rows = np.zeros(len(features.y), bool)
    for split in splits:
        rows[features.rows[split].numpy()] = True
    return rows


def values(row: Row) -> tuple[float, float]:
    assert row.accuracy is not None
    assert row.train_accuracy is not None
    return row.accuracy.value, row.train_accuracy


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_a_row_is_what_a_bare_regression_gives(classes: int) -> None:
    features = made({"a": 0.8}, classes=classes)
    row = probe(features).row("a")
    x, y = features.x["a"].double().numpy(), features.y.numpy()
    train, val = (features.rows[split].numpy() for split in ("train", "val"))
    x = (x - x[train].mean(0)) / x[train].std(0)
    inner = {name: rows.numpy() for name, rows in features.inner(INNER).items()}

    def accuracy(C: float, rows: np.ndarray, scored: np.ndarray) -> float:
        return float(LogisticRegression(C=C, tol=1e-8, max_iter=2000).fit(x[rows], y[rows]).score(x[scored], y[scored]))

    tried = [accuracy(C, inner["train"], inner["inner"]) for C in CANDIDATES]
    assert row.C is not None
    assert tried[CANDIDATES.index(row.C)] == pytest.approx(max(tried), abs=0.01)
    assert values(row) == pytest.approx((accuracy(row.C, train, val), accuracy(row.C, train, train)), abs=0.02)
    assert (row.width, row.train, row.val, row.converged) == (6, 120, 60, True)


def test_the_stronger_modality_is_dominant_and_noise_is_called_noise() -> None:
    found = probe(made({"noise": 0.0, "weak": 0.35, "strong": 2.0}, train=240, val=150))
    assert (found.dominant, found.order[0], found.order[-1]) == ("strong", "strong", "noise")
    assert found.gap is not None
    strong, weak = values(found.row("strong"))[0], values(found.row("weak"))[0]
    assert found.gap.value == pytest.approx(strong - weak)
    assert 0 < found.gap.low < found.gap.value < found.gap.high
    said = found.findings()
    assert said[0].startswith(f"strong is dominant: {strong:.1%} against {weak:.1%} of weak, a gap of")
    assert "noise cannot be told apart from always saying 'c0'." in said
    assert not any(line.startswith(("strong cannot", "weak cannot")) for line in said)


def test_equal_modalities_have_no_leader_and_add_up() -> None:
    found = probe(made({"a": 0.6, "b": 0.6}, train=400, val=200))
    assert found.dominant is None
    assert found.findings()[0].startswith("No modality is distinguishably dominant; ")
    assert found.gain is not None
    assert found.gain.low > 0
    assert found.findings()[1].startswith(f"The concatenation is above {found.order[0]} alone by ")


def test_a_harmful_concatenation_is_reported() -> None:
    features = made({"few": 0.9, "many": 0.0}, train=60, val=300, classes=2, width=5)
    features.x["many"] = torch.randn(len(features.y), 600, generator=torch.Generator().manual_seed(1))
    found = probe(features)
    assert found.gain is not None
    assert found.gain.high < 0
    assert found.findings()[1].startswith("The concatenation is below few alone by ")


def test_test_samples_reach_nothing() -> None:
    features = made({"a": 0.7, "b": 0.4})
    other = made({"a": 0.7, "b": 0.4})
    rows = other.rows["test"]
    other.y[rows] = 0
    for m in other.x:
        other.x[m][rows] = 1e3
    assert probe(other).document() == probe(features).document()


def test_a_probe_repeats_and_is_json() -> None:
    one, other = (probe(made({"a": 0.7, "b": 0.4})).document() for _ in range(2))
    assert one == other
    assert json.loads(json.dumps(one, allow_nan=False)) == one
    assert {"schema", "probes", "dominant", "gap", "gain", "findings", "notes", "split_hash"} <= one.keys()


def test_the_interval_is_wilson_s() -> None:
    found = module._wilson(np.array([True] * 8 + [False] * 2))
    centre, half = (0.8 + 1.96**2 / 20) / (1 + 1.96**2 / 10), 1.96 / (1 + 1.96**2 / 10) * (0.016 + 1.96**2 / 400) ** 0.5
    assert found == pytest.approx((0.8, centre - half, centre + half, 10), abs=1e-4)


def test_a_difference_uses_the_samples_that_both_have() -> None:
    one, other = {1: True, 2: True, 3: True, 4: False}, {2: False, 3: False, 4: False, 9: True}
    found = module._difference(one, other)
    assert found is not None
    assert (found.value, found.n, found.low, found.high) == (pytest.approx(2 / 3), 3, 0.0, 1.0)
    assert module._difference({1: True}, {2: True}) is None


def test_time_steps_are_averaged_over_those_that_are_there() -> None:
    flat = made({"a": 0.8, "b": 0.3})
    N, F = flat.x["a"].shape
    there = torch.arange(4)[None] < 1 + torch.arange(N)[:, None] % 3  # one to three of four steps
    shift = torch.tensor([-1.0, 1.0, 0.0, 50.0])[None, :, None] * (there.sum(1) == 2)[:, None, None]
    steps = torch.where(there[..., None], flat.x["a"][:, None].expand(N, 4, F) + shift, 0.0)
    found = probe(replace(flat, x=flat.x | {"a": steps}, mask=flat.mask | {"a": there}))
    assert [values(row) for row in found.rows] == [values(row) for row in probe(flat).rows]
    assert found.notes == ("mean over time steps: a",)


def test_missing_modalities_are_counted_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANDIDATES", (0.1,))  # the inner part is another one when samples are gone
    features = made({"a": 1.0, "b": 0.3})
    gone = np.arange(len(features.y)) % 4 == 0
    found = probe(absent(features, "a", gone))
    assert (found.row("a").train, found.row("a").val) == (90, 45)
    assert (found.row("b").train, found.row(ALL).train, found.row(ALL).val) == (120, 120, 60)
    assert found.gap is not None
    assert found.gap.n == 45
    only = replace(features, rows={s: r[~torch.from_numpy(gone)[r]] for s, r in features.rows.items()})
    assert values(probe(only).row("a")) == values(found.row("a"))


@pytest.mark.parametrize(
    ("splits", "said"), [(("train",), "train"), (("val",), "validation"), (("train", "val"), "train")]
)
def test_a_modality_that_a_split_lacks(splits: list[str], said: str) -> None:
    features = made({"a": 1.0, "b": 0.5, "c": 0.5})
    found = probe(absent(features, "b", split_rows(features, *splits)))
    row = found.row("b")
    assert (row.accuracy, row.C, row.train == 0, row.val == 0) == (None, None, "train" in splits, "val" in splits)
    assert f"b: no {said} sample has it." in found.findings()
    assert found.order == ("a", "c")
    assert found.row(ALL).width == (12 if "train" in splits else 18)


@pytest.mark.parametrize("names", [("a",), tuple("abcdef")])
def test_one_modality_and_six(names: tuple[str, ...]) -> None:
    found = probe(made(dict.fromkeys(names, 0.7)))
    assert [row.name for row in found.rows] == [*names, *([ALL] if len(names) > 1 else [])]
    assert (found.gap is None, found.gain is None) == (len(names) == 1, len(names) == 1)
    assert json.dumps(found.document(), allow_nan=False)


def relabelled(features: FeatureSet, split: str, old: int, new: int) -> FeatureSet:
    rows = features.rows[split]
    y = features.y.clone()
    y[rows[y[rows] == old]] = new
    return replace(features, y=y)


def test_classes_that_a_split_lacks() -> None:
    features = made({"a": 1.5, "b": 1.0}, classes=4)
    assert probe(relabelled(features, "val", 3, 0)).notes == ()
    found = probe(relabelled(features, "train", 3, 0))
    assert found.notes == ("validation has classes that train lacks: c3",)
    assert values(found.row("a"))[0] <= 0.75
    assert found.largest == "c0"
    assert found.majority == pytest.approx(0.25)
    alone = features
    for label in (1, 2, 3):
        alone = relabelled(alone, "train", label, 0)
    found = probe(alone)
    assert values(found.row("a")) == (pytest.approx(found.majority), 1.0)
    assert found.findings()[-1] == f"{ALL} cannot be told apart from always saying 'c0'."


def test_constant_and_tiny_sets() -> None:
    features = made({"a": 1.0, "b": 1.0})
    features.x["b"][:] = 7.0
    found = probe(features)
    assert found.order == ("a", "b")
    assert values(found.row("b"))[0] == pytest.approx(1 / 3)
    tiny = made({"a": 1.0, "b": 1.0}, train=3, val=1)  # one sample a class: nothing to choose the penalty by
    assert probe(tiny).row("a").C == module.PLAIN


def test_unusable_sets_are_refused() -> None:
    features = made({"a": 1.0})
    with pytest.raises(CacheError, match="no training or no validation"):
        probe(replace(features, rows=features.rows | {"val": features.rows["val"][:0]}))
    features.x["a"][3, 2] = torch.inf
    with pytest.raises(CacheError, match="'a' hold numbers that are not finite"):
        probe(features)


def test_many_samples_are_thinned_by_class_and_said() -> None:
    features = made({"a": 0.5, "b": 0.5}, train=300)
    found = probe(features, samples=90)
    assert (found.row("a").train, found.row("a").val) == (90, 60)
    assert found.notes == ("fitted on 90 of 300 training samples, stratified",)
    assert features.y[module._capped(features, features.rows["train"], 90)].bincount().tolist() == [30, 30, 30]


def test_what_did_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found: Probe = probe(made({"a": 1.0, "b": 1.0}))
    assert found.row("a").converged is False
    assert found.notes == (f"not converged within 2 steps: a, b, {ALL}",)
