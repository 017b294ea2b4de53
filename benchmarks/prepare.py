"""Throughput of `mmbal prepare`, as a ratio measured in one run: `python benchmarks/prepare.py [--clips 300]`.

Clips like CREMA-D's: 2.5 s, 480x360, 75 frames, H.264 with one key frame, AAC at 44.1 kHz. Both sides decode the same
8 frames at 96x96 (decord) and the same sound at 16 kHz (PyAV), one process for each core; the bare loop stops there,
`mmbal prepare` also hashes the sources, encodes (hog-motion, logmel-stats), publishes verified shards and an index.
Whole processes are timed, start-up included; the two alternate and medians are compared (target: 0.70).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

REPEATS = 3
BARE = """
import sys
import av
import numpy as np
import decord
decord.logging.set_level(decord.logging.QUIET)
for path in sys.argv[1:]:
    reader = decord.VideoReader(path, ctx=decord.cpu(0), width=96, height=96, num_threads=1)
    n = len(reader)
    reader.get_batch(((np.arange(8) + 0.5) * n / 8).astype(int)).asnumpy()
    with av.open(path) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16000)
        parts = [part.to_ndarray() for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    np.concatenate(parts, 1)
"""


def write_clip(path: Path, seed: int) -> None:
    """One noisy clip with moving texture and a voice-like sound."""
    g = np.random.default_rng(seed)
    scene = g.integers(0, 255, (400, 520, 3), dtype=np.uint8)
    scene = np.kron(scene[::8, ::8], np.ones((8, 8, 1), np.uint8))
    sound = (0.3 * np.sin(2 * np.pi * (150 + seed % 200) * np.arange(110_250) / 44_100)).astype(np.float32)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "30", "g": "250"})
        video.width, video.height, video.pix_fmt = 480, 360, "yuv420p"
        audio = container.add_stream("aac", rate=44_100, layout="mono")
        for i in range(75):
            picture = scene[i // 3 : 360 + i // 3, i // 2 : 480 + i // 2] // 2
            picture = picture + g.integers(0, 12, (360, 480, 1), dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate = 44_100
        container.mux(audio.encode(frame))
        container.mux(audio.encode())


def timed(work: Callable[[], None]) -> float:
    """Wall seconds of `work`."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Write the clips, time both sides in turn, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=300)
    clips = parser.parse_args().clips
    cores = len(os.sched_getaffinity(0))
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"{i:04d}.mp4" for i in range(clips)]
        for i, path in enumerate(paths):
            write_clip(path, i)
        splits = ("train", "val", "test")
        rows = [f"{p.stem},{splits[i % 3]},c{i // 3 % 4},{p.name},{p.name}" for i, p in enumerate(paths)]
        (folder / "clips.csv").write_text("id,split,label,video,audio\n" + "\n".join(rows) + "\n")

        def bare() -> None:
            parts = [[str(p) for p in paths[i::cores]] for i in range(cores)]
            children = [subprocess.Popen([sys.executable, "-c", BARE, *part], env=env) for part in parts]
            assert all(child.wait() == 0 for child in children)

        def prepare(run: int) -> None:
            args = ["-m", "mmbal_cli", "prepare", str(folder / "clips.csv"), "--cache", str(folder / f"cache{run}")]
            subprocess.run([sys.executable, *args], check=True, env=env, capture_output=True)

        bare()
        pairs = [(timed(bare), timed(lambda run=run: prepare(run))) for run in range(REPEATS)]
    limit, own = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratio = statistics.median(b / p for b, p in pairs)
    print(f"{clips} clips on {cores} cores: bare decode {clips / limit:.1f}/s, mmbal prepare {clips / own:.1f}/s")
    print(f"ratio {ratio:.2f} (target 0.70)")


if __name__ == "__main__":
    main()
