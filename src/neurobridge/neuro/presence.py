"""Which units are there: a token each, silent or not, read by the latents of a window; shapes as in the encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Presence(nn.Module):
    """Which units are there to be seen: one token a visible unit, read once a window -> [B, L, D].

    Hidden units have no token, so "silent" and "hidden" differ. A null token is always there.
    """

    def __init__(self, *, width: int, unit_width: int, latents: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(latents, heads, width // heads))
        self.key = nn.Linear(unit_width, width, bias=False)
        self.value = nn.Linear(unit_width, width)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, unit: Tensor, visible: Tensor, per_group: int) -> Tensor:
        """unit [G, N, E], visible [B, N] bool."""
        g, n, _ = unit.shape
        key = F.normalize(self.key(unit).unflatten(-1, (self.heads, -1)), dim=-1)
        weight = torch.einsum("gnhd,lhd->gnlh", key, 4.0 * F.normalize(self.query, dim=-1)).exp()
        weight = weight.flatten(2)  # [G, N, K]
        seen = visible.view(g, per_group, n).to(unit.dtype)
        value = self.value(unit).unflatten(-1, (self.heads, -1))
        weighted = torch.einsum("gnlh,gnhd->gnlhd", weight.unflatten(-1, (-1, self.heads)), value).flatten(2)
        total = torch.bmm(seen, weighted).view(g * per_group, -1, self.heads, value.shape[-1])
        norm = torch.bmm(seen, weight).view(g * per_group, -1, self.heads, 1) + 1.0
        return self.out((total / norm).flatten(-2))
