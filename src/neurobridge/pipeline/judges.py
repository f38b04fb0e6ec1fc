"""The networks that judge pictures, loaded: ours by name, the field's own where the user has torchvision.

Nothing is fetched or imported before a judge is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from neurobridge.errors import UserError
from neurobridge.evaluation.alexnet import load_alexnet, weight_file
from neurobridge.evaluation.images import Evaluator
from neurobridge.evaluation.networks import OFFLINE, JudgeNetwork
from neurobridge.vision.embedding_cache import chosen_device
from neurobridge.vision.encoders import ImageEncoder, embed_together
from neurobridge.vision.transformers_encoders import IMAGENET_MEAN, IMAGENET_STD

Answer = TypeVar("Answer")

SWAV = "facebookresearch/swav:main"
STAND_IN = {"efficientnet-lite1": "efficientnet-lite0"}  # where the judge was the decoding target


def offline_judges(decoding_target: str) -> tuple[JudgeNetwork, ...]:
    """The judges that need no network connection, none of them the one whose features were decoded."""
    return tuple(
        replace(judge, network=other, name=judge.name.replace(judge.network, other))
        if judge.network == decoding_target and (other := STAND_IN.get(judge.network))
        else judge
        for judge in OFFLINE
    )


def load_judges(judges: Iterable[JudgeNetwork], *, batch_size: int = 8, device: str = "auto") -> dict[str, Evaluator]:
    """Name -> evaluator. Raises UserError, naming the judge, where its network cannot be had."""
    place = chosen_device(device, torch.device("cpu"))
    judges = list(judges)
    networks = {judge.name: _network(judge).to(place) for judge in judges}
    alike: dict[tuple, list[str]] = {}
    for judge in judges:
        alike.setdefault((judge.source, judge.network, judge.size), []).append(judge.name)
    features = {}
    for (source, *_), names in alike.items():
        if source == "encoder":
            features |= dict(zip(names, _in_one_pass([networks[name] for name in names], batch_size), strict=True))
        else:
            features |= {name: _on_pictures(networks[name], batch_size) for name in names}
    return {
        judge.name: Evaluator(features=features[judge.name], network=judge.network, metrics=judge.metrics)
        for judge in judges
    }


class LayerOutput(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> what the submodule ``layer`` of a frozen network gives, flattened [B, D].

    Images are resized to a square of ``size`` pixels, bilinear with antialiasing, and normalised as for ImageNet.
    """

    def __init__(self, network: nn.Module, layer: str, *, size: int) -> None:
        super().__init__()
        self.network, self.layer, self.size = network.eval().requires_grad_(False), layer, size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        size = (self.size, self.size)
        if images.shape[-2:] != size:
            images = nn.functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))

        caught: list[torch.Tensor] = []
        module = self.network.get_submodule(self.layer)
        hook = module.register_forward_hook(
            lambda _, __, output: caught.append(output.clone())
        )  # before in-place steps
        try:
            self.network((images - mean) / std)
        finally:
            hook.remove()
        return caught[0].flatten(1)


def _network(judge: JudgeNetwork) -> nn.Module:
    if judge.source == "encoder":
        return ImageEncoder(judge.network, layer=judge.layer, resolution=judge.size)
    if judge.source == "stlpips":
        if (weights := weight_file()) is None:
            raise UserError(
                f"the judge {judge.name} has the weights of stlpips-pytorch, which is not installed: pip install "
                "'neurobridge[bench]', or leave this judge out"
            )
        return LayerOutput(load_alexnet(weights, judge.layer), judge.layer, size=judge.size)
    try:
        models = import_module("torchvision.models")
    except ImportError as error:
        raise UserError(
            f"the judge {judge.name} is torchvision's {judge.network}, and torchvision is not installed: install the "
            "release that fits your torch, or leave this judge out"
        ) from error
    try:
        if judge.source == "swav":
            network = torch.hub.load(SWAV, judge.network)
        else:
            network = models.get_model(judge.network, weights=judge.weights)
    except Exception as error:  # torch.hub and its servers raise whatever they like
        raise UserError(
            f"the weights of the judge {judge.name} ({judge.network}) could not be fetched: run this once where there "
            "is a network, or leave this judge out"
        ) from error
    return LayerOutput(network, judge.layer, size=judge.size)


def _in_one_pass(encoders: Sequence[nn.Module], batch_size: int) -> list[Callable[[np.ndarray], np.ndarray]]:
    """:func:`_on_pictures` of layers of one network: what one of them is asked, all of them have answered."""

    @remembering
    @torch.inference_mode()
    def ask(pictures: np.ndarray) -> list[np.ndarray]:
        place = next(encoders[0].parameters()).device
        batches = torch.from_numpy(pictures).permute(0, 3, 1, 2).split(batch_size)
        found = [embed_together(encoders, batch.to(place)) for batch in batches]
        return [torch.cat(layer).cpu().numpy() for layer in zip(*found, strict=True)]

    return [lambda pictures, which=which: ask(pictures)[which] for which in range(len(encoders))]


def remembering(features: Callable[[np.ndarray], Answer]) -> Callable[[np.ndarray], Answer]:
    """The same function, that answers a second time from memory."""
    known: dict[str, Answer] = {}

    def answer(pictures: np.ndarray) -> Answer:
        pictures = np.ascontiguousarray(pictures, np.float32)
        key = hashlib.sha1(pictures.data).hexdigest()
        if key not in known:
            known[key] = features(pictures)
        return known[key]

    return answer


def _on_pictures(network: nn.Module, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Pictures [I, H, W, 3] in [0, 1] -> features [I, D], in batches, on the network's device; asked once each."""
    place = next(network.parameters()).device

    @remembering
    @torch.inference_mode()
    def features(pictures: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().split(batch_size)
        return torch.cat([network(batch.to(place)).cpu() for batch in batches]).numpy()

    return features
