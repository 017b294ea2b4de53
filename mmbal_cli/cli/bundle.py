"""`mmbal bundle`: a run as one file; `mmbal replay`: train it again and say how far it is from what it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmbal_cli.cli.console import note
from mmbal_cli.cli.options import CACHE, RUNS, Cache, Runs, Workers
from mmbal_cli.cli.output import Formats, Output, Precision, Report, deliver, write_bytes
from mmbal_cli.errors import EXIT_FINDINGS, CacheError, UsageError

if TYPE_CHECKING:
    from mmbal_cli.engine.plan import Data, Planned
    from mmbal_cli.report.unpack import Bundle

REPLAYS = Path("replays")
SOURCES = ".methods"


def bundle(
    name: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or its name below --runs.")],
    output: Output = None,
    with_weights: Annotated[bool, typer.Option("--with-weights", help="Pack the selected weights too.")] = False,
    cache: Cache = CACHE,
    runs: Runs = RUNS,
) -> None:
    """Pack a run into one file: config, versions, records, predictions, recipe, an own method's source.

    The same run gives the same bytes. Absolute paths are cut to their last part.
    """
    from mmbal_cli.report.bundle import pack
    from mmbal_cli.report.runs import find_runs, read_run

    run = read_run(find_runs([name], runs)[0])
    target = output or Path(f"{run.folder.name}.zip")
    data, contents = pack(run, cache, weights=with_weights)
    write_bytes(target, data)
    for line in contents.notes:
        note(f"note: {line}")
    seeds = ", ".join(map(str, contents.seeds))
    note(f"wrote {target} ({len(data):,} bytes, {len(contents.files)} files, seeds {seeds})")
    note(f"next: mmbal replay {target}")


def replay(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A file that `mmbal bundle` wrote.")],
    seeds: Annotated[
        str | None, typer.Option("--seeds", "-s", help="How many, or a list such as 1,2,5; all by default.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Only equal bits count as equal.")] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the method source in the bundle: it can do whatever you can.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train again what was replayed before.")] = False,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N; as in the bundle by default.")
    ] = None,
    jobs: Workers = None,
    cache: Cache = CACHE,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of replayed runs.")] = REPLAYS,
    format: Formats = None,
    precision: Precision = 2,
    output: Output = None,
) -> None:
    """Train a bundled run again and print the difference; an interrupted replay goes on where it was.

    Exit code 0 when the result is equal within the printed tolerance, 1 when it is not, 3 when the features here are
    not those of the bundle.
    """
    import tempfile

    from mmbal_cli.report.unpack import unpack

    with tempfile.TemporaryDirectory(prefix="mmbal-bundle-") as folder:
        packed = unpack(path, Path(folder))
        wanted = _seeds(seeds, packed)
        _say(packed)
        planned = _planned(packed, cache, runs, trust)
        target = _device(device, packed)
        _refuse_a_run(planned, runs)
        from mmbal_cli.cli.train import refuse, run_planned, tell_finished
        from mmbal_cli.report.replay import DIFFERENT, document, judge, lines, sheet
        from mmbal_cli.report.runs import read_run

        if not overwrite:
            tell_finished([planned], wanted, runs)
        failed = run_planned([planned], wanted, runs, cache, target, jobs, resume=True, overwrite=overwrite)
        place = planned.folder(runs)
        if set(wanted) - place.finished().keys():
            refuse(failed)
        found = judge(packed.run, read_run(place.path), (packed.environment, _environment(place.path)), wanted,
                      exact=exact)  # fmt: skip
        report = Report(lambda digits: [sheet(found, digits)], lambda: document(found), lambda: lines(found))
        deliver(report, format, output, precision)
        note(f"verdict: {found.verdict} · replay in {place.path}")
        if found.verdict == DIFFERENT:
            raise typer.Exit(EXIT_FINDINGS)


def _seeds(text: str | None, packed: Bundle) -> tuple[int, ...]:
    """The asked seeds, all of the bundle by default; UsageError for one that it has not."""
    from mmbal_cli.engine.plan import parse_seeds

    known = tuple(sorted(packed.contents.seeds))
    if text is None:
        return known
    wanted = known[: int(text)] if text.isdecimal() and 0 < int(text) <= len(known) else parse_seeds(text)
    if unknown := [seed for seed in wanted if seed not in known]:
        raise UsageError(f"The bundle has no seed {', '.join(map(str, unknown))}.",
                         f"It has {', '.join(map(str, known))}.")  # fmt: skip
    return wanted


def _say(packed: Bundle) -> None:
    """Notes of the bundle, and that another version made it."""
    from mmbal_cli import __version__
    from mmbal_cli.report.tables import literal

    note(f"bundle of {literal(packed.contents.run)}: seeds {', '.join(map(str, sorted(packed.contents.seeds)))}")
    for line in packed.contents.notes:
        note(f"note: {literal(line)}")
    if packed.contents.mmbal != __version__:
        made = literal(packed.contents.mmbal) or "an unknown version"
        note(f"warning: the run was trained by mmbal {made}, this is {__version__}: equal bits are not to be expected")


def _planned(packed: Bundle, cache: Path, runs: Path, trust: bool) -> Planned:
    """The bundled spec as a run to train, on features that were found to be the same."""
    from mmbal_cli.engine.plan import Planned
    from mmbal_cli.methods import method_class
    from mmbal_cli.store.atomic import publish

    spec, facts = packed.spec, packed.facts
    if packed.own_method:
        source = packed.source
        if source is None:
            raise CacheError(
                f"The bundle lacks the source of its method (sha256 {spec.method_source[:16]}).",
                "Without it the run cannot be trained.",
                "ask for the file",
            )
        if not trust:
            raise UsageError(
                f"The run is of an own method: replaying it runs the code in method/{source.name} of the bundle.",
                "It can do whatever you can. Read it first; nothing was run.",
                "mmbal replay ... --trust",
            )
    data = _data(packed, cache)
    if packed.own_method and packed.source is not None:
        place = publish(runs / SOURCES / spec.method_source[:16], packed.source.name, packed.source.read_bytes())
        spec = spec.model_copy(update={"method": f"{place.absolute()}:{spec.method.rpartition(':')[2]}"})
    cls = method_class(spec.method)
    cls.check(data.shape, spec.fusion, cls.resolve(spec.knobs))
    facts = {**facts, "spec": spec.digest, "config": spec.model_dump(), "replay_of": packed.contents.spec}
    return Planned(spec, facts, (), f"replay of {packed.run.facts.title}")


def _data(packed: Bundle, cache: Path) -> Data:
    """The prepared set of the bundle; CacheError that says what is other here and which command mends it.

    A split or subset of the bundle that is not stored here is stored.
    """
    from mmbal_cli.cli.train import open_data
    from mmbal_cli.data.named import list_splits, store_split, store_subset
    from mmbal_cli.report.tables import literal
    from mmbal_cli.store.sets import list_sets

    spec, told = packed.spec, literal(packed.contents.prepare)
    repair = (told if told.startswith("mmbal prepare ") else "") or f"mmbal prepare {spec.dataset}"
    if spec.dataset not in list_sets(cache):
        raise CacheError(f"'{spec.dataset}' is not prepared in {cache}.",
                         "Replaying needs the features that the run was trained on.", repair)  # fmt: skip
    if packed.split and spec.split not in list_splits(cache, spec.dataset):
        store_split(cache, spec.dataset, packed.split)
        note(f"stored the split '{spec.split}' of the bundle in {cache}/{spec.dataset}")
    if packed.subset:
        store_subset(cache, spec.dataset, packed.subset)
    chosen = [f"{m}={label}" for m, label in spec.encoders.items()]
    try:
        data = open_data(cache, spec.dataset, spec.split or None, spec.subset or None, chosen)
    except UsageError as problem:
        raise CacheError(problem.found, problem.expected, repair) from None
    if differences := _differences(packed, data):
        raise CacheError(f"'{spec.dataset}' in {cache} is not what the run was trained on: {'; '.join(differences)}.",
                         "A replay on other data would compare nothing.", repair)  # fmt: skip
    return data


def _differences(packed: Bundle, data: Data) -> list[str]:
    """What of the data identity differs, found and expected."""
    then, now = packed.run.facts.data, data.prepared
    found: list[str] = []
    if now.split_hash != then.split_hash:
        found.append(f"split {now.split_hash[:8]}, expected {then.split_hash[:8]}")
    if tuple(now.classes) != then.classes:
        found.append(f"classes {', '.join(now.classes)}, expected {', '.join(then.classes)}")
    if now.fingerprint != then.fingerprint:
        here = data.encoders
        encoders = [
            f"{m} by {here.get(m, 'none')}, expected {encoder}"
            for m, encoder in then.modalities.items()
            if here.get(m) != encoder
        ]
        encoders += [f"{m}, expected none" for m in here if m not in then.modalities]
        what = "; ".join(encoders) or f"features {now.fingerprint[:8]}, expected {then.fingerprint[:8]}"
        found.append(f"{what} (fingerprint)" if encoders else what)
    if not found and dict(now.counts) != then.counts:
        found.append(f"samples {dict(now.counts)}, expected {then.counts}")
    return found


def _device(asked: str | None, packed: Bundle) -> str:
    """The device asked for, else that of the bundle where there is one."""
    from mmbal_cli.engine.device import resolve_device

    wanted = str(packed.environment.get("device", "cpu")).partition(":")[0]
    target = resolve_device(asked or ("cpu" if wanted == "cpu" else "auto"))
    if not asked and target.partition(":")[0] != wanted:
        note(f"note: the run was trained on {'a GPU' if wanted == 'cuda' else 'another device'}, this is {target}")
    return target


def _refuse_a_run(planned: Planned, runs: Path) -> None:
    """Never compare a run with itself: a folder that `replay` did not make is no replay."""
    folder = planned.folder(runs).path
    if (folder / "run.json").exists() and "replay_of" not in _document(folder / "run.json"):
        raise UsageError(
            f"{folder} was made by mmbal train, not by a replay.",
            "A run compared with itself says nothing.",
            f"mmbal replay ... --runs {REPLAYS}",
        )


def _environment(folder: Path) -> dict[str, object]:
    return _document(folder / "env.json")


def _document(path: Path) -> dict[str, object]:
    import json

    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as problem:
        raise CacheError(f"{path} cannot be read ({problem}).", repair="mmbal replay ... --overwrite") from None
