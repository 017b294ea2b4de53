"""`mmbal encoders list`: what can turn a sample into features."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from mmbal_cli.cli.console import emit_json, note, out
from mmbal_cli.cli.methods import Format

app = typer.Typer(help="Frozen encoders: shipped ones and pretrained families.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `list` a subcommand while it is the only one."""


@app.command("list")
def list_(format: Annotated[Format, typer.Option("--format", "-f", help="table or json.")] = Format.table) -> None:
    """List encoders: name, kinds, width, whether it needs a download."""
    from mmbal_cli.encode import DEFAULTS, PRETRAINED, SHIPPED

    entries = [*SHIPPED.values(), *PRETRAINED]
    if format is Format.json:
        rows = [
            {"name": e.name, "kinds": list(e.kinds), "width": e.width, "download": e.download, "about": e.about}
            for e in entries
        ]
        return emit_json({"schema": 1, "defaults": DEFAULTS, "encoders": rows})
    table = Table("encoder", "kinds", "width", "download", "what it is", box=None, header_style="bold", pad_edge=False)
    for e in entries:
        width = str(e.width) if e.width else "-"
        table.add_row(*map(Text, (e.name, ", ".join(e.kinds), width, "yes" if e.download else "no", e.about)))
    out().print(table)
    note("Names with a slash are examples: any model of these families, as owner/model@revision or ./folder.")
    note("Choose one with: mmbal prepare NAME --encoder audio=facebook/wav2vec2-base-960h@main")
