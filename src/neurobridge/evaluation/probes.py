"""What a frozen representation holds: linear probes, nearest neighbours, and a picture of it in two dimensions.

Shapes: ``I`` items, ``D`` features, ``Y`` targets. Every probe returns one value per item, for intervals over items.
Standardisation and hyper-parameters are fitted on training folds only. NaN and infinity are a ValueError.
"""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.manifold import TSNE
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neurobridge.evaluation.controls import majority_level
from neurobridge.evaluation.inputs import finite
from neurobridge.evaluation.protocols import NO_REGION
from neurobridge.evaluation.spikes import r2


def linear_probe(
    x: ArrayLike,
    labels: ArrayLike,
    *,
    seed: int,
    folds: int = 5,
    groups: ArrayLike | None = None,
    strengths: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0),
) -> np.ndarray:
    """Out-of-fold hits [I] of a multinomial logistic regression from ``x`` [I, D] to class ``labels`` [I].

    ``strengths`` are scikit-learn's C, chosen by inner cross-validation within each training fold. ``groups`` [I]
    (image content, trial) never straddle a fold. Its mean is the accuracy; compare with ``controls.majority_level``.
    Raises ValueError when items are fewer than folds, or there is one class only.
    """
    x, labels = _items(x, labels)
    if len(np.unique(labels)) < 2:
        raise ValueError("a linear probe needs at least two classes")
    hits = np.zeros(len(x))
    for train, test in _folds(x, labels, folds, groups, seed, stratified=True):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        if len(strengths) == 1:
            probe.set_params(logisticregression__C=strengths[0])
        else:
            inner = KFold(3, shuffle=True, random_state=seed)
            splits = inner if groups is None else GroupKFold(3)
            probe = GridSearchCV(probe, {"logisticregression__C": list(strengths)}, cv=splits)
        if groups is not None and len(strengths) > 1:
            probe.fit(x[train], labels[train], groups=np.asarray(groups)[train])
        else:
            probe.fit(x[train], labels[train])
        hits[test] = probe.predict(x[test]) == labels[test]
    return hits


def ridge_probe(
    x: ArrayLike,
    y: ArrayLike,
    *,
    seed: int,
    folds: int = 5,
    groups: ArrayLike | None = None,
    shuffle: bool = True,
    alphas: tuple[float, ...] = tuple(np.logspace(-4, 4, 9)),
) -> tuple[np.ndarray, float]:
    """Out-of-fold predictions [I, Y] of a ridge regression from ``x`` [I, D] to ``y`` [I, Y], and their R2.

    Alpha by efficient leave-one-out within each training fold; R2 is the mean over targets of that over all
    out-of-fold predictions (:func:`r2_by_target`). A target that does not vary has none: it is left out with a warning
    that counts them, and where none varies R2 is NaN. ``shuffle=False`` takes contiguous blocks as folds: right for
    time series.
    """
    x, y = _items(x, y)
    y = y[:, None] if y.ndim == 1 else y
    prediction = np.zeros(y.shape)
    for train, test in _folds(x, y, folds, groups, seed, shuffle=shuffle):
        probe = make_pipeline(StandardScaler(), RidgeCV(alphas=alphas))
        prediction[test] = np.reshape(probe.fit(x[train], y[train]).predict(x[test]), (len(test), -1))
    scores = r2_by_target(prediction, y)
    left_out = int(np.isnan(scores).sum())
    if left_out:
        warnings.warn(
            f"{left_out} of {len(scores)} targets do not vary: they have no R2 and are left out", stacklevel=2
        )
    return prediction, float(np.nanmean(scores)) if left_out < len(scores) else float("nan")


def r2_by_target(prediction: ArrayLike, y: ArrayLike) -> np.ndarray:
    """R2 [Y] of predictions [I, Y] of targets ``y`` [I, Y]; NaN for a target that does not vary."""
    return r2(finite(prediction, "predictions"), finite(y, "targets"), axis=0)


def knn_accuracy(
    train_x: ArrayLike,
    train_labels: ArrayLike,
    test_x: ArrayLike,
    test_labels: ArrayLike,
    *,
    k: int = 5,
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> np.ndarray:
    """Hits [I] of a k-nearest-neighbour vote (each neighbour one vote). Say k and the distance beside its mean."""
    train_x, train_labels = _items(train_x, train_labels)
    test_x, test_labels = _items(test_x, test_labels)
    if k > len(train_x):
        raise ValueError(f"k-NN with k = {k} needs at least as many training items, got {len(train_x)}")
    vote = KNeighborsClassifier(k, metric=metric).fit(train_x, train_labels)
    return (vote.predict(test_x) == test_labels).astype(float)


class RegionProbe(NamedTuple):
    """``hits`` [K] of the units ``kept`` [K] (rows of the embeddings), and the accuracy ``majority`` of answering the
    commonest region among them: the level to beat."""

    hits: np.ndarray
    kept: np.ndarray
    majority: float


def region_probe(
    unit_embeddings: ArrayLike,
    regions: ArrayLike,
    *,
    seed: int,
    folds: int = 5,
    groups: ArrayLike | None = None,
) -> RegionProbe:
    """Which brain area does a unit lie in? Logistic regression from frozen embeddings [N, E] to ``regions`` [N] names.

    As NEDS does (Zhang et al. 2025, arXiv:2504.08201), in stratified folds. Left out: units of no known region (empty,
    unknown, root, void) and regions with fewer units than folds. Units of one session share more than their areas:
    with ``groups`` [N] (sessions, animals) whole groups are held out, which is the harder and the honest question.
    Raises ValueError when fewer than two regions are left.
    """
    x, regions = _items(unit_embeddings, np.asarray(regions).astype(str))
    names, sizes = np.unique(regions, return_counts=True)
    usable = [n for n, size in zip(names, sizes, strict=True) if size >= folds and n.lower() not in NO_REGION]
    if len(usable) < 2:
        raise ValueError(
            f"brain areas can be told apart from two areas of at least {folds} units on, there are {len(usable)}"
        )
    kept = np.flatnonzero(np.isin(regions, usable))
    part = None if groups is None else np.asarray(groups)[kept]
    hits = linear_probe(x[kept], regions[kept], seed=seed, folds=folds, groups=part)
    return RegionProbe(hits=hits, kept=kept, majority=majority_level(regions[kept]))


def project_2d(x: ArrayLike, method: Literal["tsne", "pca", "umap"] = "tsne", seed: int = 0) -> np.ndarray:
    """Map ``x`` [I, D] to [I, 2] for the eye: standardised, at most 50 principal components, then the method.

    t-SNE (van der Maaten & Hinton 2008) with perplexity 30, or a third of the items if that is less; ``umap`` needs the
    package umap-learn. Distances between far clusters mean nothing. Items that are all alike lie on one point.
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or len(x) < 4 or not np.isfinite(x).all():
        raise ValueError(f"a projection takes finite features [I, D] of at least 4 items, got shape {x.shape}")
    x = StandardScaler().fit_transform(x)
    if x.shape[1] < 2:
        x = np.pad(x, ((0, 0), (0, 1)))
    components = min(2 if method == "pca" else 50, *x.shape)
    if np.abs(x).max() < 1e-9:  # nothing varies, and t-SNE would recurse without end
        return np.zeros((len(x), 2))
    x = PCA(components, random_state=seed).fit_transform(x)
    if method == "pca":
        return x
    if method == "tsne":
        return TSNE(perplexity=min(30, (len(x) - 1) / 3), init="pca", random_state=seed, n_jobs=1).fit_transform(x)
    if method == "umap":
        from umap import UMAP

        return np.asarray(UMAP(random_state=seed, n_jobs=1).fit_transform(x))
    raise ValueError(f"unknown projection '{method}': choose tsne, pca or umap")


def _items(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = finite(x, "features"), np.asarray(y)
    if y.dtype.kind == "f":
        finite(y, "targets")
    if x.ndim != 2 or len(x) != len(y) or not len(x):
        raise ValueError(f"a probe takes features [I, D] and a target for each item, got {x.shape} and {y.shape}")
    return x, y


def _folds(x, y, folds, groups, seed, *, stratified: bool = False, shuffle: bool = True):
    """Train and test rows of each fold: grouped if there are groups, else stratified if asked and possible."""
    if len(x) < folds:
        raise ValueError(f"cross-validation in {folds} folds needs at least as many items, got {len(x)}")
    if groups is not None:
        return GroupKFold(folds).split(x, y, np.asarray(groups))
    if stratified and np.unique(y, return_counts=True)[1].min() >= folds:
        return StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y)
    return KFold(folds, shuffle=shuffle, random_state=seed if shuffle else None).split(x)
