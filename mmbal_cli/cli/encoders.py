"""`mmbal encoders list|show`: what can turn a sample into features, and everything about one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from mmbal_cli.cli.console import emit_json, note
from mmbal_cli.cli.listing import say, show_facts, show_rows
from mmbal_cli.cli.options import Listing, Listings
from mmbal_cli.encode.catalogue import CATALOGUE, PICKLE, Card

app = typer.Typer(help="Frozen encoders: shipped ones and public pretrained ones.", no_args_is_help=True)


FACTS = ("name", "about", "kinds", "width", "hub", "revision", "weights", "trained", "licence", "note", "family")


class Kind(StrEnum):
    """Kinds of modality."""

    video = "video"
    audio = "audio"
    image = "image"
    text = "text"
    vector = "vector"


@app.command("list")
def list_(
    kind: Annotated[Kind | None, typer.Option("--kind", "-k", help="Only encoders of this kind of modality.")] = None,
    format: Listings = Listing.table,
) -> None:
    """List encoders: short name, kinds, width, whether it needs a download."""
    from mmbal_cli.encode import DEFAULTS, PRETRAINED, SHIPPED

    entries = [e for e in (*SHIPPED.values(), *PRETRAINED) if kind is None or kind.value in e.kinds]
    if format is Listing.json:
        rows = []
        for e in entries:
            card = CATALOGUE.get(e.name)
            where = {"hub": card.hub, "revision": card.revision, "pinned": card.pinned} if card else {}
            row = {"name": e.name, "kinds": list(e.kinds), "width": e.width, "download": e.download, "about": e.about}
            rows.append(row | where)
        return emit_json({"schema": 1, "defaults": DEFAULTS, "encoders": rows})
    show_rows(
        ("encoder", "kinds", "width", "download", "what it is"),
        [(e.name, ", ".join(e.kinds), e.width, _download(CATALOGUE.get(e.name)), e.about) for e in entries],
    )
    note("convert: the hub holds a pickle of it, which is never read here; `show` says how to convert it once.")
    note("Any other model of these families works too, as owner/model@revision or ./folder.")
    note("Everything about one: mmbal encoders show wavlm-base")
    note("Choose one with:      mmbal prepare NAME --encoder audio=wavlm-base")


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Name from `mmbal encoders list`, NAME@REVISION, or a model folder.")],
    format: Listings = Listing.table,
) -> None:
    """Everything about one encoder: where it lies, what it was trained on, pools, parameters, preprocessing."""
    from mmbal_cli.encode.describe import describe

    facts = describe(name)
    if format is Listing.json:
        return emit_json({"schema": 1, "encoder": facts})
    show_facts(_lines(facts))
    for kind, parameters in facts["parameters"].items():
        if parameters:
            say("")
            say(f"parameters for {kind}: --set MODALITY.key=value")
            rows = [(key, limits[0], _limits(limits)) for key, limits in parameters.items()]
            show_rows(("key", "default", "from, to"), rows)
    say("")
    say(facts["command"])


def _download(card: Card | None) -> str:
    return "no" if card is None else "convert" if card.weights == PICKLE else "yes"


def _lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is known, in reading order."""
    pinned = {True: "pinned: yes", False: "pinned: no, the branch may move", None: ""}[facts.get("pinned")]
    for key in FACTS:
        value = facts.get(key)
        if value:
            text = ", ".join(value) if isinstance(value, list) else str(value)
            yield key, f"{text}   ({pinned})" if key == "revision" and pinned else text
    if facts.get("default_for"):
        yield "default for", ", ".join(facts["default_for"])
    if facts["download"] or facts.get("here"):
        missing = "no: make a folder of it once, below" if facts.get("convert") else "no: fetched when it is used first"
        yield "here", facts.get("here") or missing
    if facts.get("convert"):
        yield "convert", facts["convert"]
    for kind, pools in facts.get("pools", {}).items():
        yield f"pools for {kind}", ", ".join(pools)
    for kind, fed in facts.get("preprocessing", {}).items():
        text = fed if isinstance(fed, str) else ", ".join(f"{key} {value}" for key, value in fed.items())
        yield f"input of {kind}", text


def _limits(limits: list[Any]) -> str:
    choices = limits[1] if isinstance(limits[1], list) else None
    return ", ".join(choices) if choices else f"{limits[1]}, {limits[2]}"
