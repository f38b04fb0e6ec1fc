"""What an encoding model leaves unexplained: Gaussian noise of full covariance, and likelihoods under it.

Letters: I presentations, G gallery images, N units.
"""

from __future__ import annotations

import numpy as np
from sklearn.covariance import ledoit_wolf


class GaussianNoise:
    """Covariance [N, N] of residuals, shrunk towards a multiple of the identity in standardised units.

    Residuals have to be *out of fold*: those of the fitted images are far too small and too white. The shrinkage is
    that of Ledoit & Wolf 2004. Units whose residual is constant count as noise of deviation 1.
    """

    def __init__(self, residual: np.ndarray) -> None:
        """residual [I, N]: response - expected response."""
        scale = residual.std(axis=0)
        varies = scale > 1e-9 * scale.max()  # what is left of a silent unit is rounding
        scale = np.where(varies, scale, 1.0)
        shrunk, self.shrinkage = ledoit_wolf(np.where(varies, residual / scale, 0.0), assume_centered=True)
        shrunk[~varies, ~varies] = 1.0
        shrunk[np.diag_indices_from(shrunk)] += 1e-9  # units that are exactly alike leave it singular
        self.covariance = shrunk * scale[:, None] * scale
        self.whiten = np.linalg.inv(np.linalg.cholesky(self.covariance)).T

    def log_likelihood(self, observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """[I, G] in nats: each response ``observed`` [I, N] under each image's ``expected`` response [G, N]."""
        a, b = observed @ self.whiten, expected @ self.whiten
        distance = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
        constant = np.log(np.diag(self.whiten)).sum() - 0.5 * observed.shape[1] * np.log(2 * np.pi)
        return constant - 0.5 * distance
