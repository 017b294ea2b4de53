"""Which device to train on: `auto` never fails, a device asked for by name must be there."""

from __future__ import annotations

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
