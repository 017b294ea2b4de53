"""`mmbal encoders list`: what can turn a sample into features."""

from __future__ import annotations

import typer

from mmbal_cli.cli.console import emit_json, note
from mmbal_cli.cli.listing import show_rows
from mmbal_cli.cli.options import Listing, Listings

app = typer.Typer(help="Frozen encoders: shipped ones and pretrained families.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `list` a subcommand while it is the only one."""


@app.command("list")
def list_(format: Listings = Listing.table) -> None:
    """List encoders: name, kinds, width, whether it needs a download."""
    from mmbal_cli.encode import DEFAULTS, PRETRAINED, SHIPPED

    entries = [*SHIPPED.values(), *PRETRAINED]
    if format is Listing.json:
        rows = [
            {"name": e.name, "kinds": list(e.kinds), "width": e.width, "download": e.download, "about": e.about}
            for e in entries
        ]
        return emit_json({"schema": 1, "defaults": DEFAULTS, "encoders": rows})
    show_rows(
        ("encoder", "kinds", "width", "download", "what it is"),
        [(e.name, ", ".join(e.kinds), e.width, "yes" if e.download else "no", e.about) for e in entries],
    )
    note("Names with a slash are examples: any model of these families, as owner/model@revision or ./folder.")
    note("Choose one with: mmbal prepare NAME --encoder audio=facebook/wav2vec2-base-960h@main")
