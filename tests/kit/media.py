"""Small real media files, made with PyAV and Pillow, and damaged versions of them.

The pictures of a clip tell their own number (`level`), and the sound is a tone with a click at 0.5 s, so
that a test can check what was decoded and not only that something was.
"""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import wave
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

HERTZ, LOUD, CLICK = 440.0, 0.25, 0.5


def level(index: int) -> int:
    """Grey level of frame `index` of a clip."""
    return 20 + 11 * (index % 20)


def tone(seconds: float, rate: int) -> np.ndarray:
    """float32 [n]: a 440 Hz tone of amplitude 0.25 with a click of amplitude 1 at 0.5 s."""
    time = np.arange(round(seconds * rate)) / rate
    sound = LOUD * np.sin(2 * np.pi * HERTZ * time)
    sound[round(CLICK * rate) : round(CLICK * rate) + rate // 1000] = 1.0
    return sound.astype(np.float32)


def write_clip(
    path: Path,
    frames: int = 18,
    size: tuple[int, int] = (96, 96),
    fps: int = 12,
    rate: int = 16000,
    *,
    codec: str = "libx264",
    sound: str = "aac",
    channels: int = 1,
    times: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    noise: int = 8,
    corner: bool = False,
) -> Path:
    """A clip of `frames` pictures of `size` (width, height); `sound` "" for none, `codec` "" for no pictures.

    `times` (seconds) instead of a constant rate; `noise` grey levels of noise; `corner`: a white quarter.
    """
    if codec == "libvpx" and "decord" in sys.modules:
        # decord brings a libvpx of its own, and the two do not share a process as encoders
        code = "from pathlib import Path; from tests.kit.media import write_clip\n"
        code += f"write_clip(Path({str(path)!r}), {frames}, {size}, {fps}, codec='libvpx', sound='', noise={noise})"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
        return path
    import av

    random_ = np.random.default_rng(0)
    with av.open(str(path), "w", options=options or {}) as container:
        if codec:
            video = container.add_stream(codec, rate=fps)
            video.width, video.height = size
            video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            video.time_base = video.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, fps)
        voice = _sound_stream(container, sound, rate, channels) if sound else None
        for index in range(frames if codec else 0):
            pixels = random_.integers(0, noise, (size[1], size[0], 3)) + level(index) - noise // 2
            if corner:
                pixels[: size[1] // 2, : size[0] // 2] = 255
            frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")
            frame.pts = round(times[index] * 1000) if times else index
            frame.time_base = Fraction(1, 1000) if times else Fraction(1, fps)
            container.mux(video.encode(frame))
        if codec:
            container.mux(video.encode())
        if voice:
            _encode_sound(container, voice, tone(frames / fps, rate), rate, channels)
    return path


def write_sound(
    path: Path, codec: str, seconds: float = 1.5, rate: int = 44100, channels: int = 1, title: str = ""
) -> Path:
    """A sound file of the tone, the same on each channel."""
    import av

    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        stream = _sound_stream(container, codec, rate, channels)
        _encode_sound(container, stream, tone(seconds, rate), rate, channels)
    return path


def _sound_stream(container, codec: str, rate: int, channels: int):
    stream = container.add_stream(codec, rate=rate)
    stream.layout = "mono" if channels == 1 else "stereo"
    return stream


def _encode_sound(container, stream, sound: np.ndarray, rate: int, channels: int) -> None:
    import av

    layout = "mono" if channels == 1 else "stereo"
    converter = av.AudioResampler(stream.format.name, layout, rate)
    for start in range(0, len(sound), 1024):
        block = np.tile(sound[start : start + 1024], (channels, 1))
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        for converted in converter.resample(frame):
            container.mux(stream.encode(converted))
    container.mux(stream.encode())


def write_wav(path: Path, sound: np.ndarray, rate: int = 16000) -> Path:
    """16-bit mono WAV of float32 [n] in [-1, 1], by the standard library."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    return path


def write_png(path: Path, pixels: np.ndarray) -> Path:
    """PNG of uint8 [H,W,3]."""
    from PIL import Image

    Image.fromarray(pixels).save(path)
    return path


def png_claiming(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes whose header claims width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def wav_claiming(path: Path, seconds: float, rate: int = 16000) -> Path:
    """A sparse WAV file that holds `seconds` of silence and next to no bytes on disk."""
    size = round(seconds * rate) * 2
    header = (
        b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, rate * 2, 2, 16)
    )
    with path.open("wb") as file:
        file.write(header + b"data" + struct.pack("<I", size))
        file.truncate(44 + size)
    return path


def damaged_files(sources: Sequence[Path], folder: Path, each: int = 16, seed: int = 0) -> list[Path]:
    """`each` damaged copies of every source: cut short, bytes changed, ranges zeroed, a wrong beginning."""
    random_ = random.Random(seed)
    made = []
    for source in sources:
        whole = source.read_bytes()
        for number in range(each):
            data = bytearray(whole)
            kind = number % 4
            if kind == 0:
                data = data[: random_.randrange(1, len(data))]
            elif kind == 1:
                for _ in range(64):
                    data[random_.randrange(len(data))] = random_.randrange(256)
            elif kind == 2:
                start = random_.randrange(len(data))
                length = min(len(data) // 5, len(data) - start)
                data[start : start + length] = bytes(length)
            else:
                for place in range(min(64, len(data))):
                    data[place] = random_.randrange(256)
            path = folder / f"{source.stem}-{number:02d}{source.suffix}"
            path.write_bytes(data)
            made.append(path)
    return made


def not_media(folder: Path) -> list[Path]:
    """Files that are no media at all, under the names of media; the last ones name other files or hosts."""
    makers = {
        "empty.mp4": b"",
        "text.mp4": b"this is a text\n" * 100,
        "noise.mp4": random.Random(1).randbytes(20000),
        "zeros.wav": bytes(20000),
        "one-byte.png": b"\x89",
        "playlist.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        "playlist.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/hostname\n#EXT-X-ENDLIST\n",
        "concat.mp4": b"ffconcat version 1.0\nfile /etc/hostname\n",
    }
    for name, data in makers.items():
        (folder / name).write_bytes(data)
    (folder / "folder.mp4").mkdir()
    return [*(folder / name for name in makers), folder / "folder.mp4", folder / "missing.mp4"]
