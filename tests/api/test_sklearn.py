"""``nb.sklearn.SpikeEmbedding`` is an estimator like any other, and what it learns is there."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import neurobridge as nb

TINY = {"width": 8, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8}


@parametrize_with_checks([nb.sklearn.SpikeEmbedding(model=TINY, steps=2)])  # none is expected to fail
def test_it_is_an_estimator(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def low_rank() -> tuple[np.ndarray, np.ndarray]:
    """Values [600, 20] of units that two hidden variables [600, 2] move, with noise."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((600, 2))
    return hidden @ rng.standard_normal((2, 20)) + 0.5 * rng.standard_normal((600, 20)), hidden


def test_hidden_units_follow_from_seen_ones_and_shuffled_ones_do_not(low_rank):
    values, _ = low_rank
    fitted = nb.sklearn.SpikeEmbedding(steps=300).fit(values[:400])
    assert fitted.score(values[400:]) > 0.5
    rng = np.random.default_rng(1)
    shuffled = np.stack([rng.permutation(column) for column in values.T], axis=1)
    assert nb.sklearn.SpikeEmbedding(steps=300).fit(shuffled[:400]).score(shuffled[400:]) < 0.1
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(values[:5]), fitted.transform(values[:5]))
    assert list(fitted.get_feature_names_out()[:2]) == ["spikeembedding0", "spikeembedding1"]


def test_it_stands_in_a_pipeline(low_rank):
    values, hidden = low_rank
    pipeline = make_pipeline(nb.sklearn.SpikeEmbedding(steps=60), Ridge())
    assert cross_val_score(pipeline, values, hidden[:, 0], cv=2).mean() > 0.7
