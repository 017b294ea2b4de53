"""Which device to compute on (`auto` never fails, a device asked for by name must be there), with how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mmbal_cli.errors import DeviceError


def resolve_device(name: str) -> str:
    """`auto` -> `cuda` when there is one, else `cpu`; DeviceError for a named device that is absent."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"'{name}' is no device.", "Expected auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise DeviceError(f"{name} was asked for; {count} CUDA devices are visible.", "Use --device cpu or auto.")
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"Device '{name}' is not supported.", "Expected auto, cpu, cuda or cuda:N.")
    return name


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for products on the CPU, as in training: threads that wait for each other slow narrow ones down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
