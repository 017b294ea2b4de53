"""One transformer block over the modalities, after MultiBench's transformer fusions (pliang279/MultiBench).

Tokens: a learned [CLS], and h_m + e_m with a learned e_m for each modality. A pre-norm block of attention (4 heads, or
the largest of 2 and 1 that divides D) and an MLP of ratio 2 with ReLU, dropout 0.1 on both; z from [CLS].

    x <- x + Attention(LN(x));  x <- x + MLP(LN(x));  z = x_CLS W + b

Only [CLS] is read, so only its query is computed: the same numbers. Modality m by itself: the other tokens are masked.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmbal_cli.nn.fusion.base import Features, Fusion
from mmbal_cli.nn.norm import LayerNorm
from mmbal_cli.nn.stacked import Dropout, Linear, PerModality, total
from mmbal_cli.seeds import SeedStreams

DROPOUT, RATIO = 0.1, 2


class Token(nn.Module):
    """A learned vector [S,1,D], added to what it is given."""

    def __init__(self, rng: SeedStreams, name: str, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        bound = width**-0.5
        self.bias = nn.Parameter(rng.uniform(f"init/{name}", (1, width), -bound, bound, dtype))

    def forward(self, x: Tensor) -> Tensor:
        """[S,B,D] -> [S,B,D]."""
        return x + self.bias


class Attn(Fusion):
    """[CLS] looks at itself and at every modality."""

    def __init__(
        self, rng: SeedStreams, mods: tuple[str, ...], width: int, classes: int, dtype: torch.dtype, variant: str = ""
    ) -> None:
        super().__init__(rng, mods, width, classes, dtype, variant)
        S, at = len(rng.seeds), "fusion/attn"
        self.heads = next(n for n in (4, 2, 1) if width % n == 0)
        self.cls = Token(rng, f"{at}/cls", width, dtype)
        self.embed = PerModality({m: Token(rng, f"{at}/embed/{m}", width, dtype) for m in mods})
        self.norm = nn.ModuleList(LayerNorm(S, width, dtype) for _ in range(2))
        self.query, self.key, self.value, self.out = (
            Linear(rng, f"{at}/{name}", width, width, dtype) for name in ("query", "key", "value", "out")
        )
        self.up = Linear(rng, f"{at}/up", width, RATIO * width, dtype)
        self.down = Linear(rng, f"{at}/down", RATIO * width, width, dtype)
        self.drop = nn.ModuleList(Dropout(rng, f"{at}/{i}", DROPOUT) for i in range(2))
        self.head = Linear(rng, f"{at}/head", width, classes, dtype)

    def logits(self, h: Features) -> Tensor:
        """Fused logits [S,B,C]."""
        return self.attend(h, self.mods)

    def alone(self, h: Features) -> Features:
        """[CLS] sees itself and one modality."""
        return {m: self.attend(h, (m,)) for m in self.mods}

    def attend(self, h: Features, mods: Iterable[str]) -> Tensor:
        """Logits from [CLS] and the tokens of `mods`."""
        cls = self.cls(torch.zeros_like(h[self.mods[0]]))
        tokens = [self.norm[0](x) for x in (cls, *(self.embed[m](h[m]) for m in mods))]
        q = self.split(self.query(tokens[0]))  # [S,B,H,d]
        score = torch.stack([(q * self.split(self.key(x))).sum(-1) for x in tokens], -1)  # [S,B,H,T]
        w = (score * q.shape[-1] ** -0.5).softmax(-1)
        seen = total(w[..., t : t + 1] * self.split(self.value(x)) for t, x in enumerate(tokens))
        x = cls + self.drop[0](self.out(seen.flatten(2)))
        x = x + self.drop[1](self.down(torch.relu(self.up(self.norm[1](x)))))
        return self.head(x)

    def split(self, x: Tensor) -> Tensor:
        """[S,B,D] -> [S,B,H,D/H]."""
        return x.unflatten(-1, (self.heads, -1))
