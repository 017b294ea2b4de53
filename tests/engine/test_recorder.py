"""The common columns equal a slow version, appear for every method, and change nothing of the training."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from mmbal_cli.engine import fit as engine
from mmbal_cli.engine.fit import Fit
from mmbal_cli.engine.recorder import EVERY, record_batch
from mmbal_cli.methods import METHODS
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed

COMMON = ("train/accuracy", "train/nll")
EACH = ("train/accuracy", "train/nll", "grad", "discrepancy")


def test_columns_equal_a_loop_over_seeds_and_samples() -> None:
    data = feed(feature_set(3, absent=0.3))
    method = build("concat", data, (1, 2))
    batch = next(iter(data.epoch(method.rng, 20)))
    method.train()
    method.step(batch)
    record_batch(method, batch)
    found = method.collect()
    assert method.training
    method.eval()
    with torch.no_grad():
        out = method(batch)
        z = {m: value.detach() for m, value in out.z.items()}
    for s in range(2):
        p = out.fused[s].softmax(-1)
        right = [float(p[i].argmax() == batch.y[s, i]) for i in range(20)]
        assert found["train/accuracy"][s] == pytest.approx(sum(right) / 20)
        loss = [-float(p[i, batch.y[s, i]].log()) for i in range(20)]
        assert found["train/nll"][s] == pytest.approx(sum(loss) / 20)
        masks = [batch.present(m) for m in method.mods]
        whole = [i for i in range(20) if all(mask is None or mask[s, i] for mask in masks)]
        assert len(whole) < 20
        sums = {}
        for m in method.mods:
            present = batch.present(m)
            rows = [i for i in range(20) if present is None or present[s, i]]
            q = z[m][s].softmax(-1)
            sums[m] = sum(float(q[i, batch.y[s, i]]) for i in whole)
            assert found[f"train/nll/{m}"][s] == pytest.approx(
                -sum(float(q[i, batch.y[s, i]].log()) for i in rows) / len(rows)
            )
            hits = sum(int(q[i].argmax() == batch.y[s, i]) for i in rows)
            assert found[f"train/accuracy/{m}"][s] == pytest.approx(hits / len(rows))
            squares = sum(float(p.grad[s].square().sum()) for p in method.enc[m].parameters())
            assert found[f"grad/{m}"][s] == pytest.approx(squares**0.5)
        for m in method.mods:
            ratios = [sums[m] / value for other, value in sums.items() if other != m]
            assert found[f"discrepancy/{m}"][s] == pytest.approx(sum(ratios) / len(ratios))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "unimodal"])
def test_every_method_has_the_same_columns_and_trains_the_same_without(name: str) -> None:
    data = feed(feature_set(2))
    config = TrainConfig(**(CONFIG.model_dump() | {"epochs": 3}))

    def trained() -> tuple[dict[str, torch.Tensor], list[dict]]:
        run = Fit(build(name, data, (1, 2), config), data)
        rows = [row for found in run.run() for row in found]
        return {k: v.clone() for k, v in run.method.state_dict().items()}, rows

    state, rows = trained()
    first = next(row for row in rows if row["seed"] == 1)
    wanted = [*COMMON, *(f"{column}/{m}" for column in EACH[:2] for m in data.features.x)]
    wanted += [f"discrepancy/{m}" for m in data.features.x]
    assert not [column for column in wanted if column not in first], "columns are missing in the first epoch"
    with patch.object(engine, "record_batch", lambda *_: None):
        bare, without = trained()
    assert all(torch.equal(value, bare[key]) for key, value in state.items())
    recorded = ("train/accuracy", "train/nll", "grad/", "discrepancy/", "seconds")
    logged = [{k: v for k, v in row.items() if not k.startswith(recorded)} for row in rows]
    assert logged == [{k: v for k, v in row.items() if k != "seconds"} for row in without]


def test_one_batch_in_every_so_many_steps_wherever_epochs_end() -> None:
    data = feed(feature_set(2, n=100))
    config = TrainConfig(**(CONFIG.model_dump() | {"epochs": 30, "batch": 16}))
    seen = []
    run = Fit(build("concat", data, (1,), config), data)
    with patch.object(engine, "record_batch", lambda method, batch: seen.append((run.finished, run.steps))):
        list(run.run())
    steps = run.steps
    assert len(seen) == -(-steps // EVERY)
    epochs = [epoch for epoch, _ in seen]
    per_epoch = steps // 30
    assert epochs == [number * EVERY // per_epoch for number in range(len(seen))]


def test_a_model_of_one_modality_has_no_discrepancy() -> None:
    data = feed(feature_set(2))
    run = Fit(build("unimodal", data, (1,), modality=next(iter(data.features.x))), data)
    rows = [row for found in run.run() for row in found]
    assert not [key for row in rows for key in row if key.startswith("discrepancy")]
