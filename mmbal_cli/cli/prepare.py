"""`mmbal prepare`: raw files -> feature shards, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmbal_cli.cli.options import CACHE, Cache, Classes, DataRoot, Decoders, Device, Root, SubsetFile, Target


def prepare(
    target: Target,
    root: Root = None,
    data_root: DataRoot = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the prepared set (default: of the recipe or table).")
    ] = None,
    classes: Classes = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="MODALITY=NAME[@REVISION], several with commas; see `mmbal encoders list`."),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option("--pretrained", help="The data set's pretrained encoders (downloads) instead of shipped ones."),
    ] = False,
    subset: SubsetFile = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="MODALITY.key=value, e.g. video.frames=4; source.key=value.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Stored type: float16 or float32.")] = "float16",
    device: Device = "auto",
    workers: Decoders = None,
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

    request = Request.of(
        target,
        root,
        data_root,
        classes,
        subset,
        set_,
        name=name,
        encoders=[_absolute_folder(part) for item in encoder or [] for part in item.split(",")],
        pretrained=pretrained,
        dtype=dtype,
        chunk=chunk,
        max_bad=max_bad,
        max_bad_test=max_bad_test,
        skip_bad=skip_bad,
        allow_duplicates=allow_duplicates,
    )
    run(request, cache, device=device, workers=workers, retry_bad=retry_bad, dry_run=dry_run)


def _absolute_folder(item: str) -> str:
    """A local model folder keeps its meaning when the request is repeated from elsewhere; known names come first."""
    from mmbal_cli.encode import SHIPPED
    from mmbal_cli.encode.catalogue import card_of

    modality, equals, name = item.partition("=")
    folder = Path(name).expanduser()
    own = name and name not in SHIPPED and card_of(name) is None and folder.is_dir()
    return f"{modality}{equals}{folder.absolute()}" if own else item
