"""`mmbal methods list|show`: what there is, and everything a reader must know before using one."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmbal_cli.cli.console import emit_json, stage
from mmbal_cli.cli.listing import say, show_facts, show_rows
from mmbal_cli.cli.options import Listing, Listings
from mmbal_cli.errors import EXIT_FINDINGS

if TYPE_CHECKING:
    from mmbal_cli.methods.base import Card, Method
    from mmbal_cli.methods.knobs import Knob

app = typer.Typer(
    help="Balancing methods: list them, show one with its paper, knobs and deviations, check one's contract.",
    no_args_is_help=True,
)

RECONSTRUCTED = "RECONSTRUCTED: the full paper or code could not be had; do not present its results as the paper's"


@app.command("list")
def list_(format: Listings = Listing.table) -> None:
    """List all methods and fusions."""
    from mmbal_cli.methods import METHODS
    from mmbal_cli.methods.table import year
    from mmbal_cli.nn.fusion import FUSIONS

    if format is Listing.json:
        keys = ("kind", "paper", "M", "cost", "line", "reconstructed")
        rows = [{"name": name, "year": year(row.paper), **{key: getattr(row, key) for key in keys}}
                for name, row in METHODS.items()]  # fmt: skip
        fusions = [{"name": name, "year": year(row.paper), **row._asdict()} for name, row in FUSIONS.items()]
        return emit_json({"schema": 1, "methods": rows, "fusions": fusions})
    methods = [
        (name + (" (reconstructed)" if row.reconstructed else ""), row.kind, *_venue(row.paper), row.M,
         "" if row.cost is None else f"{row.cost:.1f}", row.line)
        for name, row in METHODS.items()
    ]  # fmt: skip
    lines = [(f"--fusion {name}", "fusion", *_venue(row.paper), "1+", "", row.line) for name, row in FUSIONS.items()]
    show_rows(("method", "kind", "paper", "year", "M", "cost", "what it does"), [*methods, *lines])
    say("\nM: how many modalities. cost: time of a run in multiples of concat's. A fusion goes with most methods.")


def _venue(paper: str) -> tuple[str, str]:
    """Venue and year of a paper."""
    from mmbal_cli.methods.table import year

    return paper.removesuffix(year(paper)).strip(), year(paper)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Method name, or path/to/file.py:Class.")],
    format: Listings = Listing.table,
) -> None:
    """Show a method's paper, formula, stages, deviations and knobs with their sources."""
    from mmbal_cli.methods import known, method_class
    from mmbal_cli.recipe import method_recipe

    cls = method_class(known(name))
    facts, knobs = _facts(cls.card), cls.declared()
    doc = _page(cls)
    recipe = method_recipe(cls.card.name)
    if format is Listing.json:
        more = {"reconstructed": cls.card.reconstructed, "knobs": {key: _document(k) for key, k in knobs.items()}}
        return emit_json({"schema": 1, **facts, **more, "recipe": recipe.model_dump(), "doc": doc})
    say(doc)
    say("")
    texts = {key: "; ".join(value) if isinstance(value, list) else value for key, value in facts.items()}
    values = {f"recipe {dataset}": json.dumps(values) for dataset, values in recipe.datasets.items()}
    show_facts((key, value) for key, value in (texts | values).items() if value)
    if knobs:
        say("")
        rows = [(f"method.{key}", k.default, _valid(k), k.help, k.source) for key, k in knobs.items()]
        show_rows(("knob", "default", "valid", "meaning", "source"), rows)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="Method name, or path/to/file.py:Class.")],
    only: Annotated[list[str] | None, typer.Option("--only", help="Run this check alone (repeatable).")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A knob for all checks, method.alpha=0.3.")] = None,
    format: Listings = Listing.table,
) -> None:
    """Run the contract on a method, also on one of your own: what holds, what breaks, and where."""
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as training has it; read when torch is imported
    import torch

    from mmbal_cli.conform import Subject, chosen, examine
    from mmbal_cli.methods import known, method_class
    from mmbal_cli.recipe import parse_sets

    torch.set_num_threads(1)
    checks, cls = chosen(only or []), method_class(known(name))
    subject = Subject(cls, cls.given(parse_sets(set_ or [], ("method",))["method"]))
    findings = []
    with stage(f"checking {cls.card.name}", len(checks)) as advance:
        for each in checks:
            findings.append(examine(each, subject))
            advance(1, each.name)
    broken = [finding for finding in findings if finding.verdict == "breaks"]
    if format is Listing.json:
        rows = [{"check": f.check.name, "promise": f.check.promise, "verdict": f.verdict, "detail": f.detail}
                for f in findings]  # fmt: skip
        emit_json({"schema": 1, "method": cls.card.name, "holds": not broken, "checks": rows})
    else:
        words = {"holds": "holds", "breaks": "BREAKS", "none": "-"}
        lines = [
            (f.check.name, words[f.verdict], "\n".join(filter(None, [f.check.promise, f.detail]))) for f in findings
        ]
        show_rows(("check", "", "promise, and what was found"), lines)
        say(f"\n{cls.card.name}: {len(broken)} of {len(findings)} checks break.")
    if broken:
        raise typer.Exit(EXIT_FINDINGS)


def _page(cls: type[Method]) -> str:
    """What the files of a method say of it: its own, then those of the methods it builds on."""
    import sys

    from mmbal_cli.methods.base import Method

    modules = dict.fromkeys(base.__module__ for base in cls.__mro__ if issubclass(base, Method) and base is not Method)
    return (
        "\n\n".join(filter(None, [(sys.modules[name].__doc__ or "").strip() for name in modules])) or cls.__doc__ or ""
    )


def _facts(card: Card) -> dict[str, Any]:
    upper = card.max_modalities or "any"
    return {
        "name": card.name,
        "status": RECONSTRUCTED if card.reconstructed else "",
        "kind": card.kind,
        "paper": card.paper,
        "official code": card.code,
        "changes": card.changes,
        "modalities": f"{card.min_modalities} to {upper}",
        "fusions": list(card.fusions),
        "reduces to": card.reduces_to,
        "backward passes": card.backwards,
        "stages": card.stages,
        "holds out": card.holds_out,
        "deviations": list(card.deviates),
    }


def _document(k: Knob) -> dict[str, Any]:
    return {"default": k.default, "help": k.help, "source": k.source, "valid": k.valid(), "when": k.when}


def _valid(k: Knob) -> str:
    """Range or choices, and the value of another knob without which this one does nothing."""
    values = k.valid().removeprefix("Expected ").removesuffix(".")
    return f"{values}, if method.{k.when}" if k.when else values
