"""`mmbal encoders list|show` and a short name in `mmbal prepare`, as a user meets them, without a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmbal_cli.cli.target import Request, choose_encoders
from mmbal_cli.encode import get_encoder
from mmbal_cli.encode.catalogue import CATALOGUE
from mmbal_cli.recipe import dataset_recipe, find_recipe
from mmbal_cli.store.sets import read_arrays, read_set
from tests.kit import models
from tests.kit.cli import mmbal
from tests.kit.media import write_wav


def test_list_names_kinds_and_downloads(tmp_path: Path) -> None:
    text = mmbal("encoders", "list", cwd=tmp_path).stdout
    for name in ("logmel-stats", "raw-vector", *CATALOGUE):
        assert name in text
    sound = mmbal("encoders", "list", "--kind", "audio", cwd=tmp_path).stdout
    assert "wavlm-base" in sound
    assert "clip-b32" not in sound
    mmbal("encoders", "list", "--kind", "smell", cwd=tmp_path, code=2)


def test_list_as_json_says_where_each_lies(tmp_path: Path) -> None:
    document = json.loads(mmbal("encoders", "list", "--kind", "image", "--format", "json", cwd=tmp_path).stdout)
    listed = {row["name"]: row for row in document["encoders"]}
    assert document["defaults"]["image"] == "hog-motion"
    assert listed["dinov2-base"]["hub"] == "facebook/dinov2-base"
    assert listed["dinov2-base"]["pinned"] is True
    assert listed["convnext"]["pinned"] is False
    assert not listed["hog-motion"]["download"]
    assert "bert-base" not in listed


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "dinov2-base",
            ["facebook/dinov2-base", "pinned: yes", "Apache-2.0", "LVD-142M", "patches", "video=dinov2-base", "layer"],
        ),
        ("convnext", ["pinned: no"]),
        ("wavlm-base", ["pickle", "save_pretrained", "audio=wavlm-base", "window"]),
        ("logmel-stats", ["hand-made", "default for", "segments"]),
        ("ast@main", ["pinned: no", "main"]),
    ],
)
def test_show_says_everything(name: str, says: list[str], tmp_path: Path) -> None:
    text = mmbal("encoders", "show", name, cwd=tmp_path, env={"HF_HOME": str(tmp_path)}).stdout
    for part in says:
        assert part in text


def test_an_unknown_name_is_usage_with_the_nearest(tmp_path: Path) -> None:
    answer = mmbal("encoders", "show", "wavlm-bse", cwd=tmp_path, code=2)
    assert "Did you mean 'wavlm-base'" in answer.stderr.replace("\n", " ")
    assert not answer.stdout


def test_a_short_name_prepares_from_the_hub_cache_without_a_network(tmp_path: Path) -> None:
    """The features are those of the model in the cache; `show` then knows that it is here and how it is fed."""
    card = CATALOGUE["wav2vec2-base"]
    place = tmp_path / "hub" / f"models--{card.hub.replace('/', '--')}" / "snapshots" / card.revision
    place.mkdir(parents=True)
    models.make_model("wav2vec2", place)
    env = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    rng = np.random.default_rng(1)
    lines = ["id,split,label,audio"]
    for i, split in enumerate(("train", "train", "val", "val", "test", "test")):
        write_wav(tmp_path / f"{i}.wav", rng.normal(0, 0.1, 3000 + 500 * i).clip(-1, 1))
        lines.append(f"s{i},{split},{'ab'[i % 2]},{i}.wav")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    chosen = ["--encoder", "audio=wav2vec2-base", "--dtype", "float32", "--device", "cpu"]
    mmbal("prepare", "t.csv", *chosen, cwd=tmp_path, env=env)
    stored = read_arrays(tmp_path / "cache", read_set(tmp_path / "cache", "t"))
    encoder = get_encoder(str(place), "audio", device="cpu")
    from mmbal_cli.media.audio import decode_audio

    wanted = [models.reference(place, encoder, decode_audio(tmp_path / f"{i}.wav")[0]) for i in range(6)]
    np.testing.assert_allclose(stored["features"]["audio"], np.stack(wanted), atol=1e-5, rtol=0)
    assert "up to date" in mmbal("prepare", "t.csv", *chosen, cwd=tmp_path, env=env).stdout
    shown = json.loads(mmbal("encoders", "show", "wav2vec2-base", "-f", "json", cwd=tmp_path, env=env).stdout)
    assert shown["encoder"]["here"] == str(place)
    assert shown["encoder"]["preprocessing"]["audio"]["rate"] == 16_000
    shutil.rmtree(place)
    refused = mmbal("prepare", "t.csv", *chosen, "--name", "u", cwd=tmp_path, env=env, code=3)
    assert card.revision in refused.stderr.replace("\n", "").replace("│", "").replace(" ", "")


def test_the_decoding_of_a_recipe_holds_for_any_encoder() -> None:
    path = find_recipe("datasets", "nvgesture")
    assert path
    recipe = dataset_recipe(path)
    kinds = dict.fromkeys(("rgb", "flow", "depth"), "video")
    request = Request("nvgesture", encoders=["rgb=clip-b32,rgb=videomae-base", "flow=dinov2-base"])
    chosen = choose_encoders(kinds, request, recipe)
    assert [encoder.params["frames"] for encoder in chosen["rgb"]] == [8, 0]  # 0: as many as it was made for
    assert chosen["flow"][0].settings == {"show": "flow"}
    assert chosen["flow"][0].params["frames"] == 8
    assert [encoder.name for encoder in chosen["depth"]] == ["hog-motion"]
    better = choose_encoders(kinds, Request("nvgesture", pretrained=True), recipe)
    assert [encoder.name for several in better.values() for encoder in several] == ["clip-b32"] * 3
