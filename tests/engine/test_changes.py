"""Changed inputs: what each change does to features and masks, the same for all models, and what models make of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmbal_cli.engine.changes import ABSENT, Inputs, absent, mispaired, noisy
from mmbal_cli.engine.opened import Opened, open_run
from mmbal_cli.errors import CacheError, UsageError
from mmbal_cli.report.fresh import fresh
from mmbal_cli.report.runs import read_run
from tests.kit.features import feature_set
from tests.kit.prepared import write_prepared
from tests.kit.trained import train


def inputs(n: int = 50, width: int = 4, steps: int = 0, lacking: float = 0.3) -> Inputs:
    g = torch.Generator().manual_seed(1)
    shape = (n, steps, width) if steps else (n, width)
    mask = torch.rand(shape[:-1], generator=g) >= lacking
    x = torch.where(mask[..., None], 3 * torch.randn(shape, generator=g) + 1, 0.0)
    train = torch.randn((80, *shape[1:]), generator=g) + 5
    zero, mean, deviation = torch.full((width,), -0.5), torch.arange(width) + 0.0, torch.arange(width) + 1.0
    return Inputs(x, mask, (train, torch.ones(train.shape[:-1], dtype=torch.bool)), zero, mean, deviation)


@pytest.mark.parametrize("steps", [0, 3])
def test_absent_conventions(steps: int) -> None:
    given = inputs(steps=steps)
    x, mask = absent(["a"], "masked")("a", given)
    assert not mask.any()
    assert not x.any()
    for way, value in (("zeros", given.zero), ("mean", given.mean)):
        x, mask = absent(["a"], way)("a", given)  # type: ignore[arg-type]
        assert torch.equal(mask, given.mask)
        assert torch.equal(x[mask], value.expand_as(x)[mask])
        assert not x[~mask].any()
    x, mask = absent(["a"], "resampled")("a", given)
    assert torch.equal(mask.view(len(x), -1).any(1), given.present)
    rows = {tuple(row.flatten().tolist()) for row in given.train[0]}
    assert all(
        (tuple(row.flatten().tolist()) in rows) == bool(have) for row, have in zip(x, given.present, strict=True)
    )
    again, other = absent(["a"], "resampled")("a", given)[0], absent(["a"], "resampled", draw=1)("a", given)[0]
    assert torch.equal(x, again)
    assert not torch.equal(x, other)


def test_other_modalities_are_left_as_they_are() -> None:
    given = inputs()
    for change in (absent(["a"]), noisy(["a"], 0.0), mispaired(["a"])):
        x, mask = change("b", given)
        assert x is given.x
        assert mask is given.mask


@pytest.mark.parametrize("snr", [20.0, 0.0, -10.0])
def test_noise_has_the_power_that_was_asked_for(snr: float) -> None:
    given = inputs(n=20_000)
    x, mask = noisy(["a"], snr)("a", given)
    noise = (x - given.x)[mask]
    measured = 10 * torch.log10(given.deviation.square() / noise.square().mean(0))
    assert measured == pytest.approx(torch.full((4,), snr), abs=0.15)
    assert torch.equal(mask, given.mask)
    assert not x[~mask].any()


@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_nobody_keeps_his_own_when_paired_wrongly(n: int) -> None:
    given = inputs(n=n, lacking=0.0)
    x, _ = mispaired(["a"])("a", given)
    assert sorted(map(tuple, x.tolist())) == sorted(map(tuple, given.x.tolist()))
    same = (x == given.x).all(1)
    assert not same.any() if n > 1 else same.all()


def test_mispairing_keeps_who_has_the_modality() -> None:
    given = inputs()
    x, mask = mispaired(["a"])("a", given)
    assert torch.equal(mask, given.mask)
    assert not (x == given.x).all(1)[given.present].any()


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(UsageError, match="Unknown way"):
        absent(["a"], "mask")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opened")
    write_prepared(folder / "cache", feature_set(2, n=120, easy=1.0, absent=0.2), epochs=4, width=8)
    train(folder, "concat,unimodal-ensemble")
    return folder


def opened(work: Path, label: str) -> tuple[Path, Opened]:
    folder = next((work / "runs").glob(f"tiny-{label}-????????"))
    return folder, open_run(folder, work / "cache")


@pytest.mark.parametrize("label", ["concat", "unimodal-ensemble"])
def test_unchanged_inputs_give_the_saved_predictions(work: Path, label: str) -> None:
    folder, run = opened(work, label)
    saved, _ = read_run(folder).collect("test")
    now = fresh(run, "test")
    assert saved.keys() == now.keys() == {1, 2}
    for seed, each in saved.items():
        assert np.array_equal(each.ids, now[seed].ids)
        assert np.array_equal(each.labels, now[seed].labels)
        assert np.abs(each.probs - now[seed].probs).max() < 1e-5


def test_a_masked_modality_is_the_one_that_a_sample_does_not_have(work: Path, tmp_path: Path) -> None:
    features = feature_set(2, n=120, easy=1.0, absent=0.2)
    m = next(iter(features.x))
    rows = features.rows["test"]
    features.mask[m] = features.mask[m].clone()  # type: ignore[union-attr]
    features.mask[m][rows] = False  # type: ignore[index]
    features.x[m][rows] = 0.0
    write_prepared(tmp_path / "cache", features, name="lacking")
    folder, run = opened(work, "concat")
    other = open_run(folder, tmp_path / "cache", "lacking")
    one, two = run.predict("test", absent([m])), other.predict("test")
    assert torch.allclose(one["probs"], two["probs"], atol=1e-6)
    assert not one[f"present/{m}"].any()


def test_a_change_is_undone_and_features_have_the_width_of_the_adapters(work: Path) -> None:
    _, run = opened(work, "concat")
    before = run.predict("test")["probs"]
    for way in ABSENT:
        changed = run.predict("test", absent(run.mods[:1], way))["probs"]
        assert not torch.equal(before, changed), way
    assert torch.equal(before, run.predict("test")["probs"])
    h = run.features("val")
    assert {m: tuple(value.shape) for m, value in h.items()} == {m: (2, len(run.ids("val")), 8) for m in run.mods}


def test_features_that_are_gone_are_an_error_with_a_way_out(work: Path, tmp_path: Path) -> None:
    folder = next((work / "runs").glob("tiny-concat-????????"))
    with pytest.raises(CacheError, match="tiny"):
        open_run(folder, tmp_path / "nothing")
