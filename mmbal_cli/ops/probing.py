"""Side trainings: a model is trained for a while to see what would happen, and is then as if it never was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from mmbal_cli.nn.stacked import Dropout


@contextmanager
def undone(model: nn.Module) -> Iterator[None]:
    """Training mode inside, evaluation mode after it, with the weights, buffers and dropout streams of before.

    Inside, dropout draws from streams of its own (`dropout/probe/...`).
    """
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    drops = {part: part.name for part in model.modules() if isinstance(part, Dropout)}
    for part, name in drops.items():
        part.name = f"probe/{name}"
    model.train()
    try:
        yield
    finally:
        model.load_state_dict(saved)
        model.zero_grad()
        for part, name in drops.items():
            part.name = name
        model.eval()
