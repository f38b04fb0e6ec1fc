"""Small pictures, a stack of real layers, and an encoding fitted on responses that follow them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from neurobridge.bridge.encoding import LinearEncoding
from neurobridge.vision.encoders import to_tensor
from neurobridge.vision.feature_stack import FeatureStack

UNITS = 10


@pytest.fixture(scope="module")
def stack():
    return FeatureStack(layers=["block2@2", "block4@2"], resolution=64)


@pytest.fixture(scope="module")
def pixels():
    coarse = torch.rand(90, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    images = F.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    return (images.permute(0, 2, 3, 1) * 255).to(torch.uint8).numpy()


@pytest.fixture(scope="module")
def fitted(stack, pixels):
    """Responses [90, N] that follow the features, and the encoding fitted on the first 70."""
    layers = [layer.numpy() for layer in stack(to_tensor(pixels))]
    rng = np.random.default_rng(0)
    clean = sum((x - x.mean(0)) / (x.std(0) + 1e-6) @ rng.normal(size=(x.shape[1], UNITS)) for x in layers)
    clean /= clean.std(0)
    responses = 4 + clean + 0.3 * rng.normal(size=clean.shape) @ rng.normal(size=(UNITS, UNITS)) / np.sqrt(UNITS)
    responses = responses.clip(0)
    encoding = LinearEncoding(alphas=np.logspace(0, 4, 5), square_root=True).fit(
        [x[:70] for x in layers], responses[:70]
    )
    return encoding, responses, layers
