"""Ranks, the weight of the likelihood, and the layer that suits an area, on evidence whose answer is known."""

import numpy as np

from neurobridge.pipeline.encodings import SessionEncoding
from neurobridge.pipeline.identification import best_weight, combine, layer_by_area, rank


def test_ranks_count_the_wrong_entries_and_ties_lose() -> None:
    np.testing.assert_array_equal(rank(np.array([[3.0, 1, 2], [5, 5, 1], [9, 8, 7]])), [0, 1, 2])


def test_the_better_evidence_gets_the_weight() -> None:
    rng = np.random.default_rng(0)
    good, noise = 5 * np.eye(40) + rng.normal(size=(40, 40)), rng.normal(size=(40, 40))
    assert best_weight(noise, good) >= 0.7
    assert best_weight(good, noise) <= 0.3
    np.testing.assert_array_equal(rank(combine(good, noise, 0.0)), rank(good))
    np.testing.assert_array_equal(rank(combine(good, noise, 1.0)), rank(noise))


def test_models_are_combined_unit_by_unit_on_training_images_alone() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(120, 4))
    responses = truth + 0.1 * rng.normal(size=truth.shape) + 5
    first, second = truth + 5, rng.normal(size=truth.shape) + 5
    first[:, 3], second[:, 3] = second[:, 3].copy(), first[:, 3].copy()
    train = np.arange(80)
    encoding = SessionEncoding.of([first, second], train, responses[train])
    assert encoding.held_out_r2.min() > 0.9
    scores = encoding.log_likelihood(responses[80:], np.arange(80, 120))
    assert (rank(scores) == 0).mean() > 0.9


def test_each_area_finds_its_layer() -> None:
    rng = np.random.default_rng(2)
    layers = {"early": rng.normal(size=(200, 6)), "late": rng.normal(size=(200, 6))}
    responses = np.hstack([layers[name] @ rng.normal(size=(6, 8)) for name in ("late", "early")])
    responses += 0.3 * rng.normal(size=responses.shape)
    areas = np.array(["IT"] * 8 + ["V1"] * 8)
    train, valid = np.arange(150), np.arange(150, 200)
    table = layer_by_area(layers, areas, (train, responses[train]), (valid, responses[valid]))
    assert table["IT"]["late"] > table["IT"]["early"]
    assert table["V1"]["early"] > table["V1"]["late"]
