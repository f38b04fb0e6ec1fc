"""The posterior mean that an encoding model trains."""

import numpy as np
import torch

from neurobridge.bridge.posterior import AmortisedPosterior


def test_the_posterior_mean_is_closed_form_without_steps_and_gains_from_them():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(1500, 4))
    pictures = 0.5 + 0.1 * np.tanh(hidden @ rng.normal(size=(4, 48))).reshape(1500, 4, 4, 3)
    expected = np.hstack([hidden[:, :2], np.sin(hidden), hidden[:, 2:] ** 3]).astype(np.float32)
    covariance = 0.05 * np.eye(8)
    responses = expected + rng.normal(size=expected.shape) * np.sqrt(0.05)
    pictures = pictures.astype(np.float32)
    fit = {"expected": torch.from_numpy(expected[:1300]), "covariance": covariance, "progress": False}
    errors = []
    for steps in (0, 400):
        model = AmortisedPosterior(components=48, hidden=64, dropout=0.0).fit(
            targets=pictures[:1300], steps=steps, **fit
        )
        drawn = model.mean(responses[1300:])
        errors.append(float(((drawn - pictures[1300:]) ** 2).mean()))
        if not steps:
            x, y = expected[:1300] - expected[:1300].mean(0), pictures[:1300].reshape(1300, -1)
            total = x.T @ x / 1300 + covariance
            weights = np.linalg.solve(total, x.T @ (y - y.mean(0)) / 1300)
            want = y.mean(0) + (responses[1300:] - expected[:1300].mean(0)) @ weights
            np.testing.assert_allclose(drawn.reshape(200, -1), want, atol=2e-3)
    assert errors[1] < 0.9 * errors[0]
