"""A causal encoder, fed chunk by chunk: keys and values of the chunks before are kept, nothing is computed twice."""

from __future__ import annotations

import torch
from torch import Tensor

from neurobridge.neuro.encoder import Encoder
from neurobridge.neuro.layers import rotary_phase


class ChunkStream:
    """Latents of a chunk after the other, equal to those of one long window that holds all of them.

    Keys are kept as they are and rotated by their place among those within reach, so that times stay small however
    long the stream is. Letters: see the package docstring.
    """

    def __init__(self, encoder: Encoder) -> None:
        assert encoder.reach, "only what sees nothing later can be streamed"
        self.encoder = encoder
        self.kept: list[Tensor | None] = [None] * len(encoder.blocks)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """x [B, L, D], level 0 of the newest chunk -> what it is at every level, then normalised behind the last."""
        encoder = self.encoder
        first = self.kept[0]
        chunks = 1 + (0 if first is None else first.shape[1] // encoder.latents)
        phase = rotary_phase(encoder.latent_times(chunks * encoder.chunk_ms, x.device), encoder.head_width)
        out = max(0, chunks + 1 - encoder.reach) * encoder.latents  # tokens that the next chunk does not see
        levels = [x]
        for i, block in enumerate(encoder.blocks):
            x, kept = block.follow(x, self.kept[i], phase)
            self.kept[i] = kept[:, out:]
            levels.append(x)
        return [*levels, encoder.norm(x)]


def behind(levels: list[list[Tensor]], level: int | None) -> Tensor:
    """[B, C * L, D]: one level of several chunks' ``levels``, as the encoder gives it of a window."""
    return torch.cat([chunk[-1 if level is None else level] for chunk in levels], dim=1)
