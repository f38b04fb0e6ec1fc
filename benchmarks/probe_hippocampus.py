"""Rat hippocampus: place on a linear track from a frozen encoder that was pretrained without labels, by ridge.

31 units of the nelpy example data (tetrodes serve as regions), 50 ms counts of the 940 s that the animal spent on the
track; position is the projection of the tracked light onto the track's main axis. Five folds of interleaved blocks of
60 s: pretraining and ridge see the other blocks only. Rivals: the same encoder untrained; ridge on plain counts, on
Gaussian-smoothed counts, and on the counts around each bin (a Wiener filter); widths, lags and penalties by blocked
cross-validation on training blocks. The bar, in the mean over folds: pretrained exceeds untrained by >= 0.10 R2 and is
no worse than the best rival.

    python benchmarks/probe_hippocampus.py [--data ../shared/data/hippocampus/linear-track]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from _common import SHARED, latents_of, masked_model, need
from _probe import Rivals, report, ridge_r2
from scipy.io import loadmat
from scipy.ndimage import gaussian_filter1d

from neurobridge.neuro.masking import Masker

ON_TRACK = (4430.0, 5370.0)  # s: before, the animal is carried in; after, it sits off the track
CLOCK, BIN_MS, CHUNK_MS, BINS, STEPS, FOLDS, BLOCK_S = 30_000, 50, 250, 80, 1500, 5, 60
SIZE = {"width": 64, "depth": 2, "heads": 4, "latents": 2, "unit_width": 32, "chunk_ms": CHUNK_MS}


def read_spikes(path: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Spike times (s) of every sorted unit, and the tetrode of each."""
    times, tetrodes = [], []
    for number, tetrode in enumerate(loadmat(path, squeeze_me=True)["spikes"]):
        for unit in np.atleast_1d(tetrode).ravel():
            if unit.dtype.names and (found := np.atleast_1d(unit["time"].item())).size:
                times.append(found.astype(float))
                tetrodes.append(number)
    return times, np.array(tetrodes)


def read_position(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Time (s) and pixels [T, 2] of the tracked light."""
    raw = path.read_bytes()
    start = raw.index(b"<End settings>\n") + len(b"<End settings>\n")
    rows = np.frombuffer(raw[start:], dtype=[("time", "<u4"), *[(name, "<u2") for name in ("x", "y", "x2", "y2")]])
    return rows["time"] / CLOCK, np.stack([rows["x"], rows["y"]], 1).astype(float)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=SHARED / "hippocampus" / "linear-track")
    options = arguments.parse_args()
    spikes, tetrodes = read_spikes(need(options.data) / "spikes.mat")
    time, pixels = read_position(options.data / "trajectory.videoPositionTracking")
    start, end = ON_TRACK
    bins = int((end - start) * 1000 / BIN_MS)
    edges = start + np.arange(bins + 1) * BIN_MS / 1000
    counts = np.stack([np.histogram(times, edges)[0] for times in spikes])
    inside = (time > start) & (time < end)
    pixels = pixels - pixels[inside].mean(0)
    along = gaussian_filter1d(pixels @ np.linalg.svd(pixels[inside], full_matrices=False)[2][0], 5)
    position = np.interp((edges[:-1] + edges[1:]) / 2, time, along)[:, None]
    block = np.arange(bins) * BIN_MS // 1000 // BLOCK_S

    rivals = Rivals([s * 1000 / BIN_MS for s in (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5)], step=CHUNK_MS // BIN_MS)
    scores, middle = {"untrained": [], "pretrained": []}, CHUNK_MS // BIN_MS // 2
    for fold in range(FOLDS):
        test = block % FOLDS == fold
        for name, steps in (("untrained", 0), ("pretrained", STEPS)):
            model = masked_model(
                counts, ~test, bins=BINS, bin_ms=BIN_MS, steps=steps, seed=fold, size=SIZE, regions=tetrodes,
                masker=Masker(modes=["neuron"], ratios={"neuron": (0.1, 0.5)}), learning_rate=1e-3,
            )  # fmt: skip
            x, rows = latents_of(model, counts, ~test, bins=BINS, bin_ms=BIN_MS)
            x_test, rows_test = latents_of(model, counts, test, bins=BINS, bin_ms=BIN_MS)
            y, y_test = position[rows + middle], position[rows_test + middle]
            scores[name].append(ridge_r2(x, y, x_test, y_test)[0])
        rivals.add(counts, rows + middle, y, rows_test + middle, y_test)
        print(f"fold {fold}: " + ", ".join(f"{v[-1]:.3f} {key}" for key, v in (scores | rivals.scores).items()))
    return report("probe_hippocampus", "position", scores, rivals, BIN_MS)


if __name__ == "__main__":
    sys.exit(main())
