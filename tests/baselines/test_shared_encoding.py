"""The encoding that sessions share: it learns, it is out of fold, and its seed decides everything."""

import numpy as np
import pytest
import torch

from neurobridge.baselines.shared_encoding import SeenImages, SharedEncoding, SharedReadout, common_maps


def two_sessions(images: int = 240, seed: int = 0) -> tuple[torch.Tensor, list[SeenImages]]:
    """Maps [I, 6, 4, 4] and two sessions whose units read one position through two shared features."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(images, 6, 4, 4))
    core = np.maximum(np.einsum("ichw,cf->ifhw", maps, rng.normal(size=(6, 2))), 0)
    sessions = []
    for k, units in enumerate((5, 3)):
        drive = core[:, :, 1, 2] @ rng.normal(size=(2, units))
        responses = 3 + drive + 0.3 * rng.normal(size=(images, units))
        shown = np.sort(rng.permutation(images - 40)[:150]) if k else np.arange(images - 40)
        sessions.append(SeenImages(images=shown, responses=responses[shown]))
    return torch.from_numpy(maps).half(), sessions


def fitted(seed: int = 0, **options) -> tuple[SharedEncoding, torch.Tensor, list[SeenImages]]:
    maps, sessions = two_sessions()
    common = {"features": 8, "folds": 3, "epochs": 30, "batch": 32, "learning_rate": 1e-2, "weight_decay": 0.1}
    return SharedEncoding(**{**common, "seed": seed, **options}).fit(maps, sessions, progress=False), maps, sessions


@pytest.fixture(scope="module")
def model() -> tuple[SharedEncoding, torch.Tensor, list[SeenImages]]:
    return fitted()


def test_training_lowers_the_loss_and_explains_images_it_has_not_seen(model) -> None:
    encoding, maps, sessions = model
    for losses in encoding.losses:
        assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    for expected, session in zip(encoding.expected(maps), sessions, strict=True):
        residual = session.responses - expected[session.images]
        assert 1 - residual.var() / (session.responses - session.responses.mean(0)).var() > 0.2


def test_rows_are_out_of_fold(model) -> None:
    encoding, maps, sessions = model
    expected = encoding.expected(maps)
    image = int(sessions[0].images[7])
    own = encoding._predict(encoding.models[encoding.fold[image]], maps[[image]])
    np.testing.assert_allclose(expected[0][image], own[0][0], rtol=1e-5)
    np.testing.assert_allclose(expected[1][-1], encoding.predict(maps[-1:])[1][0], rtol=1e-5)
    assert (encoding.fold[-40:] == -1).all()


def test_the_seed_decides_everything() -> None:
    small = {"epochs": 1, "folds": 2}
    a, maps, _ = fitted(**small)
    torch.manual_seed(99)
    b, *_ = fitted(**small)
    c, *_ = fitted(seed=1, **small)
    np.testing.assert_array_equal(a.expected(maps)[0], b.expected(maps)[0])
    assert not np.allclose(a.expected(maps)[0], c.expected(maps)[0])


def test_a_unit_reads_positions_times_features() -> None:
    model = SharedReadout(channels=3, grid=2, units=[2, 4], features=5, dropout=0.0).eval()
    core = model.core(torch.randn(7, 3, 2, 2))
    weights = model.mask[2:, None] * model.weight[2:, :, None]
    torch.testing.assert_close(model.read(core, 1), torch.einsum("bcp,ucp->bu", core, weights) + model.bias[2:])


def test_maps_of_several_grids_meet_on_one() -> None:
    rng = np.random.default_rng(0)
    fine, coarse, vector = rng.normal(size=(9, 2 * 16)), rng.normal(size=(9, 3 * 4)), rng.normal(size=(9, 5))
    maps = common_maps([fine, coarse, vector], [4, 2, 0], grid=4).float()
    assert maps.shape == (9, 10, 4, 4)
    torch.testing.assert_close(maps[:, 5:], maps[:, 5:, :1, :1].expand(-1, -1, 4, 4))
    want = fine.reshape(9, 2, 4, 4)
    want = (want - want.mean((0, 2, 3), keepdims=True)) / want.std((0, 2, 3), keepdims=True, ddof=1)
    np.testing.assert_allclose(maps[:, :2], want, atol=5e-3)
