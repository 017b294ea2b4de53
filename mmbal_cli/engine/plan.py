"""From names on the command line to run specs: methods, knobs, training settings, data, all resolved and checked.

Precedence of a training setting: `--set` > the method's recipe for this data set > the method's recipe >
the data set's recipe > the built-in default.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmbal_cli import __version__
from mmbal_cli.data.named import Overlay
from mmbal_cli.engine.runs import LEGACY, SCHEMA, Protocol, RunFolder, RunSpec
from mmbal_cli.errors import UsageError, nearest
from mmbal_cli.methods import METHODS, known, method_class
from mmbal_cli.methods.base import Method, Shape
from mmbal_cli.nn.fusion import ALIASES
from mmbal_cli.recipe import TrainConfig, build, method_recipe
from mmbal_cli.store.atomic import sha256_hex
from mmbal_cli.store.sets import PreparedSet

PACKAGES = ("torch", "torchaudio", "numpy", "h5py", "safetensors", "scikit-learn", "transformers", "decord")


@dataclass(frozen=True)
class Data:
    """What planning needs of a prepared set: the pointer, feature shapes and encoder names.

    With an overlay, `prepared` has the counts and the split hash of what it leaves; `listed` are the samples of each
    part of the whole split, before a subset and before samples were lacking. `chosen` are the features that were
    asked for by name, where a modality has several and they are not the first; `occurring` counts the classes that
    have samples (0 = all).
    """

    prepared: PreparedSet
    shapes: dict[str, tuple[int, ...]]
    encoders: dict[str, str]
    overlay: Overlay = field(default_factory=Overlay)
    listed: Mapping[str, int] = field(default_factory=dict)
    chosen: Mapping[str, str] = field(default_factory=dict)
    occurring: int = 0

    @property
    def shape(self) -> Shape:
        """What a method may know of the data."""
        counts = self.prepared.counts
        classes = len(self.prepared.classes)
        return Shape(self.shapes, classes, counts["train"], counts.get("val", 0), self.occurring)


@dataclass(frozen=True)
class Planned:
    """One run: its spec, the facts for run.json, and warnings for the reader.

    `title` is how messages call it, `below` the folder in `runs` that holds it; neither is part of the spec.
    """

    spec: RunSpec
    facts: dict[str, Any]
    warnings: tuple[str, ...]
    title: str
    below: str = ""

    def folder(self, runs: Path) -> RunFolder:
        """Where this run lives or will live."""
        return RunFolder(runs / self.below / self.spec.folder)


def parse_seeds(text: str) -> tuple[int, ...]:
    """`5` -> seeds 1..5; `1,2,7` -> these; a trailing comma makes a list of one (`3,`)."""
    try:
        if "," not in text:
            count = int(text)
            if not 1 <= count <= 1000:
                raise ValueError
            return tuple(range(1, count + 1))
        seeds = tuple(int(part) for part in text.split(",") if part.strip())
        if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
            raise ValueError
    except ValueError:
        raise UsageError(f"--seeds {text!r} is neither a count nor a list of different numbers.",
                         "Examples: --seeds 5, --seeds 1,2,7") from None  # fmt: skip
    return seeds


def expand_methods(names: list[str], mods: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
    """`["unimodal,arl"]` -> one entry for each run, with the knobs that the name implies."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name in (part.strip() for item in names for part in item.split(",")):
        base, _, modality = name.partition(":") if ".py:" not in name else (name, "", "")
        plain = known(base)
        if not plain:
            raise UsageError("An empty method name was given.", nearest("", METHODS), "mmbal methods list")
        if plain != "unimodal":
            if modality:
                raise UsageError(f"'{name}': only unimodal takes a modality.", "Example: unimodal:audio")
            found.append((plain, {}))
        else:
            if modality and modality not in mods:
                raise UsageError(f"'{name}': the data have no modality '{modality}'.", nearest(modality, mods))
            found += [("unimodal", {"modality": m}) for m in ([modality] if modality else mods)]
    return list({(name, str(knobs)): (name, knobs) for name, knobs in found}.values())


def plan_run(data: Data, name: str, implied: dict[str, Any], fusion: str | None,
             train: dict[str, Any], knobs: dict[str, Any], protocol: Protocol = "") -> Planned:  # fmt: skip
    """Resolve one run completely and refuse what its method does not support."""
    cls = method_class(name)
    card, prepared = cls.card, data.prepared
    recipe = method_recipe(card.name)
    special = dict(recipe.datasets.get(prepared.name, {}))
    special_train = special.pop("train", {})
    merged = {**prepared.settings, **recipe.train, **special_train, **train}
    config = build(TrainConfig, merged, "train")
    values = cls.resolve({**recipe.knobs, **special, **implied, **knobs})
    chosen = ALIASES.get(fusion or "", fusion) or cls.default_fusion()
    cls.check(data.shape, chosen, values)
    spec = RunSpec(
        dataset=prepared.name,
        label=_label(card.name, implied, chosen, cls.default_fusion()),
        method=name,
        fusion=chosen,
        knobs=values,
        train=config,
        fingerprint=prepared.fingerprint,
        split_hash=prepared.split_hash,
        method_source=sha256_hex(Path(name.rpartition(":")[0]).read_bytes()) if ".py:" in name else "",
        split=data.overlay.split.name if data.overlay.split else "",
        subset=data.overlay.subset.key if data.overlay.subset else "",
        encoders=dict(data.chosen),
        protocol=protocol,
    )
    warnings = [
        f"method.{key}={values[key]:g} of {card.name}: {k.help}."
        for key, k in cls.declared().items()
        if k.warn_above is not None and values[key] > k.warn_above
    ]
    if protocol == LEGACY:
        if not prepared.counts.get("test"):
            raise UsageError(f"'{prepared.name}' has no test sample to select on.", "Expected a test split.")
        warnings.append(
            "legacy protocol: epochs are selected on TEST, to measure what that does; such numbers are stamped."
        )
    if card.scales_gradients and config.optimizer == "adamw":
        warnings.append(f"{card.name} scales gradients, and AdamW divides a steady scale out again: expect no effect.")
    return Planned(spec, _facts(spec, data, cls), tuple(warnings), spec.label)


def _label(name: str, implied: dict[str, Any], fusion: str, default: str) -> str:
    label = f"{name}:{implied['modality']}" if "modality" in implied else name
    return label if fusion == default else f"{label}+{fusion}"


def _facts(spec: RunSpec, data: Data, cls: type[Method]) -> dict[str, Any]:
    prepared, card = data.prepared, cls.card
    metric = "accuracy, ties by NLL" if spec.train.select == "accuracy" else "NLL"
    return {
        "schema": SCHEMA,
        "dataset": spec.dataset,
        "label": spec.label,
        "method": card.name,
        "kind": card.kind,
        "reference": card.reference,
        "note": "reconstructed" if card.reconstructed else "",
        "spec": spec.digest,
        "config": spec.model_dump(),
        "deviates": list(card.deviates),
        "paper": card.paper,
        "stages": card.stages,
        "holds_out": card.holds_out,
        "data": {
            "fingerprint": prepared.fingerprint,
            "split_hash": prepared.split_hash,
            "split_note": prepared.split_note,
            "classes": list(prepared.classes),
            "modalities": {m: data.encoders[m] for m in data.shapes},
            "shapes": {m: list(shape) for m, shape in data.shapes.items()},
            "counts": dict(prepared.counts),
            **_named(data),
        },
        "protocol": _protocol(spec, metric),
    }


def _protocol(spec: RunSpec, metric: str) -> dict[str, str]:
    """How the epoch was selected; runs that differ in it never share a table."""
    if spec.protocol == LEGACY:
        return {"name": LEGACY, "selection": f"TEST {metric}, each seed apart", "test": "looked at after every epoch"}
    return {"selection": f"validation {metric}, each seed apart", "test": "predicted once, at the selected epoch"}


def _named(data: Data) -> dict[str, Any]:
    """What reports say of a named split, of a subset, and of samples that the listed split has and these data lack."""
    split, subset = data.overlay.split, data.overlay.subset
    facts: dict[str, Any] = {}
    if split is not None:
        facts["split"] = {"name": split.name, "by": split.by, "seed": split.seed, "hash": split.hash}
    if subset is not None:
        facts["subset"] = {"name": subset.name, "ids": len(subset.ids), "hash": subset.hash}
    elif data.prepared.source.get("subset"):  # prepared with a subset: everything that was listed is in it
        facts["subset"] = dict(data.prepared.source["subset"])
    counts = data.prepared.counts
    if any(counts.get(part, 0) != number for part, number in data.listed.items()):
        facts["listed"] = dict(data.listed)
    return facts


def environment(device: str) -> dict[str, Any]:
    """Versions and machine of this run, without paths or host names."""

    def known(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    import torch

    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    return {
        "mmbal": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "device": device,
        "gpu": gpu,
        "packages": {package: known(package) for package in PACKAGES},
        "command": ["mmbal", *sys.argv[1:]],
    }
