"""Latents to the drive of log rates on the neuron x bin grid: time decoded once ("factorised"), or a query a cell.

Shape letters: see the package docstring; Q = cells that are asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurobridge.neuro.layers import Attention, CrossBlock, FeedForward, norm, rotary_phase


class FactorisedDecoder(nn.Module):
    """drive[b, n, t] = <time_state[b, t], unit_vector[n]>: cost T + N instead of T * N queries.

    Every latent of the L of a chunk is read on its own, by its time alone, and what was read is put side by side: the
    latents may stand for different things (parts of an image, groups of units), and an average over them would mix
    these up. depth - 1 feed-forward blocks follow.
    """

    def __init__(self, *, width: int, unit_width: int, heads: int, latents: int, depth: int = 1) -> None:
        super().__init__()
        self.head_width, self.latents = width // heads, latents
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.read = Attention(width, heads, memory_width=width)
        self.merge = nn.Linear(latents * width, width, bias=False)
        self.layers = nn.ModuleList(FeedForward(width) for _ in range(depth))
        self.norms = nn.ModuleList(norm(width) for _ in range(depth))
        self.unit_vector = nn.Linear(unit_width, width)
        nn.init.normal_(self.unit_vector.weight, std=0.5 / unit_width**0.5)
        self.scale = width**-0.5

    def forward(self, latent: Tensor, latent_time: Tensor, unit: Tensor, bins: int, bin_ms: int) -> Tensor:
        """latent [B, M, D], latent_time [M] ms, unit [G, N, E] -> [B, N, T]."""
        first = latent.shape[1] % self.latents  # a token in front is no latent of a chunk
        chunks = latent[:, first:].unflatten(1, (-1, self.latents)).transpose(1, 2).flatten(0, 1)  # [B * L, C, D]
        phase_q = rotary_phase(bin_centres(bins, bin_ms, latent), self.head_width)
        phase_k = rotary_phase(latent_time[first :: self.latents], self.head_width)
        read = self.read(self.query, chunks, phase_q=phase_q, phase_k=phase_k)  # [B * L, T, D]
        x = self.merge(read.unflatten(0, (-1, self.latents)).transpose(1, 2).flatten(2))
        for layer, before in zip(self.layers, self.norms, strict=True):
            x = x + layer(before(x))
        state = x.unflatten(0, (len(unit), -1))  # [G, B/G, T, D]; as large as what was read, so not normalised
        return torch.einsum("gbtd,gnd->gbnt", state, self.unit_vector(unit)).flatten(0, 1) * self.scale


class GridDecoder(nn.Module):
    """The plan's decoder: query = unit vector + time vector, ``depth`` cross-attention layers, one number a query.

    All N x T cells are queries; in training a sample of them is enough (``cells``).
    """

    def __init__(self, *, width: int, unit_width: int, heads: int, latents: int, depth: int = 2) -> None:
        super().__init__()
        self.head_width = width // heads
        self.unit_vector = nn.Linear(unit_width, width)
        self.time_vector = nn.Linear(32, width)
        self.layers = nn.ModuleList(CrossBlock(width, heads) for _ in range(depth))
        self.norm = norm(width)
        self.out = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(
        self,
        latent: Tensor,
        latent_time: Tensor,
        unit: Tensor,
        bins: int,
        bin_ms: int,
        cells: Tensor | None = None,
    ) -> Tensor:
        """Arguments as above; ``cells`` [B, Q] int64, n * T + t: [B, Q] of them, or [B, N, T] of all cells."""
        b, (g, n, _) = len(latent), unit.shape
        asked = torch.arange(n * bins, device=latent.device).expand(b, -1) if cells is None else cells
        which, bin_ = asked // bins, asked % bins
        centre = bin_centres(bins, bin_ms, latent)
        wave = torch.view_as_real(rotary_phase(centre, 32)).flatten(-2)
        column = which.unflatten(0, (g, -1)) + n * torch.arange(g, device=latent.device)[:, None, None]
        column = column.flatten(0, 1)
        x = self.unit_vector(unit).flatten(0, 1)[column] + self.time_vector(wave)[bin_]
        phase_q = rotary_phase(centre, self.head_width)[bin_]  # [B, Q, d / 2]: every row asks for other bins
        phase_k = rotary_phase(latent_time, self.head_width)
        for layer in self.layers:
            x = layer(x, latent, phase_q=phase_q, phase_k=phase_k)
        drive = self.out(self.norm(x))[..., 0]
        return drive if cells is not None else drive.view(b, n, bins)


def bin_centres(bins: int, bin_ms: int, like: Tensor) -> Tensor:
    """[T] ms since the start of the window."""
    return (torch.arange(bins, device=like.device, dtype=torch.float32) + 0.5) * bin_ms
