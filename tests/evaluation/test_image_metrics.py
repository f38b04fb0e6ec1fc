"""Picture and retrieval metrics against scikit-image, torchmetrics and naive loops."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity
from torchmetrics import PearsonCorrCoef
from torchmetrics.functional import pairwise_cosine_similarity
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.retrieval import RetrievalHitRate

from neurobridge.evaluation import images


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    target = gaussian_filter(rng.random((9, 32, 32, 3)), (0, 2, 2, 0))
    target = (target - target.min()) / np.ptp(target)
    return np.clip(target + 0.1 * rng.normal(size=target.shape), 0, 1), target


def test_pixcorr_is_pearson_of_the_pixels_in_either_layout(pair):
    a, b = pair
    expected = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(images.pixcorr(a, b), expected, atol=1e-9)
    np.testing.assert_allclose(
        images.pixcorr(a.transpose(0, 3, 1, 2), b.transpose(0, 3, 1, 2).astype(np.float32)), expected, atol=1e-6
    )


def test_pixcorr_after_resizing_is_pearson_of_the_resized(pair):
    def small(x):
        x = torch.from_numpy(x).permute(0, 3, 1, 2)
        return torch.nn.functional.interpolate(x, (20, 20), mode="bilinear", antialias=True).numpy()

    expected = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(small(pair[0]), small(pair[1]), strict=True)]
    np.testing.assert_allclose(images.pixcorr(*pair, size=20), expected, atol=1e-6)


def test_pixcorr_is_that_of_torchmetrics_at_the_standard_size(pair):
    a, b = (torch.from_numpy(x[:3]).permute(0, 3, 1, 2) for x in pair)
    a, b = (
        torch.nn.functional.interpolate(x, (425, 425), mode="bilinear", antialias=True).flatten(1).T for x in (a, b)
    )
    expected = PearsonCorrCoef(num_outputs=3).set_dtype(torch.float64)(a, b)
    np.testing.assert_allclose(images.pixcorr(pair[0][:3], pair[1][:3], size=425), expected.numpy(), atol=1e-5)


def test_ssim_at_the_standard_size_is_the_naive_sum_of_windows(pair):
    """The 11 x 11 Gaussian window by hand at three places, the mean over all places by torchmetrics."""
    a, b = (rgb2gray(images.resize(x[:1], 425)[0]) for x in pair)
    offset = np.arange(-5, 6)
    weight = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()

    def at(row, column):
        x, y = (z[row - 5 : row + 6, column - 5 : column + 6] for z in (a, b))
        mx, my = (weight * x).sum(), (weight * y).sum()
        vx, vy, vxy = ((weight * p).sum() - m for p, m in ((x * x, mx * mx), (y * y, my * my), (x * y, mx * my)))
        return (2 * mx * my + 1e-4) * (2 * vxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))

    tensors = [torch.from_numpy(x)[None, None] for x in (a, b)]
    _, whole = structural_similarity_index_measure(*tensors, sigma=1.5, data_range=1.0, return_full_image=True)
    for row, column in ((5, 5), (100, 300), (419, 212)):
        assert float(whole[0, 0, row, column]) == pytest.approx(at(row, column), abs=1e-5)
    ours = images.ssim(pair[0][:1], pair[1][:1], size=425)
    assert ours[0] == pytest.approx(float(whole[0, 0, 5:-5, 5:-5].mean()), abs=1e-5)


def test_a_flat_picture_correlates_zero_at_any_size(pair):
    grey = np.full_like(pair[1], 0.3, dtype=np.float32)
    assert (images.pixcorr(grey, pair[1]) == 0).all()
    assert (images.pixcorr(grey, pair[1], size=47) == 0).all()


def test_ssim_is_that_of_scikit_image_and_of_torchmetrics_inside(pair):
    grey = [rgb2gray(x) for x in pair]
    expected = [
        structural_similarity(x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)
        for x, y in zip(*grey, strict=True)
    ]
    ours = images.ssim(*pair)
    np.testing.assert_allclose(ours, expected, atol=1e-9)
    tensors = [torch.from_numpy(x)[:, None] for x in grey]
    _, whole = structural_similarity_index_measure(*tensors, sigma=1.5, data_range=1.0, return_full_image=True)
    inner = whole[:, 0, 5:-5, 5:-5]  # torchmetrics pads and counts the border; scikit-image leaves it out
    np.testing.assert_allclose(ours, inner.mean((1, 2)).numpy(), atol=1e-5)


def test_two_way_identification_is_the_naive_double_loop():
    rng = np.random.default_rng(1)
    true = rng.normal(size=(20, 4, 5))
    recon = 0.3 * true + rng.normal(size=true.shape)
    expected = np.zeros(20)
    for i in range(20):
        right = np.corrcoef(recon[i].ravel(), true[i].ravel())[0, 1]
        for j in range(20):
            if j != i:
                expected[i] += (np.corrcoef(recon[i].ravel(), true[j].ravel())[0, 1] < right) / 19
    np.testing.assert_allclose(images.two_way_identification(recon, true), expected, atol=1e-9)
    assert (images.two_way_identification(true, true) == 1).all()


def test_ties_lose_even_within_rounding():
    rng = np.random.default_rng(2)
    true = np.repeat(rng.normal(size=(1, 301)), 6, axis=0) * np.array([[1], [3], [0.1], [7], [1], [1e3]])  # all alike
    assert (images.two_way_identification(rng.normal(size=(6, 301)), true) == 0).all()
    answer = np.repeat(rng.normal(size=(1, 50)), 40, axis=0)  # the same answer to everything
    assert images.two_way_identification(answer, rng.normal(size=(40, 50))).mean() == pytest.approx(0.5)
    result = images.retrieval(np.ones((3, 4)), np.ones((8, 4)), np.arange(3))
    assert result["top1"].sum() == result["top5"].sum() == result["backward_top1"].sum() == 0


def test_retrieval_both_ways_is_the_naive_ranking():
    rng = np.random.default_rng(3)
    true = rng.normal(size=(30, 8))
    index = np.concatenate([np.arange(20), np.arange(10)])  # ten images have two presentations
    pred = true[index] + 1.2 * rng.normal(size=(30, 8))

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    result = images.retrieval(pred, true, index, k=(1, 3))
    for i in range(30):
        right = cosine(pred[i], true[index[i]])
        forward = sum(cosine(pred[i], true[g]) > right for g in range(30))
        backward = sum(cosine(pred[j], true[index[i]]) > right for j in range(30) if index[j] != index[i])
        assert (result["rank"][i], result["backward_rank"][i]) == (forward, backward)
        assert (result["top1"][i], result["top3"][i]) == (forward < 1, forward < 3)
        assert (result["backward_top1"][i], result["backward_top3"][i]) == (backward < 1, backward < 3)
    assert (result["gallery"], result["chance_top3"]) == (30, 0.1)
    assert result["backward_gallery"] == pytest.approx((10 * 30 + 20 * 29) / 30)


def test_retrieval_is_that_of_torchmetrics():
    rng = np.random.default_rng(5)
    true = rng.normal(size=(25, 6))
    pred = true + 1.5 * rng.normal(size=true.shape)
    result = images.retrieval(pred, true, np.arange(25))
    cosine = pairwise_cosine_similarity(torch.from_numpy(pred), torch.from_numpy(true))
    for prefix, scores in (("", cosine), ("backward_", cosine.T)):
        for k in (1, 5):
            query = torch.arange(25)[:, None].expand(25, 25)
            hits = RetrievalHitRate(top_k=k)(scores.flatten(), torch.eye(25).bool().flatten(), indexes=query.flatten())
            assert np.mean(result[f"{prefix}top{k}"]) == pytest.approx(float(hits), abs=1e-5)


def test_retrieval_in_drawn_galleries_is_the_naive_protocol():
    rng = np.random.default_rng(6)
    true = rng.normal(size=(40, 6))
    pred = true + 2 * rng.normal(size=true.shape)
    result = images.retrieval_in_draws(pred, true, seed=3, gallery=12, draws=7, k=(1, 2))
    draw = np.random.default_rng(3)
    for number in range(7):
        rows = draw.choice(40, 12, replace=False)
        cosine = pairwise_cosine_similarity(torch.from_numpy(pred[rows]), torch.from_numpy(true[rows])).numpy()
        for key, scores in (("top", cosine), ("backward_top", cosine.T)):
            order = np.argsort(-scores, axis=1)
            for k in (1, 2):
                assert result[f"{key}{k}"][number] == np.mean([i in order[i, :k] for i in range(12)])
    assert (result["gallery"], result["chance_top2"], result["top1"].shape) == (12, 2 / 12, (7,))
    whole = images.retrieval_in_draws(pred, true, seed=0, gallery=40, draws=2)
    assert whole["top1"][0] == images.retrieval(pred, true, np.arange(40))["top1"].mean()
    with pytest.raises(ValueError, match="gallery of 300 needs as many items, got 40"):
        images.retrieval_in_draws(pred, true, seed=0)


def test_diversity_is_the_mean_distance_of_pairs_of_samples():
    samples = np.random.default_rng(7).random((4, 5, 3, 3))
    expected = np.zeros(5)
    for i in range(5):
        pairs = [(a, b) for a in range(4) for b in range(a)]
        expected[i] = np.mean([1 - np.corrcoef(samples[a, i].ravel(), samples[b, i].ravel())[0, 1] for a, b in pairs])
    np.testing.assert_allclose(images.sample_diversity(samples), expected, atol=1e-9)
    np.testing.assert_allclose(images.sample_diversity(np.stack([samples[0]] * 3)), 0, atol=1e-9)
    with pytest.raises(ValueError, match="at least two samples"):
        images.sample_diversity(samples[:1])


def test_cosine_and_correlation_distance():
    a, b = np.random.default_rng(4).normal(size=(2, 6, 10))
    torch_cosine = torch.nn.functional.cosine_similarity(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(images.cosine_similarity(a, b), torch_cosine, atol=1e-9)
    expected = [1 - np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(images.correlation_distance(a, b), expected, atol=1e-9)


def test_the_table_of_pictures_has_every_floor_metric_and_interval(pair):
    recon, target = pair
    pictures = {"reconstruction": recon, "grey": np.full_like(target, 0.5), "another test image": np.roll(target, 1, 0)}
    nets = {"corner": lambda x: x[:, :8, :8]}
    rows = images.score_pictures(pictures, target, feature_nets=nets, seed=0, draws=200)
    table = {(row.metric, row.name): row for row in rows}
    assert {row.metric for row in rows} == {"PixCorr", "SSIM", "two-way pixels", "two-way corner"}
    assert len(rows) == 4 * 3
    assert all(row.low <= row.mean <= row.high and row.items == 9 and row.values.shape == (9,) for row in rows)
    assert table["PixCorr", "reconstruction"].mean == pytest.approx(images.pixcorr(recon, target).mean())
    assert table["two-way pixels", "grey"].mean == 0
    assert table["two-way pixels", "reconstruction"].low > table["two-way pixels", "another test image"].high
    assert rows == images.score_pictures(pictures, target, feature_nets=nets, seed=0, draws=200)


def test_every_metric_of_a_network_names_it_and_says_where_it_was_the_target(pair):
    recon, target = pair
    evaluators = {
        "corner": images.Evaluator(
            features=lambda x: x[:, :8, :8], network="corner-net", metrics=("two-way", "distance", "cosine")
        ),
        "blur": images.Evaluator(features=lambda x: x[:, ::4, ::4], network="blur-net"),
    }
    rows = images.score_pictures(
        {"reconstruction": recon}, target, feature_nets=evaluators, seed=0, decoding_target="blur-net", draws=100
    )
    table = {row.metric: row for row in rows}
    assert list(table) == [
        "PixCorr",
        "SSIM",
        "two-way pixels",
        "two-way corner",
        "distance corner",
        "cosine corner",
        "two-way blur (decoding target)",
    ]
    assert [row.metric for row in rows if row.decoding_target] == ["two-way blur (decoding target)"]
    assert [row.network for row in rows] == ["", "", "", *["corner-net"] * 3, "blur-net"]
    a, b = recon[:, :8, :8], target[:, :8, :8]
    np.testing.assert_allclose(table["two-way corner"].values, images.two_way_identification(a, b), atol=1e-6)
    np.testing.assert_allclose(table["distance corner"].values, images.correlation_distance(a, b), atol=1e-6)
    np.testing.assert_allclose(table["cosine corner"].values, images.cosine_similarity(a, b), atol=1e-6)


def test_p_values_are_those_of_permuted_images(pair):
    recon, target = pair
    shuffled = target[np.random.default_rng(8).permutation(9)]
    rows = images.score_pictures(
        {"right": recon, "shuffled": shuffled, "grey": np.full_like(target, 0.5)},
        target,
        feature_nets={"all": images.Evaluator(features=lambda x: x, network="n", metrics=("two-way", "distance"))},
        seed=0,
        permutations=199,
    )
    p = {(row.name, row.metric): row.p for row in rows}
    for metric in ("PixCorr", "two-way pixels", "two-way all", "distance all"):
        assert p["right", metric] == pytest.approx(1 / 200)
        assert p["shuffled", metric] > 0.05
        assert p["grey", metric] == 1
    assert p["right", "SSIM"] is None

    def score(order):
        return images.two_way_identification(recon, target[order])[np.arange(9)].mean()

    from neurobridge.evaluation.controls import permutation_p_value

    naive = permutation_p_value(score, 9, seed=0, draws=199)[1]
    assert naive == p["right", "two-way pixels"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: images.pixcorr(a, b[:, :16]), "one shape"),
        (lambda a, b: images.pixcorr(a * 255, b), r"lie in \[0, 1\]"),
        (lambda a, b: images.pixcorr((a * 255).astype(np.uint8), b), "floats"),
        (lambda a, b: images.pixcorr(a[..., :2], b), r"\[I, H, W, 3\]"),
        (lambda a, b: images.two_way_identification(a[:1], b[:1]), "at least two"),
        (lambda a, b: images.retrieval(np.ones((2, 3)), np.ones((4, 3)), np.array([0, 4])), "integers from 0 to 3"),
    ],
)
def test_bad_pictures_are_named(pair, call, message):
    with pytest.raises(ValueError, match=message):
        call(*pair)
