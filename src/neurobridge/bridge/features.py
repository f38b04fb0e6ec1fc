"""Image features of several layers, decoded from responses; the library pictures that have them.

The features are the posterior mean under a library (:class:`AmortisedPosterior`): what an encoding model and its noise
leave open is averaged over, so that they are pale where the response says little. All layers are decoded together.

Letters: I responses, L library images, N units, K layers, D width of a layer, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from neurobridge.bridge.posterior import AmortisedPosterior


@dataclass(frozen=True, kw_only=True)
class DecodedFeatures:
    """``directions``: K arrays [I, D], decoded features minus their mean over the library; ``centers``: K means [D]."""

    directions: list[torch.Tensor]
    centers: list[torch.Tensor]

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


def decode_features(
    responses: np.ndarray,
    *,
    expected: np.ndarray,
    covariance: np.ndarray,
    library: Sequence[np.ndarray],
    components: int = 400,
    steps: int = 3000,
    seed: int = 0,
    progress: bool = True,
) -> DecodedFeatures:
    """Decode ``responses`` [I, N], as the encoding model compares them, into K layers at once.

    ``expected`` [L, N] and ``covariance`` [N, N]: the encoding model's responses to the library, and its noise;
    ``library``: K layers [L, D] of its pictures. Every layer counts with the same total variance.
    """
    layers = [np.asarray(layer, np.float32) for layer in library]
    centers = [layer.mean(axis=0) for layer in layers]
    spreads = [float(np.sqrt(layer.var(axis=0).sum())) or 1.0 for layer in layers]
    parts = zip(layers, centers, spreads, strict=True)
    targets = np.concatenate([(layer - center) / spread for layer, center, spread in parts], axis=1)
    posterior = AmortisedPosterior(components=components).fit(
        torch.from_numpy(np.asarray(expected, np.float32)),
        covariance,
        targets,
        steps=steps,
        seed=seed,
        progress=progress,
    )
    decoded = np.split(posterior.mean(responses), np.cumsum([layer.shape[1] for layer in layers])[:-1], axis=1)
    return DecodedFeatures(
        directions=[torch.from_numpy(d * spread) for d, spread in zip(decoded, spreads, strict=True)],
        centers=[torch.from_numpy(center) for center in centers],
    )


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
