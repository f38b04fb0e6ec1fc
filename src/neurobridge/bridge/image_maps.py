"""Image features of several layers on one grid, position by position: what the backbone reads of an image.

Letters: I images, K layers, C channels of all layers, G side of the grid, W components kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ImageMaps(nn.Module):
    """K layers of features -> [I, G * G, W]: channels standardised, enlarged or averaged to one grid, W components.

    Fitted on training images. Components keep the ratios of their variances; the first has a deviation of 3.
    """

    center: Tensor
    scale: Tensor
    basis: Tensor

    def __init__(self, *, grids: Sequence[int], channels: Sequence[int], side: int = 8, components: int = 128) -> None:
        super().__init__()
        self.options = {"grids": list(grids), "channels": list(channels), "side": side, "components": components}
        self.grids, self.channels, self.side = list(grids), list(channels), side
        total = sum(channels)
        self.register_buffer("center", torch.zeros(total))
        self.register_buffer("scale", torch.ones(total))
        self.register_buffer("basis", torch.zeros(total, components))

    @classmethod
    def fit(
        cls, layers: Sequence[np.ndarray], grids: Sequence[int], *, side: int = 8, components: int = 128
    ) -> ImageMaps:
        """layers: K arrays [I, C_k * g_k^2] of training images; grids: side g_k of each, 0 without positions."""
        channels = [layer.shape[1] // max(grid, 1) ** 2 for layer, grid in zip(layers, grids, strict=True)]
        maps = cls(grids=grids, channels=channels, side=side, components=min(components, sum(channels)))
        some = slice(None, None, max(1, len(layers[0]) // 2048))
        x = maps.common([layer[some] for layer in layers]).flatten(0, 1)
        maps.center, maps.scale = x.mean(0), x.std(0).clamp(min=1e-6)
        z = (x - maps.center) / maps.scale
        values, vectors = torch.linalg.eigh((z.T @ z / len(z)).double())
        kept = vectors.flip(1)[:, : maps.options["components"]]
        maps.basis = (3 * kept / values[-1].clamp(min=1e-12).sqrt()).float()
        return maps

    def common(self, layers: Sequence[np.ndarray | Tensor]) -> Tensor:
        """[I, G * G, C] on the common grid; differentiable if the layers are tensors."""
        parts = []
        for layer, grid in zip(layers, self.grids, strict=True):
            side = max(grid, 1)
            x = torch.as_tensor(layer).float().unflatten(1, (-1, side, side))
            if side > self.side:
                x = F.adaptive_avg_pool2d(x, self.side)
            elif side < self.side:
                x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False)
            parts.append(x.flatten(2).transpose(1, 2))
        return torch.cat(parts, dim=2)

    def forward(self, layers: Sequence[np.ndarray | Tensor]) -> Tensor:
        """K layers [I, C_k * g_k^2] -> [I, G * G, W]."""
        return ((self.common(layers) - self.center) / self.scale) @ self.basis

    def table(self, layers: Sequence[np.ndarray]) -> Tensor:
        """:meth:`forward` of all images, a part at a time, as float16 [I, G * G, W]."""
        return torch.cat(
            [self([layer[at : at + 512] for layer in layers]).half() for at in range(0, len(layers[0]), 512)]
        )
