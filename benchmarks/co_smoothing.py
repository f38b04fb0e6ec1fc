"""What is a unit about to do, from all the others? Leave-one-out co-smoothing beside its rivals.

Route: all six simulated sessions (windows of 300 ms from an image's onset) -> `neurobridge pretrain` on their spikes
alone (`--pretrain.images false --pretrain.steps 1000`; kind and number of steps chosen on valid windows) -> each of 20
units of two sessions (one an animal) hidden in turn in 300 test windows, whose images no training window shows ->
expected counts in bins of 10 ms. Rivals, fitted to 1,500 training windows of the session: population coupling, a
leave-one-out GLM, the unit's time course after onset (PSTH), and PSTH x GLM, hyperparameters by inner folds; floor: the
unit's mean rate. Control that must fail: the model with the other units' windows shuffled, unit by unit. Scores:
bits/spike over the mean rate and over the PSTH; intervals over units, paired. The bar, for the mean over seeds:
above the PSTH and above PSTH x GLM, the paired intervals of all units together above 0, and above the control.

    python benchmarks/co_smoothing.py [--data runs/encoder/simulated] [--seeds 3]

Pretraining is done once (9 minutes a seed on one core); the rest 2 minutes a seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from _common import last_line
from _encoder import HERE, pretrain, rounded, shown, shuffled, simulated

from neurobridge.data.datamodule import Batcher
from neurobridge.evaluation.spikes import bits_per_spike_interval
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.spike_scores import OURS, PSTH, co_smoothing, hide_unit, rival_predictions, some_rows
from neurobridge.pipeline.spikes import make_batcher, open_windows
from neurobridge.training.settings import PretrainSettings, RunSettings

CONTROL, BOTH = "NeuroBridge, other units shuffled", "PSTH x leave-one-out GLM"
SESSIONS = ("monkeyA_1", "monkeyB_1")
STEPS = 1000


@torch.no_grad()
def control(model: NeuroBridge, batcher: Batcher, index: int, rows: np.ndarray, units: np.ndarray) -> np.ndarray:
    """[W, U, T]: what is expected of each unit when every other's spikes come from another window."""
    batch = shuffled(batcher.batch([(index, rows)]), np.random.default_rng(8))
    return np.stack([model(batch, hide_unit(u)(batch)).exp()[:, u].numpy() for u in units], axis=1)


def predictions_of(seed: int, data: Path, rivals: dict[str, dict[str, np.ndarray]]) -> list[tuple[str, dict, dict]]:
    """A session each: its name, method -> expected counts [W, U, T], and the truth of its units."""
    alone = PretrainSettings(images=False, steps=STEPS)
    settings = RunSettings(data=data, out=HERE / f"spikes-{seed}", seed=seed, pretrain=alone)
    model = NeuroBridge.load(pretrain(settings) / "pretrain").eval()
    sessions = open_windows(settings, SESSIONS)
    batcher, found = make_batcher(model, sessions, settings), []
    for index, session in enumerate(sessions):
        ours, truth, units = co_smoothing(model, batcher, index)
        if session.name not in rivals:  # no rival knows the seed
            rivals[session.name] = rival_predictions(session, batcher.bin_ms, truth, units)
        rows = some_rows(session, "test", len(truth))
        methods = {OURS: ours, CONTROL: control(model, batcher, index, rows, units)} | rivals[session.name]
        found.append((session.name, methods, truth[:, units]))
    return found


def pooled(parts: list[tuple[str, dict, np.ndarray]]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The units of all sessions side by side: method -> [W, U, T], truth."""
    windows = min(len(truth) for _, _, truth in parts)
    together = {m: np.concatenate([methods[m][:windows] for _, methods, _ in parts], axis=1) for m in parts[0][1]}
    return together, np.concatenate([truth[:windows] for _, _, truth in parts], axis=1)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=HERE / "simulated")
    arguments.add_argument("--seeds", type=int, default=3)
    options = arguments.parse_args()
    start, data = time.monotonic(), simulated(options.data)
    rivals: dict[str, dict[str, np.ndarray]] = {}
    seeds = [predictions_of(seed, data, rivals) for seed in range(options.seeds)]

    print(f"\n{'session':12s} {'method':36s} {'over mean rate':>26s} {'over PSTH':>26s} {'ours minus it':>26s}")
    rows: dict[str, dict[str, list]] = {}
    for seed, parts in enumerate(seeds):
        together, truth = pooled(parts)
        tables = [*[(name, methods, t) for name, methods, t in parts], ("both", together, truth)]
        for name, methods, counts in tables:
            for method, prediction in methods.items():
                over_mean = bits_per_spike_interval(prediction, counts, seed=0)
                over_psth = bits_per_spike_interval(prediction, counts, null=methods[PSTH], seed=0)
                minus = bits_per_spike_interval(methods[OURS], counts, null=prediction, seed=0)
                print(f"{name:12s} {method:36s} {shown(over_mean):>26s} {shown(over_psth):>26s} {shown(minus):>26s}")
                if name == "both":
                    row = rows.setdefault(method, {"over_mean_rate": [], "over_psth": [], "ours_minus": []})
                    for key, found in zip(row, (over_mean, over_psth, minus), strict=True):
                        row[key].append(rounded(found))
        print(f"seed {seed}: {time.monotonic() - start:.0f} s")
    ours = float(np.mean([x[0] for x in rows[OURS]["over_mean_rate"]]))
    lowest = {method: float(np.mean([x[1] for x in rows[method]["ours_minus"]])) for method in (PSTH, BOTH, CONTROL)}
    return last_line(
        "co_smoothing",
        round(ours, 4),
        "paired intervals above 0 against: " + ", ".join(lowest),
        all(low > 0 for low in lowest.values()),
        units=len(seeds[0][0][2][0]) * len(SESSIONS),
        lower_ends={method: round(low, 4) for method, low in lowest.items()},
        rows=rows,
        seconds=round(time.monotonic() - start),
    )


if __name__ == "__main__":
    sys.exit(main())
