"""Small pictures and a stack of real layers."""

import pytest
import torch
import torch.nn.functional as F

from neurobridge.vision.feature_stack import FeatureStack


@pytest.fixture(scope="module")
def stack():
    return FeatureStack(layers=["block2@2", "block4@2"], resolution=64)


@pytest.fixture(scope="module")
def pixels():
    coarse = torch.rand(90, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    images = F.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    return (images.permute(0, 2, 3, 1) * 255).to(torch.uint8).numpy()
