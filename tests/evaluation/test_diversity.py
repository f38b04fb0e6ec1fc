"""The spread of several pictures of one image."""

import numpy as np
import pytest

from neurobridge.evaluation.diversity import pairwise_distance


def test_it_is_the_mean_distance_of_all_pairs():
    samples = np.zeros((3, 2, 4, 4, 3))
    samples[1, 0] = 0.3  # item 0: distances 0.3, 0.6 and 0.3
    samples[2, 0] = 0.6
    np.testing.assert_allclose(pairwise_distance(samples), [0.4, 0.0])


def test_one_sample_has_no_diversity():
    with pytest.raises(ValueError, match="at least two samples"):
        pairwise_distance(np.zeros((1, 5, 8)))
