"""How much several pictures of one image differ: an answer without doubt has none, an unguided one has the prior's.

Shapes: ``S`` samples, ``I`` items (images).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike


def pairwise_distance(samples: ArrayLike) -> np.ndarray:
    """Mean distance [I] of all pairs of the S samples of each item, from pictures or features [S, I, ...].

    A distance is the root mean square difference: for pixels in [0, 1] it is in units of their range.
    Raises ValueError for fewer than two samples.
    """
    samples = np.asarray(samples, np.float64)
    if samples.ndim < 3 or len(samples) < 2:
        raise ValueError(f"diversity takes at least two samples [S, I, ...], got shape {samples.shape}")
    flat = samples.reshape(*samples.shape[:2], -1)
    pairs = [np.sqrt(np.square(a - b).mean(-1)) for a, b in combinations(flat, 2)]
    return np.mean(pairs, axis=0)
