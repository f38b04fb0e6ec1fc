"""Images -> responses of a session, through the model: what it expects, how far it may be off, its likelihood.

Letters: I images, N units, W windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from neurobridge.bridge.response_noise import ResponseNoise
from neurobridge.data.datamodule import Batcher
from neurobridge.data.store import Session
from neurobridge.neuro.losses import expected_counts
from neurobridge.neuro.masking import everything_hidden
from neurobridge.neuro.model import NeuroBridge

COUNT_MS = (30, 280)  # since the onset
AT_ONCE = 256


def counted_bins(session: Session, bin_ms: int) -> slice:
    """The bins between 30 and 280 ms after the onset; all of them, if the window holds none of these."""
    low, high = ((edge - session.offset_ms) // bin_ms for edge in COUNT_MS)
    low, high = max(low, 0), min(high, session.window_ms // bin_ms)
    return slice(low, high) if low < high else slice(None)


def responses(session: Session, rows: np.ndarray) -> np.ndarray:
    """[len(rows), N]: counts between 30 and 280 ms after the onset, or the values of the window; binned in parts."""
    bin_ms = session.window_ms if session.valued else 10
    bins = slice(1) if session.valued else counted_bins(session, bin_ms)
    parts = [rows[at : at + AT_ONCE] for at in range(0, max(1, len(rows)), AT_ONCE)]
    return np.concatenate([session.binned(part, bin_ms)[:, :, bins].sum(-1) for part in parts])


def expected_rates(
    model: NeuroBridge, batcher: Batcher, index: int, maps: torch.Tensor, images: np.ndarray
) -> Iterator[torch.Tensor]:
    """What the model expects of ``images`` (rows of ``maps``) alone, in windows locked to their onset, in parts.

    [I, N, T] a part: counts a bin, or values.
    """
    session = batcher.sessions[index]
    row = np.flatnonzero(session.locked)[:1]
    model.eval()
    for at in range(0, len(images), AT_ONCE):
        some = images[at : at + AT_ONCE]
        batch = batcher.batch([(index, np.repeat(row, len(some)))])
        with torch.no_grad():
            rates = model(batch, everything_hidden(batch), memory=maps[some].float().to(batch.target.device)).cpu()
        yield rates if session.valued else expected_counts(rates)


def expected_responses(
    model: NeuroBridge, batcher: Batcher, index: int, maps: torch.Tensor, images: np.ndarray
) -> np.ndarray:
    """[I, N]: what the model expects of a session's :func:`responses` to ``images`` (rows of ``maps``) alone."""
    session = batcher.sessions[index]
    bins = counted_bins(session, batcher.bins[index])
    parts = expected_rates(model, batcher, index, maps, images)
    return torch.cat([x.mean(-1) if session.valued else x[:, :, bins].sum(-1) for x in parts]).double().numpy()


@dataclass(kw_only=True)
class SessionEncoding:
    """What is expected of a session, by image, and how far responses may be off.

    expected [I, N] for every image of the data folder; noise: from images that nothing was fitted to; r2 [N]: share of
    the variance of their mean responses that is explained; offset [N]: what was added to the model's expectation.
    """

    expected: np.ndarray
    noise: ResponseNoise
    r2: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(
        cls,
        expected: np.ndarray,
        *,
        images: np.ndarray,
        responses: np.ndarray,
        repeats: float,
        differences: np.ndarray | None,
    ) -> SessionEncoding:
        """expected [I, N] of all images; ``responses`` [V, N] mean over ``repeats`` of the validation ``images`` [V].

        A unit's mean residual is added to what is expected of it. differences [D, N]: see :class:`ResponseNoise`.
        """
        residual = responses - expected[images]
        offset = residual.mean(axis=0)
        expected, residual = expected + offset, residual - offset
        variance = responses.var(axis=0, dtype=np.float64)
        r2 = 1 - (residual**2).mean(axis=0) / np.where(variance > 0, variance, 1.0)
        return cls(
            expected=expected,
            noise=ResponseNoise.of(residual, repeats=repeats, differences=differences),
            r2=r2,
            offset=offset,
        )

    def log_likelihood(self, responses: np.ndarray, images: np.ndarray, *, repeats: float) -> np.ndarray:
        """[P, G] in nats: each response [P, N], a mean over ``repeats``, under each of the ``images`` [G], by row."""
        return self.noise.log_likelihood(np.asarray(responses, np.float64), self.expected[images], repeats=repeats)


def differences_between_repeats(session: Session, rows: np.ndarray) -> np.ndarray | None:
    """[D, N]: responses to two presentations of one image, one minus the other; None where nothing was repeated."""
    shown = session.image_row[rows]
    order = np.argsort(shown, kind="stable")
    pairs = np.flatnonzero(shown[order][1:] == shown[order][:-1])
    if len(pairs) < 2:
        return None
    counts = responses(session, rows).astype(np.float64)
    return counts[order[pairs + 1]] - counts[order[pairs]]


def mean_responses(session: Session, split: str, only: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images [I] of a split (those in ``only``) and the mean of their :func:`responses` [I, N]."""
    rows = session.shown(split)
    if only is not None:
        rows = rows[np.isin(session.image_row[rows], only)]
    return average_by_image(responses(session, rows), session.image_row[rows])


def average_by_image(values: np.ndarray, image_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of ``values`` [W, ...] over the windows of each image -> (image rows sorted [I], means [I, ...])."""
    rows, inverse, counts = np.unique(image_rows, return_inverse=True, return_counts=True)
    total = np.zeros((len(rows), *values.shape[1:]), dtype=np.float64)
    np.add.at(total, inverse, values)
    return rows, (total / counts.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)
