"""Joint training with one fusion: the plain rows of a table, one for each head.

Changes: fusion. Loss = CE(z, y). The formulas, their sources and the deviations are in `nn/fusion`; the variants of a
fusion are chosen by name, as in `--method sum --fusion sum:mean`.
"""

from mmbal_cli.methods.base import Card, Method

LAST = "the modalities before the last one act on the last one"


class Sum(Method):
    """Concat with another head: fan-in D instead of M*D, and one bias for each modality."""

    card = Card("sum", "fusion", "CMML: Yang et al., IJCAI 2019", "GeWu-Lab/OGM-GE_CVPR2022", "fusion",
                fusions=("sum",))  # fmt: skip


class Affine(Method):
    """Features scaled and shifted by other modalities."""

    card = Card("affine", "fusion", "FiLM: Perez et al., AAAI 2018, arXiv 1709.07871", "GeWu-Lab/OGM-GE_CVPR2022",
                "fusion", ("M > 2 is ours",), fusions=("affine",), ordered=LAST)  # fmt: skip


class Gated(Method):
    """Features gated by other modalities."""

    card = Card("gated", "fusion", "Kiela et al., AAAI 2018, arXiv 1802.02892", "GeWu-Lab/OGM-GE_CVPR2022",
                "fusion", ("M > 2 is ours",), fusions=("gated",), ordered=LAST)  # fmt: skip


class Weight(Method):
    """Predictions weighed by attention, for each sample."""

    card = Card("weight", "fusion", "CMML: Yang et al., IJCAI 2019", changes="fusion", fusions=("weight",),
                deviates=("weighs predictions, trained by the fused loss alone",))  # fmt: skip


class MMTM(Method):
    """Channels gated by a joint squeeze of all modalities."""

    card = Card("mmtm", "fusion", "Joze et al., CVPR 2020, arXiv 1911.08670", changes="fusion", fusions=("mmtm",))


class MLLSTM(Method):
    """Modalities read one after the other by two LSTM layers."""

    card = Card("ml-lstm", "fusion", "Nie et al., MTAP 2021, doi 10.1007/s11042-020-08796-8", changes="fusion",
                fusions=("ml-lstm",), deviates=("the steps are modalities, not utterances",), reconstructed=True,
                ordered="the modalities are the steps of a sequence")  # fmt: skip


class Attn(Method):
    """Modalities as the tokens of a transformer block."""

    card = Card("attn", "fusion", "", "pliang279/MultiBench", "fusion", ("one block over M tokens",), ("attn",))


class LMF(Method):
    """A tensor product of low rank."""

    card = Card("lmf", "fusion", "Liu et al., ACL 2018, arXiv 1806.00064", "pliang279/MultiBench", "fusion",
                ("the factors learn",), fusions=("lmf",))  # fmt: skip


class TFN(Method):
    """The whole tensor product of narrow features."""

    card = Card("tfn", "fusion", "Zadeh et al., EMNLP 2017, arXiv 1707.07250", "pliang279/MultiBench", "fusion",
                ("each modality is projected to 32 numbers first, 13 for four modalities",),
                fusions=("tfn",))  # fmt: skip
