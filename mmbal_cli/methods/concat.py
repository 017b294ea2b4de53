"""Joint training with one head: the baseline of every table (fusion `concat` unless another is chosen).

Changes: nothing. Formula: z = sum_m h_m W_m + b, loss = CE(z, y). Source: GeWu-Lab/OGM-GE_CVPR2022 (baseline).
"""

from mmbal_cli.methods.base import Card, Method


class Concat(Method):
    """The base method under its table name."""

    card = Card("concat", "reference", changes="fusion", reference=True)
