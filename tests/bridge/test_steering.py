"""The likelihood as a function of the picture, and a sampler that it leads."""

import numpy as np
import torch

from neurobridge.bridge.encoding import LinearEncoding
from neurobridge.bridge.steering import ResponseLikelihood, Steering, explanation
from neurobridge.bridge.windowed_encoding import WindowedEncoding
from neurobridge.vision.autoencoder import PatchPCA
from neurobridge.vision.encoders import to_tensor
from neurobridge.vision.generator import Generator


def test_the_torch_likelihood_is_numpys(stack, pixels, fitted):
    encoding, responses, layers = fitted
    likelihood = ResponseLikelihood(encoding, stack)
    observed = torch.from_numpy(responses).float()
    table = encoding.log_likelihood(responses, layers)
    own = likelihood(to_tensor(pixels[:20]), observed[:20])
    np.testing.assert_allclose(own, np.diagonal(table)[:20], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(likelihood.expected(to_tensor(pixels)), encoding.predict(layers), atol=1e-4)


def test_a_windowed_encoding_has_the_same_likelihood(stack, pixels, fitted):
    _, responses, layers = fitted
    encoding = WindowedEncoding(grids=stack.grids, penalties=np.logspace(-2, 2, 5))
    encoding.fit([x[:70] for x in layers], responses[:70])
    likelihood = ResponseLikelihood(encoding, stack, repeats=1.0)
    own = likelihood(to_tensor(pixels[:20]), torch.from_numpy(responses[:20]).float())
    np.testing.assert_allclose(own, np.diagonal(encoding.log_likelihood(responses, layers))[:20], rtol=1e-3, atol=1e-3)


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
