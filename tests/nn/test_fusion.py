"""Fusions: hand-computed numbers, the rules every fusion obeys, and seeds that share nothing."""

from __future__ import annotations

import math

import pytest
import torch

from mmbal_cli.errors import UsageError
from mmbal_cli.nn.fusion import FUSIONS, fusion_class, make_fusion
from mmbal_cli.nn.fusion.affine import Affine
from mmbal_cli.nn.fusion.attn import Attn
from mmbal_cli.nn.fusion.base import Fusion
from mmbal_cli.nn.fusion.concat import Concat
from mmbal_cli.nn.fusion.gated import Gated
from mmbal_cli.nn.fusion.lmf import LMF
from mmbal_cli.nn.fusion.ml_lstm import MLLSTM
from mmbal_cli.nn.fusion.sum import Sum
from mmbal_cli.nn.fusion.tfn import TFN, contracted, extended, narrow
from mmbal_cli.nn.fusion.weight import Weight
from mmbal_cli.seeds import SeedStreams

D64 = torch.float64
NAMES = [full for name, row in FUSIONS.items() for full in (name, *(f"{name}:{v}" for v in row.variants))]
OWN_ALONE = ("sum", "sum:mean", "shared", "weight", "weight:static", "attn")  # `alone` is not the zero-out rule
ORDERED = ("affine", "affine:sym", "gated", "ml-lstm", "ml-lstm:mean", "ml-lstm:bidir")
NOT_LINEAR = ("concat:mlp", "attn", "mmtm", "mmtm:double", "weight:elem")
every_fusion = pytest.mark.parametrize("name", NAMES)
Mods = tuple[str, ...]


def make(name: str, mods: Mods, seeds: tuple[int, ...] = (1, 2, 3), dtype: torch.dtype = D64, D: int = 4) -> Fusion:
    return make_fusion(name, SeedStreams(seeds), mods, D, 5, dtype).eval()


def features(mods: Mods, S: int = 3, B: int = 6, dtype: torch.dtype = D64, D: int = 4) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {m: torch.randn(S, B, D, generator=g, dtype=D64).to(dtype) for m in mods}


def set_linear(layer: torch.nn.Module, weight: list[list[float]], bias: list[float]) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weight], dtype=D64))
        layer.bias.copy_(torch.tensor([[bias]], dtype=D64))


def single(cls: type[Fusion], mods: Mods, width: int, classes: int, variant: str = "") -> Fusion:
    return cls(SeedStreams((0,)), mods, width, classes, D64, variant).eval()


def sample(*values: float) -> torch.Tensor:
    return torch.tensor([[values]], dtype=D64)


ZERO, EYE = [[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]

# ------------------------------------------------------------------------------------------- numbers


def test_sum_of_two_heads() -> None:
    fusion = single(Sum, ("a", "v"), 2, 2)
    set_linear(fusion.heads["a"], EYE, [1.0, 0.0])
    set_linear(fusion.heads["v"], [[0.0, 2.0], [2.0, 0.0]], [1.0, 0.0])
    h = {"a": sample(1, 0), "v": sample(1, 0)}
    assert fusion.logits(h).flatten().tolist() == [3, 2]
    z = fusion.unimodal(h)
    assert z["a"].flatten().tolist() == [2, 0]
    assert z["v"].flatten().tolist() == [1, 2]
    mean = single(Sum, ("a", "v"), 2, 2, "mean")
    mean.load_state_dict(fusion.state_dict())
    assert mean.logits(h).flatten().tolist() == [1.5, 1]
    assert mean.unimodal(h)["v"].flatten().tolist() == [1, 2]


def test_concat_with_the_blocks_of_sum_is_sum() -> None:
    mods = ("a", "v", "t")
    concat, total = make("concat", mods), make("sum", mods)
    with torch.no_grad():
        for m, block in zip(mods, concat.head.weight.chunk(3, 1), strict=True):
            total.heads[m].weight.copy_(block)
            total.heads[m].bias.copy_(concat.head.bias / 3)
    h = features(mods)
    assert torch.allclose(concat.logits(h), total.logits(h), atol=1e-14)
    for m in mods:
        assert torch.allclose(concat.unimodal(h)[m], total.unimodal(h)[m], atol=1e-14)


def test_one_head_on_summed_features_and_a_hidden_layer() -> None:
    h = {"a": sample(1, 2), "v": sample(3, -5)}
    feature = single(Sum, ("a", "v"), 2, 2, "feature")
    set_linear(feature.head, [[1.0, 0.0], [0.0, 2.0]], [2.0, 4.0])
    assert feature.logits(h).flatten().tolist() == [6, -2]
    assert feature.unimodal(h)["a"].flatten().tolist() == [2, 6]
    assert feature.alone(h)["a"].flatten().tolist() == [3, 8]
    mlp = single(Concat, ("a", "v"), 2, 2, "mlp")
    set_linear(mlp.hidden, [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], [0.0, 1.0])  # relu(a + v + (0,1)) = (4,0)
    set_linear(mlp.head, EYE, [0.0, 1.0])
    assert mlp.logits(h).flatten().tolist() == [4, 1]


def film(fusion: Fusion, m: str, gamma: list[float], beta: list[float]) -> None:
    set_linear(fusion.film[m], [[0.0] * 4] * 2, [*gamma, *beta])


def test_affine_scales_and_shifts_the_last_modality() -> None:
    fusion = single(Affine, ("a", "v"), 2, 2)
    film(fusion, "a", [2.0, 3.0], [1.0, 0.0])
    set_linear(fusion.head, EYE, [0.0, 0.0])
    assert fusion.logits({"a": sample(1, 1), "v": sample(4, 5)}).flatten().tolist() == [9, 15]


def test_symmetric_affine_has_every_modality_as_target() -> None:
    fusion = single(Affine, ("a", "v"), 2, 4, "sym")
    film(fusion, "a", [2.0, 3.0], [1.0, 0.0])
    film(fusion, "v", [5.0, 7.0], [0.0, 2.0])
    set_linear(fusion.head, torch.eye(4).tolist(), [0.0] * 4)
    assert fusion.logits({"a": sample(1, 2), "v": sample(4, 5)}).flatten().tolist() == [5, 16, 9, 15]


def test_three_modalities_scale_and_shift_in_turn() -> None:
    fusion = single(Affine, ("a", "v", "t"), 2, 2)
    film(fusion, "a", [2.0, 3.0], [1.0, 0.0])
    film(fusion, "v", [10.0, 1.0], [0.0, 1.0])
    set_linear(fusion.head, EYE, [0.0, 0.0])
    h = {"a": sample(0, 0), "v": sample(0, 0), "t": sample(4, 5)}
    assert fusion.logits(h).flatten().tolist() == [90, 16]


def test_gates_of_zero_are_one_half() -> None:
    fusion = single(Gated, ("a", "v"), 2, 2)
    set_linear(fusion.project["a"], ZERO, [0.0, 0.0])
    set_linear(fusion.project["v"], EYE, [0.0, 0.0])
    set_linear(fusion.head, EYE, [0.0, 0.0])
    assert fusion.logits({"a": sample(1, 1), "v": sample(4, 6)}).flatten().tolist() == [2, 3]


def test_symmetric_gates_act_both_ways() -> None:
    fusion = single(Gated, ("a", "v", "t"), 2, 6, "sym")
    for m in ("a", "v", "t"):
        set_linear(fusion.project[m], EYE, [0.0, 0.0])
    set_linear(fusion.head, torch.eye(6).tolist(), [0.0] * 6)
    ln3 = math.log(3)  # its gate is 0.75
    z = fusion.logits({"a": sample(0, ln3), "v": sample(0, 0), "t": sample(4, 8)}).flatten()
    big = torch.sigmoid(torch.tensor([4.0, 8.0], dtype=D64))
    expected = [0, ln3 * 0.5 * big[1], 0, 0, 4 * 0.25, 8 * 0.375]
    assert torch.allclose(z, torch.tensor(expected, dtype=D64), atol=1e-12)


def scored(variant: str, scores: tuple[float, float], D: int = 2) -> Fusion:
    """A scorer that answers with `scores` for the features (1,0) and (0,1)."""
    fusion = single(Weight, ("a", "v"), D, 2, variant)
    with torch.no_grad():
        for p in fusion.score.parameters():
            p.zero_()
        for i in range(D):  # carries both features through to the last layer
            fusion.score.first.layers[0].weight[0, i, i] = 1
            fusion.score.second.layers[0].weight[0, i, i] = 1
            fusion.score.last.weight[0, i, 0] = scores[i]
    return fusion


@pytest.mark.parametrize(("a", "weights", "z"), [(math.log(3), [0.75, 0.25], [3, 2]), (0.0, [0.5, 0.5], [2, 4])])
def test_weights_of_predictions(a: float, weights: list[float], z: list[float]) -> None:
    fusion, h = scored("", (a, 0.0)), {"a": sample(1, 0), "v": sample(0, 1)}
    set_linear(fusion.heads["a"], [[4.0, 0.0], [0.0, 0.0]], [0.0, 0.0])
    set_linear(fusion.heads["v"], [[0.0, 0.0], [0.0, 8.0]], [0.0, 0.0])
    w = fusion.weights(h)
    assert [w[m].item() for m in ("a", "v")] == pytest.approx(weights, abs=1e-12)
    assert fusion.logits(h).flatten().tolist() == pytest.approx(z, abs=1e-12)
    assert fusion.unimodal(h)["v"].flatten().tolist() == [0, 8]


def test_weights_of_features() -> None:
    fusion, h = scored("feat", (math.log(3), 0.0)), {"a": sample(1, 0), "v": sample(0, 1)}
    set_linear(fusion.head, EYE, [1.0, 0.0])
    assert fusion.logits(h).flatten().tolist() == pytest.approx([1.75, 0.25], abs=1e-12)


def test_weights_of_elements_and_static_weights() -> None:
    fusion = single(Weight, ("a", "v"), 2, 2, "elem")
    set_linear(fusion.head, EYE, [0.0, 0.0])
    h = {"a": sample(math.log(3), 0), "v": sample(0, 0)}  # A = (.75,.25), (.5,.5): weights (.6,1/3), (.4,2/3)
    assert fusion.logits(h).flatten().tolist() == pytest.approx([0.6 * math.log(3), 0], abs=1e-12)
    far = {"a": sample(0, 2000), "v": sample(0, 3000)}  # both attentions of the first feature underflow
    assert fusion.logits(far).isfinite().all()
    static = single(Weight, ("a", "v"), 2, 2, "static")
    with torch.no_grad():
        static.scalars["a"].weight.fill_(math.log(3))
    w = static.weights(h)
    assert [w[m].item() for m in ("a", "v")] == pytest.approx([0.75, 0.25], abs=1e-12)


def test_tensor_and_low_rank_products() -> None:
    parts = [sample(1, 1, 2), sample(1, 3, 0)]  # [1; (1, 2)], and [1; 3] filled up to as many numbers
    columns = contracted(parts, torch.eye(9, dtype=D64)[None]).flatten()
    assert columns.view(3, 3)[:, :2].flatten().tolist() == [1, 3, 1, 3, 2, 6]
    assert extended(sample(4, 5)).flatten().tolist() == [1, 4, 5]
    fusion = single(LMF, ("a", "v"), 2, 1)
    with torch.no_grad():
        for p in fusion.factors.parameters():
            p.fill_(1.0)
        fusion.weight.zero_()
        fusion.weight[..., 0] = 1  # rank 1
    assert fusion.logits({"a": sample(1, 2), "v": sample(3, 0)}).item() == 16


def test_tensor_product_keeps_to_its_columns() -> None:
    assert [narrow(64, M) for M in (1, 2, 3, 4, 5)] == [32, 32, 32, 13, 7]
    assert narrow(8, 2) == 8
    assert narrow(8, 30) == 1
    fusion, h = single(TFN, ("v", "a"), 3, 2), {"a": sample(1, 2, 3), "v": sample(4, 5, 6)}
    p = {m: h[m][0, 0] @ fusion.project[m].weight[0] + fusion.project[m].bias[0, 0] for m in h}
    one = torch.ones(1, dtype=D64)
    outer = torch.outer(torch.cat([one, p["a"]]), torch.cat([one, p["v"]])).flatten()
    assert torch.allclose(fusion.logits(h)[0, 0], outer @ fusion.head.weight[0] + fusion.head.bias[0, 0], atol=1e-14)
    many = {m: x.expand(1, 300, 3) for m, x in h.items()}  # more than one slice of rows
    assert torch.allclose(fusion.logits(many), fusion.logits(h).expand(1, 300, 2), atol=1e-14)


@pytest.mark.parametrize("D", [5, 6, 8])
@pytest.mark.parametrize("seen", [("a", "v", "t"), ("v",)])
def test_attention_equals_torchs_block(D: int, seen: Mods) -> None:
    mods = ("a", "v", "t")
    fusion, h = make("attn", mods, D=D), features(mods, D=D)
    assert isinstance(fusion, Attn)
    assert fusion.heads == {5: 1, 6: 2, 8: 4}[D]
    with torch.no_grad():
        for norm in fusion.norm:
            norm.weight.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
    got = fusion.logits(h) if len(seen) == 3 else fusion.unimodal(h)["v"]
    for i in range(3):
        block = torch.nn.TransformerEncoderLayer(D, fusion.heads, 2 * D, 0.0, batch_first=True, norm_first=True).to(D64)
        pairs = {block.self_attn.out_proj: fusion.out, block.linear1: fusion.up, block.linear2: fusion.down}
        with torch.no_grad():
            three = [fusion.query, fusion.key, fusion.value]
            block.self_attn.in_proj_weight.copy_(torch.cat([layer.weight[i].T for layer in three]))
            block.self_attn.in_proj_bias.copy_(torch.cat([layer.bias[i, 0] for layer in three]))
            for theirs, ours in pairs.items():
                theirs.weight.copy_(ours.weight[i].T)
                theirs.bias.copy_(ours.bias[i, 0])
            for theirs, ours in zip((block.norm1, block.norm2), fusion.norm, strict=True):
                theirs.weight.copy_(ours.weight[i, 0])
                theirs.bias.copy_(ours.bias[i, 0])
        cls = fusion.cls.bias[i].expand(6, D)
        tokens = torch.stack([cls, *(h[m][i] + fusion.embed[m].bias[i] for m in mods)], 1)
        masked = torch.tensor([False, *(m not in seen for m in mods)]).expand(6, 4)
        top = block(tokens, src_key_padding_mask=masked)[:, 0]
        assert torch.allclose(got[i], top @ fusion.head.weight[i] + fusion.head.bias[i], atol=1e-12)


def test_attention_drops_in_training_only() -> None:
    mods = ("a", "v")
    fusion, h = make("attn", mods), features(mods)
    assert torch.equal(fusion.logits(h), fusion.logits(h))
    fusion.train()
    first = fusion.logits(h)
    assert not torch.equal(first, fusion.logits(h))
    solo = make("attn", mods, (2,)).train()
    assert torch.allclose(solo.logits({m: x[1:2] for m, x in h.items()})[0], first[1], atol=1e-14)


@pytest.mark.parametrize("variant", ["", "mean", "bidir"])
def test_lstm_over_modalities_equals_torchs(variant: str) -> None:
    mods, D = ("a", "v", "t"), 4
    fusion, h = make(f"ml-lstm:{variant}".rstrip(":"), mods), features(mods)
    assert isinstance(fusion, MLLSTM)
    both = variant == "bidir"
    got = fusion.logits(h)
    for i in range(3):
        theirs = torch.nn.LSTM(D, D, 2, batch_first=True, bidirectional=both, dtype=D64)
        with torch.no_grad():
            for layer, cells in enumerate(fusion.layers):
                for cell, end in zip(cells, ("", "_reverse"), strict=False):
                    weight = cell.weight[i].T
                    getattr(theirs, f"weight_ih_l{layer}{end}").copy_(weight[:, :-D])
                    getattr(theirs, f"weight_hh_l{layer}{end}").copy_(weight[:, -D:])
                    getattr(theirs, f"bias_ih_l{layer}{end}").copy_(cell.bias[i, 0])
                    getattr(theirs, f"bias_hh_l{layer}{end}").zero_()
        tokens = torch.stack([h[m][i] @ fusion.token[m].weight[i] + fusion.token[m].bias[i] for m in mods], 1)
        states, (last, _) = theirs(tokens)
        top = torch.cat([last[-2], last[-1]], -1) if both else last[-1]
        top = states.mean(1) if variant == "mean" else top
        assert torch.allclose(got[i], top @ fusion.head.weight[i] + fusion.head.bias[i], atol=1e-12)


# --------------------------------------------------------------------------------- rules of every fusion


@every_fusion
@pytest.mark.parametrize("mods", [("a",), ("a", "v"), ("a", "v", "t"), ("a", "v", "t", "d")])
def test_shapes_additivity_and_zero_out(name: str, mods: Mods) -> None:
    fusion, h = make(name, mods), features(mods)
    z, shares, alone = fusion.logits(h), fusion.unimodal(h), fusion.alone(h)
    assert z.shape == (3, 6, 5)
    assert all(value.shape == z.shape for value in (*shares.values(), *alone.values()))
    if len(mods) > 1 or fusion.additive:
        sums_up = torch.allclose(sum(shares.values()), z, atol=1e-13)
        assert sums_up == fusion.additive
    if name not in OWN_ALONE:
        for m in mods:
            zeroed = {q: h[q] if q == m else torch.zeros_like(h[q]) for q in mods}
            assert torch.allclose(alone[m], fusion.logits(zeroed), atol=1e-14)


@every_fusion
def test_a_modality_by_itself_ignores_the_others(name: str) -> None:
    mods = ("a", "v", "t")
    fusion, h = make(name, mods), features(mods)
    other = h | {"v": h["v"].flip(1)}
    assert torch.equal(fusion.alone(h)["a"], fusion.alone(other)["a"])
    assert not torch.equal(fusion.logits(h), fusion.logits(other))


@every_fusion
def test_one_modality_is_one_linear_head(name: str) -> None:
    fusion, h = make(name, ("a",)), features(("a",))
    z = fusion.logits(h)
    assert torch.allclose(fusion.alone(h)["a"], z, atol=1e-14)
    zero, double = (fusion.logits({"a": k * h["a"]}) for k in (0, 2))
    assert torch.allclose(double - z, z - zero, atol=1e-12) or name in NOT_LINEAR


@every_fusion
def test_seeds_share_nothing(name: str) -> None:
    mods = ("a", "v", "t")
    h = features(mods)
    together = make(name, mods).logits(h)
    for i, seed in enumerate((1, 2, 3)):
        alone = make(name, mods, (seed,)).logits({m: x[i : i + 1] for m, x in h.items()})
        assert torch.allclose(alone[0], together[i], atol=1e-14)
    turned = make(name, mods, (3, 1, 2)).logits({m: x[[2, 0, 1]] for m, x in h.items()})
    assert torch.allclose(turned, together[[2, 0, 1]], atol=1e-14)


@every_fusion
@pytest.mark.parametrize(("D", "B"), [(64, 37), (7, 16), (6, 1)])
def test_bits_of_logits_and_gradients_do_not_depend_on_the_stack(name: str, D: int, B: int) -> None:
    mods = ("a", "v", "t")
    h = features(mods, 5, B, torch.float32, D)

    def run(seeds: list[int]) -> dict[str, torch.Tensor]:
        fusion = make(name, mods, tuple(seeds), torch.float32, D).train()
        x = {m: value[seeds].clone().requires_grad_() for m, value in h.items()}
        z = fusion.logits(x)
        shares = fusion.unimodal(x)
        torch.logsumexp(z, -1).mean(1).backward(torch.ones(len(seeds)))
        grads = {k: p.grad for k, p in fusion.named_parameters() if p.grad is not None}
        return {"z": z, **{f"z/{m}": v for m, v in shares.items()}, **{m: v.grad for m, v in x.items()}, **grads}

    whole = run([0, 1, 2, 3, 4])
    for group in ([2], [3, 4]):
        for key, value in run(group).items():
            assert torch.equal(value, whole[key][group]), key


@every_fusion
def test_the_order_of_modalities_matters_only_where_it_is_said(name: str) -> None:
    mods, turned = ("a", "v", "t"), ("t", "a", "v")
    one, other = make(name, mods), make(name, turned)
    h = features(mods)
    state = one.state_dict()
    for key in ("head.weight", "hidden.weight", "squeeze.weight"):
        if key in state and state[key].shape[1] == 3 * 4:  # a block of rows for each modality
            a, v, t = state[key].chunk(3, 1)
            state[key] = torch.cat([t, a, v], 1)
    other.load_state_dict(state, strict=name != "affine")  # whose last modality has no scale
    same = torch.allclose(one.logits(h), other.logits({m: h[m] for m in turned}), atol=1e-12)
    assert same == (name not in ORDERED)


def test_unknown_fusion_shows_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'concat'"):
        fusion_class("conact")
