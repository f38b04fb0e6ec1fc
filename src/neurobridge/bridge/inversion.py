"""Pictures that have given features: decoded from spikes, or the true ones.

Deep image reconstruction (Shen et al. 2019) with a library as prior: the picture of it that has the features best lends
its details to a layout, and the result is changed by gradient until it has the features itself. Total variation after
Mahendran & Vedaldi 2015; jitter after Olah et al. 2017, without which a picture pleases one network alone.

Letters: B batch, I pictures, K feature layers, D width of a layer, L library, C latent channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import nn

from neurobridge.bridge.ascent import climb, latent_scale, total_variation
from neurobridge.bridge.features import DecodedFeatures
from neurobridge.vision.autoencoder import PatchPCA


class Inverter:
    """A library of pictures and what draws from features with it.

    ``library`` [L, 3, H, W] in [0, 1]; ``aims``: its features, K layers [L, D]; ``stack``: images -> K layers [B, D].
    Pictures are changed in a patch code of full rank, fitted to the library.
    """

    def __init__(self, library: torch.Tensor, aims: Sequence[np.ndarray], stack: nn.Module, *, patch: int = 8) -> None:
        self.library, self.aims, self.stack = library, aims, stack
        self.code = PatchPCA(patch=patch, channels=3 * patch**2).fit(library)
        self.scale = latent_scale(self.code, library[:: max(1, len(library) // 1000)])

    def start(self, decoded: DecodedFeatures, layout: torch.Tensor) -> torch.Tensor:
        """``layout`` [I, 3, H, W] with the details of the library picture that has best what was ``decoded``."""
        return blend(layout, self.library[decoded.nearest(self.aims)])

    def __call__(self, decoded: DecodedFeatures, layout: torch.Tensor, **options) -> torch.Tensor:
        """Pictures [I, 3, H, W] with the ``decoded`` features, from :meth:`start` on; options of :func:`invert`."""
        draws = {"stack": self.stack, "autoencoder": self.code, "scale": self.scale} | options
        return invert(self.start(decoded, layout), layout, decoded, **draws)


def invert(
    start: torch.Tensor,
    layout: torch.Tensor,
    decoded: DecodedFeatures,
    *,
    stack: nn.Module,
    autoencoder: nn.Module,
    scale: torch.Tensor,
    steps: int = 60,
    rate: float = 0.05,
    pull: float = 4.0,
    variation: float = 2.0,
    jitter: float = 0.06,
    noise: float = 0.02,
    seed: int = 0,
    batch_size: int = 10,
    progress: bool = True,
) -> torch.Tensor:
    """Pictures [I, 3, H, W] in [0, 1] with the ``decoded`` features, laid out as ``layout`` [I, 3, H, W] is.

    ``stack``: images -> K layers [B, D], those of ``decoded``. What is minimised, an image: minus the cosines of its
    features with the decoded ones (about the library's mean; summed over layers), minus ``pull`` times the correlation
    of its pixels with the layout, plus ``variation`` times its total variation. Every step looks at the picture shifted
    and zoomed by up to ``jitter`` of its side, with ``noise`` of the pixels' range; both are drawn by ``seed``.
    """

    def loss(images: torch.Tensor, rows: slice, step: int) -> torch.Tensor:
        seen = shaken(images, seed=seed * 1_000_003 + step, jitter=jitter, noise=noise)
        agreement = decoded.agreement(stack(seen), rows).sum(dim=0)
        alike = F.cosine_similarity(centred(images), centred(layout[rows]))
        return variation * total_variation(images) - agreement - pull * alike

    options = {"batch_size": batch_size, "progress": progress, "title": "features inverted"}
    return climb(start, loss, autoencoder=autoencoder, scale=scale, settle=True, steps=steps, rate=rate, **options)


def shaken(images: torch.Tensor, *, seed: int, jitter: float, noise: float) -> torch.Tensor:
    """``images`` [B, 3, H, W], all shifted and zoomed alike by up to ``jitter`` of their side, with the same noise."""
    draw = torch.Generator().manual_seed(seed)
    zoom, right, down = (jitter * (2 * torch.rand(3, generator=draw) - 1)).tolist()
    grain = noise * torch.randn(1, *images.shape[1:], generator=draw)
    frame = torch.tensor([[1 + zoom, 0.0, right], [0.0, 1 + zoom, down]], device=images.device)
    grid = F.affine_grid(frame.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved + grain.to(images.device)


def centred(images: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] -> rows [B, 3 H W] of mean zero."""
    rows = images.flatten(1)
    return rows - rows.mean(dim=1, keepdim=True)


def blend(
    coarse: torch.Tensor, fine: torch.Tensor, *, deviation: float = 0.054, gain: float = 1.5, share: float = 0.7
) -> torch.Tensor:
    """The layout of ``coarse`` with the details of ``fine``, both [I, 3, H, W] in [0, 1].

    Details are what a Gaussian of ``deviation`` (as a share of the side) takes away; a ``share`` of them is added to
    the smoothed layout, whose contrast is raised by ``gain``, for a posterior mean is pale.
    """

    def smooth(pictures: torch.Tensor) -> torch.Tensor:
        down, right = (deviation * side for side in pictures.shape[-2:])
        return torch.from_numpy(gaussian_filter(pictures.numpy(), (0, 0, down, right), mode="nearest"))

    layout = smooth(coarse)
    middle = layout.mean(dim=(1, 2, 3), keepdim=True)
    return (middle + gain * (layout - middle) + share * (fine - smooth(fine))).clamp(0, 1)
