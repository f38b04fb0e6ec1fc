"""Image -> responses: a linear encoding model, identification by the likelihood of a response, library-prior pictures.

Sources: Kay et al. 2008 (identification by predicted responses); Naselaris et al. 2009 (posterior over a library of
natural images); Breiman 1996 (stacked regressions: combine layers on out-of-fold predictions).

Letters: I presentations, G gallery or library images, N units, F features, K feature layers, L library images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from neurobridge.baselines.noise import GaussianNoise
from neurobridge.baselines.ridge import ALPHAS, LinearMap, ridge

Features = np.ndarray | Sequence[np.ndarray]


class LinearEncoding:
    """Ridge from each feature layer to every unit, layers stacked per unit, Gaussian noise of full covariance.

    Noise is estimated from *out-of-fold* residuals (in-sample residuals are far too small and too white), shrunk
    towards a multiple of the identity in standardised units (Ledoit & Wolf 2004). Counts enter as square roots if
    ``square_root`` (Anscombe: the variance of a Poisson count then hardly depends on its mean).
    """

    def __init__(
        self, *, alphas: np.ndarray = ALPHAS, folds: int = 5, square_root: bool = False, seed: int = 0
    ) -> None:
        self.alphas, self.folds, self.square_root, self.seed = alphas, folds, square_root, seed
        self.layers: list[LinearMap] = []

    def fit(self, features: Features, responses: np.ndarray) -> LinearEncoding:
        """Fit on training presentations: ``features`` [I, F], or K layers of them; ``responses`` [I, N]."""
        target = self._transform(responses)
        self.center = target.mean(axis=0)
        self.layers = [
            ridge(layer, target, alphas=self.alphas, folds=self.folds, per_target=True, seed=self.seed)
            for layer in _layers(features)
        ]
        held_out = np.stack([layer.out_of_fold for layer in self.layers]) - self.center
        self.stacking = stacking_weights(held_out, target - self.center)
        self.out_of_fold = np.einsum("kin,kn->in", held_out, self.stacking) + self.center
        residual = target - self.out_of_fold
        self.noise = GaussianNoise(residual)
        self.held_out_r2 = 1 - residual.var(axis=0) / np.where(target.var(axis=0) > 0, target.var(axis=0), 1.0)
        return self

    def predict(self, features: Features) -> np.ndarray:
        """Expected responses [G, N] (square roots of counts if ``square_root``) of ``features`` [G, F], or K layers."""
        layers = _layers(features)
        assert len(layers) == len(self.layers), f"fitted on {len(self.layers)} feature layers, given {len(layers)}"
        parts = np.stack([fit.predict(layer) for fit, layer in zip(self.layers, layers, strict=True)])
        return np.einsum("kgn,kn->gn", parts - self.center, self.stacking) + self.center

    def log_likelihood(self, responses: np.ndarray, features: Features) -> np.ndarray:
        """Log-likelihood [I, G] in nats of each response [I, N] under each image's features [G, F], or K layers."""
        return self.noise.log_likelihood(self._transform(responses), self.predict(features))

    def _transform(self, responses: np.ndarray) -> np.ndarray:
        responses = np.asarray(responses, np.float64)
        return np.sqrt(responses) if self.square_root else responses


def stacking_weights(held_out: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Non-negative least-squares weights [K, N] that combine predictions [K, I, N] into ``target`` [I, N]."""
    return np.stack([nnls(held_out[:, :, unit].T, target[:, unit])[0] for unit in range(target.shape[1])], axis=1)


def library_posterior_mean(log_likelihood: np.ndarray, pixels: np.ndarray, *, top: int = 10) -> np.ndarray:
    """Mean [I, H, W, 3] in [0, 1] of the ``top`` library images that explain each response best.

    ``log_likelihood`` [I, L]; ``pixels`` [L, H, W, 3] uint8, or float in [0, 1]. The library is the prior (Naselaris
    et al. 2009): it must hold no image of the test set. ``top=1`` gives the best library image itself.
    """
    assert 1 <= top <= log_likelihood.shape[1] == len(pixels), "top lies between 1 and the size of the library"
    best = np.argpartition(-log_likelihood, top - 1, axis=1)[:, :top]
    unit = 255.0 if pixels.dtype == np.uint8 else 1.0
    return np.stack([pixels[rows].astype(np.float64).mean(axis=0) / unit for rows in best])


def _layers(features: Features) -> list[np.ndarray]:
    return [features] if isinstance(features, np.ndarray) else list(features)
