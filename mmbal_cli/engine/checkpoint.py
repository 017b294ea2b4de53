"""Checkpoints: one safetensors file whose name carries the digest of its bytes; the last two are kept.

A file that is torn or damaged does not match its name and is passed over for the one before. No pickle.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from mmbal_cli.store.atomic import publish, sha256_hex

KEPT = 2


def save_checkpoint(folder: Path, epoch: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Path:
    """Publish the state after `epoch` finished epochs; older files beyond the last two are removed."""
    data = save_tensors({k: v.contiguous().cpu() for k, v in tensors.items()}, {"meta": json.dumps(meta)})
    path = publish(folder, f"checkpoint-{epoch:06d}-{sha256_hex(data)[:16]}.safetensors", data)
    for old in _files(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and meta of the newest undamaged checkpoint, or None."""
    for path in reversed(_files(folder)):
        data = path.read_bytes()
        if sha256_hex(data)[:16] == path.stem.rpartition("-")[2]:
            length = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + length])
            return load_tensors(data), json.loads(header["__metadata__"]["meta"])
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.safetensors"))


def flatten(**groups: dict[str, Tensor]) -> dict[str, Tensor]:
    """{"model": {"w": t}} -> {"model/w": t}."""
    return {f"{group}/{name}": value for group, table in groups.items() for name, value in table.items()}


def select(tensors: dict[str, Tensor], group: str) -> dict[str, Tensor]:
    """The inverse of `flatten` for one group."""
    return {k[len(group) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{group}/")}
