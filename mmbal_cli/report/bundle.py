"""A run as one file: what was asked for, where it ran, and what every seed recorded and predicted.

A bundle is a zip whose members are stored as they are, in the order of their names and with one fixed time: the same
run gives the same bytes on every machine, and a member cannot be larger than the file that holds it. Nothing in it
says whose machine it was: absolute paths are cut to their last part.

    bundle.json                    schema, versions, data identity, every file with its sha256 and size
    run.json env.json              the resolved config, versions and device
    method/NAME.py                 the source of a run of an own method
    recipes/{method,dataset}.yaml  the recipes as they are when the run is packed; the numbers are those of run.json
    data/{split,subset}.json       a stored split or subset that the run was trained on
    seed-N/                        done.json records.jsonl predictions-*.safetensors [model.safetensors]
"""

from __future__ import annotations

import io
import json
import re
import shlex
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mmbal_cli import __version__
from mmbal_cli.data.named import SPLIT_FOLDER, SUBSET_FOLDER, load_subset, read_split
from mmbal_cli.errors import CacheError, MmbalError, UsageError
from mmbal_cli.recipe import find_recipe
from mmbal_cli.report.runs import Run
from mmbal_cli.store.atomic import canonical_json, sha256_hex
from mmbal_cli.store.index import load_index
from mmbal_cli.store.sets import PreparedSet, read_set, with_encoders

SCHEMA, KIND = 1, "mmbal-bundle"
INDEX = "bundle.json"
TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
PATH = "<path>"
PREDICTED = ("val", "test", "test-sealed")  # the last of legacy runs: what validation would have selected
SAVED = ("done.json", "records.jsonl", *(f"predictions-{split}.safetensors" for split in PREDICTED))
WEIGHTS = "model.safetensors"
_ABSOLUTE = re.compile(
    r"""(?:(?:^|(?<=[=,\s"']))(?:~[\w.-]*[/\\]|/(?=\S)|[A-Za-z]:[/\\]|\\\\)|(?<=:)/(?=[^/\s]))[^=,:"'\n]*"""
)


class Packed(BaseModel):
    """One member: its name, digest (64 hex digits) and size in bytes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Contents(BaseModel):
    """The content of bundle.json; `seeds` {seed: status}, `features` {modality: {encoder, fingerprint}} where known."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    version: int = Field(alias="schema")
    kind: str
    packed_by: str = ""
    mmbal: str = ""
    run: str
    title: str
    dataset: str
    spec: str
    data: dict[str, Any]
    features: dict[str, dict[str, str]] = {}
    seeds: dict[int, str]
    weights: bool = False
    prepare: str = ""
    replay: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[Packed, ...]


@dataclass
class Parcel:
    """What goes into a bundle: {name: bytes}, and what its reader must know."""

    files: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    prepare: str = ""
    features: dict[str, dict[str, str]] = field(default_factory=dict)


def pack(run: Run, cache: Path, *, weights: bool = False) -> tuple[bytes, Contents]:
    """The bundle of a run and its table of contents.

    `cache` is asked for the stored split and subset and for how the features were made; it may be gone.
    Raises CacheError for a run without a finished seed, with damaged files, or without the weights asked for.
    """
    if not run.seeds:
        raise CacheError(f"No seed of {run.name} has finished.", "A bundle holds results.", "mmbal train ... --resume")
    parcel = Parcel()
    if run.running:
        parcel.notes.append("a training of this run is under way or was interrupted: only its finished seeds are here")
    for split in ("val", "test"):
        if run.facts.data.counts.get(split, 1):
            run.collect(split)  # refuses damaged predictions before they are passed on
    for result in run.seeds:
        for name in (*SAVED, *([WEIGHTS] if weights else [])):
            path = result.folder / name
            if path.exists():
                parcel.files[f"{result.folder.name}/{name}"] = path.read_bytes()
            elif name == "records.jsonl":
                parcel.notes.append(f"{result.folder.name} has no records: its training cannot be looked at")
            elif name == WEIGHTS and result.facts.status == "done":
                raise CacheError(f"{path} is not there.", "The weights were asked for.", "leave --with-weights out")
    facts = _facts(run, parcel)
    environment = _environment(run, parcel)
    if (recipe := find_recipe("methods", run.facts.method)) is not None:
        parcel.files["recipes/method.yaml"] = recipe.read_bytes()
    _from_cache(run, cache, parcel)
    return _zipped(parcel, run, facts, environment, weights)


def _facts(run: Run, parcel: Parcel) -> dict[str, Any]:
    """run.json, with the source of an own method beside it and its path cut to the name of the file."""
    facts = json.loads((run.folder / "run.json").read_bytes())
    config = facts["config"]
    method = str(config.get("method", ""))
    if ".py:" in method:
        path, _, attribute = method.rpartition(":")
        config["method"] = f"{Path(path).name}:{attribute}"
        source = Path(path).read_bytes() if Path(path).is_file() else b""
        if source and sha256_hex(source) == config.get("method_source"):
            parcel.files[f"method/{Path(path).name}"] = source
        else:
            why = "is another file now" if source else "is not there any more"
            parcel.notes.append(
                f"the source of the method is not in this bundle: {Path(path).name} {why} (run trained on sha256 "
                f"{str(config.get('method_source'))[:16]}); it cannot be replayed"
            )
    parcel.files["run.json"] = canonical_json(facts)
    return dict(facts)


def _environment(run: Run, parcel: Parcel) -> dict[str, Any]:
    """env.json with the command's absolute paths cut to their last part."""
    try:
        environment = json.loads((run.folder / "env.json").read_bytes())
        if not isinstance(environment, dict):
            raise ValueError("not an object")
    except (OSError, ValueError):
        parcel.notes.append("env.json of the run cannot be read: versions and device are unknown")
        return {}
    command = environment.get("command")
    words = [str(word) for word in command] if isinstance(command, list) else []
    environment["command"] = [without_paths(word) for word in words]
    if environment["command"] != words:
        parcel.notes.append("the command that trained the run named absolute paths: only their last part is kept")
    parcel.files["env.json"] = canonical_json(environment)
    return dict(environment)


def without_paths(text: str) -> str:
    """`text` with every absolute path (or one below a home folder) cut to its last part, behind `<path>/`."""
    return _ABSOLUTE.sub(lambda found: _last(found[0]), text)


def _last(path: str) -> str:
    parts = [part for part in re.split(r"[/\\]", path) if part]
    return f"{PATH}/{parts[-1]}" if parts else PATH


def _recipe(parcel: Parcel, target: str) -> None:
    """The recipe of the data set: a shipped one, or the user's own file, which stays at home when it names paths."""
    own = Path(target) if target.endswith((".yaml", ".yml")) else None
    path = own or find_recipe("datasets", target)
    if path is None or not path.is_file():
        return
    data = path.read_bytes()
    if own and without_paths(text := data.decode("utf-8", "replace")) != text:
        parcel.notes.append("the recipe of the data set names absolute paths and is left out")
        return
    parcel.files["recipes/dataset.yaml"] = data


def _from_cache(run: Run, cache: Path, parcel: Parcel) -> None:
    """Stored split and subset, fingerprints of the modalities, recipe and command of the data set."""
    config, dataset = run.facts.config, run.facts.dataset
    for name, key, folder, read in (
        ("split", str(config.get("split", "")), SPLIT_FOLDER, read_split),
        ("subset", str(config.get("subset", "")), SUBSET_FOLDER, load_subset),
    ):
        if key:
            try:
                read(cache, dataset, key)
                parcel.files[f"data/{name}.json"] = (cache / dataset / folder / f"{key}.json").read_bytes()
            except MmbalError:
                parcel.notes.append(f"the stored {name} '{key}' is not in the cache {cache.name}: whoever replays the "
                                    "bundle needs it in theirs")  # fmt: skip
    try:
        prepared = with_encoders(cache, read_set(cache, dataset), config.get("encoders", {}))
        if prepared.fingerprint != run.facts.data.fingerprint:
            raise CacheError("prepared anew")
        parcel.features = {
            m: {"encoder": index.encoder, "fingerprint": index.fingerprint}
            for m, index in ((m, load_index(cache / dataset / name)) for m, name in prepared.modalities.items())
        }
    except (CacheError, UsageError):
        parcel.notes.append(
            f"the features of the run are not in the cache {cache.name}: how they were made is not said"
        )
        return
    request = prepared.source.get("request", {})
    target = str(request.get("target", ""))
    parcel.prepare = prepare_command(prepared)
    _recipe(parcel, target)


def prepare_command(prepared: PreparedSet) -> str:
    """The `mmbal prepare` call that made a set, without the paths of the machine; "" when it does not say."""
    request: Mapping[str, Any] = prepared.source.get("request", {})
    if not request.get("target"):
        return ""
    words = ["mmbal", "prepare", str(request["target"])]
    usual = {"dtype": "float16", "chunk": 256, "max_bad": "1%", "max_bad_test": "0"}
    for key in ("root", "data_root", "name", "classes", "subset", "dtype", "chunk", "max_bad", "max_bad_test"):
        value = request.get(key)
        if value not in (None, usual.get(key)):
            words += [f"--{key.replace('_', '-')}", ",".join(value) if isinstance(value, list) else str(value)]
    for key, option in (("encoders", "--encoder"), ("sets", "--set")):
        words += [word for value in request.get(key, []) for word in (option, str(value))]
    words += [
        f"--{key.replace('_', '-')}" for key in ("pretrained", "skip_bad", "allow_duplicates") if request.get(key)
    ]
    return shlex.join(map(without_paths, words))


def _zipped(
    parcel: Parcel, run: Run, facts: Mapping[str, Any], environment: Mapping[str, Any], weights: bool
) -> tuple[bytes, Contents]:
    data = run.facts.data
    contents = Contents(
        version=SCHEMA,
        kind=KIND,
        packed_by=__version__,
        mmbal=str(environment.get("mmbal", "")),
        run=run.folder.name,
        title=run.facts.title,
        dataset=run.facts.dataset,
        spec=str(facts.get("spec", "")),
        data=data.model_dump(mode="json", exclude_none=True),
        features=parcel.features,
        seeds={result.facts.seed: result.facts.status for result in run.seeds},
        weights=weights,
        prepare=parcel.prepare,
        replay=_words(run, parcel, environment),
        notes=tuple(parcel.notes),
        files=tuple(
            Packed(name=name, sha256=sha256_hex(each), size=len(each)) for name, each in sorted(parcel.files.items())
        ),
    )
    stream = io.BytesIO()
    index = canonical_json(contents.model_dump(mode="json", by_alias=True))
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, each in sorted({**parcel.files, INDEX: index}.items()):
            entry = zipfile.ZipInfo(name, TIME)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, each)
    return stream.getvalue(), contents


def _words(run: Run, parcel: Parcel, environment: Mapping[str, Any]) -> tuple[str, ...]:
    """How to replay it, for a reader of bundle.json."""
    version = environment.get("mmbal", "unknown")
    torch = environment.get("packages", {}).get("torch", "unknown")
    own = any(name.startswith("method/") for name in parcel.files)
    return (
        f"Install mmbal {version} with torch {torch} for equal bits; another version gives equal results within the "
        "tolerance that `mmbal replay` prints.",
        f"Prepare the same features: {parcel.prepare or 'mmbal prepare ' + run.facts.dataset} (fingerprint "
        f"{run.facts.data.fingerprint[:16]}, split {run.facts.data.split_hash[:16]}).",
        f"Run: mmbal replay {run.folder.name}.zip" + (" --trust (it runs the source in method/)" if own else ""),
    )
