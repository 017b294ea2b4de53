"""Sound of any container as one float32 channel.

PyAV, not decord: decord's AudioReader keeps every decoded buffer for ever (185 KB for each 2.5 s clip,
dmlc/decord #189), makes stereo 3 dB louder than mono, and takes twice the time through its public
interface.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.media.probe import ENOUGH, MAX_SECONDS, UNKNOWN, Header, opened, problem

BLOCK = 1 << 20  # samples resampled at once: bounds memory
FULL_SCALE = {1: 2.0**7, 2: 2.0**15, 4: 2.0**31, 8: 2.0**63}  # of whole-number samples, by bytes


def decode_audio(
    path: str | Path, rate: int = 16000, seconds: float | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Sound of a wav, flac, mp3, ogg or video file: (float32 [n], mean of the channels, at `rate` Hz; facts).

    `seconds` keeps the beginning only. The sound of a video is cut to the length of its pictures when it
    is up to a tenth longer (codecs pad the last block). Facts: seconds (decoded), stated_seconds (of the
    header), source_rate, channels, damaged_packets, and `short`, a text, when a tenth of the stated length
    is missing without an error. Raises MediaError: no sound, more than 600 s, undecodable.
    """
    path = Path(path)
    with opened(path) as (container, header):
        if not header.audio_codec:
            raise problem(path, "has no audio track")
        if header.audio_codec == UNKNOWN:
            raise problem(path, "has an audio track of an unknown codec")
        if not seconds and header.audio_seconds > MAX_SECONDS:
            raise problem(path, f"holds {header.audio_seconds:.0f} s of sound, at most {MAX_SECONDS:.0f} s is read")
        limit = round(min(seconds or MAX_SECONDS, MAX_SECONDS) * rate)
        sound, damaged = _samples(container, rate, limit)
    if len(sound) > limit and not seconds:
        raise problem(path, f"holds more than {MAX_SECONDS:.0f} s of sound")
    stated = min(header.audio_seconds, limit / rate)
    short = f"{len(sound) / rate:.2f} of {stated:.2f} s" if len(sound) < ENOUGH * stated * rate else ""
    if short and damaged:
        raise problem(path, f"{damaged} damaged packets, {short} decoded")
    sound = sound[: min(limit, _length_of_pictures(header, rate, len(sound)))]
    if not len(sound):
        raise problem(path, "holds no sound")
    if not np.isfinite(sound).all():
        raise problem(path, "holds samples that are not finite")
    facts = {
        "seconds": round(len(sound) / rate, 6),
        "stated_seconds": round(header.audio_seconds, 6),
        "source_rate": header.audio_rate,
        "channels": header.channels,
        "damaged_packets": damaged,
    }
    return sound, facts | ({"short": short} if short else {})


def _length_of_pictures(header: Header, rate: int, decoded: int) -> int:
    """Samples to keep of a video's sound: a padded last block goes, a length that cannot be meant is ignored."""
    samples = round(header.seconds * rate) if header.codec else 0
    return samples if samples >= ENOUGH * decoded else decoded


def _samples(container: Any, rate: int, limit: int) -> tuple[np.ndarray, int]:
    """Mean channel at `rate`, stopping soon after `limit` samples, and the number of damaged packets."""
    import av

    stream = container.streams.audio[0]
    stream.thread_type = "NONE"  # threaded decoding of damaged files can hang
    blocks: list[np.ndarray] = []
    total = damaged = source = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            damaged += 1
            continue
        for frame in frames:
            source = source or frame.sample_rate
            # planes beyond the eighth crash PyAV; both come from damaged headers
            if frame.sample_rate != source or frame.layout.nb_channels > 8:
                damaged += 1
                continue
            blocks.append(_mean_channel(frame))
            total += len(blocks[-1])
        if total * rate > (limit + rate) * source:
            break
    mono = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    return (mono if source == rate else _resampled(mono, source, rate)), damaged


def _mean_channel(frame: Any) -> np.ndarray:
    """float32 [n] in [-1, 1] of a decoded frame of any sample format."""
    array = frame.to_ndarray()  # [channels,n], or packed [1,n*channels]
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
    if array.dtype.kind == "u":
        array = array.astype(np.float32) - 128
    mono = array[0].astype(np.float32) if len(array) == 1 else array.mean(0, dtype=np.float32)
    return mono / FULL_SCALE[frame.format.bytes] if frame.format.name[0] in "us" else mono


def _resampled(mono: np.ndarray, source: int, rate: int) -> np.ndarray:
    import av

    resampler = av.AudioResampler("fltp", "mono", rate)
    blocks = []
    for start in range(0, len(mono), BLOCK):
        frame = av.AudioFrame.from_ndarray(mono[None, start : start + BLOCK], format="fltp", layout="mono")
        frame.sample_rate = source
        blocks += resampler.resample(frame)
    if blocks:
        blocks += resampler.resample(None)
    return np.concatenate([block.to_ndarray()[0] for block in blocks]) if blocks else mono
