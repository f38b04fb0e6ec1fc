"""Pictures by gradient, which have the features decoded from a response."""

import numpy as np
import torch
import torch.nn.functional as F

from neurobridge.bridge.features import DecodedFeatures, FeatureTarget, blend
from neurobridge.bridge.inversion import invert, latent_scale, shaken
from neurobridge.bridge.latent_posterior import LatentPosterior
from neurobridge.vision.autoencoder import PatchPCA
from neurobridge.vision.encoders import to_tensor


def decoded_of(stack, pixels, rows):
    """Features as if they had been decoded without error."""
    layers = stack(to_tensor(pixels))
    centers = [layer.mean(0) for layer in layers]
    return DecodedFeatures(directions=[x[rows] - c for x, c in zip(layers, centers, strict=True)], centers=centers)


def test_inversion_gives_a_picture_the_decoded_features(stack, pixels):
    decoded = decoded_of(stack, pixels, slice(70, 76))
    library = to_tensor(pixels[:70])
    coder = PatchPCA(patch=8, channels=192).fit(library)
    start = library[:6]
    options = {
        "stack": stack,
        "autoencoder": coder,
        "scale": latent_scale(coder, library),
        "steps": 15,
        "progress": False,
    }
    drawn = invert(start, start, decoded, batch_size=4, **options)
    assert drawn.shape == start.shape
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert (decoded.agreement(stack(drawn)).sum(0) > decoded.agreement(stack(start)).sum(0) + 0.2).all()

    one = DecodedFeatures(directions=[x[2:3] for x in decoded.directions], centers=decoded.centers)
    torch.testing.assert_close(invert(start[2:3], start[2:3], one, **options), drawn[2:3], atol=2e-3, rtol=0)
    torch.testing.assert_close(invert(start, start, decoded, batch_size=4, **options), drawn)
    held = invert(start, start, decoded, pull=100.0, **options)
    assert (held - start).square().mean() < (drawn - start).square().mean()


def test_shaken_pictures_are_the_same_at_zero_and_depend_on_the_seed(pixels):
    images = to_tensor(pixels[:3])
    torch.testing.assert_close(shaken(images, seed=0, jitter=0.0, noise=0.0), images, atol=1e-5, rtol=0)
    once, again, other = (shaken(images, seed=seed, jitter=0.1, noise=0.02) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert (once - other).abs().mean() > 0.01


def test_the_library_picture_with_the_decoded_features_is_found(stack, pixels):
    layers = [x.numpy() for x in stack(to_tensor(pixels))]
    rng = np.random.default_rng(0)
    expected = np.concatenate(layers, axis=1) @ rng.normal(size=(sum(x.shape[1] for x in layers), 40))
    expected = ((expected - expected.mean(0)) / expected.std(0)).astype(np.float32)

    def dream(rows, generator):
        return torch.from_numpy(expected)[rows] + 0.01 * torch.randn(len(rows), 40, generator=generator)

    target = FeatureTarget(layers)
    joined = target.joined(layers)
    np.testing.assert_allclose(joined[:, : layers[0].shape[1]].var(0).sum(), 1.0, rtol=1e-3)
    posterior = LatentPosterior(components=[80]).fit(dream, [joined], dreams=900, steps=0, progress=False)
    decoded = target.decoded(posterior.mean(expected[:9])[0])
    assert [x.shape for x in decoded.directions] == [(9, x.shape[1]) for x in layers]
    assert (decoded.nearest(layers) == np.arange(9)).mean() > 0.8
    exact = decoded_of(stack, pixels, slice(4, 13))
    np.testing.assert_array_equal(exact.nearest(layers), np.arange(4, 13))
    for ours, true in zip(target.decoded(joined[4:13]).directions, exact.directions, strict=True):
        torch.testing.assert_close(ours, true, atol=1e-4, rtol=1e-3)


def test_a_blend_has_the_layout_of_one_and_the_details_of_the_other(pixels):
    coarse, fine = pixels[:5] / np.float32(255), pixels[5:10] / np.float32(255)
    mixed = blend(coarse, fine, deviation=0.1)
    assert mixed.shape == coarse.shape
    assert mixed.dtype == np.float32
    assert 0 <= mixed.min() <= mixed.max() <= 1
    small = [F.adaptive_avg_pool2d(torch.from_numpy(x).permute(0, 3, 1, 2), 3).flatten() for x in (mixed, coarse, fine)]
    assert torch.corrcoef(torch.stack(small))[0, 1] > torch.corrcoef(torch.stack(small))[0, 2] + 0.3
    np.testing.assert_allclose(blend(coarse, coarse, gain=1.0, share=1.0), coarse, atol=1e-5)
