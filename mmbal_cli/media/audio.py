"""Sound of any container as one float32 channel.

PyAV, not decord: decord's AudioReader keeps every decoded buffer for ever (185 KB for each 2.5 s clip,
dmlc/decord #189), makes stereo 3 dB louder than mono, and takes twice the time through its public
interface.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.media.fragment import Fragment, split
from mmbal_cli.media.probe import ENOUGH, MAX_SECONDS, UNKNOWN, Header, opened, problem

BLOCK = 1 << 20  # samples resampled at once: bounds memory
FULL_SCALE = {1: 2.0**7, 2: 2.0**15, 4: 2.0**31, 8: 2.0**63}  # of whole-number samples, by bytes
FAR = 60.0  # seconds: parts that start later are sought, not reached by decoding all before
MOST_WINDOWS = 64
MAX_SAMPLES = 1 << 26  # of all windows of a clip: 256 MB


def decode_audio(
    path: str | Path,
    rate: int = 16000,
    seconds: float | None = None,
    window: float = 0.0,
    hop: float = 0.0,
    windows: int = 0,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Sound of a wav, flac, mp3, ogg or video file, or of a part of it (`fragment.py`), and facts.

    float32 [n], mean of the channels, at `rate` Hz; `seconds` keeps the beginning only. With `window` seconds it is
    [W,n]: one window every `hop` seconds (0: one follows the other) while at least nine tenths of it are sound, at
    most `windows` (0: 64), at least one, zeros behind the end. The sound of a video is cut to the length of its
    pictures when it is up to a tenth longer (codecs pad the last block).

    Facts: seconds (decoded), stated_seconds (of the header), source_rate, channels, damaged_packets, times (start and
    end of the sound, or of each window, in seconds from the start of the file), and `short`, a text, when a tenth of
    the stated length, or of the part, is missing without an error. Raises MediaError: no sound, more than 600 s of
    it, undecodable, a part beyond the end.
    """
    name, part = split(path)
    path = Path(name)
    with opened(path) as (container, header):
        if not header.audio_codec:
            raise problem(path, "has no audio track")
        if header.audio_codec == UNKNOWN:
            raise problem(path, "has an audio track of an unknown codec")
        start, end = _span(path, header, part)
        wanted = min(end - start, seconds or math.inf)
        if wanted == math.inf and header.audio_seconds > MAX_SECONDS:
            raise problem(path, f"holds {header.audio_seconds:.0f} s of sound, at most {MAX_SECONDS:.0f} s is read")
        limit = round(min(wanted, MAX_SECONDS) * rate)
        sound, damaged = _samples(container, rate, start, limit)
    if len(sound) > limit and wanted == math.inf:
        raise problem(path, f"holds more than {MAX_SECONDS:.0f} s of sound")
    stated = limit / rate if end < math.inf else min(header.audio_seconds, limit / rate)
    short = f"{len(sound) / rate:.2f} of {stated:.2f} s" if len(sound) < ENOUGH * stated * rate else ""
    if short and damaged:
        raise problem(path, f"{damaged} damaged packets, {short} decoded")
    sound = sound[: min(limit, _length_of_pictures(header, rate, round(start * rate), len(sound)))]
    if not len(sound):
        raise problem(path, _beyond(start, end) if end < math.inf else "holds no sound")
    if not np.isfinite(sound).all():
        raise problem(path, "holds samples that are not finite")
    facts = {
        "seconds": round(len(sound) / rate, 6),
        "stated_seconds": round(header.audio_seconds, 6),
        "source_rate": header.audio_rate,
        "channels": header.channels,
        "damaged_packets": damaged,
        "times": [[round(start, 4), round(start + len(sound) / rate, 4)]],
    }
    if window:
        sound, facts["times"] = _windows(path, sound, rate, start, _lengths(rate, window, hop), windows)
    return sound, facts | ({"short": short} if short else {})


def _span(path: Path, header: Header, part: Fragment) -> tuple[float, float]:
    """Start and end in seconds of the part that is meant; the end of a whole file is infinite."""
    start, end = part.seconds or (0.0, math.inf)
    if part.frames:
        if not (header.codec and header.fps):
            raise problem(path, "has no pictures, so frames say nothing about its sound")
        start, end = part.frames[0] / header.fps, part.frames[1] / header.fps
    if end < math.inf:
        if end - start > MAX_SECONDS:
            raise problem(path, f"{end - start:.0f} s of it are asked for, at most {MAX_SECONDS:.0f} s is read")
        if 0 < header.audio_seconds <= start:
            raise problem(path, f"{_beyond(start, end)} ({header.audio_seconds:.2f} s)")
    return start, end


def _beyond(start: float, end: float) -> str:
    return f"the part from {start:g} to {end:g} s lies beyond its end"


def most_windows(rate: int, window: float, hop: float = 0.0, windows: int = 0, seconds: float = 0.0) -> int:
    """How many windows a sound of at most `seconds` (0: 600) can have; the other values as for `decode_audio`."""
    return _count(round((seconds or MAX_SECONDS) * rate), *_lengths(rate, window, hop), windows)


def _lengths(rate: int, window: float, hop: float) -> tuple[int, int]:
    return max(1, round(window * rate)), max(1, round((hop or window) * rate))


def _count(samples: int, length: int, step: int, most: int) -> int:
    """Windows of which nine tenths are there, at least one."""
    return min(most or MOST_WINDOWS, 1 + max(0, samples - math.ceil(ENOUGH * length)) // step)


def _windows(
    path: Path, sound: np.ndarray, rate: int, start: float, lengths: tuple[int, int], most: int
) -> tuple[np.ndarray, list[list[float]]]:
    """Windows float32 [W,n] of a sound that begins at `start` seconds, with their times."""
    (length, step), samples = lengths, len(sound)
    count = _count(samples, length, step, most)
    if count * length > MAX_SAMPLES:
        raise problem(path, f"{count} windows of {length / rate:g} s are too many; take fewer or shorter ones")
    whole = (count - 1) * step + length
    sound = np.pad(sound, (0, max(0, whole - samples)))[:whole]
    begins = np.arange(count) * step
    times = start + np.stack([begins, np.minimum(begins + length, samples)], 1) / rate
    return np.lib.stride_tricks.sliding_window_view(sound, length)[::step].copy(), times.round(4).tolist()


def _length_of_pictures(header: Header, rate: int, skipped: int, decoded: int) -> int:
    """Samples to keep of a video's sound: a padded last block goes, a length that cannot be meant is ignored."""
    pictures = round(header.seconds * rate)
    meant = bool(header.codec) and pictures >= ENOUGH * (skipped + decoded)
    return max(0, pictures - skipped) if meant else decoded


def _samples(container: Any, rate: int, start: float, limit: int) -> tuple[np.ndarray, int]:
    """Mean channel at `rate` from `start` seconds, stopping soon after `limit` samples, and damaged packets."""
    stream = container.streams.audio[0]
    stream.thread_type = "NONE"  # threaded decoding of damaged files can hang
    found = _Sound(rate, start, limit)
    if start > FAR:
        if found.read(container, stream, sought=True):
            return found.end(), found.damaged
        container.seek(stream.start_time or 0, stream=stream)
        found = _Sound(rate, start, limit)
    found.read(container, stream)
    return found.end(), found.damaged


class _Sound:
    """The mean channel as it is decoded, resampled block by block: a long sound is never held at the file's rate."""

    def __init__(self, rate: int, start: float, limit: int) -> None:
        self.rate, self.start, self.limit = rate, start, limit
        self.source = self.total = self.damaged = 0  # samples a second of the file, samples kept, damaged packets
        self.unread = 0  # samples in `waiting`
        self.position: int | None = None  # of the next sample in the file
        self.waiting: list[np.ndarray] = []
        self.done: list[np.ndarray] = []
        self.resampler: Any = None

    def read(self, container: Any, stream: Any, sought: bool = False) -> bool:
        """Decode until there is enough; False when the place could not be sought."""
        import av

        origin = stream.start_time or 0
        if sought:
            try:
                container.seek(origin + int((self.start - 1) / stream.time_base), stream=stream)
            except av.error.FFmpegError:
                return False
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                self.damaged += 1
                continue
            for frame in frames:
                self.source = self.source or frame.sample_rate
                # planes beyond the eighth crash PyAV; both come from damaged headers
                if frame.sample_rate != self.source or frame.layout.nb_channels > 8:
                    self.damaged += 1
                    continue
                if self.position is None:
                    if sought and frame.pts is None:
                        return False
                    self.position = round((frame.pts - origin) * stream.time_base * self.source) if sought else 0
                    if self.position > self.start * self.source:
                        return False
                self._take(frame)
            if self.total * self.rate > (self.limit + self.rate) * self.source:
                break
        return not sought or bool(self.total)

    def _take(self, frame: Any) -> None:
        assert self.position is not None
        skipped = max(0, round(self.start * self.source) - self.position)
        self.position += frame.samples
        if skipped >= frame.samples:
            return
        self.waiting.append(_mean_channel(frame)[skipped:])
        self.total += len(self.waiting[-1])
        self.unread += len(self.waiting[-1])
        if self.source != self.rate and self.unread >= 2 * BLOCK:
            self._resample(BLOCK)

    def _resample(self, least: int) -> None:
        """Resample what waits, in whole blocks as long as `least` samples are there."""
        import av

        waiting = np.concatenate(self.waiting)
        self.resampler = self.resampler or av.AudioResampler("fltp", "mono", self.rate)
        start = 0
        while len(waiting) - start >= least and start < len(waiting):
            block = av.AudioFrame.from_ndarray(waiting[None, start : start + BLOCK], format="fltp", layout="mono")
            block.sample_rate = self.source
            self.done += [part.to_ndarray()[0] for part in self.resampler.resample(block)]
            start += BLOCK
        self.waiting = [waiting[start:]]
        self.unread = len(self.waiting[0])

    def end(self) -> np.ndarray:
        """float32 [n], all that was kept."""
        if self.waiting and self.source != self.rate:
            self._resample(0)
            self.done += [part.to_ndarray()[0] for part in self.resampler.resample(None)]
            self.waiting = []
        parts = self.done or self.waiting
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _mean_channel(frame: Any) -> np.ndarray:
    """float32 [n] in [-1, 1] of a decoded frame of any sample format."""
    array = frame.to_ndarray()  # [channels,n], or packed [1,n*channels]
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
    if array.dtype.kind == "u":
        array = array.astype(np.float32) - 128
    mono = array[0].astype(np.float32) if len(array) == 1 else array.mean(0, dtype=np.float32)
    return mono / FULL_SCALE[frame.format.bytes] if frame.format.name[0] in "us" else mono
