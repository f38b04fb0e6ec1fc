"""Is the noise that of cortex? Rates, Fano factors and split-half reliabilities of a recording with repeats."""

from __future__ import annotations

import numpy as np

from neurobridge.data.recording import Recording
from neurobridge.errors import UserError

WINDOW = (0.03, 0.28)


def window_counts(recording: Recording, *, window: tuple[float, float] = WINDOW) -> np.ndarray:
    """Spike counts [presentations, units] in onset + ``window`` (s), rows as in ``recording.stimuli``.

    Raises UserError for a recording without stimuli. Onset windows must not overlap.
    """
    if recording.stimuli is None or not len(recording.stimuli):
        raise UserError(f"session {recording.session} holds no stimuli: noise statistics need repeated presentations")
    order = np.argsort(recording.stimuli.start)
    start = recording.stimuli.start[order]
    assert np.all(np.diff(start) >= window[1] - window[0] - 1e-9), "counting windows overlap"
    row = np.searchsorted(start + window[0], recording.spike_times, side="right") - 1
    inside = (row >= 0) & (recording.spike_times < start[np.maximum(row, 0)] + window[1])
    units = len(recording.unit_ids)
    flat = np.bincount(row[inside] * units + recording.spike_units[inside], minlength=len(start) * units)
    counts = np.empty((len(start), units), np.int64)
    counts[order] = flat.reshape(len(start), units)
    return counts


def noise_statistics(recording: Recording, *, window: tuple[float, float] = WINDOW) -> dict[str, float]:
    """Medians over units: ``rate`` (Hz, whole session), ``fano_factor``, ``reliability``; ``units`` and ``repeats``.

    Fano factor: variance over mean of the counts in onset + ``window`` over the repeats of one test image, averaged
    over images weighted by their mean. Reliability: Pearson over test images between the means of odd and of even
    repeats (split half, no Spearman-Brown correction). Raises UserError if no image of the test split is repeated.
    """
    counts = window_counts(recording, window=window)
    assert recording.stimuli is not None
    rows = recording.stimuli.rows("test")
    images, image = np.unique(recording.stimuli.image_id[rows], return_inverse=True)
    repeats = int(np.bincount(image).min()) if len(rows) else 0
    if repeats < 2 or len(images) < 3:
        raise UserError(
            f"session {recording.session} has {len(images)} test images with {repeats} repeats at least: noise "
            "statistics need 3 images with 2 repeats"
        )
    ordered = rows[np.argsort(image, kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(image))[:-1]])
    trials = counts[ordered[starts[:, None] + np.arange(repeats)]].astype(float)
    mean, variance = trials.mean(1), trials.var(1, ddof=1)
    fano = variance.sum(0) / np.maximum(mean.sum(0), 1e-9)
    odd, even = trials[:, ::2].mean(1), trials[:, 1::2].mean(1)
    odd, even = odd - odd.mean(0), even - even.mean(0)
    norm = np.sqrt((odd**2).sum(0) * (even**2).sum(0))
    reliability = np.where(norm > 0, (odd * even).sum(0) / np.maximum(norm, 1e-12), 0.0)
    seconds = recording.duration[1] - recording.duration[0]
    rate = np.bincount(recording.spike_units, minlength=len(recording.unit_ids)) / seconds
    return {
        "units": float(len(rate)),
        "repeats": float(repeats),
        "rate": float(np.median(rate)),
        "fano_factor": float(np.median(fano[mean.sum(0) > 0])),
        "reliability": float(np.median(reliability)),
    }
