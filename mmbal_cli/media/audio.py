"""Sound of any container as one float32 channel.

PyAV, not decord: decord's AudioReader keeps every decoded buffer for ever (185 KB for each 2.5 s clip,
dmlc/decord #189), makes stereo 3 dB louder than mono, and takes twice the time through its public
interface.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.media.probe import MAX_SECONDS, UNKNOWN, Header, opened, problem

ENOUGH = 0.9  # of the stated length: less is damage, and longer by more is another cut


def decode_audio(
    path: str | Path, rate: int = 16000, seconds: float | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Sound of a wav, flac, mp3, ogg or video file: (float32 [n], mean of the channels, at `rate` Hz; facts).

    `seconds` keeps the beginning only. The sound of a video is cut to the length of its pictures when it
    is up to a tenth longer (codecs pad the last block). Facts: seconds (decoded), stated_seconds (of the
    header), source_rate, channels, damaged_packets. Raises MediaError: no sound, more than 600 s,
    undecodable.
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
    decoded = len(sound) / rate
    if damaged and decoded < ENOUGH * min(header.audio_seconds, limit / rate):
        raise problem(path, f"{damaged} damaged packets, {decoded:.2f} of {header.audio_seconds:.2f} s decoded")
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
    return sound, facts


def _length_of_pictures(header: Header, rate: int, decoded: int) -> int:
    """Samples to keep of a video's sound: a padded last block goes, a length that cannot be meant is ignored."""
    samples = round(header.seconds * rate) if header.codec else 0
    return samples if samples >= ENOUGH * decoded else decoded


def _samples(container: Any, rate: int, limit: int) -> tuple[np.ndarray, int]:
    """Mean channel at `rate`, stopping soon after `limit` samples, and the number of damaged packets."""
    import av

    stream = container.streams.audio[0]
    stream.thread_type = "NONE"  # threaded decoding of damaged files can hang
    resampler = av.AudioResampler("flt", None, rate)  # packed: planes of odd layouts crash PyAV
    blocks: list[np.ndarray] = []
    total = damaged = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            damaged += 1
            continue
        for block in (block for frame in frames for block in resampler.resample(frame)):
            blocks.append(_mean_channel(block))
            total += len(blocks[-1])
        if total > limit:
            break
    if blocks:
        blocks += [_mean_channel(block) for block in resampler.resample(None)]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32), damaged


def _mean_channel(block: Any) -> np.ndarray:
    """float32 [n] of a packed frame."""
    channels = block.layout.nb_channels
    packed = block.to_ndarray()[0]
    return packed if channels == 1 else packed.reshape(-1, channels).mean(1, dtype=np.float32)
