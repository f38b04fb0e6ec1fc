"""FID, KID and Inception Score against torchmetrics on fixed features; and their refusal of small sets."""

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from neurobridge.evaluation import distributions


class Pixels(torch.nn.Module):
    """Features of a picture: its mean over a 2 x 2 grid. ``num_features`` is what torchmetrics asks of a network."""

    num_features = 12

    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images.double(), 2).flatten(1)


@pytest.fixture(scope="module")
def sets():
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(60, 3, 8, 8, generator=generator, dtype=torch.float64)
    generated = 0.7 * torch.rand(50, 3, 8, 8, generator=generator, dtype=torch.float64) ** 2
    return generated, real, Pixels()(generated).numpy(), Pixels()(real).numpy()


def test_fid_is_that_of_torchmetrics(sets):
    generated, real, a, b = sets
    metric = FrechetInceptionDistance(feature=Pixels()).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    assert distributions.frechet_distance(a, b, force=True) == pytest.approx(float(metric.compute()), abs=1e-5)
    assert distributions.frechet_distance(b, b, force=True) == pytest.approx(0, abs=1e-9)


def test_fid_is_the_formula_with_a_matrix_root_also_where_covariances_are_singular():
    rng = np.random.default_rng(0)
    for n, d in ((40, 6), (8, 20)):
        a, b = rng.normal(size=(n, d)), 1 + rng.normal(size=(n + 3, d)) * np.linspace(0.5, 2, d)
        ca, cb = np.cov(a.T), np.cov(b.T)
        values, vectors = np.linalg.eigh(ca)
        root = vectors * np.sqrt(values.clip(0)) @ vectors.T
        trace = np.sqrt(np.linalg.eigvalsh(root @ cb @ root).clip(0)).sum()
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb) - 2 * trace
        assert distributions.frechet_distance(a, b, force=True) == pytest.approx(expected, abs=1e-5)


def test_kid_is_that_of_torchmetrics_and_the_naive_loop(sets):
    generated, real, a, b = sets
    metric = KernelInceptionDistance(feature=Pixels(), subsets=1, subset_size=50).set_dtype(torch.float64)
    metric.update(real[:50], real=True)
    metric.update(generated, real=False)
    whole = distributions.kernel_distance(a, b[:50], seed=0, subsets=1, subset_size=50, force=True)
    assert whole[0] == pytest.approx(float(metric.compute()[0]), abs=1e-5)

    def k(x, y):
        return (x @ y / 12 + 1) ** 3

    within = [np.mean([k(z[i], z[j]) for i in range(50) for j in range(50) if i != j]) for z in (a, b)]
    across = np.mean([k(x, y) for x in a for y in b[:50]])
    assert whole[0] == pytest.approx(sum(within) - 2 * across, abs=1e-9)

    subsets = distributions.kernel_distance(a, b, seed=0, force=True)
    assert subsets.shape == (100,)
    assert subsets.mean() == pytest.approx(whole[0], abs=4 * subsets.std() / 10 + 0.02)


def test_inception_score_is_that_of_torchmetrics():
    logits = torch.randn(40, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
    metric = InceptionScore(feature=torch.nn.Identity(), splits=1)
    metric.update(logits)
    ours = distributions.inception_score(logits.numpy(), seed=0, splits=1, force=True)
    assert ours[0] == pytest.approx(float(metric.compute()[0]), abs=1e-5)
    assert distributions.inception_score(np.zeros((40, 5)), seed=0, force=True) == pytest.approx(np.ones(10))
    assert distributions.inception_score(1e3 * np.eye(5)[np.arange(40) % 5], seed=0, splits=1, force=True) == (
        pytest.approx([5.0])
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: distributions.frechet_distance(x, x), "FID of 99 pictures means nothing, it needs 2048: use KID"),
        (
            lambda x: distributions.kernel_distance(x, x, seed=0),
            "KID of 99 pictures means nothing, it needs 100: force",
        ),
        (lambda x: distributions.inception_score(x, seed=0), "Inception Score of 99 pictures"),
        (lambda x: distributions.frechet_distance(x, x[:, :2], force=True), "equal width"),
        (lambda x: distributions.kernel_distance(x, x, seed=0, subset_size=100, force=True), "subsets of 100"),
    ],
)
def test_small_sets_are_refused_unless_forced(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0).normal(size=(99, 3)))
