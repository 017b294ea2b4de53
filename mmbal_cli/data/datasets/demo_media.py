"""Rendering of one clip of the `demo` data: a figure on video, a voice, a caption, and the container.

Each function takes the symbol to show (0..5, or BLANK), the `ease` dial of its modality and two
generators: `own` for what changes from clip to clip, `speaker` for what a speaker's clips have in
common. `ease` moves contrast and nuisance only: the symbol stays decidable at every setting, so that the
accuracies stated by `lab.reachable` hold for the files.

`python -m mmbal_cli.data.datasets.demo_media` is the rendering child of the pool.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from mmbal_cli.data.datasets.lab import BLANK, stream
from mmbal_cli.media.child import serve

SIZE, FPS, FRAMES, RATE = 96, 10, 20, 16000
SECONDS = FRAMES / FPS

_OPENINGS = ("a short clip", "one take", "the second recording", "a test scene", "another try", "this video")
_PEOPLE = ("of a woman", "of a man", "of the actor", "of a student", "of our guest", "of a speaker")
_ACTIONS = ("saying the line", "reading the sentence", "speaking slowly", "repeating the text", "talking")
_PLACES = ("by the window", "in the studio", "near the door", "at the desk", "on the stairs", "in the hall")
_TIMES = ("before lunch", "on monday", "late in the day", "after the break", "with the lights on", "at noon")
MOODS = (
    ("angry", "furious", "cross", "irate", "enraged", "mad", "livid", "heated"),
    ("disgusted", "revolted", "sickened", "repelled", "appalled", "nauseated", "queasy", "put off"),
    ("afraid", "scared", "frightened", "terrified", "anxious", "alarmed", "nervous", "fearful"),
    ("happy", "joyful", "cheerful", "delighted", "glad", "merry", "elated", "pleased"),
    ("neutral", "composed", "unmoved", "detached", "even", "plain", "steady", "matter of fact"),
    ("sad", "gloomy", "tearful", "mournful", "dejected", "downcast", "sorrowful", "blue"),
)


def caption(symbol: int, ease: float, own: np.random.Generator) -> str:
    """A sentence; a symbol adds one of its mood words (fewer synonyms and fillers when easy)."""
    parts = [_OPENINGS, _PEOPLE, _ACTIONS, _PLACES, _TIMES]
    words = [str(own.choice(part)) for part in parts[: 1 + round(4 * (1 - ease))]]
    if symbol != BLANK:
        synonyms = MOODS[symbol][: 1 + round(7 * (1 - ease))]
        words.insert(int(own.integers(1, len(words) + 1)), str(own.choice(synonyms)))
    return " ".join(words)


def sound(symbol: int, ease: float, own: np.random.Generator, speaker: np.random.Generator) -> np.ndarray:
    """float32 [SECONDS * RATE] mono: a symbol is the pitch contour of a voice; blank is a whisper."""
    t = np.arange(round(SECONDS * RATE), dtype=np.float32) / RATE
    hard = 1 - ease
    pitch = 180 * 2 ** (speaker.normal(0, 0.1 + 0.4 * hard) + own.normal(0, 0.03))
    tilt, tempo = speaker.uniform(0.6, 1.4), speaker.uniform(2.5, 5)
    depth = 0.5 * np.exp(own.normal(0, 0.05 + 0.2 * hard))
    if symbol == BLANK:
        voice = own.standard_normal(len(t), dtype=np.float32)
    else:
        turns = np.cumsum(pitch * 2 ** (depth * contour(symbol, t / SECONDS)), dtype=np.float64) / RATE
        phase = (2 * np.pi * turns).astype(np.float32)
        voice = np.zeros(len(t), np.float32)
        for h in range(1, 9):
            voice += np.sin(h * phase + own.uniform(0, 2 * np.pi)) * h**-tilt
    voice *= 0.6 + 0.4 * np.sin(2 * np.pi * tempo * t + own.uniform(0, 2 * np.pi))
    voice *= np.exp(own.normal(0, 0.2)) / voice.std()
    voice += 10 ** (-1.2 * ease) * own.standard_normal(len(t), dtype=np.float32)
    return (0.1 * voice).astype(np.float32)


def contour(symbol: int, u: np.ndarray) -> np.ndarray:
    """Pitch over relative time u in [0, 1], within [-1, 1]: rise, fall, arch, bowl, two notes, vibrato."""
    return (
        2 * u - 1,
        1 - 2 * u,
        2 * np.sin(np.pi * u) - 1,
        1 - 2 * np.sin(np.pi * u),
        0.5 * np.sign(np.sin(8 * np.pi * u)),
        0.5 * np.sin(20 * np.pi * u),
    )[symbol]


def picture(symbol: int, ease: float, own: np.random.Generator, speaker: np.random.Generator) -> np.ndarray:
    """uint8 [FRAMES, 3 SIZE/2, SIZE], planes of yuv420p: a faint swaying figure over a strong texture."""
    hard = 1 - ease
    scene = 20 * _noise(own, 13) + 14 * _noise(speaker, 9) + 14 * _noise(own, 25)
    scene += 110 + own.normal(0, 15)
    t = np.arange(FRAMES) / FPS
    light = 15 * np.sin(2 * np.pi * (own.uniform(0.2, 1) * t + own.random()))
    luma = scene + light[:, None, None].astype(np.float32)
    place = SIZE / 2 + own.normal(0, 1 + 4 * hard, 2)
    angle, phase, sign = own.uniform(0, 2 * np.pi), own.random(), own.choice((-1, 1))
    contrast = (55 - 45 * hard) * np.exp(own.normal(0, 0.15))
    if symbol != BLANK:
        sway = 6 * np.sin(2 * np.pi * (0.5 * t + phase))
        for k in range(FRAMES):
            x, y = place + sway[k] * np.array([np.cos(angle), np.sin(angle)])
            luma[k] += sign * contrast * figure(symbol, x, y)
    tint = np.repeat(128 + speaker.normal(0, 10, 2) + own.normal(0, 4, 2), SIZE * SIZE // 4)
    chroma = np.broadcast_to(tint.reshape(SIZE // 2, SIZE), (FRAMES, SIZE // 2, SIZE))
    return np.clip(np.concatenate([luma, chroma], axis=1), 16, 235).astype(np.uint8)


def figure(symbol: int, x: float, y: float) -> np.ndarray:
    """float32 [SIZE, SIZE] in [0, 1]: the outline that stands for a symbol, centred on pixel (x, y)."""
    grid = np.arange(SIZE, dtype=np.float32)
    dx, dy = (grid - x)[None, :], (grid - y)[:, None]
    ax, ay, radius = np.abs(dx), np.abs(dy), 18
    disc = (ax**2 + ay**2) < radius**2
    inside = (ax < radius) & (ay < radius)
    line, where = (
        (np.sqrt(ax**2 + ay**2) - 0.9 * radius, True),
        (np.minimum(ax, ay), inside),
        (np.minimum(np.abs(dx - dy), np.abs(dx + dy)) / 1.414, disc),
        (np.maximum(ax, ay) - 0.8 * radius, True),
        (ax + ay - radius, True),
        (ax - 9 + 0 * ay, inside),
    )[symbol]
    return np.clip(2.5 - np.abs(line), 0, 1) * where


def _noise(rng: np.random.Generator, points: int) -> np.ndarray:
    """float32 [SIZE, SIZE]: white noise on a coarse grid, interpolated linearly."""
    at = np.linspace(0, points - 1, SIZE, dtype=np.float32)
    low = np.minimum(at.astype(int), points - 2)
    mix = np.zeros((SIZE, points), np.float32)
    mix[np.arange(SIZE), low] = 1 - (at - low)
    mix[np.arange(SIZE), low + 1] = at - low
    return mix @ rng.standard_normal((points, points), dtype=np.float32) @ mix.T


def container(frames: np.ndarray, samples: np.ndarray) -> bytes:
    """An mp4 with one H.264 and one AAC stream; one encoder thread, so the bytes depend on the input alone."""
    import av

    image = io.BytesIO()
    with av.open(image, "w", format="mp4") as out:
        video = out.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "23"})
        video.width, video.height, video.pix_fmt = SIZE, SIZE, "yuv420p"
        video.codec_context.thread_count = 1
        # the default coder takes more time than all the rest of a clip
        audio = out.add_stream("aac", rate=RATE, layout="mono", options={"aac_coder": "fast"})
        audio.bit_rate = 64000
        for plane in frames:
            out.mux(video.encode(av.VideoFrame.from_ndarray(plane, format="yuv420p")))
        out.mux(video.encode())
        block = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        block.sample_rate = RATE
        out.mux(audio.encode(block))
        out.mux(audio.encode())
    return image.getvalue()


def handle(job: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Answer one job `{"seed", "index", "speaker", "audio": [symbol, ease], "video": [...]}` with the file."""
    seed, index, speaker = job["seed"], job["index"], job["speaker"]
    (figure_shown, clear), (contour_sung, loud) = job["video"], job["audio"]
    frames = picture(figure_shown, clear, stream(seed, "video", index), stream(seed, "scene", speaker))
    samples = sound(contour_sung, loud, stream(seed, "audio", index), stream(seed, "voice", speaker))
    return {}, [np.frombuffer(container(frames, samples), np.uint8)]


if __name__ == "__main__":
    serve(handle)
