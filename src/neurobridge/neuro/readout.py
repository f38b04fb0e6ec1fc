"""What is read of latents in closed form: a mean over time, a sequence of chunks; letters: the package docstring."""

from __future__ import annotations

from torch import Tensor


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


def chunk_sequence(latent: Tensor, latents: int) -> Tensor:
    """[B, M, D] -> [B, C, L * D]: the latents of each chunk side by side, for what varies in time (velocity, place)."""
    return latent.unflatten(1, (-1, latents)).flatten(2)
