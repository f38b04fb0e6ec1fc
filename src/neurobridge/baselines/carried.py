"""A readout carried over: the ridge weights that the same electrode and unit had in earlier sessions, no label needed.

Letters: I presentations, N units of the new session, D dimensions of the target, K earlier sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurobridge.baselines.ridge import LinearMap


@dataclass(kw_only=True)
class CarriedRidge:
    """``predict(x) = (x - mean) / scale @ weights + intercept``, as :class:`LinearMap`.

    ``weights`` [N, D] are 0 where no earlier session names the unit; ``known`` [N] is how many do.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    known: np.ndarray

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Targets [I, D] of responses ``x`` [I, N]."""
        return (np.asarray(x, np.float64) - self.mean) / self.scale @ self.weights + self.intercept


def carry_ridge(
    earlier: Sequence[LinearMap],
    earlier_units: Sequence[Sequence[str]],
    units: Sequence[str],
    responses: np.ndarray,
) -> CarriedRidge:
    """The ridge of a session without labels, from those of ``earlier`` sessions of the same subject to the same target.

    ``earlier_units``: the names of the K sessions' units, in the order of their inputs; ``units`` [N] those of the new
    one. A unit takes the mean of the weights that the same name had. Weights are per standard deviation of a response:
    the new session's ``responses`` [I, N], without labels, give its own mean and deviation, so a drift of rates or
    gains is no harm. Raises ValueError where no unit of the new session is known.
    """
    responses = np.asarray(responses, np.float64)
    total, known = np.zeros((len(units), len(earlier[0].intercept))), np.zeros(len(units), int)
    for map_, names in zip(earlier, earlier_units, strict=True):
        assert len(names) == len(map_.weights), "a name for every input"
        _, theirs, ours = np.intersect1d(names, units, return_indices=True)
        total[ours] += map_.weights[theirs]
        known[ours] += 1
    if not known.any():
        raise ValueError("no unit of the new session has the name of a unit of an earlier one: nothing to carry over")
    scale = responses.std(0)
    return CarriedRidge(
        mean=responses.mean(0),
        scale=np.where(scale > 1e-12 * (1 + np.abs(responses.mean(0))), scale, np.inf),
        weights=total / np.maximum(known, 1)[:, None],
        intercept=np.mean([map_.intercept for map_ in earlier], axis=0),
        known=known,
    )
