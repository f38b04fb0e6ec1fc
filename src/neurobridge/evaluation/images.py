"""How near reconstructed pictures come to their targets, and embeddings to theirs: the MindEye2 recipe.

Scotti et al. 2024, arXiv:2403.11207. Every function returns one number per item, for intervals over items.
Shapes: ``I`` items, ``G`` gallery, ``D`` features, ``H`` x ``W`` pixels; pictures [I, H, W, 3] or [I, 3, H, W] floats
in [0, 1]. Resizing is bilinear with antialiasing (``torch.nn.functional.interpolate``, ``antialias=True``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity

from neurobridge.evaluation.controls import bootstrap_interval, chance_level

FLOORS = ("grey", "mean training image", "another test image", "nearest training image", "prior only")
ORACLE = "oracle"
TIE = 1e-12  # correlations nearer than this are equal: rounding must not decide a comparison


def channels_last(pictures: ArrayLike) -> np.ndarray:
    """Pictures [I, H, W, 3] float64 from either layout. Raises ValueError unless they are RGB floats in [0, 1]."""
    pictures = np.asarray(pictures)
    if pictures.ndim != 4 or (pictures.shape[-1] != 3 and pictures.shape[1] != 3):
        raise ValueError(f"pictures must be [I, H, W, 3] or [I, 3, H, W], got shape {pictures.shape}")
    if pictures.dtype.kind != "f":
        raise ValueError(f"pictures must be floats in [0, 1], got {pictures.dtype}: divide bytes by 255")
    pictures = pictures.astype(np.float64)
    if pictures.shape[-1] != 3:
        pictures = pictures.transpose(0, 2, 3, 1)
    if pictures.size and not (pictures.min() >= -1e-4 and pictures.max() <= 1 + 1e-4):
        raise ValueError(f"pictures must lie in [0, 1], found [{pictures.min():.3g}, {pictures.max():.3g}]")
    return pictures.clip(0, 1)


def resize(pictures: ArrayLike, size: int | None) -> np.ndarray:
    """Pictures [I, size, size, 3], bilinear with antialiasing; unchanged for None or the same size."""
    pictures = channels_last(pictures)
    if size is None or pictures.shape[1:3] == (size, size):
        return pictures
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    tensor = torch.nn.functional.interpolate(tensor, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return tensor.permute(0, 2, 3, 1).numpy().clip(0, 1)


def pixcorr(reconstructions: ArrayLike, targets: ArrayLike, size: int | None = None) -> np.ndarray:
    """PixCorr [I]: Pearson over the flattened RGB pixels of each pair, after :func:`resize` (MindEye2: 425).

    A flat picture correlates 0. Raises ValueError for unequal shapes.
    """
    a, b = _pair(reconstructions, targets)
    return np.concatenate(
        [
            (_normalise(_flatten(resize(a[i : i + 1], size))) * _normalise(_flatten(resize(b[i : i + 1], size)))).sum(1)
            for i in range(len(a))
        ]
    )


def ssim(reconstructions: ArrayLike, targets: ArrayLike, size: int | None = None) -> np.ndarray:
    """SSIM [I] on grey pictures, Gaussian window of sigma 1.5, population covariance, after :func:`resize`.

    MindEye2: size 425. It rewards flatness: read it beside the grey floor. Raises ValueError for unequal shapes, or a
    picture narrower than the window (11 pixels).
    """
    a, b = _pair(reconstructions, targets)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return np.array(
        [
            structural_similarity(
                rgb2gray(resize(a[i : i + 1], size)[0]), rgb2gray(resize(b[i : i + 1], size)[0]), **options
            )
            for i in range(len(a))
        ]
    )


def two_way_identification(recon_features: ArrayLike, true_features: ArrayLike) -> np.ndarray:
    """Two-way identification [I] from features [I, ...] of reconstructions and of their targets; chance 0.5.

    For each reconstruction the share of *other* targets whose features correlate (Pearson) strictly less with it than
    the right one's; ties lose, so a constant picture scores 0 under pixel features and a constant answer about 0.5.
    Raises ValueError for unequal shapes or fewer than two items.
    """
    a, b = _features(recon_features, true_features)
    if len(a) < 2:
        raise ValueError(f"two-way identification needs at least two items, got {len(a)}")
    correlation = _normalise(a) @ _normalise(b).T
    wins = correlation < np.diag(correlation)[:, None] - TIE
    return wins.sum(1) / (len(a) - 1)


def correlation_distance(recon_features: ArrayLike, true_features: ArrayLike) -> np.ndarray:
    """1 - Pearson [I] between the features of each pair; lower is better (EfficientNet and SwAV distances)."""
    a, b = _features(recon_features, true_features)
    return 1 - (_normalise(a) * _normalise(b)).sum(1)


def cosine_similarity(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Cosine [I] between paired embeddings [I, D]; 0 where one is a zero vector."""
    a, b = _features(a, b)
    return (_unit(a) * _unit(b)).sum(1)


def retrieval(
    embedding_pred: ArrayLike, embedding_true: ArrayLike, target_index: ArrayLike, k: tuple[int, ...] = (1, 5)
) -> dict[str, np.ndarray | float | int]:
    """Retrieval by cosine, both ways.

    ``embedding_pred`` [I, D] predictions, ``embedding_true`` [G, D] the gallery, ``target_index`` [I] the right gallery
    entry of each. Forward: is the right entry among the k nearest to the prediction? Backward: is the prediction among
    the k nearest to its entry, against the predictions of *other* entries (repeats of one image are not rivals)?
    Ties lose. Keys: ``rank`` [I] (0 = first) and ``top<k>`` [I] hits, ``backward_rank``, ``backward_top<k>``,
    ``gallery`` (int), ``backward_gallery`` (mean number of candidates), ``chance_top<k>``, ``backward_chance_top<k>``.
    Raises ValueError for shapes that do not match.
    """
    pred, true = (np.asarray(x, np.float64) for x in (embedding_pred, embedding_true))
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
    similarity = _unit(pred) @ _unit(true).T
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


@dataclass(frozen=True, kw_only=True)
class Score:
    """One row of a table of pictures: ``metric`` of the pictures called ``name`` over ``items`` images."""

    metric: str
    name: str
    mean: float
    low: float
    high: float
    items: int
    values: np.ndarray = field(repr=False, compare=False)


def score_pictures(
    pictures: Mapping[str, ArrayLike],
    targets: ArrayLike,
    *,
    feature_nets: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    seed: int,
    size: int | None = None,
    draws: int = 2000,
) -> list[Score]:
    """Score several sets of pictures (ours, floors, oracle) of the same ``targets``, one row per metric and name.

    ``pictures`` name -> pictures of the targets' shape; name the floors as in :data:`FLOORS` and the ceiling
    :data:`ORACLE`. ``feature_nets`` name -> function of pictures [I, H, W, 3]
    float32 giving features [I, ...]; say in the name which network it is, and where it was the decoding target.
    Metrics: PixCorr, SSIM (both at ``size``, stated in the name), two-way pixels, two-way <net>. Bootstrap intervals
    over images.
    """
    targets = channels_last(targets)
    suffix = f" at {size}" if size is not None else ""
    nets: dict[str, Callable[[np.ndarray], np.ndarray]] = {"pixels": _flatten, **feature_nets}
    true = {name: np.asarray(net(targets.astype(np.float32))) for name, net in nets.items()}
    rows = []
    for name, picture in pictures.items():
        picture, _ = _pair(picture, targets)
        values = {f"PixCorr{suffix}": pixcorr(picture, targets, size), f"SSIM{suffix}": ssim(picture, targets, size)}
        for net_name, net in nets.items():
            features = np.asarray(net(picture.astype(np.float32)))
            values[f"two-way {net_name}"] = two_way_identification(features, true[net_name])
        for metric, value in values.items():
            mean, low, high = bootstrap_interval(value, seed=seed, draws=draws)
            rows.append(Score(metric=metric, name=name, mean=mean, low=low, high=high, items=len(value), values=value))
    return rows


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = channels_last(a), channels_last(b)
    if a.shape != b.shape:
        raise ValueError(f"pictures and targets must have one shape, got {a.shape} and {b.shape}: resize them first")
    return a, b


def _features(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = _flatten(a), _flatten(b)
    if a.shape != b.shape:
        raise ValueError(f"paired features must have one shape, got {a.shape} and {b.shape}")
    return a, b


def _flatten(x: ArrayLike) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x.reshape(len(x), -1)


def _unit(x: np.ndarray, threshold: float = 1e-12) -> np.ndarray:
    """Rows of unit length; rows shorter than ``threshold`` become zero."""
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > threshold)


def _normalise(x: np.ndarray) -> np.ndarray:
    """Rows centred and of unit length, so that a product of rows is Pearson's r; flat rows become zero."""
    scale = np.abs(x).max(initial=0.0) * np.sqrt(x.shape[1])
    return _unit(x - x.mean(1, keepdims=True), threshold=1e-7 * scale)
