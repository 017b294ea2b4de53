"""CMU-MOSEI in small; the files are made by `sentiment.py`."""

from __future__ import annotations

from tests.kit.minis.sentiment import Sentiment

_made = Sentiment("mosei")
build, PITFALLS, VARIANTS = _made.build, _made.pitfalls(), _made.variants()
