"""How near reconstructed pictures come to their targets: pixels, and the table of scores of the MindEye2 recipe.

Scotti et al. 2024, arXiv:2403.11207. Every function returns one number per item, for intervals over items.
Shapes: ``I`` items, ``D`` features, ``H`` x ``W`` pixels; pictures [I, H, W, 3] or [I, 3, H, W] floats in [0, 1].
Resizing is bilinear with antialiasing (``torch.nn.functional.interpolate``, ``antialias=True``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity

from neurobridge.evaluation.controls import bootstrap_interval, pairing_p_value
from neurobridge.evaluation.similarity import (
    correlation_distance,
    correlation_matrix,
    cosine_similarity,
    flatten,
    normalise,
    retrieval,
    retrieval_in_draws,
    sample_diversity,
    two_way_identification,
    two_way_matrix,
    unit,
)

__all__ = [
    "FLOORS",
    "ORACLE",
    "Evaluator",
    "Score",
    "channels_last",
    "correlation_distance",
    "cosine_similarity",
    "pixcorr",
    "resize",
    "retrieval",
    "retrieval_in_draws",
    "sample_diversity",
    "score_pictures",
    "ssim",
    "two_way_identification",
]

FLOORS = ("grey", "mean training image", "another test image", "nearest training image", "prior only")
ORACLE = "oracle"
TARGET = " (decoding target)"


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
            (normalise(flatten(resize(a[i : i + 1], size))) * normalise(flatten(resize(b[i : i + 1], size)))).sum(1)
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


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """A network that judges pictures.

    ``features``: pictures [I, H, W, 3] float32 -> features [I, ...]. ``network``: its full name, to be compared with
    that of the decoding target. ``metrics``: what to compute of its features.
    """

    features: Callable[[np.ndarray], np.ndarray]
    network: str
    metrics: tuple[Literal["two-way", "distance", "cosine"], ...] = ("two-way",)


@dataclass(frozen=True, kw_only=True)
class Score:
    """One row of a table of pictures: ``metric`` of the pictures called ``name`` over ``items`` images.

    ``network`` is the evaluator ("" for pixels) and ``decoding_target`` true where its features were what was decoded:
    such a score is biased, and ``metric`` says so too. ``p``: one-sided, against permuted images; None where it costs
    too much (SSIM).
    """

    metric: str
    name: str
    mean: float
    low: float
    high: float
    items: int
    network: str = ""
    decoding_target: bool = False
    p: float | None = None
    values: np.ndarray = field(repr=False, compare=False)


def score_pictures(
    pictures: Mapping[str, ArrayLike],
    targets: ArrayLike,
    *,
    feature_nets: Mapping[str, Callable[[np.ndarray], np.ndarray] | Evaluator],
    seed: int,
    decoding_target: str | None = None,
    size: int | None = None,
    draws: int = 2000,
    permutations: int = 1000,
) -> list[Score]:
    """Score several sets of pictures (ours, floors, oracle) of the same ``targets``, one row per metric and name.

    ``pictures`` name -> pictures of the targets' shape; name the floors as in :data:`FLOORS` and the ceiling
    :data:`ORACLE`. ``feature_nets`` name -> :class:`Evaluator`, or a bare function for two-way identification by the
    network of that name. ``decoding_target``: network whose features were decoded; its rows are marked.
    Metrics: PixCorr, SSIM (both at ``size``, stated in the name), two-way pixels, and two-way <net>, distance <net>
    (correlation distance, lower is better) and cosine <net>. Bootstrap intervals over images; p-values by permuting
    images, those of PixCorr at the pictures' own size.
    """
    targets = channels_last(targets)
    suffix = "" if size is None else f" at {size}"
    nets = {
        name: net if isinstance(net, Evaluator) else Evaluator(features=net, network=name)
        for name, net in feature_nets.items()
    }
    true = {"pixels": targets} | {n: np.asarray(net.features(targets.astype(np.float32))) for n, net in nets.items()}
    rows = []
    for name, picture in pictures.items():
        picture, _ = _pair(picture, targets)

        def row(metric: str, values: np.ndarray, pairs: np.ndarray | None, network: str = "", who: str = name) -> Score:
            mean, low, high = bootstrap_interval(values, seed=seed, draws=draws, share=False)
            marked = network != "" and network == decoding_target
            return Score(
                metric=metric + TARGET * marked,
                name=who,
                mean=mean,
                low=low,
                high=high,
                items=len(values),
                network=network,
                decoding_target=marked,
                p=None if pairs is None else pairing_p_value(pairs, seed=seed, draws=permutations),
                values=values,
            )

        correlation = correlation_matrix(picture, targets)
        rows.append(row(f"PixCorr{suffix}", pixcorr(picture, targets, size), correlation))
        rows.append(row(f"SSIM{suffix}", ssim(picture, targets, size), None))
        pairs = two_way_matrix(correlation)
        rows.append(row("two-way pixels", np.diagonal(pairs).copy(), pairs))
        for net_name, net in nets.items():
            features = np.asarray(net.features(picture.astype(np.float32)))
            for metric, values, pairs in _of_network(net, features, true[net_name]):
                rows.append(row(f"{metric} {net_name}", values, pairs, net.network))
    return rows


def _of_network(net: Evaluator, recon: np.ndarray, true: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Metric, its values [I], and its matrix [I, I] of every pairing, higher for better."""
    correlation = correlation_matrix(recon, true)
    for metric in net.metrics:
        if metric == "two-way":
            pairs = two_way_matrix(correlation)
        elif metric == "distance":
            pairs = correlation - 1
        else:
            pairs = unit(flatten(recon)) @ unit(flatten(true)).T
        values = np.diagonal(pairs)
        yield metric, -values if metric == "distance" else values.copy(), pairs


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = channels_last(a), channels_last(b)
    if a.shape != b.shape:
        raise ValueError(f"pictures and targets must have one shape, got {a.shape} and {b.shape}: resize them first")
    return a, b
