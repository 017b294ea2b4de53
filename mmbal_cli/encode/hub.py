"""Where a pretrained model lies: a local folder or the cache of the model hub; nothing is loaded here.

Weights are safetensors files only: a pickle can run code while it is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

from mmbal_cli.errors import EncoderError

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
NEEDED = ["*.json", "*.txt", "*.model", WEIGHTS, "model-*.safetensors"]


class Checkpoint(NamedTuple):
    """A folder that holds a model; `name` is "local" and `revision` empty unless it came from the hub."""

    folder: Path
    name: str = "local"
    revision: str = ""

    def read(self, file: str) -> dict[str, Any]:
        """The JSON object in `file`, {} where there is none; EncoderError when it is damaged."""
        path = self.folder / file
        if not path.is_file():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise EncoderError(f"{path} is not JSON: {error}.", "", "Fetch the model again.") from error
        if not isinstance(found, dict):
            raise EncoderError(f"{path} holds no JSON object.", "", "Fetch the model again.")
        return found

    def weights(self) -> list[Path]:
        """The safetensors files of the model; EncoderError that says what is there instead."""
        parts = self._parts()
        missing = [part for part in parts if not (self.folder / part).is_file()]
        if parts and not missing:
            return [self.folder / part for part in parts]
        if parts:
            raise EncoderError(f"{self.folder} lacks {missing[0]}.", "", "Fetch the model again.")
        pickles = sorted(path.name for pattern in PICKLES for path in self.folder.glob(pattern))
        found = f"only {', '.join(pickles)}, a pickle, which can run code" if pickles else "no weights"
        raise EncoderError(
            f"{self.folder} holds {found}.",
            f"Expected {WEIGHTS}.",
            "Take a revision that has it (on the hub often the conversion request, owner/model@refs/pr/N), "
            "or convert it once with transformers' `save_pretrained` (`mmbal encoders show NAME` says how).",
        )

    def digests(self, others: Iterable[str], remembered: MutableMapping[str, Any]) -> dict[str, str]:
        """sha256 of the weights, of config.json and of those of `others` that exist, by file name."""
        small = [self.folder / name for name in ("config.json", *others)]
        paths = sorted({path for path in small if path.is_file()} | set(self.weights()))
        return {path.name: file_digest(path, remembered) for path in paths}

    def _parts(self) -> list[str]:
        if (self.folder / WEIGHTS).is_file():
            return [WEIGHTS]
        return sorted({Path(str(part)).name for part in self.read(WEIGHTS_INDEX).get("weight_map", {}).values()})


def file_digest(path: Path, remembered: MutableMapping[str, Any]) -> str:
    """sha256 of a file; `remembered` (path -> [size, mtime_ns, digest]) spares reading an unchanged one."""
    stat = path.stat()
    key, seen = str(path.absolute()), [stat.st_size, stat.st_mtime_ns]
    known = remembered.get(key)
    if known is not None and list(known[:2]) == seen:
        return str(known[2])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    remembered[key] = [*seen, digest]
    return digest


def locate(name: str) -> Checkpoint:
    """The folder behind `./folder` or `owner/model@revision`; a copy on this machine is used as it is.

    The path is tested first: the messages of transformers for a folder that is not there are misleading.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        checkpoint = Checkpoint(path)
    elif path.exists():
        raise EncoderError(f"{path} is a file.", "Expected the folder that holds config.json and the weights.")
    else:
        checkpoint = _from_hub(name)
    if not (checkpoint.folder / "config.json").is_file():
        raise EncoderError(f"{checkpoint.folder} has no config.json.", "Expected the folder of a transformers model.")
    return checkpoint


def cached(name: str) -> Checkpoint | None:
    """The copy of `owner/model@revision` in the hub cache of this machine, whole or in part; asks no network."""
    from huggingface_hub import constants

    repo, _, revision = name.partition("@")
    if not _is_hub_name(name):
        return None
    home = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    ref = home / "refs" / (revision or constants.DEFAULT_REVISION)
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision or constants.DEFAULT_REVISION
    here = Checkpoint(home / "snapshots" / commit, repo, commit)
    return here if (here.folder / "config.json").is_file() else None


def _from_hub(name: str) -> Checkpoint:
    repo, _, revision = name.partition("@")
    if not _is_hub_name(name):
        raise EncoderError(
            f"There is no folder '{name}'.",
            "",
            "Give the folder of a transformers model, or a hub name as owner/model@revision.",
        )
    from huggingface_hub import constants

    revision, here = revision or constants.DEFAULT_REVISION, cached(name)
    offline = constants.HF_HUB_OFFLINE
    if here and (offline or complete(here)):
        return here
    if offline:
        raise EncoderError(
            f"The model '{name}' is neither a folder nor in {constants.HF_HUB_CACHE}, and the hub is switched off.",
            "",
            f"Where there is a network run `hf download {repo} --revision {revision}` and copy that folder here, "
            "or unset HF_HUB_OFFLINE.",
        )
    folder = _download(repo, revision)
    return Checkpoint(folder, repo, folder.name)


def _is_hub_name(name: str) -> bool:
    """`owner/model` with a branch, tag, commit or `refs/pr/1`, and nothing that climbs out of the cache."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@\w[\w./-]*)?", name) is not None and ".." not in name.partition("@")[2]


def complete(checkpoint: Checkpoint) -> bool:
    """Whether all weights of a model are there, as safetensors."""
    try:
        return bool(checkpoint.weights())
    except EncoderError:
        return False


def _download(repo: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=NEEDED))
    except Exception as error:  # the hub's and the network's own kinds, which change between versions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EncoderError(
            f"The model '{repo}@{revision}' could not be fetched: {reason}",
            "",
            "Check the name and the network, or give the folder of a transformers model.",
        ) from error
