"""Latents of counts that nobody recorded: what the chunks would hold if so many events had come, at whatever time.

For responses that a model dreams up, and for averages over presentations: a count may be a fraction. Chunk by chunk
the centred counts are exact; attention, which looks at the millisecond, sees the mean over a chunk's milliseconds.

Shape letters: see the package docstring.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.encoder import expected_events
from neurobridge.neuro.masking import nothing_hidden
from neurobridge.neuro.model import NeuroBridge


@torch.no_grad()
def latents_of_counts(model: NeuroBridge, window: SpikeBatch, counts: Tensor) -> Tensor:
    """Latents of the chunks (level 0) [B, C * L, D] for ``counts`` [B, N, C]; for values, what they are in each chunk.

    A token in front knows of no counts and is left out.

    window: any one window of the session; its units, their rates and time courses count, its events do not.
    """
    reader = model.encoder.chunks
    assert window.windows == 1, "one window stands for all"
    plan = nothing_hidden(window)
    unit = model.units(window.unit_row)
    expected = expected_events(window, plan, model.units.bias[window.unit_row], reader.chunk_ms)
    visible = window.unit_mask.sum().clamp(min=1).to(unit.dtype)
    events = torch.ones_like(counts) if window.event_value is not None else counts
    surprise = counts if window.event_value is not None else (counts - expected) / (expected + reader.floor).sqrt()
    # what is the same whatever was counted: places, presence, time since the onset
    around = model.encode(window, plan, level=0)[:, int(model.encoder.in_front) :] - _chunks(
        model, window, unit, expected
    )
    weight = reader.table(unit)[0].mean(1)  # [N, K]: the mean over the milliseconds of a chunk
    value = reader.value(unit)[0].unflatten(-1, (reader.heads, -1))  # [N, H, d]
    by_head = weight.unflatten(-1, (reader.heads, reader.latents))  # [N, H, L]
    table = torch.einsum("nhl,nhd->nlhd", by_head, value).flatten(1)
    rows = events.transpose(1, 2)  # [B, C, N]
    summed = (rows @ table).unflatten(-1, (reader.latents, reader.heads, -1))
    total = (rows @ by_head.transpose(1, 2).flatten(1)).unflatten(-1, (reader.latents, reader.heads))[..., None]
    null = reader.null_score.clamp(-reader.max_scale, reader.max_scale).exp()[..., None]
    mixed = (summed + null * reader.null_value) / (total + null)
    counted = reader.counted(surprise.transpose(1, 2) @ unit[0] / visible.sqrt()).unflatten(-1, (reader.latents, -1))
    return around + (reader.out(mixed.flatten(-2)) + counted).flatten(1, 2)


def _chunks(model: NeuroBridge, window: SpikeBatch, unit: Tensor, expected: Tensor) -> Tensor:
    """What the chunk reader itself gives for ``window``, [1, C * L, D]."""
    return model.encoder.chunks(window, unit, nothing_hidden(window), expected).flatten(1, 2)
