"""All that is known about an encoder, as JSON, without a network and without torch: for `mmbal encoders show`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbal_cli.encode import DEFAULTS, KINDS, SHIPPED, get_encoder
from mmbal_cli.encode.base import DECODE, Encoder
from mmbal_cli.encode.catalogue import CATALOGUE, PICKLE, Card, card_of
from mmbal_cli.encode.families import FAMILIES, Family
from mmbal_cli.encode.hub import Checkpoint, cached, complete
from mmbal_cli.encode.pretrained import PRECISIONS, parameters
from mmbal_cli.errors import EncoderError, UsageError, nearest


def describe(name: str) -> dict[str, Any]:
    """Facts of a shipped encoder, a short name (`ast`, `ast@REV`), a hub name or a model folder.

    UsageError for an unknown name, with the nearest one.
    """
    if entry := SHIPPED.get(name):
        module = importlib.import_module(f"mmbal_cli.encode.{entry.module}")
        facts: dict[str, Any] = {"name": name, "about": entry.about, "kinds": list(entry.kinds), "width": entry.width}
        own = {kind: _ranges(module.ENCODER(kind)) for kind in entry.kinds}
        default = [kind for kind, usual in DEFAULTS.items() if usual == name]
        return facts | {
            "download": False,
            "default_for": default,
            "parameters": own,
            "command": _command(name, entry.kinds),
        }
    if card := card_of(name):
        return _of_card(name, card)
    if Path(name).is_dir():
        return {"name": name, **_of_folder(name, Checkpoint(Path(name)))}
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@.+)?", name):
        here = cached(name)
        if here is None:
            repo, at, revision = name.partition("@")
            fetch = f"hf download {repo}" + (f" --revision {revision}" if at else "")
            raise UsageError(f"'{name}' is not on this machine, so nothing is known about it.", "", fetch)
        return {"name": name, "hub": here.name, "revision": here.revision, **_of_folder(name, here)}
    raise UsageError(
        f"There is no encoder '{name}'.", nearest(name.partition("@")[0], [*SHIPPED, *CATALOGUE]), "mmbal encoders list"
    )


def _of_card(name: str, card: Card) -> dict[str, Any]:
    here = cached(card.address)
    facts: dict[str, Any] = {
        "name": name,
        "about": card.about,
        "kinds": list(card.kinds),
        "width": card.width,
        "download": True,
        "hub": card.hub,
        "revision": card.revision,
        "pinned": card.pinned,
        "weights": card.weights,
        "trained": card.trained,
        "licence": card.licence,
        "note": card.note,
        "here": str(here.folder) if here and complete(here) else None,
        "pools": _pools(FAMILIES[card.family], card.kinds),
        "parameters": {kind: _chosen(FAMILIES[card.family], kind) for kind in card.kinds},
        "command": _command(name, card.kinds),
    }
    if here:
        facts["preprocessing"] = _fed(name, card.kinds)
    if card.weights == PICKLE:
        facts["convert"] = convert_command(card)
    return facts


def _of_folder(name: str, folder: Checkpoint) -> dict[str, Any]:
    """Facts that the files of a model give."""
    model_type = str(folder.read("config.json").get("model_type", ""))
    kinds = [kind for kind in KINDS if (family := _family(model_type, kind)) and kind in family.kinds]
    if not kinds:
        raise EncoderError(f"{folder.folder} is a model of type '{model_type}'.", nearest(model_type, FAMILIES))
    pools: dict[str, list[str]] = {}
    for kind in kinds:
        pools |= _pools(_family(model_type, kind) or FAMILIES[model_type], [kind])
    return {
        "family": model_type,
        "kinds": kinds,
        "download": False,
        "here": str(folder.folder),
        "pools": pools,
        "parameters": {kind: _chosen(_family(model_type, kind) or FAMILIES[model_type], kind) for kind in kinds},
        "preprocessing": _fed(name, kinds),
        "command": _command(name, kinds),
    }


def _family(model_type: str, kind: str) -> Family | None:
    return FAMILIES.get(f"{model_type}/{kind}") or FAMILIES.get(model_type)


def _pools(family: Family, kinds: Any) -> dict[str, list[str]]:
    """Pools of each kind, the default first."""
    return {kind: [pool for pool in family.pools if pool != "frames" or kind == "video"] for kind in kinds}


def _chosen(family: Family, kind: str) -> dict[str, Any]:
    """Parameters of a pretrained encoder: [default, lowest, highest] or [default, choices]."""
    pools = _pools(family, [kind])[kind]
    named: dict[str, Any] = {"pool": [pools[0], pools], "precision": [PRECISIONS[0], list(PRECISIONS)]}
    return {**named, **_limits(parameters(kind)), **_decoded(kind)}


def _ranges(encoder: Encoder) -> dict[str, Any]:
    return {**_limits(encoder.params_allowed), **_decoded(encoder.kind)}


def _decoded(kind: str) -> dict[str, Any]:
    return _limits(DECODE.get(kind, {}))


def _limits(declared: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: [list(part) if isinstance(part, tuple) else part for part in limits] for key, limits in declared.items()
    }


def _fed(name: str, kinds: Any) -> dict[str, Any]:
    """How raw data is fed, read from the files that are here; the reason where they do not tell."""
    found: dict[str, Any] = {}
    for kind in kinds:
        encoder = get_encoder(name, kind)
        try:
            found[kind] = encoder.inputs  # type: ignore[attr-defined]
        except EncoderError as error:
            found[kind] = str(error)
    return found


def _command(name: str, kinds: Any) -> str:
    return f"mmbal prepare NAME --encoder {kinds[0]}={name}"


def convert_command(card: Card) -> str:
    """A command that makes a folder with safetensors of a model whose revision holds a pickle only."""
    reader = {"text": "AutoTokenizer", "audio": "AutoFeatureExtractor"}.get(card.kinds[0], "AutoImageProcessor")
    where = f"('{card.hub}', revision='{card.revision}').save_pretrained('{card.name}-safe')"
    return f'python -c "import transformers as t; [c.from_pretrained{where} for c in (t.AutoModel, t.{reader})]"'
