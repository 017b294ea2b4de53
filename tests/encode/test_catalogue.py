"""Short names: where they lead, what is said of them without a network, and that none is made up."""

from __future__ import annotations

import ast
import re
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmbal_cli.encode import DEFAULTS, SHIPPED, get_encoder
from mmbal_cli.encode.catalogue import CATALOGUE, PICKLE, SAFE, UNSEEN, address_of, card_of
from mmbal_cli.encode.describe import convert_command, describe
from mmbal_cli.encode.families import FAMILIES
from mmbal_cli.encode.pretrained import Pretrained
from mmbal_cli.errors import EncoderError, RecipeError, UsageError

Make = Callable[[str], Path]
USED_BY_RECIPES = {
    "audio": ("wavlm-base", "ast"),
    "video": ("clip-b32", "dinov2-base", "videomae-base"),
    "image": ("clip-b32", "dinov2-base"),
    "text": ("bert-base", "roberta-base"),
}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty hub cache, and no way out of this machine."""
    from huggingface_hub import constants

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tmp_path / "hub"


def in_cache(hub: Path, name: str, model: Path) -> Path:
    """Put a tiny model where the hub keeps the model of a short name."""
    card = CATALOGUE[name]
    folder = hub / f"models--{card.hub.replace('/', '--')}" / "snapshots" / card.revision
    shutil.copytree(model, folder)
    return folder


@pytest.mark.parametrize("card", CATALOGUE.values(), ids=lambda card: card.name)
def test_a_card_says_everything_and_its_family_can_run_it(card: Any) -> None:
    assert set(card.kinds) <= set(FAMILIES[card.family].kinds)
    assert re.fullmatch(r"[0-9a-f]{40}|main", card.revision)
    assert card.pinned == (card.revision != "main")
    assert card.weights in (SAFE, PICKLE, UNSEEN)
    assert card.pinned or card.weights == UNSEEN  # what a branch holds may change
    assert card.width in (384, 512, 768, 1024, 2048)
    assert card.about
    assert card.trained
    assert card.licence


def test_names_and_commits_are_told_apart() -> None:
    assert not CATALOGUE.keys() & SHIPPED.keys()
    pins = {(card.hub, card.revision) for card in CATALOGUE.values()}
    assert len(pins) == len({hub for hub, _ in pins})  # two towers of one model share its commit
    commits = [revision for _, revision in pins if revision != "main"]
    assert len(set(commits)) == len(commits)


def test_every_kind_but_vectors_has_some() -> None:
    for kind, names in USED_BY_RECIPES.items():
        for name in names:
            assert kind in CATALOGUE[name].kinds


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in USED_BY_RECIPES.items() for name in names])
def test_a_short_name_is_parsed_without_a_network(kind: str, name: str, offline: Path) -> None:
    encoder = get_encoder(name, kind, layer=3)
    assert isinstance(encoder, Pretrained)
    assert encoder.name == name
    assert get_encoder(name, kind, **encoder.params).params == encoder.params
    assert address_of(name) == f"{CATALOGUE[name].hub}@{CATALOGUE[name].revision}"


def test_another_revision_of_a_short_name() -> None:
    assert address_of("ast@main") == "MIT/ast-finetuned-audioset-10-10-0.4593@main"
    card = card_of("ast@refs/pr/3")
    assert card is not None
    assert not card.pinned
    assert card.weights == UNSEEN
    assert card_of(f"ast@{CATALOGUE['ast'].revision}") == CATALOGUE["ast"]
    assert isinstance(get_encoder("ast@v1", "audio"), Pretrained)
    for other in ("ast@", "as", "owner/ast", "./ast", ""):
        assert card_of(other) is None
        assert address_of(other) == other


def test_an_unknown_name_suggests_among_all_of_them() -> None:
    for wrong, meant in (("wavlm-bas", "wavlm-base"), ("hog-motio", "hog-motion"), ("clip-b23@main", "clip-b32")):
        with pytest.raises(EncoderError, match=f"Did you mean '{meant}'"):
            get_encoder(wrong, "audio")
    with pytest.raises(EncoderError, match=r"'ast' does not take video.*For video: hog-motion, clip-b32"):
        get_encoder("ast", "video")
    with pytest.raises(EncoderError, match="does not take audio"):
        get_encoder("bert-base@main", "audio")
    with pytest.raises(RecipeError, match=r"no parameter 'frams'.*'frames'"):
        get_encoder("clip-b32", "video", frams=3)


def test_the_same_model_by_short_and_long_name_is_one_encoder(offline: Path, made: Make) -> None:
    in_cache(offline, "bert-base", made("bert"))
    short, long = (get_encoder(name, "text") for name in ("bert-base", address_of("bert-base")))
    assert short.spec() == long.spec()
    assert short.spec()["revision"] == CATALOGUE["bert-base"].revision


def test_a_shipped_encoder_is_described_with_its_ranges() -> None:
    facts = describe("hog-motion")
    assert facts["kinds"] == ["video", "image"]
    assert facts["default_for"] == [kind for kind, name in DEFAULTS.items() if name == "hog-motion"]
    assert facts["parameters"]["image"]["size"] == [96, 24, 960]
    assert not facts["download"]


def test_a_card_is_described_without_its_files_and_with_them(offline: Path, made: Make) -> None:
    facts = describe("ast")
    assert (facts["here"], "preprocessing" in facts) == (None, False)
    assert facts["pools"] == {"audio": ["cls", "mean", "tokens"]}
    assert facts["parameters"]["audio"]["pool"][0] == "cls"
    assert facts["parameters"]["audio"]["layer"] == [-1, -99, 99]
    folder = in_cache(offline, "ast", made("ast"))
    facts = describe("ast")
    assert facts["here"] == str(folder)
    assert facts["preprocessing"] == {"audio": {"rate": 16_000, "seconds": 0.335}}
    (folder / "model.safetensors").unlink()
    assert describe("ast")["here"] is None


def test_a_folder_and_a_hub_name_are_described(offline: Path, made: Make) -> None:
    facts = describe(str(made("clip")))
    assert facts["kinds"] == ["video", "image", "text"]  # both towers
    assert facts["pools"]["video"] == ["mean", "frames", "cls", "patches", "tokens"]
    assert facts["pools"]["image"] == ["mean", "cls", "patches", "tokens"]
    assert facts["pools"]["text"] == ["cls", "mean", "tokens"]
    assert facts["preprocessing"]["video"]["resize"] == {"shortest_edge": 20}
    with pytest.raises(UsageError, match=r"not on this machine.*hf download some/model --revision v2"):
        describe("some/model@v2")
    in_cache(offline, "minilm", made("bert"))
    assert describe(CATALOGUE["minilm"].address)["family"] == "bert"


def test_what_cannot_be_described() -> None:
    for wrong in ("wavlm-bose", "ast@", "", "../..@x", "a b"):
        with pytest.raises((UsageError, EncoderError)):
            describe(wrong)


def test_describing_needs_no_torch() -> None:
    import subprocess

    code = "import sys; from mmbal_cli.encode.describe import describe; describe('ast'); describe('raw-vector');"
    code += "assert not {'torch', 'transformers', 'h5py'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("card", [card for card in CATALOGUE.values() if card.weights == PICKLE], ids=lambda c: c.name)
def test_a_pickle_is_converted_by_a_command_that_python_can_read(card: Any) -> None:
    command = convert_command(card)
    code = re.fullmatch(r'python -c "(.*)"', command)
    assert code
    ast.parse(code[1])
    assert card.hub in command
    assert card.revision in command
