"""From latents to one vector a window: three readouts. Shape letters: see the package docstring; Q = queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurobridge.neuro.layers import CrossBlock


def temporal_average(latent: Tensor, time: Tensor, *, window_ms: tuple[int, int] | None = None) -> Tensor:
    """Mean [B, D] of latents [B, M, D] whose chunk centre (``time`` [M] ms) lies in ``window_ms``, or of all of them.

    Raises ValueError for a window without a latent.
    """
    if window_ms is None:
        return latent.mean(1)
    inside = (time >= window_ms[0]) & (time < window_ms[1])
    if not inside.any():
        raise ValueError(f"no chunk is centred in {window_ms} ms; centres run from {time.min():g} to {time.max():g} ms")
    return latent[:, inside].mean(1)


def cls_readout(latent: Tensor) -> Tensor:
    """The [CLS] token [B, D] of an encoder that was built with ``cls=True``."""
    return latent[:, 0]


def chunk_sequence(latent: Tensor, latents: int) -> Tensor:
    """[B, M, D] -> [B, C, L * D]: the latents of each chunk side by side, for what varies in time (velocity, place)."""
    return latent.unflatten(1, (-1, latents)).flatten(2)


class QueryReadout(nn.Module):
    """Learnable queries read the latents by cross-attention: [B, M, D] -> [B, Q, D]. It finds the best times itself."""

    def __init__(self, *, width: int, heads: int, queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, queries, width) * 0.1)
        self.block = CrossBlock(width, heads)

    def forward(self, latent: Tensor) -> Tensor:
        """latent [B, M, D] -> [B, Q, D]."""
        return self.block(self.queries, latent)
