"""Joint training with the sum of per-modality predictions (GeWu-Lab/OGM-GE_CVPR2022; CMML, IJCAI 2019).

Changes: fusion. Formula: z = sum_m (h_m W_m + b_m), loss = CE(z, y).
"""

from mmbal_cli.methods.base import Card, Method


class Sum(Method):
    """Concat with another head: fan-in D instead of M*D, and one bias for each modality."""

    card = Card("sum", "fusion", code="GeWu-Lab/OGM-GE_CVPR2022", changes="fusion", fusions=("sum",))
