"""Features in, agreement out: identification, retrieval, distances, diversity. One number per item.

Features that are NaN or infinite are a ValueError everywhere: no comparison with them is true, so they would count as
a miss or as a hit. Scotti et al. 2024 (MindEye2), arXiv:2403.11207.
Shapes: ``I`` items, ``G`` gallery, ``D`` features, ``S`` samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from neurobridge.evaluation.controls import chance_level
from neurobridge.evaluation.inputs import centred, divide, finite

TIE = 1e-12  # correlations nearer than this are equal: rounding must not decide a comparison


def correlation_matrix(recon_features: ArrayLike, true_features: ArrayLike) -> np.ndarray:
    """Pearson [I, I] between the features [I, ...] of every reconstruction and of every target; flat ones give 0."""
    a, b = _features(recon_features, true_features)
    return normalise(a) @ normalise(b).T


def two_way_matrix(correlation: np.ndarray) -> np.ndarray:
    """[I, I]: two-way identification of reconstruction i if j were its target; the diagonal is the score."""
    correlation = finite(correlation, "correlations")
    ordered = np.sort(correlation, axis=1)
    rows = zip(ordered, correlation - TIE, strict=True)
    return np.stack([np.searchsorted(row, right, side="left") for row, right in rows]) / (len(correlation) - 1)


def two_way_identification(recon_features: ArrayLike, true_features: ArrayLike) -> np.ndarray:
    """Two-way identification [I] from features [I, ...] of reconstructions and of their targets; chance 0.5.

    For each reconstruction the share of *other* targets whose features correlate (Pearson) strictly less with it than
    the right one's; ties lose, so a constant picture scores 0 under pixel features and a constant answer about 0.5.
    Raises ValueError for unequal shapes or fewer than two items.
    """
    a, b = _features(recon_features, true_features)
    if len(a) < 2:
        raise ValueError(f"two-way identification needs at least two items, got {len(a)}")
    return np.diagonal(two_way_matrix(normalise(a) @ normalise(b).T)).copy()


def correlation_distance(recon_features: ArrayLike, true_features: ArrayLike) -> np.ndarray:
    """1 - Pearson [I] between the features of each pair; lower is better (EfficientNet and SwAV distances)."""
    a, b = _features(recon_features, true_features)
    return 1 - (normalise(a) * normalise(b)).sum(1)


def cosine_similarity(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Cosine [I] between paired embeddings [I, D]; 0 where one is a zero vector. CLIP similarity is that of CLIP's."""
    a, b = _features(a, b)
    return (unit(a) * unit(b)).sum(1)


def sample_diversity(features: ArrayLike) -> np.ndarray:
    """Mean correlation distance [I] between the samples of an image, over pairs, from features [S, I, ...].

    0 where all samples of an image are one picture. Raises ValueError for fewer than two samples.
    """
    features = finite(features, "features")
    if features.ndim < 3 or len(features) < 2:
        raise ValueError(f"diversity takes features [S, I, ...] of at least two samples, got shape {features.shape}")
    z = np.stack([normalise(flatten(sample)) for sample in features])
    first, second = np.triu_indices(len(z), k=1)
    return np.mean([1 - (z[a] * z[b]).sum(1) for a, b in zip(first, second, strict=True)], axis=0)


def retrieval(
    embedding_pred: ArrayLike, embedding_true: ArrayLike, target_index: ArrayLike, k: tuple[int, ...] = (1, 5)
) -> dict[str, np.ndarray | float | int]:
    """Retrieval by cosine, both ways.

    ``embedding_pred`` [I, D] predictions, ``embedding_true`` [G, D] the gallery, ``target_index`` [I] the right gallery
    entry of each. Forward: is the right entry among the k nearest to the prediction? Backward: is the prediction among
    the k nearest to its entry, against the predictions of *other* entries (repeats of one image are not rivals)?
    Ties lose. Keys: ``rank`` [I] (0 = first) and ``top<k>`` [I] hits, ``backward_rank``, ``backward_top<k>``,
    ``gallery`` (int), ``backward_gallery`` (mean number of candidates), ``chance_top<k>``, ``backward_chance_top<k>``.
    Raises ValueError for shapes that do not match and numbers that are not finite.
    """
    pred, true = finite(embedding_pred, "predictions"), finite(embedding_true, "the gallery")
    index = np.asarray(target_index)
    if (
        pred.ndim != 2
        or true.ndim != 2
        or pred.shape[1] != true.shape[1]
        or index.shape != (len(pred),)
        or not len(pred)
    ):
        raise ValueError(
            f"retrieval takes [I, D], [G, D] and an index [I], got {pred.shape}, {true.shape} and {index.shape}"
        )
    if index.dtype.kind not in "iu" or index.min() < 0 or index.max() >= len(true):
        raise ValueError(f"target_index must hold integers from 0 to {len(true) - 1}, the rows of the gallery")
    similarity = unit(pred) @ unit(true).T
    right = similarity[np.arange(len(pred)), index]

    rivals = np.arange(len(true))[None] != index[:, None]
    rank = ((similarity >= right[:, None] - TIE) & rivals).sum(1)
    rivals_back = index[None] != index[:, None]  # [item, other prediction]
    backward = similarity[:, index].T
    rank_back = ((backward >= right[:, None] - TIE) & rivals_back).sum(1)
    candidates = 1 + rivals_back.sum(1)

    result: dict[str, np.ndarray | float | int] = {
        "rank": rank,
        "backward_rank": rank_back,
        "gallery": len(true),
        "backward_gallery": float(candidates.mean()),
    }
    for top in k:
        result[f"top{top}"] = (rank < top).astype(float)
        result[f"backward_top{top}"] = (rank_back < top).astype(float)
        result[f"chance_top{top}"] = chance_level(len(true), top)
        result[f"backward_chance_top{top}"] = float(np.mean([chance_level(int(n), top) for n in candidates]))
    return result


def retrieval_in_draws(
    embedding_pred: ArrayLike,
    embedding_true: ArrayLike,
    *,
    seed: int,
    gallery: int = 300,
    draws: int = 30,
    k: tuple[int, ...] = (1, 5),
) -> dict[str, np.ndarray | float | int]:
    """MindEye's protocol: retrieval both ways among ``gallery`` random items of the I paired ones, ``draws`` times.

    Keys: ``top<k>`` and ``backward_top<k>`` [draws], accuracies of the draws (their mean is the reported number; they
    share items, so their spread is no interval over images), ``gallery``, ``chance_top<k>``. Raises ValueError for
    unequal shapes or fewer than ``gallery`` items.
    """
    pred, true = _features(embedding_pred, embedding_true)
    if len(pred) < gallery:
        raise ValueError(f"a gallery of {gallery} needs as many items, got {len(pred)}: ask for a smaller gallery")
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {f"{way}top{top}": [] for way in ("", "backward_") for top in k}
    for _ in range(draws):
        rows = rng.choice(len(pred), gallery, replace=False)
        one = retrieval(pred[rows], true[rows], np.arange(gallery), k=k)
        for key, accuracies in found.items():
            accuracies.append(float(np.mean(one[key])))
    chance = {f"chance_top{top}": chance_level(gallery, top) for top in k}
    return {**{key: np.array(values) for key, values in found.items()}, "gallery": gallery, **chance}


def _features(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = flatten(a), flatten(b)
    if a.shape != b.shape:
        raise ValueError(f"paired features must have one shape, got {a.shape} and {b.shape}")
    return a, b


def flatten(x: ArrayLike) -> np.ndarray:
    """[I, ...] -> [I, D] float64, finite."""
    x = finite(x, "features")
    return x.reshape(len(x), -1)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of unit length, whatever their scale; rows of zeros stay zero."""
    x = divide(x, np.abs(x).max(1, keepdims=True, initial=0.0), empty=0.0)
    return divide(x, np.linalg.norm(x, axis=1, keepdims=True), empty=0.0)


def normalise(x: np.ndarray) -> np.ndarray:
    """Rows centred and of unit length, so that a product of rows is Pearson's r; flat rows become zero.

    Pictures pass through float32: what varies by less than its rounding is flat.
    """
    return unit(centred(x, axis=1, rounding=1e-7)[0])
