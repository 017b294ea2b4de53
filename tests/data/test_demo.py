"""The demo generator: stated bounds against hand and Monte Carlo, decodable files, determinism, resume."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmbal_cli.data.datasets import GENERATORS, get_generator
from mmbal_cli.data.datasets.demo import generate, plan
from mmbal_cli.data.datasets.demo_media import (
    FRAMES,
    MOODS,
    RATE,
    SECONDS,
    SIZE,
    caption,
    container,
    contour,
    figure,
    picture,
    sound,
)
from mmbal_cli.data.datasets.lab import (
    BLANK,
    CLASSES,
    DEFAULT,
    MODALITIES,
    Dial,
    Dials,
    K,
    draw,
    joint,
    reachable,
    reached,
    stream,
)
from mmbal_cli.data.manifest import read_manifest
from mmbal_cli.errors import CacheError, UsageError
from mmbal_cli.recipe import dataset_recipe, recipe_folder

CLIPS = 42
OFF = Dial(redundant=0)


def digests(root: Path) -> dict[str, str]:
    files = [*root.glob("clips/*"), root / "manifest.csv", root / "lab.json"]
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    generate(root, clips=CLIPS, workers=2)
    return root


# ------------------------------------------------------------------------------- the information model


@pytest.mark.parametrize(("p", "q"), [(0.8, 0.3), (1.0, 0.0), (0.5, 0.5)])
def test_redundant_bounds_by_hand(p: float, q: float) -> None:
    best = reachable(Dials(audio=Dial(p), video=Dial(q), text=OFF))
    assert best["audio"] == pytest.approx(p + (1 - p) / K)
    assert best["video"] == pytest.approx(q + (1 - q) / K)
    assert best["text"] == pytest.approx(1 / K)
    missed = (1 - p) * (1 - q)
    assert best["audio+video"] == pytest.approx(1 - missed + missed / K)
    assert best["audio+video+text"] == pytest.approx(best["audio+video"])


def test_unique_bounds_by_hand() -> None:
    best = reachable(Dials(audio=Dial(0, unique=0.3), video=Dial(0, unique=0.6), text=OFF))
    assert best["audio"] == pytest.approx(0.3 + 0.7 / K)
    assert best["video+text"] == pytest.approx(0.6 + 0.4 / K)
    assert best["audio+video"] == pytest.approx(0.9 + 0.1 / K)


def test_synergy_is_invisible_alone_and_complete_together() -> None:
    best = reachable(Dials(audio=Dial(0, synergistic=1), video=Dial(0, synergistic=1), text=OFF))
    assert [best["audio"], best["video"], best["audio+text"]] == pytest.approx([1 / K] * 3)
    assert best["audio+video"] == pytest.approx(1)


MIXED = Dials(
    audio=Dial(0.7, unique=0.1, synergistic=0.2),
    video=Dial(0.5, unique=0.05, synergistic=0.3),
    text=Dial(0.2, unique=0.1, synergistic=0.1),
)


@pytest.mark.parametrize("dials", [DEFAULT, MIXED])
def test_joint_and_bounds_match_monte_carlo(dials: Dials) -> None:
    table, rng, n = joint(dials), np.random.default_rng(1), 30_000
    assert table.sum() == pytest.approx(1)
    assert np.allclose(table.sum((1, 2, 3)), 1 / K)
    labels = [i % K for i in range(n)]
    shown = [draw(y, dials, rng) for y in labels]
    counts = np.zeros_like(table)
    for y, s in zip(labels, shown, strict=True):
        counts[y, s["audio"], s["video"], s["text"]] += 1
    assert not counts[table == 0].any()
    assert (np.abs(counts - n * table) <= 5 * np.sqrt(n * table)).all()
    for name, score in reached(dials, labels, shown).items():
        assert score == pytest.approx(reachable(dials)[name], abs=0.01)  # 3.5 standard errors


def test_default_dials_make_the_promised_situation() -> None:
    best = reachable(DEFAULT)
    assert best["audio"] > best["video"] > best["text"] > 1.5 / K
    assert best["audio+video+text"] > best["audio"] + 0.15
    assert DEFAULT.audio.ease > DEFAULT.video.ease


def test_the_page_states_the_computed_bounds() -> None:
    page = Path(__file__).parents[2] / "docs" / "demo-data.md"
    line = next(x for x in page.read_text().splitlines() if x.startswith("| default dials | 0.7"))
    assert re.findall(r"0\.\d+", line) == [f"{value:.3f}" for value in reachable(DEFAULT).values()]


def test_dials_change_what_is_shown() -> None:
    def share(dials: Dials, m: str) -> float:
        return float(np.mean([clip.symbols[m] != BLANK for clip in plan(600, 0, dials)]))

    low = replace(DEFAULT, text=Dial(0.05), video=Dial(0.4, synergistic=0.04))
    assert share(low, "text") < share(DEFAULT, "text") - 0.15
    assert share(low, "video") < share(DEFAULT, "video") - 0.25


@pytest.mark.parametrize(
    ("dial", "words"),
    [(Dial(1.2), "redundant is 1.2"), (Dial(0.5, unique=1), "more than 1"), (Dial(0.5, synergistic=0.9), "other")],
)
def test_impossible_dials_are_refused(dial: Dial, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Dials(audio=dial, video=Dial(0.5, unique=0.1), text=OFF)


# ----------------------------------------------------------------------------------- plan and manifest


def test_plan_is_balanced_and_speakers_stay_in_one_split() -> None:
    clips = plan(1200, 0, DEFAULT)
    assert Counter(clip.split for clip in clips) == {"train": 720, "val": 180, "test": 300}
    homes = defaultdict(set)
    for clip in clips:
        homes[clip.speaker].add(clip.split)
    assert all(len(splits) == 1 for splits in homes.values())
    for split in ("train", "val", "test"):
        labels = Counter(clip.label for clip in clips if clip.split == split)
        assert set(labels) == set(range(K))
        assert max(labels.values()) - min(labels.values()) <= 1


def test_a_clip_does_not_depend_on_the_number_of_others() -> None:
    few, many = plan(40, 3, DEFAULT), plan(400, 3, DEFAULT)
    assert [clip.symbols for clip in few] == [clip.symbols for clip in many[:40]]


def test_too_few_clips_and_unknown_generators_are_refused() -> None:
    with pytest.raises(UsageError, match="5 clips"):
        plan(5, 0, DEFAULT)
    with pytest.raises(UsageError, match="demoo") as caught:
        get_generator("demoo")
    assert "'demo'" in caught.value.expected
    assert get_generator("demo") is generate
    assert set(GENERATORS) == {"demo"}


def test_manifest_fits_the_recipe(made: Path) -> None:
    recipe = dataset_recipe(recipe_folder() / "datasets" / "demo.yaml")
    assert recipe.classes == list(CLASSES)
    assert tuple(recipe.modalities) == MODALITIES
    manifest = read_manifest(made / "manifest.csv", classes=recipe.classes)
    assert manifest.kinds == {"video": "video", "audio": "audio", "text": "text"}
    assert sum(manifest.counts().values()) == CLIPS
    for sample, clip in zip(manifest.samples, plan(CLIPS, 0, DEFAULT), strict=True):
        assert (sample.split, sample.label) == (clip.split, clip.label)
        assert sample.values["video"] == sample.values["audio"] == clip.file


def test_lab_states_the_bounds(made: Path) -> None:
    lab = json.loads((made / "lab.json").read_text())
    assert lab["reachable"] == {name: round(value, 6) for name, value in reachable(DEFAULT).items()}
    test = [clip for clip in plan(CLIPS, 0, DEFAULT) if clip.split == "test"]
    seen = np.mean([(1 if clip.symbols["text"] == clip.label else 0) for clip in test])
    assert lab["reachable_on_test"]["text"] >= seen - 1e-6
    assert lab["dials"]["video"]["ease"] == DEFAULT.video.ease


# --------------------------------------------------------- an ideal observer reads the symbols from files


def decode(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    frames = decord.VideoReader(str(path), num_threads=1)[:].asnumpy()
    return frames, decord.AudioReader(str(path), sample_rate=RATE, mono=True)[:].asnumpy()[0]


def see(frames: np.ndarray) -> int:
    """Matched filter for each figure at each place, on what moves; nothing found is blank."""
    gray = frames.astype(np.float32).mean(-1)
    gray -= gray.mean((1, 2), keepdims=True)
    moving = np.fft.rfft2(gray - gray.mean(0))
    scores = []
    for symbol in range(K):
        outline = figure(symbol, SIZE // 2, SIZE // 2)
        template = np.fft.rfft2(np.fft.ifftshift(outline / np.linalg.norm(outline)))
        match = np.abs(np.fft.irfft2(moving * template.conj(), s=(SIZE, SIZE)))[:, 24:72, 24:72]
        scores.append(match.max((1, 2)).mean())
    return int(np.argmax(scores)) if max(scores) > 28 else BLANK


def hear(samples: np.ndarray) -> int:
    """Energy on the harmonics of each contour, less that between them, over pitch and depth."""
    window, bins, hop = 1024, 4096, 256
    voice = samples[1024 : 1024 + round(SECONDS * RATE)]  # decord keeps the encoder's priming block
    parts = np.lib.stride_tricks.sliding_window_view(voice, window)[::hop] * np.hanning(window)
    power = np.log(np.abs(np.fft.rfft(parts, bins)) ** 2 + 1e-9)
    power -= np.median(power, axis=1, keepdims=True)
    u = (np.arange(len(parts)) * hop + window / 2) / (RATE * SECONDS)
    pitch = 180 * 2 ** np.arange(-1.6, 1.61, 0.04)[:, None, None, None]
    depth = np.array([0.3, 0.4, 0.5, 0.6, 0.75])[:, None, None]
    scores = []
    for symbol in range(K):
        f = pitch * 2 ** (depth * contour(symbol, u))
        harmonics = np.arange(1, 9)[:, None]

        def energy(frequency: np.ndarray) -> np.ndarray:
            at = np.minimum((frequency * bins / RATE).round().astype(int), bins // 2 - 1)
            return power[np.arange(len(parts)), at].mean((2, 3))

        scores.append((energy(f * harmonics) - energy(f * (harmonics - 0.5))).max())
    return int(np.argmax(scores)) if max(scores) > 0.7 else BLANK


def read(text: str) -> int:
    found = [k for k, words in enumerate(MOODS) for w in words if re.search(rf"\b{re.escape(w)}\b", text)]
    return found[0] if found else BLANK


def test_default_files_show_exactly_the_planned_symbols(made: Path) -> None:
    with (made / "manifest.csv").open(newline="") as file:
        captions = [row["text:text"] for row in csv.DictReader(file)]
    for clip, text in list(zip(plan(CLIPS, 0, DEFAULT), captions, strict=True))[::3]:
        frames, samples = decode(made / clip.file)
        assert (hear(samples), see(frames)) == (clip.symbols["audio"], clip.symbols["video"]), clip
        assert read(text) == clip.symbols["text"], clip


@pytest.mark.parametrize("symbol", [*range(K), BLANK])
def test_symbols_stay_decidable_at_the_hardest_setting(symbol: int, tmp_path: Path) -> None:
    for index in range(2):
        frames = picture(symbol, 0.0, stream(5, "video", index), stream(5, "scene", index))
        samples = sound(symbol, 0.0, stream(5, "audio", index), stream(5, "voice", index))
        (tmp_path / "clip.mp4").write_bytes(container(frames, samples))
        seen, heard = decode(tmp_path / "clip.mp4")
        assert (see(seen), hear(heard)) == (symbol, symbol)


def test_captions_name_one_mood_at_most_and_ease_limits_the_words() -> None:
    words: dict[float, set[str]] = {0.0: set(), 1.0: set()}
    for ease, seen in words.items():
        for symbol in [*range(K), BLANK] * 20:
            text = caption(symbol, ease, stream(0, "text", len(seen) * 100 + symbol))
            assert read(text) == symbol
            seen.add(text)
    assert len(words[0.0]) > 2 * len(words[1.0])


@pytest.mark.parametrize("symbol", range(K))
def test_ease_is_contrast_and_the_class_brings_no_other_difference(symbol: int) -> None:
    def trace(ease: float) -> np.ndarray:
        shown, blank = (
            picture(s, ease, stream(2, "video", 0), stream(2, "scene", 0)).astype(int) for s in (symbol, BLANK)
        )
        return shown - blank

    easy, hard = trace(1.0), trace(0.0)
    assert np.abs(easy).max() > 2 * np.abs(hard).max() > 0
    assert not hard[:, SIZE:].any()  # colours
    assert (hard != 0).mean() < 0.15  # all but the outline is untouched


# --------------------------------------------------------------------------------- files and restarts


def test_media_have_the_stated_length(made: Path) -> None:
    frames, samples = decode(made / "clips" / "00000.mp4")
    assert frames.shape == (FRAMES, SIZE, SIZE, 3)
    assert 0 <= len(samples) - SECONDS * RATE <= 2 * 1024  # AAC comes in blocks of 1024
    assert (made / "clips" / "00000.mp4").stat().st_size < 60_000


def test_same_bytes_for_any_number_of_workers_and_seeds_differ(made: Path, tmp_path: Path) -> None:
    generate(tmp_path / "one", clips=CLIPS, workers=1)
    assert digests(tmp_path / "one") == digests(made)
    generate(tmp_path / "other", clips=CLIPS, seed=1)
    assert not set(digests(tmp_path / "other").values()) & set(digests(made).values())


def test_second_call_touches_nothing_and_missing_clips_come_back(made: Path) -> None:
    before, times = digests(made), {f: f.stat().st_mtime_ns for f in made.glob("**/*.*") if f.suffix}
    steps: list[tuple[int, int]] = []
    generate(made, clips=CLIPS, on_progress=lambda done, total: steps.append((done, total)))
    assert steps == [(CLIPS, CLIPS)]
    assert times == {f: f.stat().st_mtime_ns for f in times}
    gone = [made / "clips" / f"{i:05d}.mp4" for i in (0, 7)]
    for file in gone:
        file.unlink()
    generate(made, clips=CLIPS)
    assert digests(made) == before
    assert all(f in gone or f.stat().st_mtime_ns == times[f] for f in times)


def test_killed_generation_leaves_whole_clips_and_goes_on(made: Path, tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from mmbal_cli.data.datasets.demo import generate\n"
        f"generate(pathlib.Path(sys.argv[1]), clips={CLIPS}, on_progress=lambda d, t: print(d, flush=True))"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    for line in child.stdout:
        if int(line) >= 9:
            child.send_signal(signal.SIGKILL)
            break
    child.wait()
    child.stdout.close()
    wanted = digests(made)
    assert not (tmp_path / "manifest.csv").exists()
    left = {f.name for f in (tmp_path / "clips").glob("*.mp4")}
    assert 9 <= len(left) < CLIPS
    for name in left:
        content = (tmp_path / "clips" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == wanted[f"clips/{name}"]
    generate(tmp_path, clips=CLIPS)
    assert digests(tmp_path) == wanted
    assert not list(tmp_path.rglob("*.part"))


def test_another_request_replaces_the_files_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    generate(tmp_path / "lab", clips=44)
    generate(tmp_path / "lab", clips=40, seed=2)
    assert len(list((tmp_path / "lab" / "clips").iterdir())) == 40
    assert json.loads((tmp_path / "lab" / "lab.json").read_text())["seed"] == 2
    for name, content in (("clips/mine.mp4", b"x"), ("lab.json", b"[1]"), ("manifest.csv", b"id")):
        root = tmp_path / name.replace("/", "-")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        with pytest.raises(CacheError, match="other files"):
            generate(root, clips=40)
        assert (root / name).read_bytes() == content


def test_listing_generators_imports_nothing_heavy() -> None:
    code = "import sys, mmbal_cli.data.datasets; print({'numpy', 'av', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == "set()"
