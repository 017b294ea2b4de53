"""`mmbal demo`: the whole pipeline on the embedded data, ending in the comparison table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from mmbal_cli.cli.console import note
from mmbal_cli.cli.options import CACHE, RUNS, SEEDS, Cache, Runs, Seeds

METHODS = "unimodal,unimodal-ensemble,concat,late-fusion,heads,uniform,ogm-ge,arl,lfm-h,lfm-lb,iibalance,bmlr,bmlmi"


def demo(
    seeds: Seeds = SEEDS,
    methods: Annotated[str, typer.Option("--methods", "-m", help="Methods to compare, separated by commas.")] = METHODS,
    data_root: Annotated[Path, typer.Option(help="Where the clips are generated.")] = Path("data/demo"),
    cache: Cache = CACHE,
    runs: Runs = RUNS,
) -> None:
    """Generate the embedded data set, prepare it, train several methods, compare them."""
    from mmbal_cli.cli.compare import compare
    from mmbal_cli.cli.prepare import prepare
    from mmbal_cli.cli.train import train
    from mmbal_cli.methods import known, method_class

    for name in map(str.strip, methods.split(",")):  # a typing error shows before minutes of work
        method_class(name if ".py:" in name else known(name.partition(":")[0]))
    start = time.monotonic()
    note("1/3 prepare · mmbal prepare demo")
    prepare("demo", data_root=data_root, cache=cache)
    note(f"2/3 train · mmbal train --method {methods} --dataset demo --seeds {seeds}")
    train([methods], dataset="demo", seeds=seeds, resume=True, cache=cache, runs=runs)
    found = sorted(runs.glob("demo-*"))
    baseline = "concat" if any(path.name.startswith("demo-concat-") for path in found) else None
    against = f" --baseline {baseline}" if baseline else ""
    note(f"3/3 compare · mmbal compare {runs}/demo-* --metric accuracy{against}")
    compare(found, runs=runs, metric="accuracy", baseline=baseline)
    note(
        f"demo finished in {time.monotonic() - start:.0f} s · next: mmbal report {runs}/demo-*, mmbal methods list, "
        "mmbal prepare my.csv --root DIR"
    )
