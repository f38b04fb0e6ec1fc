"""Monkey motor cortex: hand velocity from a frozen encoder that was pretrained without labels, by ridge.

Binned counts of the KordingLab/DAD demo (71 units; bin width not stated, taken as 50 ms), the release's own split:
1,200 bins train everything (masked pretraining, ridge), 1,818 bins test. Rivals: the same encoder untrained; ridge on
plain counts, on Gaussian-smoothed counts, and on the counts around each bin (a Wiener filter); widths, lags and
penalties by blocked cross-validation on training bins. R2, uniform average of x and y. The bar, in the mean of three
seeds: pretrained exceeds untrained by >= 0.10 and is no worse than the best rival.

    python benchmarks/probe_motor_cortex.py [--data ../shared/data/motor_cortex/chewie_demo.mat]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from _common import SHARED, latents_of, masked_model, need
from _probe import Rivals, report, ridge_r2
from scipy.io import loadmat

from neurobridge.neuro.masking import Masker

BINS, BIN_MS, STEPS = 20, 50, 1000
SIZE = {"width": 64, "depth": 2, "heads": 4, "latents": 2, "unit_width": 32}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=SHARED / "motor_cortex" / "chewie_demo.mat")
    arguments.add_argument("--seeds", type=int, default=3)
    options = arguments.parse_args()
    data = loadmat(need(options.data))
    counts = np.concatenate([data["Ytr"], data["Yte"]]).T.astype(np.int64)
    velocity = np.concatenate([data["Xtr"], data["Xte"]])
    train = np.arange(counts.shape[1]) < len(data["Ytr"])
    rows, test = np.flatnonzero(train), np.flatnonzero(~train)
    rivals = Rivals([0, 1, 2, 3, 4, 6])
    rivals.add(counts, rows, velocity[rows], test, velocity[test])

    scores = {"untrained": [], "pretrained": []}
    for seed in range(options.seeds):
        for name, steps in (("untrained", 0), ("pretrained", STEPS)):
            model = masked_model(
                counts, train, bins=BINS, bin_ms=BIN_MS, steps=steps, seed=seed, size=SIZE, learning_rate=1e-3,
                masker=Masker(modes=["neuron"], ratios={"neuron": (0.1, 0.5)}),
            )  # fmt: skip
            x, at = latents_of(model, counts, train, bins=BINS, bin_ms=BIN_MS)
            x_test, at_test = latents_of(model, counts, ~train, bins=BINS, bin_ms=BIN_MS)
            scores[name].append(ridge_r2(x, velocity[at], x_test, velocity[at_test])[0])
    return report("probe_motor_cortex", "hand velocity", scores, rivals, BIN_MS)


if __name__ == "__main__":
    sys.exit(main())
