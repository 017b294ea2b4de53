"""Predictions made now instead of read: of any split, under changed inputs, in the order of saved ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmbal_cli.report.runs import Predictions, as_predictions

if TYPE_CHECKING:
    from mmbal_cli.engine.changes import Change
    from mmbal_cli.engine.opened import Opened


def fresh(opened: Opened, split: str, change: Change | None = None) -> dict[int, Predictions]:
    """{seed: predictions} of a run's models, sorted by id like `Run.collect`, so that samples line up."""
    found = opened.predict(split, change)
    ids, classes = opened.ids(split), opened.feed.features.classes
    arrays = {name: value.numpy() for name, value in found.items()}
    if (some := opened.feed.features.somewhere()) is not None:
        arrays["present"] = some[opened.feed.features.rows[split]].numpy()
    whole = ("labels", "present")
    return {
        seed: as_predictions({k: v if k in whole else v[i] for k, v in arrays.items()}, ids, classes)
        for i, seed in enumerate(opened.seeds)
    }
