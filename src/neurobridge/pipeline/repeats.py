"""How identification grows with the number of averaged presentations, beside what the recording itself allows.

Letters: I images, R presentations of each, K dimensions of an embedding, N units.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from neurobridge.evaluation.controls import accuracy_by_repeats, chance_level
from neurobridge.pipeline.identification import BOTH, DECODING, ENCODING, RIDGE, Evidence, rank


def by_repeats(evidence: Evidence, *, seed: int) -> list[dict]:
    """One row a (method, number of presentations); none unless every test image has two or more presentations.

    top1: with its interval over images; ceiling: of a prediction's correlation with such an average (root of its
    reliability, mean over units); retest: top-1 of as many other presentations, read off the recording itself (None
    beyond half of R).
    """
    test = evidence.decoded.test
    if test.presentations is None or len(test.images) < 2:
        return []
    responses = test.presentations.responses
    single = np.concatenate([test.presentations.decoded, responses], axis=-1)
    width = test.presentations.decoded.shape[-1]
    methods: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        DECODING: lambda mean: evidence.by_decoding(mean[:, :width]),
        ENCODING: lambda mean: evidence.by_likelihood(mean[:, width:], test.repeats),
        BOTH: lambda mean: evidence.by_both(mean[:, :width], mean[:, width:], test.repeats),
        RIDGE: lambda mean: evidence.by_decoding(evidence.ridge(mean[:, width:])),
    }
    rows = []
    for method, scores in methods.items():

        def hits(mean: np.ndarray, scores: Callable[[np.ndarray], np.ndarray] = scores) -> np.ndarray:
            return (rank(scores(mean)) < 1).astype(float)

        for point in accuracy_by_repeats(single, hits, responses=responses, seed=seed):
            rows.append(
                {
                    "session": evidence.decoded.session,
                    "method": method,
                    "repeats": point.repeats,
                    "top1": [*point.accuracy],
                    "ceiling": point.ceiling,
                    "retest": None if np.isnan(point.retest) else point.retest,
                    "gallery": len(test.images),
                    "chance_top1": chance_level(len(test.images)),
                }
            )
    return rows
