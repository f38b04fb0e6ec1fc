"""How far a response may be from what a model expects: what the model does not know, and what presentations scatter.

An average over R presentations scatters R times less, but what the model gets wrong about an image it gets wrong in
every presentation. So the two covariances are told apart, and only one of them is divided by the repeats.

Letters: I responses, G gallery images, N units, R repeats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.covariance import ledoit_wolf

SMALLEST = 0.02  # of a unit's variance: what a model leaves open at least


@dataclass(frozen=True, kw_only=True)
class ResponseNoise:
    """Covariances [N, N]: ``model``, of the true expectation about the model's; ``presentation``, of single ones."""

    model: np.ndarray
    presentation: np.ndarray

    @classmethod
    def of(cls, residual: np.ndarray, *, repeats: float, differences: np.ndarray | None) -> ResponseNoise:
        """From images that the model was not fitted to.

        residual [I, N]: mean response over ``repeats`` presentations minus the model's expectation. differences [D, N]:
        between two presentations of one image (None: there are none, and all is held to be the model's). Both are
        shrunk towards multiples of the identity in standardised units (Ledoit & Wolf 2004).
        """
        total = shrunk(residual)
        if differences is None:
            return cls(model=total, presentation=np.zeros_like(total))
        presentation = shrunk(differences) / 2
        model = remainder(total, presentation / repeats, scale=np.sqrt(np.diag(total)), least=SMALLEST)
        return cls(model=model, presentation=presentation)

    def covariance(self, repeats: float) -> np.ndarray:
        """[N, N] of an average over ``repeats`` presentations about the model's expectation."""
        return self.model + self.presentation / repeats

    def log_likelihood(self, observed: np.ndarray, expected: np.ndarray, *, repeats: float) -> np.ndarray:
        """[I, G] in nats: each ``observed`` [I, N], an average over ``repeats``, under each ``expected`` [G, N]."""
        whiten = np.linalg.inv(np.linalg.cholesky(self.covariance(repeats))).T
        a, b = observed @ whiten, expected @ whiten
        distance = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
        constant = np.log(np.diag(whiten)).sum() - 0.5 * observed.shape[1] * np.log(2 * np.pi)
        return constant - 0.5 * distance


def remainder(total: np.ndarray, part: np.ndarray, *, scale: np.ndarray, least: float) -> np.ndarray:
    """What is left of the covariance ``total`` [N, N] without ``part``, with no eigenvalue below ``least``, in units of
    ``scale`` [N]: both are estimates, and their difference may be no covariance.
    """
    values, vectors = np.linalg.eigh((total - part) / scale[:, None] / scale)
    return (vectors * values.clip(min=least)) @ vectors.T * scale[:, None] * scale


def shrunk(rows: np.ndarray) -> np.ndarray:
    """Second moments [N, N] of ``rows`` [I, N] about zero, shrunk; a unit that never varies gets deviation 1."""
    scale = np.sqrt((rows**2).mean(axis=0))
    varies = scale > 1e-9 * scale.max()  # what is left of a silent unit is rounding
    scale = np.where(varies, scale, 1.0)
    moments = ledoit_wolf(np.where(varies, rows / scale, 0.0), assume_centered=True)[0]
    moments[~varies, ~varies] = 1.0
    moments[np.diag_indices_from(moments)] += 1e-9  # units that are exactly alike leave it singular
    return moments * scale[:, None] * scale
