"""The likelihood as a function of the picture, the climb up its gradient, and the posterior mean it trains."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from neurobridge.bridge.encoding import LinearEncoding
from neurobridge.bridge.posterior import AmortisedPosterior
from neurobridge.bridge.steering import EncoderStack, ResponseLikelihood, Steering, ascend, explanation, total_variation
from neurobridge.vision.autoencoder import PatchPCA
from neurobridge.vision.encoders import ImageEncoder, to_tensor
from neurobridge.vision.generator import Generator

UNITS = 10


@pytest.fixture(scope="module")
def stack():
    return EncoderStack([ImageEncoder(layer=layer, grid=2, resolution=64) for layer in ("block2", "block4")])


@pytest.fixture(scope="module")
def pixels():
    coarse = torch.rand(90, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    images = F.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    return (images.permute(0, 2, 3, 1) * 255).to(torch.uint8).numpy()


@pytest.fixture(scope="module")
def fitted(stack, pixels):
    """Responses [90, N] that follow the features, and the encoding fitted on the first 70."""
    layers = stack.features(pixels)
    rng = np.random.default_rng(0)
    clean = sum((x - x.mean(0)) / (x.std(0) + 1e-6) @ rng.normal(size=(x.shape[1], UNITS)) for x in layers)
    clean /= clean.std(0)
    responses = 4 + clean + 0.3 * rng.normal(size=clean.shape) @ rng.normal(size=(UNITS, UNITS)) / np.sqrt(UNITS)
    responses = responses.clip(0)
    encoding = LinearEncoding(alphas=np.logspace(0, 4, 5), square_root=True).fit(
        [x[:70] for x in layers], responses[:70]
    )
    return encoding, responses, layers


def test_a_stack_is_its_encoders(stack, pixels):
    images = to_tensor(pixels[:4])
    layers = stack(images)
    assert stack.layers == len(layers) == 3
    torch.testing.assert_close(layers[0], F.adaptive_avg_pool2d(images, 8).flatten(1))
    for encoder, layer in zip(stack.encoders, layers[1:], strict=True):
        torch.testing.assert_close(layer, encoder(images))


def test_the_torch_likelihood_is_numpys(stack, pixels, fitted):
    encoding, responses, layers = fitted
    likelihood = ResponseLikelihood(encoding, stack)
    observed = torch.from_numpy(responses).float()
    table = encoding.log_likelihood(responses, layers)
    own = likelihood(to_tensor(pixels[:20]), observed[:20])
    np.testing.assert_allclose(own, np.diagonal(table)[:20], rtol=1e-4, atol=1e-4)
    expected = likelihood.expected_of(pixels, progress=False)
    np.testing.assert_allclose(expected, encoding.predict(layers), atol=1e-4)
    np.testing.assert_allclose(likelihood.between(observed, expected), table, rtol=1e-4, atol=1e-4)


def test_one_encoder_without_a_stack(pixels, stack):
    encoder = stack.encoders[0]
    with torch.no_grad():
        features = encoder(to_tensor(pixels)).numpy()
    responses = features[:, :6] + np.random.default_rng(0).normal(size=(90, 6))
    encoding = LinearEncoding().fit(features, responses)
    likelihood = ResponseLikelihood(encoding, encoder)
    own = likelihood(to_tensor(pixels[:9]), torch.from_numpy(responses[:9]).float())
    want = np.diagonal(encoding.log_likelihood(responses[:9], features[:9]))
    np.testing.assert_allclose(own, want, rtol=1e-4, atol=1e-4)


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


def test_energy_guidance_steers_and_does_nothing_at_weight_zero(stack, pixels, fitted):
    encoding, responses, _ = fitted
    likelihood = ResponseLikelihood(encoding, stack)
    images = to_tensor(pixels[:70])
    torch.manual_seed(0)
    generator = Generator(
        autoencoder=PatchPCA(patch=8, channels=24).fit(images),
        image_size=32,
        grid=2,
        condition_width=8,
        channels=(16, 16),
        heads=2,
    )
    generator.fit_latents(images)
    generator.freeze()
    observed = torch.from_numpy(responses[70:74]).float()
    null = torch.zeros(4, 8)

    def draw(weight=None, **options):
        if weight is not None:
            steering = Steering(likelihood=likelihood, responses=observed, weight=weight, **options)
            options = steering.of(slice(0, 4))
        return generator.sample(null.expand(4, -1, -1), null, seeds=[0, 1, 2, 3], steps=8, guidance=1.0, **options)

    plain = draw()
    assert torch.equal(draw(weight=0.0), plain)
    steered = draw(weight=0.3)
    assert 0 <= steered.min() <= steered.max() <= 1
    assert explanation(likelihood, steered, observed).mean() > explanation(likelihood, plain, observed).mean() + 1

    moved = Steering(likelihood=likelihood, responses=observed, weight=0.3).to(torch.device("cpu"))
    assert moved.likelihood is not likelihood
    options = moved.of(slice(2, 4))
    torch.testing.assert_close(options["energy"](plain[3:], slice(1, 2)), -likelihood(plain[3:], observed[3:]))

    start = generator.decode(generator.encode(images[:4]))
    near = draw(weight=0.3, start=start, strength=0.2)
    assert (near - start).abs().mean() < (steered - start).abs().mean()


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
