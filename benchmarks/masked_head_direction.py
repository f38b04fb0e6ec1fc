"""Head-direction cells: is a unit predicted better from the others by the masked model than by a leave-one-out GLM?

19 cells of the Peyrache lab's tutorial data, awake, 10 ms counts; every fifth block of 30 s is held out, the rest is
trained on. Leave-one-out co-smoothing on the held-out blocks: each unit in turn is hidden and predicted from all the
others; pooled bits/spike. Windows of 1 s, half overlapping, of which the middle half is kept. Rivals in the same run:
mean rate (0 by definition), population coupling, leave-one-out Poisson GLM on smoothed activity (three widths; the best
on the held-out blocks counts, which flatters it). Bar: co-bps >= 1.45 in the mean of three seeds and above the GLM in
each, within ten minutes a seed.

    python benchmarks/masked_head_direction.py [--data ../shared/data/head_direction/hd.mat] [--seeds 3]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from _common import SHARED, batch_of_counts, cover, last_line, masked_model, need, stretches
from scipy.io import loadmat

from neurobridge.baselines.glm import fit_predict_glm
from neurobridge.baselines.rates import fit_predict_population_coupling
from neurobridge.evaluation.spikes import bits_per_spike
from neurobridge.neuro.masking import Masker, nothing_hidden
from neurobridge.neuro.model import NeuroBridge, parameter_count

BAR, MINUTES = 1.45, 10.0
BLOCK, BINS, BIN_MS = 3000, 100, 10
SIZE = {"width": 64, "depth": 2, "heads": 4, "latents": 2, "unit_width": 32}
STEPS = 5000


@torch.no_grad()
def leave_one_out(model: NeuroBridge, counts: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Expected counts [N, T], each unit's from all the others, in the stretches of ``scored`` [T] bool."""
    model.eval()
    rates = np.zeros(counts.shape)
    for stretch in stretches(scored):
        windows = cover(stretch, BINS)
        batch = batch_of_counts(counts, np.array([start for start, _ in windows]), bins=BINS, bin_ms=BIN_MS)
        for unit in range(len(counts)):
            plan = nothing_hidden(batch)
            plan.hidden_unit[:, unit] = True
            expected = model(batch, plan)[:, unit].exp().numpy()
            for (start, keep), values in zip(windows, expected, strict=True):
                rates[unit, start + keep.start : start + keep.stop] = values[keep]
    return rates


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=SHARED / "head_direction" / "hd.mat")
    arguments.add_argument("--seeds", type=int, default=3)
    options = arguments.parse_args()
    counts = np.ascontiguousarray(loadmat(need(options.data))["Qrun"].T).astype(np.int64)
    held_out = np.arange(counts.shape[1]) // BLOCK % 5 == 4
    blocks = counts[:, held_out]

    train_counts = counts[:, ~held_out].astype(float)
    rivals = {
        "population coupling": fit_predict_population_coupling(train_counts, blocks, bin_s=BIN_MS / 1000),
    } | {
        f"leave-one-out GLM, {width * 1000:.0f} ms": fit_predict_glm(
            train_counts, blocks, bin_s=BIN_MS / 1000, sigmas_s=(width,), max_samples=60_000
        )
        for width in (0.05, 0.1, 0.2)
    }
    scores = {name: bits_per_spike(rates, blocks) for name, rates in rivals.items()}
    glm = max(value for name, value in scores.items() if "GLM" in name)
    ours, minutes = [], []
    for seed in range(options.seeds):
        start = time.monotonic()
        model = masked_model(
            counts, ~held_out, bins=BINS, bin_ms=BIN_MS, steps=STEPS, seed=seed, size=SIZE,
            masker=Masker(modes=["neuron"], ratios={"neuron": (0.05, 0.3)}), learning_rate=1e-3,
        )  # fmt: skip
        ours.append(bits_per_spike(leave_one_out(model, counts, held_out)[:, held_out], blocks))
        minutes.append((time.monotonic() - start) / 60)
        print(f"seed {seed}: {ours[-1]:.3f} bits/spike in {minutes[-1]:.1f} minutes", flush=True)

    print(f"\n{'19 units, pooled, ' + str(int(blocks.sum())) + ' held-out spikes':42s} co-bps")
    for name, value in {"mean rate": 0.0, **scores}.items():
        print(f"{name:42s} {value:.3f}")
    weights = parameter_count(model.encoder) + parameter_count(model.decoder)
    print(f"{f'NeuroBridge ({weights:,} weights), mean of seeds':42s} {np.mean(ours):.3f}  (+- {np.std(ours):.3f})")
    ok = np.mean(ours) >= BAR and min(ours) > glm and max(minutes) <= MINUTES
    return last_line(
        "masked_head_direction",
        round(float(np.mean(ours)), 4),
        BAR,
        ok,
        seeds=[round(v, 4) for v in ours],
        goal=1.60,
        minutes=[round(m, 1) for m in minutes],
        **{name: round(v, 4) for name, v in scores.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
