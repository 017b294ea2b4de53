"""Real clips, texts and vectors -> shards: the right values, from content only."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.data.manifest import read_manifest
from mmbal_cli.encode import get_encoder
from mmbal_cli.encode.plan import Plan, plan
from mmbal_cli.encode.prepare import prepare
from mmbal_cli.media.audio import decode_audio
from mmbal_cli.media.video import decode_video
from mmbal_cli.store.sets import read_arrays, read_set
from tests.kit.faults import in_child, overwrite
from tests.kit.killer import contents
from tests.kit.lab import ANY, CHUNK, CLIPS, FEATURES, planned, prepared, table


def test_features_are_those_of_decoder_and_encoder(lab: Path, tmp_path: Path) -> None:
    outcome, arrays = prepared(lab / "manifest.csv", tmp_path)
    manifest = read_manifest(lab / "manifest.csv")
    assert arrays["ids"] == [sample.id for sample in manifest.samples]
    assert arrays["labels"].tolist() == [sample.label for sample in manifest.samples]
    assert arrays["splits"] == [sample.split for sample in manifest.samples]
    assert arrays["groups"] == [sample.group for sample in manifest.samples]
    shapes = {m: x.shape for m, x in arrays["features"].items()}
    assert shapes == {"video": (CLIPS, 760), "audio": (CLIPS, 640), "text": (CLIPS, 2048)}
    assert all(mask.all() for mask in arrays["mask"].values())
    for row in (0, 7, CLIPS - 1):
        clip = lab / str(manifest.samples[row].values["video"])
        for m, decoded in (("video", decode_video(clip)), ("audio", decode_audio(clip))):
            wanted = get_encoder("", m).sample(*decoded).astype(np.float16)
            np.testing.assert_array_equal(arrays["features"][m][row], wanted)
    assert outcome.made == dict.fromkeys(("video", "audio", "text"), CLIPS // CHUNK)
    assert {index.dtype for index in outcome.indexes.values()} == {"float16"}
    assert read_set(tmp_path, "manifest") == outcome.prepared


def test_bytes_depend_on_content_only(lab: Path, tmp_path: Path) -> None:
    """Two workers, another place, other times and a removed cache give byte-identical folders (issue, point 4)."""
    prepare(planned(lab / "manifest.csv", tmp_path / "one"), workers=1)
    first = contents(tmp_path / "one", f"manifest/{FEATURES}")
    shutil.rmtree(tmp_path / "one")
    moved = shutil.copytree(lab, tmp_path / "moved", copy_function=shutil.copyfile)
    prepare(planned(moved / "manifest.csv", tmp_path / "one"), workers=2)
    assert contents(tmp_path / "one", f"manifest/{FEATURES}") == first
    assert len(first) == 3 * (CLIPS // CHUNK + 1)


def test_missing_modalities_are_zeros_with_a_false_mask(tmp_path: Path) -> None:
    rows = [
        (f"s{i}", ("train", "test")[i % 2], "ab"[i // 2 % 2], f"w{i}" if i < 7 else "", f"{i} 2 3") for i in range(16)
    ]
    _, arrays = prepared(table(tmp_path, "id,split,label,text,vector", rows), tmp_path / "c")
    assert arrays["mask"]["text"].tolist() == [i < 7 for i in range(16)]  # the last chunk has no text at all
    assert not arrays["features"]["text"][7:].any()
    assert arrays["features"]["vector"][5].tolist() == [5, 2, 3]


def test_segments_give_time_and_float32_is_exact(tmp_path: Path) -> None:
    long = "one two three four five six seven eight nine ten"
    rows = [(f"s{i}", ("train", "test")[i % 2], "ab"[i // 2 % 2], f"{long} {i}", f"{i} 0.1") for i in range(8)]
    params = {"text": {"segments": 4}}
    path = table(tmp_path, "id,split,label,text,vector", rows)
    outcome, arrays = prepared(path, tmp_path / "c", params=params, dtype="float32")
    assert arrays["features"]["text"].shape == (8, 4, 2048)
    assert arrays["features"]["vector"][3].tolist() == [3, np.float32(0.1)]
    assert outcome.indexes["text"].shape == (4, 2048)


def test_texts_in_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words in a file", encoding="utf-8-sig")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xff")
    rows = [
        ("a", "train", "x", "file:a.txt"),
        ("b", "train", "y", "words in a file"),
        ("c", "train", "y", "file:bad.txt"),
    ]
    path = table(tmp_path, "id,split,label,text", [*rows, ("d", "val", "x", "more"), ("e", "test", "x", "q")])
    outcome, arrays = prepared(path, tmp_path / "c", ANY)
    np.testing.assert_array_equal(*arrays["features"]["text"][:2])
    assert arrays["mask"]["text"].tolist() == [True, True, False, True, True]
    assert "UTF-8" in outcome.indexes["text"].bad[0].reason


def test_pretrained_models_with_time_and_masks(copy: Path, copied: Callable[[str], Path], tmp_path: Path) -> None:
    """Frames [N,T,F], tokens with a mask [N,T], a missing text; the second plan needs no torch; new weights are new."""
    path = copy / "manifest.csv"
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[1]["text:text"] = ""
    path.unlink()
    table(copy, ",".join(rows[0]), [list(row.values()) for row in rows], "manifest")
    folders = {"video": copied("clip"), "text": copied("bert")}
    params: dict[str, dict[str, Any]] = {
        "video": {"pool": "frames", "frames": 3},
        "text": {"pool": "tokens", "length": 24},
    }

    def make() -> Plan:
        encoders = {m: get_encoder(str(folders[m]), m, device="cpu", **params[m]) for m in folders}
        return plan(read_manifest(path), encoders, tmp_path / "c", chunk=16)

    outcome = prepare(make())
    arrays = read_arrays(tmp_path / "c", outcome.prepared)
    assert arrays["features"]["video"].shape[:2] == (CLIPS, 3)
    assert arrays["mask"]["video"].all()
    mask = arrays["mask"]["text"]
    assert mask.shape == (CLIPS, 24)
    assert not mask[1].any()
    assert mask[0].any()
    encoder = get_encoder(str(folders["text"]), "text", device="cpu", **params["text"])
    wanted, valid = encoder.batch([encoder.sample(rows[n]["text:text"], {}) for n in (0, 2)])
    np.testing.assert_array_equal(mask[[0, 2]], valid)
    np.testing.assert_allclose(arrays["features"]["text"][[0, 2]], wanted, rtol=2e-3, atol=1e-3)
    assert outcome.indexes["video"].made_with["device"] == "cpu"

    def again() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] in ("torch", "h5py", "transformers")]:
            sys.modules[name] = None  # type: ignore[assignment]
        os._exit(7 if make().up_to_date else 1)

    assert in_child(again) == 7
    weights = bytearray((folders["text"] / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    overwrite(folders["text"] / "model.safetensors", bytes(weights))
    assert make().changes == ("text: encoder.files.model.safetensors changed",)
