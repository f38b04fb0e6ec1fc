"""Augmentation of training batches: units that drop out, spikes that shake. Drawn by the caller's generator.

A training step seeds its generator with (seed, step), so no two steps draw the same numbers. Parts of one batch lack
the same units and shake their spikes each in a way of its own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from neurobridge.neuro.batch import SpikeBatch, bin_events


def augment(
    batch: SpikeBatch, rng: np.random.Generator, *, unit_dropout: float = 0.0, jitter_ms: int = 0, number: int = 0
) -> SpikeBatch:
    """Remove each unit of a session with a probability drawn in 0..2 x ``unit_dropout``, move spikes by +-jitter_ms.

    A removed unit is gone from events, presence and targets; at least two units stay. Counts follow the moved spikes,
    so no hidden cell is told by a spike that left it. Value-carrying events keep their time. ``number``: which part of
    a batch this is, where several draw with one generator each.
    """
    if unit_dropout:
        share = rng.random((batch.groups, 1)) * 2 * unit_dropout
        keep = rng.random(batch.unit_mask.shape) >= share
        keep[np.arange(batch.groups)[:, None], rng.random(keep.shape).argsort(1)[:, :2]] = True
        batch = batch.only_units(torch.from_numpy(keep).to(batch.unit_mask.device))
    if jitter_ms and batch.event_value is None:
        own = np.random.default_rng([int(rng.integers(2**62)), number])
        shift = torch.from_numpy(own.integers(-jitter_ms, jitter_ms + 1, len(batch.event_tick)))
        tick = (batch.event_tick + shift.to(batch.event_tick.device)).clamp(0, batch.window_ms - 1)
        shape = (batch.target.shape[0], batch.target.shape[1], batch.target.shape[2])
        target = bin_events(batch.event_window, batch.event_unit, tick, None, shape, batch.bin_ms)
        batch = replace(batch, event_tick=tick, target=target)
    return batch
