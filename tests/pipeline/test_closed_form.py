"""A session's closed-form encoding is fitted once, alone or with others that were shown the same images."""

import numpy as np
import pytest

from neurobridge.pipeline.closed_form import SeenImages, closed_form, closed_form_of_all, kept_at
from neurobridge.pipeline.image_data import StackFeatures


@pytest.fixture
def two():
    """Two sessions of 5 and 3 units that were shown the same 60 of 80 images."""
    rng = np.random.default_rng(0)
    layers = [rng.standard_normal((80, 2 * 16)).astype(np.float16), rng.standard_normal((80, 6)).astype(np.float16)]
    images = np.sort(rng.permutation(80)[:60])
    responses = layers[0][images].astype(float) @ rng.standard_normal((32, 8)) + rng.standard_normal((60, 8))
    seen = [SeenImages(images=images, responses=part) for part in (responses[:, :5], responses[:, 5:])]
    return seen, StackFeatures(layers=layers, grids=[4, 0])


def test_together_is_one_by_one(two):
    seen, features = two
    for one, model in zip(seen, closed_form_of_all(seen, features), strict=True):
        alone = closed_form(one, features)
        np.testing.assert_allclose(model.out_of_fold, alone.out_of_fold, atol=1e-4)
        np.testing.assert_allclose(model.predict(features.layers), alone.predict(features.layers), atol=1e-4)


def test_what_was_fitted_is_read_again_and_a_spoilt_file_is_made_anew(two, tmp_path, monkeypatch):
    seen, features = two
    features = StackFeatures(layers=features.layers, grids=features.grids, digest="features", folder=tmp_path)
    first = closed_form_of_all(seen, features)
    assert len(list(tmp_path.iterdir())) == 2
    other = SeenImages(images=seen[0].images, responses=seen[0].responses + 1e-9)
    assert kept_at(other, features) != kept_at(seen[0], features)
    with monkeypatch.context() as patched:
        patched.setattr("neurobridge.baselines.windowed_encoding.WindowedEncoding.fit", None)
        again = closed_form(seen[1], features)
    for name, value in first[1].state().items():
        np.testing.assert_array_equal(again.state()[name], value)
    np.testing.assert_array_equal(again.noise.covariance, first[1].noise.covariance)
    path = kept_at(seen[1], features)
    path.write_bytes(path.read_bytes()[:1000])
    np.testing.assert_allclose(closed_form(seen[1], features).out_of_fold, first[1].out_of_fold, atol=1e-4)
