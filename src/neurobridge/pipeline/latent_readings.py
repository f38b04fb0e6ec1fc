"""What is read of a session through the encoder, and what a library's images would give: the chunks' latents.

Letters: I test images, L library images, N units, C chunks, R numbers of a reading.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from neurobridge.data.datamodule import Batcher
from neurobridge.errors import UserError
from neurobridge.neuro.counted import latents_of_counts
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.decoding import Decoded
from neurobridge.pipeline.device import device
from neurobridge.pipeline.explained import BATCH, Readings, channels_first, looking
from neurobridge.pipeline.image_data import Bridge, feature_stack
from neurobridge.pipeline.joint_encoding import AT_ONCE, average_by_image, expected_rates, expected_responses
from neurobridge.training.settings import RunSettings

ALIKE = 1.5  # splits whose repeats differ by more than this factor say little of each other's sizes


def latent_readings(
    settings: RunSettings,
    model: NeuroBridge,
    bridge: Bridge,
    batcher: Batcher,
    index: int,
    decoded: Decoded,
    maps: Tensor | None,
    library: np.ndarray,
) -> Readings:
    """Ours: latents of the chunks, averaged over the repeats of an image, and the model that dreams them.

    A dream is a draw of what the model expects of a library image, with what it is known to get wrong, and of as many
    presentations as were averaged; its counts go through the encoder as recorded ones do. maps [images, positions, W];
    library [L]: rows of the images. Raises UserError where the session has no encoding.
    """
    if decoded.encoding is None or maps is None:
        raise UserError(
            f"session {decoded.session} has no valid split, or the model reads no images: pictures through the encoder "
            "need both; pretrain with --pretrain.images true on data with a valid split"
        )
    test, valid, encoding = decoded.test, decoded.valid, decoded.encoding
    observed = test.responses.astype(np.float64)
    stack = looking(feature_stack(settings, settings.encoding.layers), device(settings))

    def likelihood(pictures: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            parts = [bridge.maps(stack(some)).half() for some in channels_first(pictures).split(BATCH)]
        drawn = torch.cat(parts)
        expected = expected_responses(model, batcher, index, drawn, np.arange(len(drawn))) + encoding.offset
        return encoding.noise.log_likelihood(observed, expected, repeats=test.repeats).diagonal()

    alike = max(test.repeats, valid.repeats) <= ALIKE * min(test.repeats, valid.repeats)
    return Readings(
        dream=dreamer(model, batcher, index, maps, library, decoded),
        test=mean_latents(model, batcher, index, "test", test.images),
        valid=mean_latents(model, batcher, index, "valid", valid.images) if alike else None,
        library=encoding.log_likelihood(observed, library, repeats=test.repeats),
        likelihood=likelihood,
    )


@torch.no_grad()
def mean_latents(model: NeuroBridge, batcher: Batcher, index: int, split: str, images: np.ndarray) -> np.ndarray:
    """[I, R]: the chunks' latents, averaged over the presentations of each of the ``images`` (sorted) in a split."""
    session = batcher.sessions[index]
    rows = session.rows(split)
    rows = rows[np.isin(session.image_row[rows], images)]
    model.eval()
    front = int(model.encoder.in_front)  # a token that no spike reaches at level 0
    latents = [model.encode(b, level=0)[:, front:].flatten(1).cpu() for b in batcher.sequence(index, rows, AT_ONCE)]
    return average_by_image(torch.cat(latents).numpy(), session.image_row[rows])[1]


def expected_in_chunks(model: NeuroBridge, batcher: Batcher, index: int, maps: Tensor, images: np.ndarray) -> Tensor:
    """[L, N, C]: events (or values) that the model expects in each chunk of a window that shows an image."""
    session, chunk_ms, bin_ms = batcher.sessions[index], model.encoder.chunk_ms, batcher.bins[index]
    parts = []
    for rates in expected_rates(model, batcher, index, maps, images):
        chunk = ((torch.arange(rates.shape[-1]) + 0.5) * bin_ms // chunk_ms).long()
        chunks = torch.zeros(*rates.shape[:2], -(-session.window_ms // chunk_ms)).index_add(2, chunk, rates)
        if session.valued:
            chunks = chunks / torch.bincount(chunk, minlength=chunks.shape[-1]).clamp(min=1)
        parts.append(chunks)
    return torch.cat(parts)


def dreamer(
    model: NeuroBridge, batcher: Batcher, index: int, maps: Tensor, library: np.ndarray, decoded: Decoded
) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Rows [B] of the library, and what noise is drawn from -> latents [B, R] of a dreamt mean response to each."""
    session, repeats, encoding = batcher.sessions[index], decoded.test.repeats, decoded.encoding
    assert encoding is not None
    expected = expected_in_chunks(model, batcher, index, maps, library)
    window = batcher.batch([(index, np.flatnonzero(session.locked)[:1])])
    covariance = encoding.noise.covariance(repeats) if session.valued else encoding.noise.model
    root = torch.linalg.cholesky(torch.from_numpy(covariance)).float()
    offset = torch.from_numpy(encoding.offset).float()[:, None]

    def dream(rows: Tensor, generator: torch.Generator) -> Tensor:
        middle = expected[rows]
        wrong = (torch.randn(len(rows), len(root), generator=generator) @ root.T)[..., None] + offset
        if session.valued:
            counts = middle + wrong
        else:  # what the model gets wrong of a count is spread over the chunks as the count is
            share = middle / middle.sum(-1, keepdim=True).clamp(min=1e-6)
            counts = torch.poisson(repeats * (middle + wrong * share).clamp(min=0), generator=generator) / repeats
        return latents_of_counts(model, window, counts.to(batcher.device)).flatten(1).cpu()

    return dream
