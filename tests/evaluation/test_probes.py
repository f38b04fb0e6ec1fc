"""Probes find what is there, find nothing in noise, and never cheat across groups."""

import numpy as np
import pytest

from neurobridge.evaluation import probes


@pytest.fixture(scope="module")
def clusters():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 30)
    x = rng.normal(size=(120, 10))
    x[np.arange(120), labels] += 3
    return x, labels


def test_linear_probe_and_knn_find_clusters_and_nothing_in_noise(clusters):
    x, labels = clusters
    noise = np.random.default_rng(1).normal(size=x.shape)
    assert probes.linear_probe(x, labels, seed=0).mean() > 0.85
    assert probes.linear_probe(noise, labels, seed=0).mean() < 0.45
    even = np.arange(120) % 2 == 0
    assert probes.knn_accuracy(x[even], labels[even], x[~even], labels[~even]).mean() > 0.8
    assert probes.knn_accuracy(noise[even], labels[even], noise[~even], labels[~even]).mean() < 0.5


def test_groups_do_not_leak():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    x = np.repeat(rng.normal(size=(40, 20)), 5, axis=0)  # five copies of each item, its label random
    labels = np.repeat(rng.integers(0, 2, 40), 5)
    assert probes.linear_probe(x, labels, seed=0, strengths=(1e3,)).mean() > 0.65
    assert probes.linear_probe(x, labels, seed=0, groups=groups, strengths=(1e3, 1.0)).mean() < 0.65


def test_ridge_probe_predicts_a_linear_target(clusters):
    x, _ = clusters
    weights = np.random.default_rng(2).normal(size=(10, 3))
    prediction, r2 = probes.ridge_probe(x, x @ weights, seed=0, shuffle=False)
    assert prediction.shape == (120, 3)
    assert r2 > 0.999
    assert probes.ridge_probe(x, np.random.default_rng(3).normal(size=120), seed=0)[1] < 0.1


def test_brain_areas_of_units(clusters):
    x, labels = clusters
    regions = np.array(["V1", "LM", "CA1", "DG"], dtype="U7")[labels]
    regions[:8], regions[8:10] = "unknown", "rare"
    found = probes.region_probe(x, regions, seed=0)
    np.testing.assert_array_equal(found.kept, np.arange(10, 120))
    assert found.majority == pytest.approx(30 / 110)
    assert found.hits.mean() > 0.85
    noise = np.random.default_rng(1).normal(size=x.shape)
    assert probes.region_probe(noise, regions, seed=0).hits.mean() < 0.5
    session = np.repeat(np.arange(12), 10)  # embeddings that know their session only, and one area a session
    of_session = np.random.default_rng(2).normal(size=(12, 10))[session] + 0.1 * noise
    area = np.array(["A", "B", "B", "A", "A", "B"] * 2)[session]
    assert probes.region_probe(of_session, area, seed=0).hits.mean() > 0.9
    assert probes.region_probe(of_session, area, seed=0, groups=session).hits.mean() < 0.75
    with pytest.raises(ValueError, match="two areas of at least 5 units on, there are 1"):
        probes.region_probe(x, np.where(labels == 0, "V1", "void"), seed=0)


@pytest.mark.parametrize("method", ["tsne", "pca", pytest.param("umap", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:n_jobs value")
def test_projections_are_2d_seeded_and_keep_clusters_apart(clusters, method):
    if method == "umap":
        pytest.importorskip("umap", reason="umap-learn is not installed")
    x, labels = clusters
    xy = probes.project_2d(x, method=method, seed=3)
    assert xy.shape == (120, 2)
    np.testing.assert_array_equal(xy, probes.project_2d(x, method=method, seed=3))
    assert probes.knn_accuracy(xy[::2], labels[::2], xy[1::2], labels[1::2], metric="euclidean").mean() > 0.5


def test_bad_arguments_are_named(clusters):
    x, labels = clusters
    with pytest.raises(ValueError, match="a target for each item"):
        probes.linear_probe(x, labels[1:], seed=0)
    with pytest.raises(ValueError, match="two classes"):
        probes.linear_probe(x, np.zeros(120), seed=0)
    with pytest.raises(ValueError, match="folds"):
        probes.ridge_probe(x[:3], x[:3], seed=0)
    with pytest.raises(ValueError, match="k = 9"):
        probes.knn_accuracy(x[:5], labels[:5], x, labels, k=9)
    with pytest.raises(ValueError, match="finite"):
        probes.project_2d(x * np.nan)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_items_that_are_all_alike_lie_on_one_point(method):
    xy = probes.project_2d(np.full((14, 8), 0.3), method=method)
    np.testing.assert_array_equal(xy, np.zeros((14, 2)))
