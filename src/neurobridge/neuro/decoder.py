"""Latents to log rates on the neuron x bin grid: decode time once, then dot with unit vectors ("factorised").

Shape letters: see the package docstring.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurobridge.neuro.layers import CrossBlock


class FactorisedDecoder(nn.Module):
    """log_rate[b, n, t] = bias[n] + <time_state[b, t], unit_vector[n]>: cost T + N instead of T * N queries."""

    def __init__(self, *, width: int, unit_width: int, heads: int, depth: int = 2) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.layers = nn.ModuleList(CrossBlock(width, heads) for _ in range(depth))
        self.norm = nn.RMSNorm(width)
        self.unit_vector = nn.Linear(unit_width, width)
        nn.init.normal_(self.unit_vector.weight, std=0.5 / unit_width**0.5)
        self.scale = width**-0.5

    def forward(
        self, latent: Tensor, latent_time: Tensor, unit: Tensor, bias: Tensor, bins: int, bin_ms: int
    ) -> Tensor:
        """latent [B, M, D], latent_time [M] ms, unit [G, N, E], bias [G, N] -> [B, N, T]."""
        time = (torch.arange(bins, device=latent.device, dtype=torch.float32) + 0.5) * bin_ms
        x = self.query.expand(len(latent), bins, -1)
        for layer in self.layers:
            x = layer(x, latent, time_q=time, time_k=latent_time)
        state = self.norm(x).unflatten(0, (len(unit), -1))  # [G, B/G, T, D]
        drive = torch.einsum("gbtd,gnd->gbnt", state, self.unit_vector(unit)) * self.scale
        return (drive + bias[:, None, :, None]).flatten(0, 1)
