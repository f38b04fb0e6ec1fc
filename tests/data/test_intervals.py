"""Sets of intervals, held against plain Boolean time lines."""

import numpy as np

from neurobridge.data.intervals import complement, contains, intersection, merged, overlaps

GRID = np.arange(200) + 0.5


def drawn(rng: np.random.Generator, most: int = 8) -> np.ndarray:
    start = rng.integers(0, 180, rng.integers(1, most))
    return np.stack([start, start + rng.integers(1, 20, len(start))], axis=1).astype(float)


def line(intervals: np.ndarray) -> np.ndarray:
    return ((intervals[:, :1] < GRID) & (intervals[:, 1:] > GRID)).any(0)


def test_merged_complement_and_intersection_are_those_of_boolean_time_lines():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        one, two = drawn(rng), drawn(rng)
        union = merged(np.concatenate([one, two]))
        assert (union[1:, 0] > union[:-1, 1]).all(), "sorted, disjoint, joined where they touch"
        np.testing.assert_array_equal(line(union), line(one) | line(two))
        np.testing.assert_array_equal(line(complement(one, 0, 200)), ~line(one))
        np.testing.assert_array_equal(line(intersection([one, two], 0, 200)), line(one) & line(two))


def test_windows_that_overlap_a_set_or_lie_within_it():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        intervals, start = drawn(rng), rng.integers(0, 180, 40)
        end = start + rng.integers(1, 20, 40)
        seen = [line(intervals)[a:b] for a, b in zip(start, end, strict=True)]
        np.testing.assert_array_equal(overlaps(start, end, intervals), [part.any() for part in seen])
        np.testing.assert_array_equal(contains(start, end, intervals), [part.all() for part in seen])


def test_nothing_and_touching_edges():
    nothing = np.empty((0, 2))
    window = (np.array([0.0]), np.array([1.0]))
    assert not overlaps(*window, nothing)[0]
    assert not contains(*window, nothing)[0]
    np.testing.assert_array_equal(complement(nothing, 0, 2), [[0, 2]])
    seam = 0.1 + 0.2  # not 0.3 in binary: the same moment all the same
    np.testing.assert_array_equal(merged(np.array([[seam, 0.5], [0.0, 0.3]])), [[0.0, 0.5]])
    assert contains(*window, np.array([[1e-9, 1.0]]))[0]
    assert not overlaps(*window, np.array([[1.0 - 1e-9, 2.0]]))[0]
