"""Ridge regression in closed form, and the decoder every learned decoder must beat: responses -> image embedding.

Rows are read a block at a time, once for their sums and then for what is predicted of them: beside the data, memory
holds a few matrices [F, F] a fold (or [F, I], where rows are fewer), and one prediction a row and target.

Letters: I rows (images), F inputs, D targets, N units, A penalties, R rank of the decomposition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

ALPHAS = np.logspace(-1, 6, 15)
ROWS_AT_ONCE = 2048
CONSTANT = 1e-10  # share of its variance over all rows below which an input of some rows carries nothing


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
    smaller of the covariance [F, F], which all folds get of one pass over the rows, and the Gram matrix [I, I].
    """
    x, y = np.asarray(x), np.asarray(y, np.float64)
    assert (x.ndim, y.ndim, len(x)) == (2, 2, len(y)), "ridge takes x [I, F] and y [I, D]"
    assert 2 <= folds <= len(x) / 2, "ridge needs two folds or more, and at least two rows in each"
    alphas = np.asarray(alphas, np.float64)
    if blocks:
        fold = np.arange(len(x)) * folds // len(x)
    else:
        fold = np.random.default_rng(seed).permutation(len(x)) % folds
    paths = list(_paths(x, y, fold, folds))
    errors = np.zeros((len(alphas), y.shape[1]))
    for rows, path in _held_out(fold, paths):
        for number, predicted in enumerate(path.predictions(x[rows], alphas)):
            errors[number] += ((predicted - y[rows]) ** 2).sum(axis=0)
    variance = y.var(axis=0)
    unexplained = errors / len(x) / np.where(variance > 0, variance, 1.0)
    if per_target:
        chosen = unexplained.argmin(axis=0)
    else:
        chosen = np.full(y.shape[1], unexplained.mean(axis=1).argmin())
    out_of_fold = np.empty_like(y)
    for rows, path in _held_out(fold, paths):
        out_of_fold[rows] = path.project(x[rows]) @ path.shrunk(alphas[chosen]) + path.intercept
    path = paths[-1]
    return LinearMap(
        mean=path.mean,
        scale=path.scale,
        weights=path.basis @ path.shrunk(alphas[chosen]),
        intercept=path.intercept,
        alphas=alphas[chosen],
        out_of_fold=out_of_fold,
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
        x = np.asarray(x, np.float64)
        mean, scale, intercept = x.mean(axis=0), x.std(axis=0), y.mean(axis=0)
        scale = np.where(scale > 1e-12 * (1 + np.abs(mean)), scale, np.inf)  # a constant input carries nothing
        z, t = (x - mean) / scale, y - intercept
        if z.shape[0] > z.shape[1]:
            return RidgePath.of_products(z.T @ z, z.T @ t, mean=mean, scale=scale, intercept=intercept)
        eigenvalues, vectors = np.linalg.eigh(z @ z.T)
        return RidgePath(
            mean=mean,
            scale=scale,
            intercept=intercept,
            basis=z.T @ vectors,
            eigenvalues=eigenvalues.clip(min=0),
            coefficients=vectors.T @ t,
        )

    @staticmethod
    def of_products(xx: np.ndarray, xy: np.ndarray, **standard: np.ndarray) -> RidgePath:
        """From the products of standardised inputs with themselves [F, F] and with the targets [F, D]."""
        eigenvalues, basis = np.linalg.eigh(xx)
        return RidgePath(basis=basis, eigenvalues=eigenvalues.clip(min=0), coefficients=basis.T @ xy, **standard)

    def project(self, x: np.ndarray) -> np.ndarray:
        """[I, R] of ``x`` [I, F]."""
        return (x - self.mean) / self.scale @ self.basis

    def shrunk(self, alphas: np.ndarray) -> np.ndarray:
        """[R, D]: the coefficients under a penalty a target [D]."""
        return self.coefficients / (self.eigenvalues[:, None] + alphas)

    def predictions(self, x: np.ndarray, alphas: np.ndarray) -> Iterator[np.ndarray]:
        """Predictions [I, D] of ``x`` [I, F] for each penalty."""
        projected = self.project(x)
        for alpha in alphas:
            yield projected / (self.eigenvalues + alpha) @ self.coefficients + self.intercept

    def predict(self, x: np.ndarray, alphas: np.ndarray) -> np.ndarray:
        """Predictions [A, I, D] of ``x`` [I, F] for every penalty."""
        return np.stack(list(self.predictions(x, alphas)))


@dataclass(kw_only=True)
class Sums:
    """Of some rows, their inputs z [I, F] and targets t [I, D] about the means of all rows: ``count``; sums ``z`` [F],
    ``t`` [D]; sums of products ``zz`` [F, F], ``zt`` [F, D]."""

    count: int
    z: np.ndarray
    t: np.ndarray
    zz: np.ndarray
    zt: np.ndarray

    @staticmethod
    def none(inputs: int, targets: int) -> Sums:
        z, t, zz, zt = (np.zeros(shape) for shape in ((inputs,), (targets,), (inputs, inputs), (inputs, targets)))
        return Sums(count=0, z=z, t=t, zz=zz, zt=zt)

    def add(self, z: np.ndarray, t: np.ndarray) -> None:
        """Count some rows in."""
        self.join(Sums(count=len(z), z=z.sum(axis=0), t=t.sum(axis=0), zz=z.T @ z, zt=z.T @ t))

    def join(self, other: Sums) -> None:
        """Count in what ``other`` counts."""
        self.count += other.count
        for name in ("z", "t", "zz", "zt"):
            getattr(self, name)[...] += getattr(other, name)

    def path(self, mean: np.ndarray, scale: np.ndarray, intercept: np.ndarray, less: Sums | None = None) -> RidgePath:
        """Ridge on these rows, or on those of them that ``less`` does not count; z is (x - mean) / scale."""
        z, t, zz, zt = self.z, self.t, self.zz.copy(), self.zt.copy()
        count = self.count
        if less is not None:
            count, z, t = count - less.count, z - less.z, t - less.t
            zz -= less.zz
            zt -= less.zt
        middle = z / count
        zz -= count * np.outer(middle, middle)
        zt -= np.outer(middle, t)
        variance = np.diagonal(zz) / count
        deviation = np.where(variance > CONSTANT, np.sqrt(variance.clip(min=0)), np.inf)
        zz /= deviation
        zz /= deviation[:, None]
        zt /= deviation[:, None]
        standard = {"mean": mean + scale * middle, "scale": scale * deviation, "intercept": intercept + t / count}
        return RidgePath.of_products(zz, zt, **standard)


def _paths(x: np.ndarray, y: np.ndarray, fold: np.ndarray, folds: int) -> Iterator[RidgePath]:
    """Ridge without each of the folds, then on all rows."""
    if np.bincount(fold).max() + x.shape[1] >= len(x):
        for k in range(folds):
            yield RidgePath.of(x[fold != k], y[fold != k])
        yield RidgePath.of(x, y)
        return
    mean, intercept = x.mean(axis=0, dtype=np.float64), y.mean(axis=0)
    squares = sum(((x[rows] - mean) ** 2).sum(axis=0) for rows in _blocks(np.arange(len(x))))
    scale = np.sqrt(squares / len(x))
    scale = np.where(scale > 1e-12 * (1 + np.abs(mean)), scale, 1.0)
    parts = [Sums.none(x.shape[1], y.shape[1]) for _ in range(folds)]
    whole = Sums.none(x.shape[1], y.shape[1])
    for k, part in enumerate(parts):
        for rows in _blocks(np.flatnonzero(fold == k)):
            part.add((x[rows] - mean) / scale, y[rows] - intercept)
        whole.join(part)
    while parts:
        yield whole.path(mean, scale, intercept, less=parts.pop(0))
    yield whole.path(mean, scale, intercept)


def _held_out(fold: np.ndarray, paths: list[RidgePath]) -> Iterator[tuple[np.ndarray, RidgePath]]:
    """Blocks of rows, each with the ridge that has not seen it."""
    for k, path in enumerate(paths[:-1]):
        for rows in _blocks(np.flatnonzero(fold == k)):
            yield rows, path


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """``rows``, some at a time."""
    for at in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[at : at + ROWS_AT_ONCE]


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
