"""Which checkpoints are found, fetched and refused: hub cache, offline, pickles, code, missing weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmbal_cli.encode.hub import file_digest
from mmbal_cli.encode.pretrained import Pretrained
from mmbal_cli.errors import EncoderError
from tests.kit.models import kind_of, samples

Make = Callable[[str], Path]


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path, remembered = tmp_path / "weights", dict[str, Any]()
    path.write_bytes(b"one")
    first = file_digest(path, remembered)
    entry = remembered[str(path)]
    entry[2] = "remembered"
    assert file_digest(path, remembered) == "remembered"
    assert file_digest(path, json.loads(json.dumps(remembered))) == "remembered"
    path.write_bytes(b"three")
    assert file_digest(path, remembered) not in (first, "remembered")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: Make) -> Path:
    """A hub cache that holds two revisions of owner/tiny and a repository with a pickle only."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    home = tmp_path / "hub" / "models--owner--tiny"
    for commit, family in (("a" * 40, "bert"), ("b" * 40, "distilbert")):
        shutil.copytree(made(family), home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)
    (home / "refs" / "v2").write_text("b" * 40)
    return tmp_path / "hub"


def test_a_hub_name_with_and_without_revision(hub: Path, made: Make) -> None:
    plain = Pretrained("owner/tiny", "text")
    assert plain.spec()["revision"] == "a" * 40
    assert plain.spec()["name"] == "owner/tiny"
    assert Pretrained(f"owner/tiny@{'a' * 40}", "text").spec() == plain.spec()
    assert Pretrained("owner/tiny@v2", "text").spec()["revision"] == "b" * 40
    rows = samples(plain)
    local, _ = Pretrained(str(made("bert")), "text").batch(rows)
    assert np.array_equal(plain.batch(rows)[0], local)


@pytest.mark.parametrize("name", ["owner/other", "owner/tiny@v3"])
def test_offline_the_message_says_what_to_do(hub: Path, name: str) -> None:
    with pytest.raises(EncoderError) as caught:
        Pretrained(name, "text").spec()
    assert name in caught.value.found
    assert f"hf download {name.partition('@')[0]}" in caught.value.repair
    assert "HF_HUB_OFFLINE" in caught.value.repair


def test_online_a_missing_model_is_fetched_without_pickles(
    hub: Path, monkeypatch: pytest.MonkeyPatch, made: Make, tmp_path: Path
) -> None:
    import huggingface_hub

    asked: list[Any] = []
    commit = Path(shutil.copytree(made("bert"), tmp_path / ("c" * 40)))

    def fetch(repo: str, *, revision: str, allow_patterns: list[str]) -> str:
        asked.append((repo, revision, allow_patterns))
        if repo == "owner/lost":
            raise ConnectionError("no route\nto the hub")
        return str(commit)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert Pretrained("owner/tiny", "text").spec()["revision"] == "a" * 40
    assert not asked  # what is on this machine is used as it is
    assert Pretrained("owner/new@refs/pr/7", "text").spec()["revision"] == "c" * 40
    assert asked[0][:2] == ("owner/new", "refs/pr/7")
    assert not any("bin" in pattern or pattern == "*" for pattern in asked[0][2])
    with pytest.raises(EncoderError, match=r"'owner/lost@main' could not be fetched: no route"):
        Pretrained("owner/lost", "text").spec()


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/model", "a/b/c", "owner/tiny@../../x", "owner/"])
def test_a_folder_that_is_not_there_is_no_hub_name(hub: Path, name: str) -> None:
    with pytest.raises(EncoderError, match="There is no folder"):
        Pretrained(name, "text").spec()


def test_a_folder_with_a_pickle_only_is_refused(copied: Make) -> None:
    folder = copied("bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    encoder = Pretrained(str(folder), "text")
    for use in (encoder.spec, lambda: encoder.batch([np.zeros(1, np.uint8)])):
        with pytest.raises(EncoderError, match=r"pytorch_model\.bin, a pickle.*save_pretrained"):
            use()


def test_code_in_a_checkpoint_is_never_run(copied: Make, tmp_path: Path) -> None:
    folder, trace = copied("bert"), tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w')\nclass Own: pass\n")
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        auto = dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer"), "own.Own")
        (folder / name).write_text(json.dumps(content | {"auto_map": auto}))
    Pretrained(str(folder), "text").batch([np.zeros(1, np.uint8)])
    assert not trace.exists()


@pytest.mark.parametrize("family", ["bert", "wav2vec2", "clap", "dinov2"])
def test_a_weight_that_is_missing_or_of_another_shape_is_refused(family: str, copied: Make) -> None:
    folder, kind = copied(family), kind_of(family)
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = next(key for key in sorted(weights) if "layer" in key and "text_model" not in key and weights[key].ndim == 2)
    rest = {key: value for key, value in weights.items() if key != name}
    save_file(rest, path, {"format": "pt"})
    encoder = Pretrained(str(folder), kind)
    with pytest.raises(EncoderError, match="lacks weights"):
        encoder.batch(samples(encoder))
    save_file(rest | {name: weights[name][:, :-1].copy()}, path, {"format": "pt"})
    encoder = Pretrained(str(folder), kind)
    with pytest.raises(EncoderError, match=r"lacks weights.* is \[\d+, \d+\], not "):
        encoder.batch(samples(encoder))


def test_what_inference_never_uses_may_be_missing(copied: Make, made: Make) -> None:
    folder = copied("wav2vec2")
    weights = load_file(folder / "model.safetensors")
    del weights["wav2vec2.masked_spec_embed"]
    # the names that checkpoints of older versions have
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, former in old.items():
        key = next(key for key in weights if key.endswith(new))
        weights[key.replace(new, former)] = weights.pop(key)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    encoder = Pretrained(str(folder), "audio")
    rows = samples(encoder)
    assert np.array_equal(encoder.batch(rows)[0], Pretrained(str(made("wav2vec2")), "audio").batch(rows)[0])


def test_damaged_files_are_one_error_each(copied: Make) -> None:
    folder = copied("bert")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EncoderError, match="could not be loaded"):
        Pretrained(str(folder), "text").batch([np.zeros(1, np.uint8)])
    (folder / "config.json").write_text("{")
    with pytest.raises(EncoderError, match="is not JSON"):
        Pretrained(str(folder), "text").spec()
    (folder / "config.json").unlink()
    with pytest.raises(EncoderError, match=r"no config\.json"):
        Pretrained(str(folder), "text").spec()
    with pytest.raises(EncoderError, match="is a file"):
        Pretrained(str(folder / "model.safetensors"), "text").spec()


def test_sharded_weights_are_read_and_a_missing_shard_is_named(made: Make, tmp_path: Path) -> None:
    import transformers

    net = transformers.BertModel.from_pretrained(made("bert"), add_pooling_layer=False)
    folder = Path(shutil.copytree(made("bert"), tmp_path / "sharded"))
    (folder / "model.safetensors").unlink()
    net.save_pretrained(folder, max_shard_size="8KB")
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 1
    encoder = Pretrained(str(folder), "text")
    rows = samples(encoder)
    assert np.array_equal(encoder.batch(rows)[0], Pretrained(str(made("bert")), "text").batch(rows)[0])
    assert {part.name for part in parts} <= set(encoder.spec()["files"])
    parts[-1].unlink()
    with pytest.raises(EncoderError, match=parts[-1].name):
        Pretrained(str(folder), "text").spec()


def test_a_model_for_another_kind_names_those_that_fit(made: Make) -> None:
    with pytest.raises(EncoderError, match=r"bert model takes text, not video.*clip.*dinov2"):
        Pretrained(str(made("bert")), "video").spec()
    with pytest.raises(EncoderError, match=r"clip model takes video or image, not audio.*wav2vec2"):
        Pretrained(str(made("clip")), "audio").spec()


def test_an_unknown_type_names_the_families(copied: Make) -> None:
    folder = copied("bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "berd"}))
    with pytest.raises(EncoderError, match=r"type 'berd'.*Did you mean 'bert'.*wavlm"):
        Pretrained(str(folder), "text").spec()
