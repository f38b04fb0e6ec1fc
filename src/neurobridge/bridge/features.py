"""Image features of several layers that were decoded together; the library pictures that have them.

The features are a posterior mean under a library (:class:`~neurobridge.bridge.latent_posterior.LatentPosterior`): what
a reading leaves open is averaged over, so that they are pale where it says little.

Letters: I readings, L library images, K layers, D width of a layer, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter


class FeatureTarget:
    """K layers as one target of a regression: layers side by side, each of the same total variance in the library.

    ``library``: K layers [L, D].
    """

    def __init__(self, library: Sequence[np.ndarray]) -> None:
        layers = [np.asarray(layer, np.float32) for layer in library]
        self.centers = [layer.mean(axis=0) for layer in layers]
        self.spreads = [float(np.sqrt(layer.var(axis=0).sum())) or 1.0 for layer in layers]

    def joined(self, layers: Sequence[np.ndarray]) -> np.ndarray:
        """K layers [I, D] -> [I, sum of D] float32."""
        parts = zip(layers, self.centers, self.spreads, strict=True)
        return np.concatenate([(np.asarray(x, np.float32) - center) / spread for x, center, spread in parts], axis=1)

    def decoded(self, joined: np.ndarray) -> DecodedFeatures:
        """What was decoded of the target [I, sum of D], as features."""
        parts = np.split(joined, np.cumsum([len(center) for center in self.centers])[:-1], axis=1)
        return DecodedFeatures(
            directions=[torch.from_numpy(part * spread) for part, spread in zip(parts, self.spreads, strict=True)],
            centers=[torch.from_numpy(center) for center in self.centers],
        )


@dataclass(frozen=True, kw_only=True)
class DecodedFeatures:
    """``directions``: K arrays [I, D], decoded features minus their mean over the library; ``centers``: K means [D]."""

    directions: list[torch.Tensor]
    centers: list[torch.Tensor]

    def to(self, device: torch.device | str) -> DecodedFeatures:
        """The same on another device."""
        moved = ([x.to(device) for x in part] for part in (self.directions, self.centers))
        return DecodedFeatures(**dict(zip(("directions", "centers"), moved, strict=True)))

    def agreement(self, features: Sequence[torch.Tensor], rows: slice = slice(None)) -> torch.Tensor:
        """Cosines [K, B] of some pictures' ``features`` (K layers [B, D]) with what was decoded for these ``rows``."""
        parts = zip(features, self.centers, self.directions, strict=True)
        return torch.stack([F.cosine_similarity(x - center, aim[rows]) for x, center, aim in parts])

    def nearest(self, library: Sequence[np.ndarray]) -> np.ndarray:
        """[I]: which picture of the ``library`` (K layers [L, D]) agrees best, cosines summed over layers."""
        total = torch.zeros(len(self.directions[0]), len(library[0]))
        for layer, center, aim in zip(library, self.centers, self.directions, strict=True):
            total += F.normalize(aim) @ F.normalize(torch.from_numpy(np.asarray(layer, np.float32)) - center).T
        return total.argmax(dim=1).numpy()


def blend(
    coarse: np.ndarray, fine: np.ndarray, *, deviation: float = 0.054, gain: float = 1.5, share: float = 0.7
) -> np.ndarray:
    """The layout of ``coarse`` with the details of ``fine``, both [I, H, W, 3] in [0, 1].

    Details are what a Gaussian of ``deviation`` (as a share of the side) takes away; a ``share`` of them is added to
    the smoothed layout, whose contrast is raised by ``gain``, for a posterior mean is pale.
    """

    def smooth(pictures: np.ndarray) -> np.ndarray:
        down, right = (deviation * side for side in pictures.shape[1:3])
        return gaussian_filter(pictures, (0, down, right, 0), mode="nearest")

    layout = smooth(coarse)
    middle = layout.mean(axis=(1, 2, 3), keepdims=True)
    return (middle + gain * (layout - middle) + share * (fine - smooth(fine))).clip(0, 1).astype(np.float32)
