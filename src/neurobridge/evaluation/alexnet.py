"""AlexNet, the field's judge of pictures, without torchvision: its convolutions with the weights of stlpips-pytorch.

These are the weights of the shift-tolerant AlexNet (Ghildyal & Liu 2022, arXiv:2207.13686), trained on ImageNet: the
five convolutions of Krizhevsky et al. 2012, where a binomial blur takes every second pixel in the place of strides
(Zhang 2019, arXiv:1904.11486). So its figures are near those of torchvision's AlexNet, and not the same.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGE, WEIGHTS = "stlpips_pytorch", "weights/vST0.0/alex_shift_tolerant.pth"


class Blur(nn.Module):
    """Every second pixel of images [B, C, H, W] after a 3 x 3 binomial blur, mirrored at the edges."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.filt: Tensor
        self.register_buffer("filt", torch.zeros(channels, 1, 3, 3))

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=len(self.filt))


class AlexNet(nn.Module):
    """Normalised images [B, 3, H, W] -> the fifth convolution, rectified [B, 256, h, w].

    ``features.6`` and ``features.14`` are what ``features.4`` and ``features.11`` are in torchvision's AlexNet: the
    second and the fifth convolution after their rectifiers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, padding=2), Blur(64), nn.ReLU(),
            nn.MaxPool2d(3, stride=1), Blur(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(),
            nn.MaxPool2d(3, stride=1), Blur(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images)


def weight_file() -> Path | None:
    """Where the weights lie, None where the package is not installed. Nothing of the package is imported."""
    found = find_spec(PACKAGE)
    return None if found is None or found.origin is None else Path(found.origin).parent / WEIGHTS


def load_alexnet(path: Path, layer: str = "features.14") -> AlexNet:
    """AlexNet with the weights of ``path``, frozen, up to ``layer``."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    layers = {re.sub(r"net\.slice\d", "features", name): value for name, value in stored.items() if "slice" in name}
    network = AlexNet()
    network.load_state_dict(layers)
    network.features = network.features[: int(layer.removeprefix("features.")) + 1]
    return network.eval().requires_grad_(False)
