"""What the alignment head is made of and fed with: sizes, time windows of areas, latents, averages of repeats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from rich.progress import track

from neurobridge.bridge.alignment import AlignmentHead
from neurobridge.data.datamodule import Batcher
from neurobridge.data.store import Session
from neurobridge.errors import UserError
from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.masking import nothing_hidden
from neurobridge.neuro.model import NeuroBridge
from neurobridge.training.settings import RunSettings

LATENT_BYTES = 2 * 2**30


def make_head(
    model: NeuroBridge, sessions: Sequence[Session], settings: RunSettings, *, dimensions: int
) -> AlignmentHead:
    """A new head for windows, units and readout as the settings say. Raises UserError for options that do not fit."""
    options, window_ms = settings.align, settings.window.window_ms
    if options.readout == "cls" and not settings.model.cls:
        raise UserError("align.readout is cls, but the model has no [CLS] token: pretrain it with --model.cls true")
    head = AlignmentHead(
        units=len(model.units),
        chunks=1 if options.time == "areas" else -(-window_ms // settings.model.chunk_ms),
        loadings=options.loadings,
        tokens=len(model.encoder.latent_times(window_ms)),
        width=model.width,
        heads=settings.model.heads,
        queries=options.queries,
        hidden=options.hidden,
        dimensions=dimensions,
        dropout=options.dropout,
        readout=options.readout,
        in_front=model.encoder.in_front,
        time=options.time,
        population_hidden=options.population_hidden,
    )
    if options.time == "areas":
        head.unit_window.copy_(unit_windows(model, sessions, settings))
    return head


def unit_windows(model: NeuroBridge, sessions: Sequence[Session], settings: RunSettings) -> torch.Tensor:
    """[V, 2] ms since the start of the window: each unit's part of it, by its area; all of it for other areas.

    Raises UserError where an area's window holds no bin, or where no session has any of the areas.
    """
    window, areas = settings.window, settings.align.area_windows
    windows = torch.tensor([0, window.window_ms]).repeat(len(model.units), 1)
    centres = np.arange(window.bin_ms / 2, window.window_ms, window.bin_ms) + window.offset_ms
    known = set()
    for session in sessions:
        rows = torch.tensor(model.units.rows_of(session.recording.unit_keys))
        regions = session.recording.regions
        for area in set(regions.tolist()) & set(areas):
            low, high = areas[area]
            if not ((centres >= low) & (centres < high)).any():
                raise UserError(
                    f"align.area_windows gives {area} {low}-{high} ms, where no bin is centred: bins of "
                    f"{window.bin_ms} ms run from {window.offset_ms} to {window.offset_ms + window.window_ms} ms"
                )
            windows[rows[torch.from_numpy(regions == area)]] = torch.tensor([low, high]) - window.offset_ms
            known.add(area)
    if not known:
        raise UserError(f"align.time is areas, but no session has units in {', '.join(areas) or 'any area named'}")
    return windows


def respond(model: NeuroBridge, head: AlignmentHead, batch: SpikeBatch) -> torch.Tensor:
    """What the head's population path sees of a batch with nothing hidden, [B, C, N]."""
    return head.respond(batch, model.units.bias, nothing_hidden(batch).hidden_unit, model.encoder.chunk_ms)


@torch.no_grad()
def frozen_latents(model: NeuroBridge, batcher: Batcher) -> list[torch.Tensor]:
    """Latents [W, M, D] of every window of each session, as float16; none if they would not fit in two gigabytes."""
    tokens = len(model.encoder.latent_times(batcher.sessions[0].window_ms))
    if 2 * tokens * model.width * sum(len(s.starts) for s in batcher.sessions) > LATENT_BYTES:
        return []
    model.eval()
    latents = []
    for index, session in enumerate(track(batcher.sessions, "latents", transient=True)):
        rows = np.arange(len(session.starts))
        parts = [model.encode(batch).half() for batch in batcher.sequence(index, rows, 256)]
        latents.append(torch.cat(parts))
    model.train()
    return latents


@torch.no_grad()
def average_repeats(
    model: NeuroBridge, head: AlignmentHead, batcher: Batcher, latents: Sequence[torch.Tensor]
) -> dict[str, list[torch.Tensor]]:
    """Latents and standardised responses of every window, those of train windows averaged over an image's repeats.

    Raises UserError where the latents do not fit in memory.
    """
    if not latents:
        raise UserError("align.average_repeats keeps the latents of all windows, over 2 GB here: align fewer sessions")
    averages, responses = [], []
    for index, session in enumerate(batcher.sessions):
        every = np.arange(len(session.starts))
        response = torch.cat([respond(model, head, batch) for batch in batcher.sequence(index, every, 256)])
        train = session.rows("train")
        train = torch.from_numpy(train[session.image_row[train] >= 0])
        shown = torch.from_numpy(session.image_row)[train]
        averages.append(averaged(latents[index], train, shown))
        responses.append(averaged(response, train, shown))
    return {"latents": averages, "averages": responses}


def averaged(table: torch.Tensor, rows: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """``table`` [W, ...] with each of ``rows`` replaced by the mean of those with the same ``image`` [len(rows)]."""
    _, inverse, counts = image.unique(return_inverse=True, return_counts=True)
    total = torch.zeros(len(counts), *table.shape[1:]).index_add_(0, inverse, table[rows].float())
    mean = total / counts.view(-1, *[1] * (table.ndim - 1))
    result = table.clone()
    result[rows] = mean[inverse].to(table.dtype)
    return result
