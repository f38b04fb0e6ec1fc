"""Which networks judge pictures, at which layer and input size: the field's recipe, and ours that runs offline.

A declaration, nothing is loaded here. Figures are comparable with published ones under :data:`MINDEYE2` alone: layers,
sizes and weights are those of its released evaluation, only CLIP's input is resized as CLIP's own processor does. Those
under :data:`OFFLINE` may be compared with each other, with their floors and with the oracle; so may those under
:data:`ALEXNET`, which come from another family than the networks whose features we decode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Metric = Literal["two-way", "distance", "cosine"]


@dataclass(frozen=True, kw_only=True)
class JudgeNetwork:
    """One network at one layer.

    ``name``: as tables call it. ``source``: where the weights come from: "torchvision" (ImageNet), "swav"
    (torch.hub, facebookresearch/swav), "stlpips" (stlpips-pytorch), or "encoder" (an image encoder of ours, CLIP among
    them). ``size``: side of the
    input. ``weights``: name of the weights there. ``metrics``: what is computed.
    """

    name: str
    network: str
    layer: str
    size: int
    source: Literal["torchvision", "swav", "stlpips", "encoder"]
    metrics: tuple[Metric, ...]
    weights: str = ""
    about: str


MINDEYE2 = (
    JudgeNetwork(
        name="AlexNet(2)",
        network="alexnet",
        layer="features.4",
        size=256,
        source="torchvision",
        weights="IMAGENET1K_V1",
        metrics=("two-way",),
        about="second convolution, rectified: edges, colours, layout",
    ),
    JudgeNetwork(
        name="AlexNet(5)",
        network="alexnet",
        layer="features.11",
        size=256,
        source="torchvision",
        weights="IMAGENET1K_V1",
        metrics=("two-way",),
        about="fifth convolution, rectified: textures and parts",
    ),
    JudgeNetwork(
        name="Inception",
        network="inception_v3",
        layer="avgpool",
        size=342,
        source="torchvision",
        weights="IMAGENET1K_V1",
        metrics=("two-way",),
        about="pooled last layer of Inception-v3: the object",
    ),
    JudgeNetwork(
        name="CLIP",
        network="openai/clip-vit-large-patch14",
        layer="projected",
        size=224,
        source="encoder",
        metrics=("two-way", "cosine"),
        about="image embedding of CLIP ViT-L/14: the meaning; its cosine is the CLIP similarity",
    ),
    JudgeNetwork(
        name="EffNet-B",
        network="efficientnet_b1",
        layer="avgpool",
        size=255,
        source="torchvision",
        weights="IMAGENET1K_V2",
        metrics=("distance",),
        about="pooled last layer of EfficientNet-B1, correlation distance, lower is better",
    ),
    JudgeNetwork(
        name="SwAV",
        network="resnet50",
        layer="avgpool",
        size=224,
        source="swav",
        metrics=("distance",),
        about="pooled last layer of the SwAV ResNet-50, correlation distance, lower is better",
    ),
)

OFFLINE = (
    JudgeNetwork(
        name="efficientnet-lite1 block4",
        network="efficientnet-lite1",
        layer="block4",
        size=128,
        source="encoder",
        metrics=("two-way",),
        about="an early block on a 4 x 4 grid: layout, colour, texture, as AlexNet(2)",
    ),
    JudgeNetwork(
        name="efficientnet-lite1 block10",
        network="efficientnet-lite1",
        layer="block10",
        size=128,
        source="encoder",
        metrics=("two-way",),
        about="a middle block on a 4 x 4 grid: parts, as AlexNet(5)",
    ),
    JudgeNetwork(
        name="efficientnet-lite1 pooled",
        network="efficientnet-lite1",
        layer="pooled",
        size=240,
        source="encoder",
        metrics=("two-way", "distance"),
        about="the pooled last layer: the object, as Inception and EffNet-B",
    ),
)

ALEXNET = (
    JudgeNetwork(
        name="AlexNet-ST(2)",
        network="alexnet, shift-tolerant",
        layer="features.6",
        size=128,
        source="stlpips",
        metrics=("two-way",),
        about="second convolution, rectified, as AlexNet(2): edges, colours, layout",
    ),
    JudgeNetwork(
        name="AlexNet-ST(5)",
        network="alexnet, shift-tolerant",
        layer="features.14",
        size=128,
        source="stlpips",
        metrics=("two-way",),
        about="fifth convolution, rectified, as AlexNet(5): textures and parts",
    ),
)
