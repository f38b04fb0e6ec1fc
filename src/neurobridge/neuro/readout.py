"""What is read of latents in closed form: a mean over time, a sequence of chunks; letters: the package docstring."""

from __future__ import annotations

from torch import Tensor


def chunk_sequence(latent: Tensor, latents: int) -> Tensor:
    """[B, M, D] -> [B, C, L * D]: the latents of each chunk side by side, for what varies in time (velocity, place)."""
    return latent.unflatten(1, (-1, latents)).flatten(2)
