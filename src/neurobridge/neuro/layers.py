"""Rotary time, attention, feed-forward: the blocks of the backbone and of the readouts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rotary_angles(time_ms: Tensor, width: int, *, shortest_ms: float = 4.0, longest_ms: float = 4000.0) -> Tensor:
    """Angles [..., width / 2] of rotary time embeddings (Su et al. 2021; times as in POYO, Azabou et al. 2023).

    Periods are spaced geometrically from ``shortest_ms`` to ``longest_ms``.
    """
    steps = torch.linspace(0, 1, width // 2, device=time_ms.device, dtype=time_ms.dtype)
    period = shortest_ms * (longest_ms / shortest_ms) ** steps
    return time_ms[..., None] * (2 * math.pi / period)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs (i, i + width/2) of ``x`` [..., width] by ``angles`` [..., width / 2]."""
    cos, sin = angles.cos(), angles.sin()
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Attention(nn.Module):
    """Multi-head attention with rotary time on queries and keys. Self-attention if no memory is given.

    x [B, Q, D], memory [B, K, D]; time_q [Q], time_k [K] in ms (None: no rotation); key_mask [B, K], True = ignore.
    """

    def __init__(self, width: int, heads: int, *, memory_width: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        assert width % (2 * heads) == 0, "width must be a multiple of twice the heads"
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(memory_width or width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        time_q: Tensor | None = None,
        time_k: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> Tensor:
        memory = x if memory is None else memory
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(memory).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if time_q is not None:
            q = rotate(q, rotary_angles(time_q, q.shape[-1]))
        if time_k is not None:
            k = rotate(k, rotary_angles(time_k, k.shape[-1]))
        allowed = None if key_mask is None else ~key_mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Gated feed-forward (SwiGLU; Shazeer 2020)."""

    def __init__(self, width: int, *, expand: float = 8 / 3, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = 16 * math.ceil(width * expand / 16)
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(self.dropout(value * F.silu(gate)))


class Block(nn.Module):
    """Pre-norm transformer block; with ``memory_width`` a cross-attention stands between the two halves."""

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0, memory_width: int | None = None) -> None:
        super().__init__()
        self.norm_attention = nn.RMSNorm(width)
        self.attention = Attention(width, heads, dropout=dropout)
        self.cross = Attention(width, heads, memory_width=memory_width, dropout=dropout) if memory_width else None
        self.norm_cross = nn.RMSNorm(width) if memory_width else None
        self.norm_feed = nn.RMSNorm(width)
        self.feed = FeedForward(width, dropout=dropout)

    def forward(self, x: Tensor, *, time: Tensor | None = None, memory: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm_attention(x), time_q=time, time_k=time)
        if self.cross is not None and self.norm_cross is not None and memory is not None:
            x = x + self.cross(self.norm_cross(x), memory)
        return x + self.feed(self.norm_feed(x))


class CrossBlock(nn.Module):
    """Queries read from a memory, then a feed-forward: decoder layers and readouts."""

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_query, self.norm_memory, self.norm_feed = nn.RMSNorm(width), nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = Attention(width, heads, dropout=dropout)
        self.feed = FeedForward(width, dropout=dropout)

    def forward(
        self, x: Tensor, memory: Tensor, *, time_q: Tensor | None = None, time_k: Tensor | None = None
    ) -> Tensor:
        x = x + self.attention(self.norm_query(x), self.norm_memory(memory), time_q=time_q, time_k=time_k)
        return x + self.feed(self.norm_feed(x))
