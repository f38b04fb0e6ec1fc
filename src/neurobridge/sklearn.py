"""A scikit-learn estimator over the functions: population vectors in, latents out.

>>> from neurobridge.sklearn import SpikeEmbedding
>>> SpikeEmbedding(steps=50).fit_transform(counts).shape  # doctest: +SKIP
(1000, 128)
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

import neurobridge as nb
from neurobridge.data.store import Session
from neurobridge.data.stored import StoredRecording
from neurobridge.evaluation.protocols import co_smoothing
from neurobridge.evaluation.spikes import gaussian_r2
from neurobridge.pipeline.spike_scores import hide

WINDOW_MS = 50
AT_ONCE = 1024
SIZES = {"width": 32, "depth": 2, "heads": 4, "latents": 4, "unit_width": 16}


class SpikeEmbedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Latents of population vectors, by masked prediction: units that are hidden follow from those that are seen.

    X [n_samples, n_units] holds a value a unit and sample (counts of a trial or a bin, calcium, an envelope), in any
    unit: each unit is standardised by what :meth:`fit` sees. Samples are taken one by one; for spike times, and for
    what evolves in time, use :func:`neurobridge.pretrain` and :func:`neurobridge.embed`.

    Args:
        model: Sizes of the network: a preset (tiny, small, base, ...), a mapping of sizes, or None for a small one.
        steps: Optimiser steps.
        learning_rate: Peak learning rate.
        signal: values as they are, or counts, of which the square root is taken.
        random_state: Seed of everything that is drawn.

    Attributes:
        model_: The :class:`~neurobridge.api.model.Model`.
        n_features_in_: Number of units.
    """

    def __init__(
        self,
        *,
        model: str | dict | None = None,
        steps: int = 200,
        learning_rate: float = 3e-3,
        signal: Literal["values", "counts"] = "values",
        random_state: int = 0,
    ) -> None:
        self.model, self.steps, self.learning_rate = model, steps, learning_rate
        self.signal, self.random_state = signal, random_state

    def fit(self, X: Any, y: Any = None) -> SpikeEmbedding:
        """Train on X [n_samples, n_units]; ``y`` is not looked at. Raises ValueError for NaN, one unit, one sample."""
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2, ensure_min_features=2)
        seed = self.random_state if isinstance(self.random_state, int | np.integer) else 0
        self.model_ = nb.pretrain(
            self._recording(X),
            model=SIZES if self.model is None else self.model,
            steps=self.steps,
            learning_rate=self.learning_rate,
            window_ms=WINDOW_MS,
            bin_ms=WINDOW_MS,
            modes=["neuron"],
            images=False,
            windows=min(128, len(X)),
            seed=int(seed),
            progress=False,
        )
        self.statistics_ = self.model_.session(self.model_.recordings[0]).statistics
        self._n_features_out = self.transform(X[:1]).shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Latents [n_samples, latents x width] of X [n_samples, n_units]."""
        session = self._session(X)
        count = session.starts.size
        rows = np.pad(np.arange(count), (0, -count % AT_ONCE), mode="edge")  # rounding depends on a batch's size
        batches = self.model_.batcher(session).sequence(0, rows, AT_ONCE)
        with torch.no_grad():
            parts = [self.model_.net.encode(batch).flatten(1) for batch in batches]
        return torch.cat(parts)[:count].numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """R2 of a fixed tenth of the units, foretold from all others: 0 is their mean, 1 perfect. ``y`` is unused."""
        session = self._session(X)
        (task,) = co_smoothing(units=session.units, bins=1, session="rows")
        plan = hide(task, WINDOW_MS)
        found, truth = [], []
        with torch.no_grad():
            for batch in self.model_.batcher(session).sequence(0, np.arange(session.starts.size), AT_ONCE):
                found.append(self.model_.net(batch, plan(batch)))
                truth.append(batch.target)
        rates, true = torch.cat(found).numpy(), torch.cat(truth).numpy()
        return float(gaussian_r2(rates, true, np.broadcast_to(task.scored, true.shape)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # latents are float32
        return tags

    def _session(self, X: Any) -> Session:
        check_is_fitted(self, "model_")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return self.model_.session(self._recording(X), statistics=self.statistics_)

    def _recording(self, X: np.ndarray) -> StoredRecording:
        """One presentation a sample, an event a unit in the middle of it."""
        samples, units = X.shape
        start = np.arange(samples) * 2.0 * WINDOW_MS / 1000
        return nb.recording(
            np.repeat(start + WINDOW_MS / 2000, units),
            np.tile(np.arange(units), samples),
            values=X.ravel(),
            signal_kind="binned_count" if self.signal == "counts" else "mua_envelope",
            session="rows",
            dataset="array",
            duration=(0.0, float(start[-1] + 1)),
            stimuli={"start": start, "end": start + WINDOW_MS / 1000, "split": np.full(samples, "train")},
        )
