"""Reading a bundle that anyone may have made: everything is checked before a byte is written, and only names of the
format are written, below a folder of the caller's.

Refused with a CacheError: no zip, a cut or repacked one, names outside the format (so no path leads out), links,
encrypted or compressed members, a name twice, members that are not in bundle.json or that it has and the zip has
not, other sizes or digests, another schema, and a run.json whose names could lead anywhere.
"""

from __future__ import annotations

import json
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmbal_cli.data.named import NamedSplit, Subset, subset_of
from mmbal_cli.engine.runs import RunSpec
from mmbal_cli.errors import CacheError
from mmbal_cli.report.bundle import INDEX, KIND, SCHEMA, Contents
from mmbal_cli.report.runs import Run, read_run
from mmbal_cli.store.atomic import digest_of, sha256_hex

MEMBERS = re.compile(
    r"bundle\.json|run\.json|env\.json|method/[A-Za-z0-9_][\w.-]*\.py|recipes/(method|dataset)\.yaml"
    r"|data/(split|subset)\.json"
    r"|seed-[0-9]{1,19}/(done\.json|records\.jsonl|predictions-(val|test|test-sealed)\.safetensors|model\.safetensors)",
    re.ASCII,
)
MOST_MEMBERS = 20_000
MOST_BYTES = 8 << 30  # 1,000 seeds of a large set with weights are less
MOST_JSON = 32 << 20
_SET = re.compile(r"[a-z0-9][a-z0-9_.-]{0,127}", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9][\w.@-]{0,127}", re.ASCII)
REPAIR = "ask for the file again, as `mmbal bundle` wrote it"


@dataclass(frozen=True)
class Bundle:
    """A checked bundle unpacked in `folder`: its contents, the run as it was, the spec to train, an own method's file.

    `split` and `subset` are those that the run was trained on, where the bundle has them.
    """

    folder: Path
    contents: Contents
    run: Run
    spec: RunSpec
    facts: dict[str, Any]
    environment: dict[str, Any]
    source: Path | None
    split: NamedSplit | None
    subset: Subset | None

    @property
    def own_method(self) -> bool:
        """Replaying it means running code that is not mmbal's."""
        return ".py:" in self.spec.method


def unpack(path: Path, folder: Path) -> Bundle:
    """Check the bundle at `path` and unpack it into the empty `folder`. Raises CacheError."""
    try:
        with zipfile.ZipFile(path) as archive:
            contents, members = _checked(path, archive)
            for name, data in members:
                target = folder / name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(data)
    except FileNotFoundError:
        raise CacheError(f"There is no bundle {path}.", repair="mmbal bundle RUN") from None
    except IsADirectoryError:
        raise CacheError(f"{path} is a folder, not a bundle.", repair=f"mmbal bundle {path}") from None
    except CacheError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise CacheError(f"{path} is no readable zip ({error}).", "It was cut or damaged.", REPAIR) from error
    except OSError as error:
        raise CacheError(f"{path} cannot be read: {error.strerror or error}.") from error
    return _opened(path, folder, contents)


def _checked(path: Path, archive: zipfile.ZipFile) -> tuple[Contents, Sequence[tuple[str, bytes]]]:
    """The table of contents, and every member with bytes that agree with it, read one after the other."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    _check_entries(path, archive.infolist())
    if INDEX not in entries:
        raise CacheError(f"{path} is no bundle: it has no {INDEX}.", "Expected a file that `mmbal bundle` made.")
    contents = _contents(path, archive.read(INDEX))
    listed = Counter(each.name for each in contents.files)
    if {*listed, INDEX} != set(entries) or max(listed.values(), default=0) > 1:
        odd = sorted({*listed, INDEX} ^ set(entries)) or [name for name, n in listed.items() if n > 1]
        raise CacheError(f"{path}: its list of files and its files differ: {odd[0]}.", "It was changed.", REPAIR)
    for each in contents.files:
        if entries[each.name].file_size != each.size:
            raise CacheError(f"{path}: {each.name} has another size than {INDEX} says.", "It was changed.", REPAIR)

    def read() -> Any:
        for each in contents.files:
            data = archive.read(each.name)
            if sha256_hex(data) != each.sha256:
                raise CacheError(f"{path}: {each.name} is not what was packed (sha256).", "It was changed.", REPAIR)
            yield each.name, data

    return contents, read()


def _check_entries(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse a zip that `mmbal bundle` does not write."""
    size = path.stat().st_size
    if len(entries) > MOST_MEMBERS or sum(entry.file_size for entry in entries) > min(size, MOST_BYTES):
        raise CacheError(f"{path}: its members say to be larger than the file that holds them.",
                         "A bundle is not compressed: it unpacks to less than its own size.", REPAIR)  # fmt: skip
    names = Counter(entry.filename for entry in entries)
    for entry in entries:
        name, kind = entry.filename, entry.external_attr >> 16
        shown = repr(name[:80])
        if not MEMBERS.fullmatch(name):
            raise CacheError(f"{path} holds {shown}, which no bundle does.", "Nothing was unpacked.", REPAIR)
        if names[name] > 1:
            raise CacheError(f"{path} holds {shown} {names[name]} times.", "Nothing was unpacked.", REPAIR)
        if stat.S_IFMT(kind) not in (0, stat.S_IFREG):
            raise CacheError(f"{path}: {shown} is a link or no plain file.", "Nothing was unpacked.", REPAIR)
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise CacheError(f"{path} was packed again: {shown} is compressed or encrypted.",
                             "A bundle is stored as it is.", REPAIR)  # fmt: skip
        if name.endswith(".json") and entry.file_size > MOST_JSON:
            raise CacheError(f"{path}: {shown} has {entry.file_size:,} bytes.", f"Expected at most {MOST_JSON:,}.")


def _contents(path: Path, data: bytes) -> Contents:
    document = _json(path, INDEX, data)
    if document.get("kind") != KIND or not isinstance(document.get("schema"), int):
        raise CacheError(f"{path} is no bundle of mmbal.", f"Expected kind {KIND!r} and a schema in {INDEX}.")
    if document["schema"] != SCHEMA:
        raise CacheError(
            f"{path} has bundle schema {document['schema']}.",
            f"This version of mmbal reads schema {SCHEMA}.",
            f"install mmbal {_plain(document.get('packed_by'))}",
        )
    try:
        return Contents.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise CacheError(f"{path}: {INDEX}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None


def _json(path: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CacheError(f"{path}: {name} is no JSON ({type(error).__name__}).", "It was changed.", REPAIR) from None
    if not isinstance(document, dict):
        raise CacheError(f"{path}: {name} holds no object.", "It was changed.", REPAIR)
    return document


def _plain(value: Any) -> str:
    text = str(value)
    return text if _WORD.fullmatch(text) else "of a later version"


def _opened(path: Path, folder: Path, contents: Contents) -> Bundle:
    """The unpacked run, typed; every name in it that will be part of a path is one plain word."""
    facts = _json(path, "run.json", _bytes(path, folder, "run.json"))
    environment = _json(path, "env.json", (folder / "env.json").read_bytes()) if (folder / "env.json").exists() else {}
    for done in folder.glob("seed-*/done.json"):
        _json(path, f"{done.parent.name}/done.json", done.read_bytes())
    spec = _spec(path, facts, contents)
    run = read_run(folder)
    seeds = {int(result.folder.name.removeprefix("seed-")): result.facts for result in run.seeds}
    if not seeds or any(seed != facts.seed for seed, facts in seeds.items()):
        raise CacheError(f"{path} holds no seed, or one in the place of another.", "It was changed.", REPAIR)
    if {seed: facts.status for seed, facts in seeds.items()} != contents.seeds:
        raise CacheError(f"{path}: its seeds are not those that {INDEX} lists.", "It was changed.", REPAIR)
    source = next(folder.glob("method/*.py"), None)
    if source and sha256_hex(source.read_bytes()) != spec.method_source:
        raise CacheError(f"{path}: method/{source.name} is not the method that the run was trained with.", "", REPAIR)
    split, subset = _overlay(path, folder, spec)
    return Bundle(folder, contents, run, spec, facts, environment, source, split, subset)


def _bytes(path: Path, folder: Path, name: str) -> bytes:
    if not (folder / name).is_file():
        raise CacheError(f"{path} has no {name}.", "It was changed.", REPAIR)
    return (folder / name).read_bytes()


def _spec(path: Path, facts: dict[str, Any], contents: Contents) -> RunSpec:
    try:
        spec = RunSpec.model_validate(facts.get("config"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CacheError(
            f"{path}: this version of mmbal does not understand the run's config: {where}: {first['msg']}.",
            repair=f"install mmbal {_plain(contents.mmbal)}",
        ) from None
    words = [*spec.encoders, *spec.encoders.values(), spec.split, spec.subset]
    method = spec.method.rpartition("/")[2] if ".py:" in spec.method else spec.method
    plain = all(_WORD.fullmatch(word) and ".." not in word for word in words if word)
    if not (plain and _SET.fullmatch(spec.dataset) and spec.label.isprintable() and len(spec.label) <= 200):
        raise CacheError(f"{path}: run.json has a name that is none: {spec.dataset!r} {spec.label!r}.", "", REPAIR)
    if method != spec.method or not method.isprintable():
        raise CacheError(f"{path}: run.json names a method file by its path.", "Expected NAME.py:Class.", REPAIR)
    return spec


def _overlay(path: Path, folder: Path, spec: RunSpec) -> tuple[NamedSplit | None, Subset | None]:
    """The packed split and subset, which must be those of the spec."""
    split = subset = None
    try:
        if (folder / "data/split.json").exists():
            stored = _json(path, "data/split.json", (folder / "data/split.json").read_bytes())
            stored.pop("digest", None)
            split = NamedSplit.model_validate(stored)
            if split.name != spec.split or split.hash != spec.split_hash:
                raise CacheError(f"{path}: data/split.json is not the split of the run.", "It was changed.", REPAIR)
        if (folder / "data/subset.json").exists():
            stored = _json(path, "data/subset.json", (folder / "data/subset.json").read_bytes())
            subset = subset_of(str(stored["name"]), [str(name) for name in stored["ids"]])
            if subset.key != spec.subset or subset.hash != digest_of(sorted(subset.ids)):
                raise CacheError(f"{path}: data/subset.json is not the subset of the run.", "It was changed.", REPAIR)
    except (ValidationError, KeyError, TypeError) as error:
        raise CacheError(f"{path}: its split or subset is damaged ({type(error).__name__}).", "", REPAIR) from None
    return split, subset
