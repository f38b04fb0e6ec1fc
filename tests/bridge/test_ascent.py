"""Pictures by gradient: those that explain a response."""

import numpy as np
import torch

from neurobridge.bridge.ascent import ascend, total_variation
from neurobridge.bridge.steering import ResponseLikelihood, explanation
from neurobridge.vision.autoencoder import PatchPCA
from neurobridge.vision.encoders import to_tensor


def test_ascent_raises_the_likelihood_and_stays_a_picture(stack, pixels, fitted):
    encoding, responses, _ = fitted
    likelihood = ResponseLikelihood(encoding, stack)
    coder = PatchPCA(patch=8, channels=24).fit(to_tensor(pixels[:70]))
    start = to_tensor(pixels[:70]).mean(0, keepdim=True).expand(6, -1, -1, -1)
    observed = torch.from_numpy(responses[70:76]).float()
    options = {"likelihood": likelihood, "autoencoder": coder, "steps": 15, "variation": 1.0, "progress": False}
    drawn = ascend(start, observed, batch_size=4, **options)
    assert drawn.shape == start.shape
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert (likelihood(drawn, observed) > likelihood(start, observed) + 1).all()

    np.testing.assert_allclose(
        explanation(likelihood, drawn, observed, batch_size=4), likelihood(drawn, observed), rtol=1e-4
    )

    alone = ascend(start[2:3], observed[2:3], **options)
    torch.testing.assert_close(alone, drawn[2:3], atol=1e-3, rtol=0)
    held = ascend(start, observed, pull=30.0, **options)
    assert (held - start).square().mean() < (drawn - start).square().mean()
    smooth = ascend(start, observed, **{**options, "variation": 100.0})
    assert (total_variation(smooth) < total_variation(drawn)).all()
