"""Which judges decoys fool, and judges from another family than the networks whose features are decoded."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from neurobridge.evaluation.alexnet import AlexNet, Blur, load_alexnet, weight_file
from neurobridge.evaluation.images import TARGET, score_pictures, two_way_identification
from neurobridge.evaluation.judging import DECOY, HOG, UNFIT, fitness, hog_features, judge_of

installed = pytest.mark.skipif(
    weight_file() is None, reason="stlpips-pytorch is not installed: pip install 'neurobridge[bench]'"
)


def scenes(count=12, side=64, seed=0):
    """Pictures [I, side, side, 3] of coloured blocks with edges, each its own."""
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(0, 1, (count, 4, 4, 3)).astype(np.float32)
    return np.repeat(np.repeat(blocks, side // 4, axis=1), side // 4, axis=2)


def test_a_judge_that_knows_the_drawn_features_is_unfit_and_one_that_sees_is_not():
    target = scenes()
    decoy = np.roll(target, 5, axis=0)  # another photograph's layout
    decoy[:, 0, :8] = target[:, 0, :8]  # what the drawing pulled towards the target
    pulled = lambda pictures: pictures[:, 0, :8]  # noqa: E731
    scores = score_pictures({DECOY: decoy}, target, feature_nets={"pulled": pulled, "HOG": HOG}, seed=0)
    values = {judge_of(s.metric): s.values for s in scores if s.metric.startswith("two-way")}
    found = fitness(values, seed=0)
    assert {name: one.unfit for name, one in found.items()} == {"pixels": False, "pulled": True, "HOG": False}
    assert found["pulled"].rate == (1, 1, 1)
    low, high = found["pixels"].rate[1:]
    assert low <= found["pixels"].rate.mean <= high
    assert found["pixels"].rate.mean == pytest.approx(two_way_identification(decoy, target).mean())
    assert not fitness({"as often as not": np.full(10, UNFIT)}, seed=0)["as often as not"].unfit


@pytest.mark.parametrize(
    ("metric", "judge"),
    [("two-way HOG", "HOG"), ("distance a net pooled" + TARGET, "a net pooled"), ("PixCorr at 425", ""), ("SSIM", "")],
)
def test_a_metric_names_its_judge(metric, judge):
    assert judge_of(metric) == judge


def test_hog_sees_edges_and_their_layout_but_no_colour():
    target = scenes(20)
    features = hog_features(target)
    assert features.shape == (20, 8 * 8 * 8)
    assert np.isfinite(features).all()
    darker = 0.5 * target
    np.testing.assert_allclose(hog_features(darker), features, atol=1e-3)
    noisy = (target + 0.05 * np.random.default_rng(0).normal(size=target.shape)).clip(0, 1)
    assert two_way_identification(hog_features(noisy), features).mean() > 0.9
    assert two_way_identification(hog_features(np.full_like(target, 0.5)), features).mean() == 0  # ties lose


def test_a_blur_takes_every_second_pixel():
    blur = Blur(2)
    kernel = torch.tensor([1.0, 2, 1])
    blur.filt.copy_((kernel[:, None] * kernel / 16).expand(2, 1, 3, 3))
    images = torch.rand(1, 2, 9, 9)
    out = blur(images)
    assert out.shape == (1, 2, 6, 6)
    # padded by two, so one output lies before the first whole kernel
    torch.testing.assert_close(F.conv2d(images[:, 1:], blur.filt[:1], stride=2)[0, 0], out[0, 1, 1:5, 1:5])


@installed
def test_alexnet_runs_with_its_own_weights_and_tells_pictures_apart():
    network = load_alexnet(weight_file())
    assert sum(p.numel() for p in network.parameters()) == 2_469_696
    assert not any(p.requires_grad for p in network.parameters())
    target = torch.from_numpy(scenes(8)).permute(0, 3, 1, 2)
    second, fifth = (load_alexnet(weight_file(), layer) for layer in ("features.6", "features.14"))
    low, high = second(target), fifth(target)
    assert low.shape[1:] == (192, 15, 15)
    assert high.shape[1:] == (256, 8, 8)
    torch.testing.assert_close(high, network(target))
    assert low.min() == 0 < low.max()  # rectified
    torch.testing.assert_close(low, network.features[:7](target))
    noisy = (target + 0.03 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    for layer in (second, fifth):
        assert two_way_identification(layer(noisy).numpy(), layer(target).numpy()).mean() > 0.9
    strange = AlexNet()
    assert not torch.allclose(strange(target), high)
