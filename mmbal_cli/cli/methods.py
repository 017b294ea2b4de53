"""`mmbal methods list|show`: what there is, and everything a reader must know before using one."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mmbal_cli.cli.console import emit_json, out

app = typer.Typer(
    help="Balancing methods: list them, show one with its paper, knobs and deviations.", no_args_is_help=True
)


class Format(StrEnum):
    """Output formats of these commands."""

    table = "table"
    json = "json"


@app.command("list")
def list_(format: Annotated[Format, typer.Option("--format", "-f", help="table or json.")] = Format.table) -> None:
    """List all methods and fusions."""
    from mmbal_cli.methods import METHODS
    from mmbal_cli.nn.fusion import FUSIONS

    if format is Format.json:
        rows = [{"name": name, "kind": row.kind, "paper": row.paper, "line": row.line} for name, row in METHODS.items()]
        fusions = [{"name": name, "line": line} for name, (_, line) in FUSIONS.items()]
        return emit_json({"schema": 1, "methods": rows, "fusions": fusions})
    table = Table("method", "kind", "paper", "what it does", box=None, header_style="bold", pad_edge=False)
    for name, row in METHODS.items():
        table.add_row(name, row.kind, row.paper, row.line)
    for name, (_, line) in FUSIONS.items():
        table.add_row(f"--fusion {name}", "fusion", "", line)
    out().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Method name, or path/to/file.py:Class.")],
    format: Annotated[Format, typer.Option("--format", "-f", help="table or json.")] = Format.table,
) -> None:
    """Show a method's paper, formula, deviations and knobs with their sources."""
    import sys

    from mmbal_cli.methods import METHODS, method_class
    from mmbal_cli.recipe import canonical, method_recipe

    cls = method_class(canonical(name) if canonical(name) in METHODS else name)
    card, knobs = cls.card, cls.declared()
    doc = (sys.modules[cls.__module__].__doc__ or cls.__doc__ or "").strip()
    recipe = method_recipe(card.name)
    upper = card.max_modalities or "any"
    facts: dict[str, Any] = {
        "name": card.name, "kind": card.kind, "paper": card.paper, "official code": card.code,
        "changes": card.changes, "modalities": f"{card.min_modalities} to {upper}",
        "fusions": list(card.fusions), "reduces to": card.reduces_to, "backward passes": card.backwards,
        "deviations": list(card.deviates),
    }  # fmt: skip
    if format is Format.json:
        table_of = {
            n: {"default": k.default, "help": k.help, "source": k.source, "valid": k.valid()} for n, k in knobs.items()
        }
        return emit_json({"schema": 1, **facts, "knobs": table_of, "recipe": recipe.model_dump(), "doc": doc})
    console = out()
    console.print(Text(doc))
    console.print()
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in facts.items():
        text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
        if text:
            table.add_row(Text(key, style="bold"), Text(text))
    for dataset, values in recipe.datasets.items():
        table.add_row(Text(f"recipe {dataset}", style="bold"), Text(json.dumps(values)))
    console.print(table)
    if knobs:
        console.print()
        listing = Table("knob", "default", "valid", "meaning", "source", box=None, header_style="bold", pad_edge=False)
        for key, k in knobs.items():
            listing.add_row(
                *map(Text, (f"method.{key}", str(k.default), k.valid().removeprefix("Expected "), k.help, k.source))
            )
        console.print(listing)
