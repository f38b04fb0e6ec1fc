"""Do the reconstructions as a *set* look like pictures? FID, KID and the Inception Score, from features.

These judge realism, not whether the right picture was drawn, and they are biased in small sets: below
:data:`MINIMUM` images they refuse, unless forced, and say what to use instead. Say which network gave the features:
only those of Inception-v3 (2048 numbers before the classifier; its logits for the Inception Score) may be compared
with published figures.

Features that are NaN or infinite are a ValueError.
Shapes: ``N`` generated pictures, ``M`` real ones, ``D`` features, ``K`` classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from neurobridge.evaluation.inputs import finite

MINIMUM = {
    "FID": 2048,  # below the 2048 features of Inception's last layer its covariance has no full rank
    "KID": 100,  # unbiased at any size; below a hundred its spread over subsets hides every difference
    "Inception Score": 5000,  # ten splits of 500, half of what Salimans et al. take
}


def frechet_distance(generated: ArrayLike, real: ArrayLike, *, force: bool = False) -> float:
    """FID (Heusel et al. 2017) of features [N, D] and [M, D]: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root is the sum of the singular values of R1 R2^T, with R the triangular factor of the centred,
    scaled features: no matrix root, and exact where a covariance is singular. Raises ValueError below the minimum.
    """
    a, b = _sets("FID", generated, real, force=force)
    root_a, root_b = (np.linalg.qr((x - x.mean(0)) / np.sqrt(len(x) - 1), mode="r") for x in (a, b))
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return max(0.0, float(means + (root_a**2).sum() + (root_b**2).sum() - 2 * cross))  # rounding may end below 0


def kernel_distance(
    generated: ArrayLike,
    real: ArrayLike,
    *,
    seed: int,
    subsets: int = 100,
    subset_size: int | None = None,
    force: bool = False,
) -> np.ndarray:
    """KID (Binkowski et al. 2018) [subsets]: unbiased squared MMD under the kernel (x.y / D + 1)^3 of random subsets.

    Its mean is the figure, its deviation the spread to print beside it. ``subset_size``: up to 1,000, half of the
    smaller set, if not given. Raises ValueError below the minimum.
    """
    a, b = _sets("KID", generated, real, force=force)
    size = subset_size or min(1000, max(2, min(len(a), len(b)) // 2))
    if not 2 <= size <= min(len(a), len(b)):
        raise ValueError(f"subsets of {size} do not fit: take 2 or more of {len(a)} generated, {len(b)} real pictures")
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(subsets):
        x, y = (z[rng.choice(len(z), size, replace=False)] for z in (a, b))
        found.append(_off_diagonal(_kernel(x, x)) + _off_diagonal(_kernel(y, y)) - 2 * _kernel(x, y).mean())
    return np.array(found)


def inception_score(logits: ArrayLike, *, seed: int, splits: int = 10, force: bool = False) -> np.ndarray:
    """Inception Score (Salimans et al. 2016) [splits] from class logits [N, K]: exp of the mean KL(p(y|x) || p(y)).

    Pictures are shuffled, then split. Raises ValueError below the minimum, and for fewer pictures than splits.
    """
    (logits,) = _sets("Inception Score", logits, force=force)
    if len(logits) < splits:
        raise ValueError(f"{len(logits)} pictures do not make {splits} splits")
    logits = logits[np.random.default_rng(seed).permutation(len(logits))]
    log_p = logits - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    scores = []
    for part in np.array_split(log_p, splits):
        p = np.exp(part)
        scores.append(np.exp((p * (part - np.log(p.mean(0, keepdims=True)))).sum(1).mean()))
    return np.array(scores)


def _sets(metric: str, *features: ArrayLike, force: bool) -> list[np.ndarray]:
    sets = [finite(x, f"features for {metric}") for x in features]
    if any(x.ndim != 2 or x.shape[1] != sets[0].shape[1] or len(x) < 2 for x in sets):
        raise ValueError(f"{metric} takes features [N, D] of equal width, got {', '.join(str(x.shape) for x in sets)}")
    smallest = min(len(x) for x in sets)
    if smallest < MINIMUM[metric] and not force:
        other = "" if metric == "KID" else f"use KID from {MINIMUM['KID']} on, or "
        raise ValueError(
            f"{metric} of {smallest} pictures means nothing, it needs {MINIMUM[metric]}: {other}force it and print N"
        )
    return sets


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _off_diagonal(kernel: np.ndarray) -> float:
    """Mean over pairs of different rows."""
    return float((kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)))
