"""What a method does not support is refused before anything is trained: the reason, and what is supported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared

Inside = Callable[..., object]
CASES = [
    (["-m", "bmlr", "--set", "method.alpha=1.5"], "out of range", "float from 0 to 1"),
    (["-m", "iibalance", "--set", "method.gate=best"], "out of range", "learned, bayes, prior, none"),
    (["-m", "bmlmi", "--set", "method.lamda=1"], "no knob 'lamda'", "Did you mean 'lam'?"),
    (["-m", "lfm-lb", "--set", "method.lb=magic"], "out of range", "onestep, fitted, hvp, minnorm"),
    (["-m", "arl", "--fusion", "tensor"], "Unknown fusion 'tensor'", "concat"),
    (["-m", "unimodal-ensemble", "--fusion", "affine"], "does not support fusion 'affine'", "sum"),
    (["-m", "bmlmi", "--set", "method.graph=snf"], "its features have steps, [3, 5]", "graph=none takes any data"),
    (["-m", "etmc", "--fusion", "concat"], "etmc brings its own head", "no place in it"),
    (["-m", "concat", "--fusion", "sum:max"], "Unknown variant of fusion 'sum': 'max'", "sum:feature, sum:mean"),
    (["-m", "mla", "--fusion", "sum"], "does not support fusion 'sum'", "shared"),
    (["-m", "amco", "--fusion", "concat:mlp"], "does not support fusion 'concat:mlp'", "concat, sum"),
    (["-m", "reconboost", "--set", "method.w2=9"], "above method.w1", "negative weights"),
    (["-m", "opm", "--set", "method.q_base=0.9"], "probability of up to 1.35", "at most 1"),
    (["-m", "mslr", "--set", "method.c=vido=2"], "'vido', which is no modality", "Did you mean 'video'?"),
    (["-m", "iibalance", "--set", "method.holdout=0.01"], "by 1 held out of training samples", "method.holdout=0.2"),
]


@pytest.mark.parametrize(("args", "found", "expected"), CASES)
def test_refused_before_training(tmp_path: Path, inside: Inside, args: list[str], found: str, expected: str) -> None:
    write_prepared(tmp_path / "cache", feature_set(2))
    shown = inside("train", *args, cwd=tmp_path, code=2).stderr  # type: ignore[attr-defined]
    words = " ".join(shown.replace("│", " ").split())
    assert found in words
    assert expected in words
    assert not (tmp_path / "runs").exists()


def test_too_few_modalities_and_too_few_validation_samples(tmp_path: Path, inside: Inside) -> None:
    write_prepared(tmp_path / "cache", feature_set(1))
    shown = inside("train", "-m", "arl", cwd=tmp_path, code=2).stderr  # type: ignore[attr-defined]
    assert "cannot train on 1 modalities" in shown
    few = feature_set(2)
    few.rows["train"] = few.rows["train"].new_tensor([*few.rows["train"].tolist(), *few.rows["val"].tolist()[3:]])
    few.rows["val"] = few.rows["val"][:3]
    write_prepared(tmp_path / "cache", few)
    args = ("train", "-m", "bmlmi", "--set", "method.holdout=0")
    shown = inside(*args, cwd=tmp_path, code=2).stderr  # type: ignore[attr-defined]
    assert "by 3 validation samples of 4 classes" in shown


def test_a_risky_value_is_allowed_with_a_warning(tmp_path: Path, inside: Inside) -> None:
    write_prepared(tmp_path / "cache", feature_set(2))
    args = ("train", "-m", "bmlr", "--dry-run", "--set")
    risky = inside(*args, "method.alpha=0.8", cwd=tmp_path).stderr  # type: ignore[attr-defined]
    assert "warning: method.alpha=0.8 of bmlr: cap of the strength; above 0.5 the label may lose the top rank" in risky
    assert "warning" not in inside(*args, "method.alpha=0.5", cwd=tmp_path).stderr  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["iibalance", "bmlmi"])
def test_a_class_missing_in_the_held_out_part_is_no_failure(tmp_path: Path, inside: Inside, name: str) -> None:
    features = feature_set(2, n=100)
    train = features.rows["train"]
    features.y[train] %= 3
    features.y[train[0]] = 3  # its only sample stays in training
    write_prepared(tmp_path / "cache", features)
    inside("train", "-m", name, "--seeds", "2", "--set", "train.epochs=3", "--set", "train.width=8", cwd=tmp_path)
    assert len(list((tmp_path / "runs").glob("*/seed-*/predictions-test.safetensors"))) == 2


def test_the_demo_refuses_a_typing_error_before_it_generates_anything(tmp_path: Path, inside: Inside) -> None:
    shown = inside("demo", "--methods", "concat,unimodal:audio,ogmm", cwd=tmp_path, code=2)
    assert "Did you mean 'ogm'?" in shown.stderr  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []
