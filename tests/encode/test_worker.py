"""The decoding child on real, odd and damaged files: one answer for each modality, never torch."""

from __future__ import annotations

import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from mmbal_cli.encode import get_encoder
from mmbal_cli.encode.worker import command, handle, read_job, readings
from mmbal_cli.errors import EncoderError
from mmbal_cli.media.pool import Pool
from tests.kit import media

VIDEO, AUDIO = get_encoder("hog-motion", "video"), get_encoder("logmel-stats", "audio")
IMAGE, TEXT = get_encoder("hog-motion", "image"), get_encoder("ngram-hash", "text")
VECTOR = get_encoder("raw-vector", "vector")


def both(path):
    return {"reads": [read_job("face", str(path), VIDEO), read_job("voice", str(path), AUDIO)]}


def ask(jobs, **options):
    """readings of each job, through real children."""
    found = Pool(command(), 2, 60.0, **options).run(jobs)
    return [readings(jobs[index], header, arrays) for index, header, arrays in found]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return media.write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def test_every_kind_in_one_job_is_what_the_functions_give_here(tmp_path, clip):
    png = media.write_png(tmp_path / "p.png", np.random.default_rng(0).integers(0, 255, (50, 70, 3)).astype(np.uint8))
    np.save(tmp_path / "v.npy", np.arange(5.0))
    job = both(clip)
    job["reads"] += [
        read_job("words", "ein kleiner Text", TEXT),
        read_job("photo", str(png), IMAGE),
        read_job("numbers", [1.5, 2.5], VECTOR),
        read_job("stored", str(tmp_path / "v.npy"), VECTOR),
    ]
    (through_pool,) = ask([job])
    here = readings(job, *handle(job))
    assert through_pool.keys() == here.keys() == {"face", "voice", "words", "photo", "numbers", "stored"}
    for name, reading in through_pool.items():
        assert reading.error is None
        np.testing.assert_array_equal(reading.array, here[name].array)
        assert reading.facts == here[name].facts
    assert [len(through_pool[name].array) for name in ("face", "voice", "words", "photo", "numbers", "stored")] == [
        760,
        640,
        2048,
        760,
        2,
        5,
    ]
    assert through_pool["face"].facts["frame_count"] == 18
    assert through_pool["voice"].facts["source_rate"] == 16000


def test_a_missing_track_costs_its_own_modality_only(tmp_path):
    silent = media.write_clip(tmp_path / "silent.mp4", sound="")
    blind = media.write_clip(tmp_path / "blind.m4a", codec="")
    first, second = ask([both(silent), both(blind)])
    assert first["face"].array is not None
    assert first["voice"].error == {"type": "MediaError", "reason": f"{silent}: has no audio track"}
    assert second["voice"].array is not None
    assert second["face"].error == {"type": "MediaError", "reason": f"{blind}: has no video track"}


def test_two_modalities_of_one_kind_decode_the_file_once(clip, monkeypatch):
    import mmbal_cli.media.video as video

    calls = []
    decode = video.decode_video

    def counted(*args, **settings):
        calls.append(args)
        return decode(*args, **settings)

    monkeypatch.setattr(video, "decode_video", counted)
    job = {"reads": [read_job("a", str(clip), VIDEO), read_job("b", str(clip), VIDEO)]}
    found = readings(job, *handle(job))
    assert len(calls) == 1
    np.testing.assert_array_equal(found["a"].array, found["b"].array)


def test_parts_folders_and_settings_go_through_a_child(tmp_path, clip):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 255, (40, 40, 3)).astype(np.uint8)
        media.write_png(folder / f"{index}.png", pixels)
    few = get_encoder("hog-motion", "video", sampling="fps", fps=4.0, show="difference")
    windows = get_encoder("logmel-stats", "audio", window=0.25, hop=0.125)
    job = {
        "reads": [
            read_job("face", f"{clip}#t=0.5,1.5&xywh=percent:0,0,50,50", few),
            read_job("voice", f"{clip}#t=0.5,1.5", windows),
            read_job("flow", str(folder), get_encoder("hog-motion", "video", folder_fps=2.0, show="flow")),
        ]
    }
    (through,) = ask([job])
    assert {name: reading.error for name, reading in through.items()} == dict.fromkeys(("face", "voice", "flow"))
    assert [start for start, _ in through["face"].facts["times"]] == [0.5, 0.75, 1.0, 1.25]
    assert through["voice"].facts["times"][:2] == [[0.5, 0.75], [0.625, 0.875]]
    assert through["voice"].array.shape == (7, 640)
    assert windows.steps(through["voice"].facts) == through["voice"].facts["times"]
    assert through["flow"].facts["seconds"] == 2.0
    here = readings(job, *handle(job))
    for name, reading in through.items():
        np.testing.assert_array_equal(reading.array, here[name].array)


def test_a_failure_of_the_whole_job_is_one_of_each_modality(clip):
    error = {"type": "MediaError", "reason": "killed"}
    found = readings(both(clip), {"error": error}, [])
    assert {name: reading.error for name, reading in found.items()} == {"face": error, "voice": error}


def test_an_encoder_that_cannot_be_made_is_an_answer():
    encoder = {"name": "ngram-hesh", "params": {}}
    job = {"reads": [{"modality": "t", "kind": "text", "value": "x", "decode": {}, "encoder": encoder}]}
    (found,) = ask([job])
    error = found["t"].error
    assert error is not None
    assert error["type"] == "EncoderError"
    assert "ngram-hash" in error["reason"]


def test_features_that_are_not_finite_are_an_answer():
    job = {"reads": [read_job("v", [1.0, float("inf")], VECTOR)]}
    error = readings(job, *handle(job))["v"].error
    assert error is not None
    assert error["type"] == "MediaError"
    assert "not finite" in error["reason"]


def test_the_child_imports_neither_torch_nor_transformers_nor_hdf5(clip):
    program = f"""
import sys
from mmbal_cli.encode.worker import command, handle, read_job
from mmbal_cli.encode import get_encoder
early = [name for name in ("decord", "av", "PIL") if name in sys.modules]
video, audio = get_encoder("", "video"), get_encoder("", "audio")
job = {{"reads": [read_job("face", {str(clip)!r}, video), read_job("voice", {str(clip)!r}, audio),
                  read_job("text", "words", get_encoder("", "text"))]}}
header, arrays = handle(job)
assert len(arrays) == 3, header
print(early, [name for name in ("torch", "transformers", "h5py", "pandas", "scipy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[] []\n", "")


def test_torch_first_and_the_decoder_in_a_child_ends_cleanly(clip):
    program = f"""
import torch
from mmbal_cli.encode.worker import command, read_job
from mmbal_cli.encode import get_encoder
from mmbal_cli.media.pool import Pool
job = {{"reads": [read_job("face", {str(clip)!r}, get_encoder("", "video"))]}}
print([len(arrays) for _, _, arrays in Pool(command(), 1).run([job])], torch.ones(2).sum().item())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1] 2.0\n", "")


def test_memory_of_a_child_stays_bounded_over_many_clips(clip):
    job = both(clip)
    headers = [header for _, header, _ in Pool(_reporting(), 1, recycle=10_000).run(job for _ in range(150))]
    resident = [header["resident"] for header in headers]
    assert (resident[-1] - resident[50]) / 100 < 60_000  # decord's reader of sound would leave 100 KB for each


def _reporting():
    """The worker, with its resident size in the answer."""
    program = """
from mmbal_cli.encode import worker
from mmbal_cli.media.child import _resident, serve
def handle(job):
    header, arrays = worker.handle(job)
    return header | {"resident": _resident()}, arrays
serve(handle)
"""
    return [sys.executable, "-P", "-c", program]


# ---- files that are not what they should be


def test_damaged_files_are_answers_with_path_and_reason(tmp_path, clip, capfd):
    noisy = media.write_clip(tmp_path / "noisy.mp4", noise=120, options={"movflags": "faststart"})
    flv = media.write_clip(tmp_path / "clip.flv", codec="flv1", sound="libmp3lame", rate=44100)
    wav = media.write_wav(tmp_path / "voice.wav", media.tone(1.0, 16000))
    mp3 = media.write_sound(tmp_path / "voice.mp3", "libmp3lame")
    png = media.write_png(tmp_path / "photo.png", np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8))
    folder = tmp_path / "damaged"
    folder.mkdir()
    files = media.damaged_files([noisy, flv, wav, mp3, png], folder, each=16) + media.not_media(folder)
    assert len(files) >= 80
    jobs = [{"reads": [read_job("photo", str(path), IMAGE)]} if path.suffix == ".png" else both(path) for path in files]
    capfd.readouterr()
    found = ask(jobs)
    assert capfd.readouterr() == ("", "")
    failed = 0
    for path, answer in zip(files, found, strict=True):
        for reading in answer.values():
            if reading.error:
                failed += 1
                assert reading.error["type"] == "MediaError"
                assert reading.error["reason"].startswith(f"{path}: "), reading.error
                assert "\n" not in reading.error["reason"]
                assert "Traceback" not in reading.error["reason"]
            else:
                assert np.isfinite(reading.array).all()
    assert failed > 60
    for path, answer in zip(files[-10:], found[-10:], strict=True):
        assert all(reading.error for reading in answer.values()), path


ODD = [
    "plain.mp4",
    "two words.mp4",
    " leading and trailing .mp4",
    "new\nline.mp4",
    "tab\tand\rreturn.mp4",
    "quote'and\"quote.mp4",
    "back\\slash.mp4",
    "dollar $HOME `x`.mp4",
    "semi;colon&amp.mp4",
    "colon:in:name.mp4",
    "concat:a|b.mp4",
    "data:text,x.mp4",
    "pipe:0.mp4",
    "percent%03d.mp4",
    "percent%s%n.mp4",
    "hash#tag.mp4",
    "question?mark.mp4",
    "star*[a-z].mp4",
    "-dash.mp4",
    "--help.mp4",
    ".hidden.mp4",
    "no-suffix",
    "wrong.txt",
    "two.dots..mp4",
    "~tilde.mp4",
    "{braces}.mp4",
    "\x1b[31mred\x1b[0m.mp4",
    "bell\x07.mp4",
    "größe.mp4",
    unicodedata.normalize("NFD", "größe2.mp4"),
    "видео.mp4",
    "视频.mp4",
    "ビデオ.mp4",
    "מְדִיָה.mp4",
    "🎬🎧.mp4",
    "zero\u200bwidth.mp4",
    "rtl\u202egnp.mp4",
    "nbsp\u00a0.mp4",
    "line\u2028separator.mp4",
    "a" * 251 + ".mp4",
    "ü" * 125 + ".mp4",
]


def test_odd_names_make_no_difference(tmp_path, clip):
    usual = readings(both(clip), *handle(both(clip)))
    assert len(set(ODD)) >= 40
    paths = [tmp_path / name for name in ODD]
    for path in paths:
        path.write_bytes(clip.read_bytes())
    deep = tmp_path / "/".join(["d" * 200] * 5)
    deep.mkdir(parents=True)
    (deep / "clip.mp4").symlink_to(clip)
    paths.append(deep / "clip.mp4")
    for path, answer in zip(paths, ask([both(path) for path in paths]), strict=True):
        for name in ("face", "voice"):
            assert answer[name].error is None, (path, answer[name].error)
            np.testing.assert_array_equal(answer[name].array, usual[name].array)


def test_names_that_no_decoder_takes_are_answers(tmp_path, clip):
    paths = [tmp_path / "bytes-\udcff.mp4", tmp_path / ("n" * 300)]
    paths[0].write_bytes(clip.read_bytes())
    for answer in ask([both(path) for path in [*paths, "/nul\x00inside.mp4"]]):
        for reading in answer.values():
            assert reading.error is None or reading.error["type"] == "MediaError"


def test_what_is_too_large_is_refused_without_the_memory_for_it(tmp_path):
    wide = media.write_clip(tmp_path / "wide.mp4", 1, size=(8192, 1024), sound="")
    long = media.wav_claiming(tmp_path / "long.wav", 36_000)
    bomb = media.png_claiming(tmp_path / "bomb.png", 20_000, 20_000)
    jobs = [both(wide), both(long), {"reads": [read_job("photo", str(bomb), IMAGE)]}]
    program = """
import json, resource, sys
from mmbal_cli.encode.worker import handle
jobs = json.load(sys.stdin)
handle(jobs[0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answers = [handle(job)[0]["results"] for job in jobs[1:]]
print(json.dumps([answers, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""
    import json

    plain = media.write_clip(tmp_path / "plain.mp4", 2)
    sent = json.dumps([both(plain), *jobs])
    done = subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True, text=True, timeout=60)
    answers, kib = json.loads(done.stdout)
    assert "8192x1024, at most 4096" in answers[0]["face"]["error"]["reason"]
    assert "36000 s of sound, at most 600" in answers[1]["voice"]["error"]["reason"]
    assert "400 megapixels, at most 50" in answers[2]["photo"]["error"]["reason"]
    assert kib < 200 * 1024


def test_unknown_kinds_and_encoders_name_the_nearest():
    with pytest.raises(EncoderError, match="Did you mean 'hog-motion'"):
        get_encoder("hog-motio", "video")
    with pytest.raises(EncoderError, match=r"does not take audio.*logmel-stats"):
        get_encoder("ngram-hash", "audio")
    with pytest.raises(EncoderError, match="Did you mean 'video'"):
        get_encoder("", "vidoe")
