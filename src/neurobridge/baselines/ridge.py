"""Ridge regression in closed form, and the decoder every learned decoder must beat: responses -> image embedding.

Letters: I rows (images), F inputs, D targets, N units, A penalties, R rank of the decomposition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ALPHAS = np.logspace(-1, 6, 15)


@dataclass(kw_only=True)
class LinearMap:
    """``predict(x) = (x - mean) / scale @ weights + intercept``.

    ``mean``, ``scale`` [F] and ``intercept`` [D] come from the training rows; ``weights`` [F, D]; ``alphas`` [D] are
    the chosen penalties; ``out_of_fold`` [I, D] predicts each training row from the folds that do not hold it.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    alphas: np.ndarray
    out_of_fold: np.ndarray

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Targets [I, D] of inputs ``x`` [I, F]."""
        return (np.asarray(x, np.float64) - self.mean) / self.scale @ self.weights + self.intercept


def ridge(
    x: np.ndarray,
    y: np.ndarray,
    *,
    alphas: np.ndarray = ALPHAS,
    folds: int = 5,
    per_target: bool = False,
    blocks: bool = False,
    seed: int = 0,
) -> LinearMap:
    """Ridge from ``x`` [I, F] to ``y`` [I, D], its penalty chosen among ``alphas`` by ``folds``-fold cross-validation.

    Inputs are standardised by the statistics of the rows they are fitted on (in each fold too), so a penalty is in
    units of squared standardised inputs, summed over rows. The criterion is the mean over targets of the unexplained
    share of variance; with ``per_target`` every target takes its own best penalty. Folds are rows at random, drawn by
    ``seed``; with ``blocks`` contiguous blocks, as rows in order of time demand. One eigendecomposition a fold, of the
    smaller of the covariance [F, F] and the Gram matrix [I, I].
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    assert (x.ndim, y.ndim, len(x)) == (2, 2, len(y)), "ridge takes x [I, F] and y [I, D]"
    assert 2 <= folds <= len(x) / 2, "ridge needs two folds or more, and at least two rows in each"
    alphas = np.asarray(alphas, np.float64)
    if blocks:
        fold = np.arange(len(x)) * folds // len(x)
    else:
        fold = np.random.default_rng(seed).permutation(len(x)) % folds
    held_out = np.empty((len(alphas), *y.shape))
    for k in range(folds):
        path = RidgePath.of(x[fold != k], y[fold != k])
        held_out[:, fold == k] = path.predict(x[fold == k], alphas)
    variance = y.var(axis=0)
    unexplained = ((held_out - y) ** 2).mean(axis=1) / np.where(variance > 0, variance, 1.0)
    if per_target:
        chosen = unexplained.argmin(axis=0)
    else:
        chosen = np.full(y.shape[1], unexplained.mean(axis=1).argmin())
    path = RidgePath.of(x, y)
    return LinearMap(
        mean=path.mean,
        scale=path.scale,
        weights=path.basis @ (path.coefficients / (path.eigenvalues[:, None] + alphas[chosen])),
        intercept=path.intercept,
        alphas=alphas[chosen],
        out_of_fold=held_out[chosen, :, np.arange(y.shape[1])].T,
    )


@dataclass(kw_only=True)
class RidgePath:
    """All ridge solutions of one training set: weights(alpha) = basis @ (coefficients / (eigenvalues + alpha))."""

    mean: np.ndarray
    scale: np.ndarray
    intercept: np.ndarray
    basis: np.ndarray
    eigenvalues: np.ndarray
    coefficients: np.ndarray

    @staticmethod
    def of(x: np.ndarray, y: np.ndarray) -> RidgePath:
        mean, scale, intercept = x.mean(axis=0), x.std(axis=0), y.mean(axis=0)
        scale = np.where(scale > 1e-12 * (1 + np.abs(mean)), scale, np.inf)  # a constant input carries nothing
        z, t = (x - mean) / scale, y - intercept
        if z.shape[0] <= z.shape[1]:
            eigenvalues, vectors = np.linalg.eigh(z @ z.T)
            basis, coefficients = z.T @ vectors, vectors.T @ t
        else:
            eigenvalues, basis = np.linalg.eigh(z.T @ z)
            coefficients = basis.T @ (z.T @ t)
        return RidgePath(
            mean=mean,
            scale=scale,
            intercept=intercept,
            basis=basis,
            eigenvalues=eigenvalues.clip(min=0),
            coefficients=coefficients,
        )

    def predict(self, x: np.ndarray, alphas: np.ndarray) -> np.ndarray:
        """Predictions [A, I, D] of ``x`` [I, F] for every penalty."""
        projected = (x - self.mean) / self.scale @ self.basis
        return (
            np.stack([projected / (self.eigenvalues + alpha) @ self.coefficients for alpha in alphas]) + self.intercept
        )


class RidgeDecoder:
    """Linear decoding of one session: responses -> embedding, one penalty shared by all embedding dimensions."""

    def __init__(self, *, alphas: np.ndarray = ALPHAS, folds: int = 5, seed: int = 0) -> None:
        self.alphas, self.folds, self.seed = alphas, folds, seed
        self.map: LinearMap | None = None
        self.deviation: np.ndarray | None = None

    def fit(self, responses: np.ndarray, embeddings: np.ndarray) -> RidgeDecoder:
        """Fit on training presentations: ``responses`` [I, N], ``embeddings`` [I, D]."""
        self.map = ridge(responses, embeddings, alphas=self.alphas, folds=self.folds, seed=self.seed)
        self.deviation = np.asarray(embeddings, np.float64).std(axis=0)
        return self

    def predict(self, responses: np.ndarray) -> np.ndarray:
        """Embeddings [I, D] of ``responses`` [I, N]."""
        assert self.map is not None, "fit before predict"
        return self.map.predict(responses)

    def predict_spread(self, responses: np.ndarray) -> np.ndarray:
        """Embeddings [I, D] of ``responses`` [I, N], as spread out as true ones are: what a generator is to draw.

        Ridge shrinks its predictions towards the mean embedding, and a generator draws what it is given: the mean.
        Each dimension is standardised by the out-of-fold predictions of the training images, and takes the mean and
        the deviation of their embeddings (Ozcelik & VanRullen 2023, who standardise by the test set's predictions).
        """
        assert self.map is not None, "fit before predict"
        assert self.deviation is not None, "fit before predict"
        held_out = self.map.out_of_fold
        spread = held_out.std(axis=0)
        gain = np.divide(self.deviation, spread, out=np.zeros_like(spread), where=spread > 0)
        return (self.predict(responses) - held_out.mean(axis=0)) * gain + self.map.intercept
