"""The latents of a whole recording, chunk by chunk: what a probe reads, and what the report maps.

Letters: I chunks, L latents a chunk, D width.
"""

from __future__ import annotations

import numpy as np
import torch

from neurobridge.data.datamodule import Batcher
from neurobridge.data.intervals import merged
from neurobridge.data.store import Session
from neurobridge.neuro.model import NeuroBridge
from neurobridge.neuro.readout import chunk_sequence

AT_ONCE = 64


def cover(stretch: tuple[int, int], length: int) -> list[tuple[int, slice]]:
    """Half-overlapping windows over a stretch: (start, which part to keep), middles first, ends where needed."""
    first, end = stretch
    starts = sorted({*range(first, end - length + 1, max(1, length // 2)), end - length})
    kept = []
    for start in starts:
        low = 0 if start == first else length // 4
        high = length if start == end - length else length - length // 4
        kept.append((start, slice(low, high)))
    return kept


def windows_over(session: Session, chunk_ms: int, *, most: int | None = None) -> tuple[np.ndarray, list[slice]]:
    """Starts [W] in s of windows over all observed time, and which chunks of each to keep; ``most``: chunks in all.

    Where there are more, windows at equal distances are left. Signals that exist at presentations alone are read in the
    windows of these.
    """
    chunks = max(1, session.window_ms // chunk_ms)
    if session.valued and session.locked.any():
        placed = [(start, slice(0, chunks)) for start in session.starts.tolist()]
    else:
        placed = []
        for start, end in merged(session.recording.observed_time).tolist():
            length = int((end - start) * 1000 + 1e-6) // chunk_ms
            if length >= chunks:
                placed += [(start + at * chunk_ms / 1000, keep) for at, keep in cover((0, length), chunks)]
    half = max(1, chunks // 2)
    if most is not None and len(placed) * half > most:
        placed = [placed[i] for i in np.linspace(0, len(placed) - 1, max(1, most // half)).astype(int)]
    return np.array([start for start, _ in placed]), [keep for _, keep in placed]


@torch.no_grad()
def chunk_latents(
    model: NeuroBridge, batcher: Batcher, index: int, *, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Latents [I, L * D] of the chunks of a session, nothing hidden, and the middles [I] s of these chunks, in order.

    Each chunk is read in a window that has others on either side, where there are any (:func:`windows_over`).
    """
    session, chunk_ms = batcher.sessions[index], model.options["chunk_ms"]
    starts, keeps = windows_over(session, chunk_ms, most=most)
    features, times = [], []
    for at in range(0, len(starts), AT_ONCE):
        some = starts[at : at + AT_ONCE]
        latent = model.encode(batcher.batch_from([(index, some)]))[:, int(model.encoder.in_front) :]
        sequence = chunk_sequence(latent, model.options["latents"])
        for start, keep, values in zip(some, keeps[at : at + AT_ONCE], sequence.cpu().numpy(), strict=True):
            features.append(values[keep])
            times.append(start + (np.arange(keep.start, keep.stop) + 0.5) * chunk_ms / 1000)
    if not times:
        return np.zeros((0, model.width * model.options["latents"]), np.float32), np.zeros(0)
    middle, first = np.unique(np.concatenate(times).round(6), return_index=True)
    return np.concatenate(features)[first], middle
