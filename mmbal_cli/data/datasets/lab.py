"""The laboratory behind the `demo` data: who carries what about the label, and how much can be known.

A clip has a label y (uniform over K classes) and shows one symbol in each modality: one of the K
classes, or blank. How the symbols come about is drawn for each clip apart:

- *shared* (the rest of the probability): modality m shows y with probability `redundant`, else blank;
- *unique to m* (probability `unique`): m shows y, the others are blank;
- *synergy of a and b*: a shows a uniform symbol and b shows (y - a) mod K, so that neither half alone
  says anything about y; the others are blank. `synergistic` of m is the share of clips in which m
  holds such a half, which fixes the pairs: P(a, b) = (s_a + s_b - s_c) / 2 for three modalities.

An observer sees symbols, not the way they came about. `joint` is the exact table P(y, symbols), from
which `reachable` gives the accuracy of the best possible classifier of any set of modalities.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import combinations

import numpy as np

from mmbal_cli.errors import UsageError

MODALITIES = ("audio", "video", "text")
PAIRS = tuple(combinations(MODALITIES, 2))
CLASSES = ("anger", "disgust", "fear", "joy", "neutral", "sadness")
K = BLANK = len(CLASSES)  # symbols are 0..K-1; K itself stands for blank
SUBSETS = tuple(s for n in (1, 2, 3) for s in combinations(MODALITIES, n))
STREAMS = ("symbols", "audio", "video", "text", "voice", "scene")


@dataclass(frozen=True)
class Dial:
    """One modality: probabilities in [0, 1] and `ease` in [0, 1], 1 the easiest to learn."""

    redundant: float
    unique: float = 0.0
    synergistic: float = 0.0
    ease: float = 1.0


@dataclass(frozen=True)
class Dials:
    """The three dials. UsageError when a value or a sum of probabilities is impossible."""

    audio: Dial
    video: Dial
    text: Dial

    def __post_init__(self) -> None:
        for m in MODALITIES:
            for field in fields(Dial):
                value = getattr(getattr(self, m), field.name)
                if not 0 <= value <= 1:
                    raise UsageError(f"Dial {m}.{field.name} is {value}.", "A dial lies between 0 and 1.")
        if min(self.pairs().values()) < -1e-12:
            raise UsageError("A 'synergistic' dial exceeds the sum of the other two.", "Halves come in pairs.")
        if self.shared() < -1e-12:
            raise UsageError("Unique and synergistic shares add up to more than 1.", "Lower them.")

    def pairs(self) -> dict[tuple[str, str], float]:
        """Probability of a synergistic clip for each pair of modalities."""
        half = sum(getattr(self, m).synergistic for m in MODALITIES) / 2
        return {pair: half - next(getattr(self, m).synergistic for m in MODALITIES if m not in pair) for pair in PAIRS}

    def shared(self) -> float:
        """Probability of a clip in which every modality may show the label."""
        return 1 - sum(getattr(self, m).unique for m in MODALITIES) - sum(self.pairs().values())


DEFAULT = Dials(
    audio=Dial(redundant=0.85, unique=0.04, synergistic=0.04, ease=0.9),
    video=Dial(redundant=0.78, unique=0.06, synergistic=0.04, ease=0.3),
    text=Dial(redundant=0.30, unique=0.02, ease=0.4),
)


def stream(seed: int, purpose: str, index: int) -> np.random.Generator:
    """The generator of one clip (or speaker) for one purpose: no draw depends on order or on other clips."""
    return np.random.default_rng([seed, STREAMS.index(purpose), index])


def draw(label: int, dials: Dials, rng: np.random.Generator) -> dict[str, int]:
    """The symbols of one clip of class `label`, by modality."""
    symbols = dict.fromkeys(MODALITIES, BLANK)
    ways: list[tuple[float, Sequence[str]]] = [(dials.shared(), MODALITIES)]
    ways += [(getattr(dials, m).unique, (m,)) for m in MODALITIES]
    ways += [(share, pair) for pair, share in dials.pairs().items()]
    edges = np.cumsum([share for share, _ in ways])
    shown = ways[min(int(np.searchsorted(edges, rng.random(), side="right")), len(ways) - 1)][1]
    if len(shown) == 1:
        symbols[shown[0]] = label
    elif len(shown) == 2:
        half = int(rng.integers(K))
        symbols[shown[0]], symbols[shown[1]] = half, (label - half) % K
    else:
        chances = rng.random(len(MODALITIES))
        symbols |= {m: label for m, u in zip(shown, chances, strict=True) if u < getattr(dials, m).redundant}
    return symbols


def joint(dials: Dials) -> np.ndarray:
    """P(y, audio, video, text) as float64 [K, K+1, K+1, K+1]; the last index of a symbol is blank."""
    table = np.zeros((K,) + (K + 1,) * len(MODALITIES))
    only = np.eye(K + 1)

    def add(y: int, share: float, *rows: np.ndarray) -> None:
        table[y] += share / K * np.einsum("a,b,c->abc", *rows)

    for y in range(K):
        rates = [getattr(dials, m).redundant for m in MODALITIES]
        add(y, dials.shared(), *(r * only[y] + (1 - r) * only[BLANK] for r in rates))
        for m in MODALITIES:
            add(y, getattr(dials, m).unique, *(only[y if q == m else BLANK] for q in MODALITIES))
        for (a, b), share in dials.pairs().items():
            for half in range(K):
                symbol = {a: half, b: (y - half) % K}
                add(y, share / K, *(only[symbol.get(q, BLANK)] for q in MODALITIES))
    return table


def _seen(table: np.ndarray, subset: Iterable[str]) -> np.ndarray:
    """P(y, symbols of `subset`), the other modalities kept as axes of length 1."""
    hidden = tuple(1 + i for i, m in enumerate(MODALITIES) if m not in set(subset))
    return table.sum(axis=hidden, keepdims=True)


def reachable(dials: Dials) -> dict[str, float]:
    """Accuracy of the best classifier of each set of modalities ("audio", "audio+video", ...), exact."""
    table = joint(dials)
    return {"+".join(s): float(_seen(table, s).max(axis=0).sum()) for s in SUBSETS}


def reached(dials: Dials, labels: Sequence[int], symbols: Sequence[dict[str, int]]) -> dict[str, float]:
    """What that classifier scores on given clips (expected score where it must guess)."""
    table, scores = joint(dials), {}
    index = [np.asarray(labels), *(np.array([s[m] for s in symbols]) for m in MODALITIES)]
    for subset in SUBSETS:
        seen = _seen(table, subset)
        best = np.isclose(seen, seen.max(axis=0), rtol=1e-9, atol=0)
        credit = np.broadcast_to(best / best.sum(axis=0), table.shape)
        scores["+".join(subset)] = float(credit[tuple(index)].mean())
    return scores
