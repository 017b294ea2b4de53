"""`mmbal prepare`: raw files -> feature shards, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmbal_cli.cli.options import CACHE, Cache, Device
from mmbal_cli.errors import UsageError


def prepare(
    target: Annotated[str, typer.Argument(help="Data set name, RECIPE.yaml, or a table: .csv, .tsv, .jsonl.")],
    root: Annotated[
        Path | None, typer.Option(help="Folder that media paths are relative to [default: the table's].")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Where a named data set lies or is generated [data/NAME].")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the prepared set [default: of the recipe or table].")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Order of the classes: a file with one a line, or a,b,c.")] = None,
    encoder: Annotated[
        list[str] | None, typer.Option(help="MODALITY=NAME[@REVISION]; see `mmbal encoders list`.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="MODALITY.key=value, e.g. video.frames=4.")] = None,
    dtype: Annotated[str, typer.Option(help="Stored type: float16 or float32.")] = "float16",
    device: Device = "auto",
    workers: Annotated[int | None, typer.Option("--workers", "-j", min=1, help="Decoding processes [cores].")] = None,
    chunk: Annotated[int, typer.Option(help="Samples a shard.")] = 256,
    max_bad: Annotated[str, typer.Option(help="Bad samples accepted for each modality: 1%, 0.01 or a count.")] = "1%",
    max_bad_test: Annotated[str, typer.Option(help="The same for the test split.")] = "0",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Accept any number of bad or missing files.")] = False,
    retry_bad: Annotated[bool, typer.Option("--retry-bad", help="Try again what was bad in an earlier call.")] = False,
    allow_duplicates: Annotated[
        bool, typer.Option("--allow-duplicates", help="Accept the same file bytes in two splits.")
    ] = False,
    cache: Cache = CACHE,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Decode and encode a data set into the feature cache; a second call is up to date at once."""
    from mmbal_cli.cli.preparing import run
    from mmbal_cli.cli.target import Request

    request = Request(
        target=target,
        root=str(root.absolute()) if root else None,
        data_root=str(data_root.absolute()) if data_root else None,
        name=name,
        classes=class_names(classes),
        encoders=[_absolute_folder(item) for item in encoder or []],
        sets=list(set_ or []),
        dtype=dtype,
        chunk=chunk,
        max_bad=max_bad,
        max_bad_test=max_bad_test,
        skip_bad=skip_bad,
        allow_duplicates=allow_duplicates,
    )
    run(request, cache, device=device, workers=workers, retry_bad=retry_bad, dry_run=dry_run)


def class_names(text: str | None) -> list[str] | None:
    """Class names from a file (one a line) or a comma-separated list."""
    if text is None:
        return None
    if Path(text).is_file():
        lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
        return [line.strip() for line in lines if line.strip()]
    names = [part.strip() for part in text.split(",") if part.strip()]
    if len(names) < 2:
        raise UsageError(f"--classes {text}", "Expected a file with one class a line, or a,b,c.")
    return names


def _absolute_folder(item: str) -> str:
    """A local model folder keeps its meaning when the request is repeated from elsewhere."""
    modality, equals, name = item.partition("=")
    folder = Path(name).expanduser()
    return f"{modality}{equals}{folder.absolute()}" if name and folder.is_dir() else item
