"""ngram-hash: 2048 signed counts of words and character n-grams. Hand-made, no vocabulary, no fit.

Words and byte 3- to 5-grams of the lower-cased text are hashed (crc32 and a multiplicative hash: the
same on every machine, unlike Python's salted `hash`) to a position and a sign; square root, then unit
length. Of a pair of texts the second is hashed with a salt of its own: a word in it is another feature than
the same word in the first. Since nothing is fitted, nothing can leak from test to train. Far below pretrained
encoders: for tests, teaching and controlled comparisons; published numbers cannot be reproduced with it.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mmbal_cli.encode.base import Encoder, Params
from mmbal_cli.media.text import PAIR

WIDTH = 2048
CHARS = (3, 4, 5)
CHAR_WEIGHT = 0.5  # a word has several n-grams
TOKEN = re.compile(r"\w+|[^\w\s]")


class NgramHash(Encoder):
    """Text -> float32 [2048] of length 1 (0 for an empty text), or [segments,2048] of equal runs of words.

    Of a pair the first text is cut into segments, and the second is whole in each.
    """

    name = "ngram-hash"
    params_allowed: ClassVar[Params] = {"segments": (1, 1, 1000)}

    def sample(self, raw: str, facts: Mapping[str, Any]) -> np.ndarray:
        """Hashed counts of each run of words."""
        first, _, second = raw.partition(PAIR)
        words, others = _words(first), _words(second)
        segments = int(self.params["segments"])
        if segments == 1:
            return hashed(words, others)
        bounds = [len(words) * part // segments for part in range(segments + 1)]
        return np.stack([hashed(words[a:b], others) for a, b in itertools.pairwise(bounds)])


def _words(text: str) -> list[str]:
    return TOKEN.findall(unicodedata.normalize("NFKC", text).lower())


def hashed(words: list[str], others: list[str] | None = None) -> np.ndarray:
    """Signed square-rooted counts float32 [2048] of words and n-grams, length 1; `others` are of a second text."""
    codes, weights = _codes(words, 0)
    if others:
        more, their_weights = _codes(others, zlib.crc32(PAIR.encode()))
        codes, weights = np.concatenate([codes, more]), np.concatenate([weights, their_weights])
    signed = weights * np.where(codes & np.uint64(1), 1.0, -1.0)
    counts = np.bincount((codes >> np.uint64(1)).astype(np.int64) % WIDTH, signed, WIDTH)
    counts = np.sign(counts) * np.sqrt(np.abs(counts))
    return (counts / (np.sqrt(counts @ counts) + 1e-8)).astype(np.float32)


def _codes(words: list[str], salt: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes uint64 of words and n-grams, and their weights; `salt` tells the texts of a pair apart."""
    coded = [word.encode("utf-8", "surrogatepass") for word in words]
    codes = np.fromiter((zlib.crc32(word, salt) for word in coded), np.uint64, len(coded))
    groups, weights = [codes], [np.ones(len(codes))]
    text = np.frombuffer(b" " + b" ".join(coded) + b" ", np.uint8).astype(np.uint64)
    for length in CHARS:
        grams = _grams(text, length, salt)
        groups.append(grams)
        weights.append(np.full(len(grams), CHAR_WEIGHT))
    return np.concatenate(groups), np.concatenate(weights)


def _grams(text: np.ndarray, length: int, salt: int) -> np.ndarray:
    """Hashes uint64 of all runs of `length` bytes, mixed so that low bits depend on all bytes."""
    count = max(0, len(text) - length + 1)
    code = np.full(count, salt, np.uint64)
    for offset in range(length):  # products wrap around: that is the hash
        code = code * np.uint64(1099511628211) + text[offset : offset + count] + np.uint64(length)
    code ^= code >> np.uint64(29)
    code *= np.uint64(0xBF58476D1CE4E5B9)
    return code ^ (code >> np.uint64(32))


ENCODER = NgramHash
