"""Masking modes: does training on all four beat each alone and each pair, on every mode's task and on a probe?

Simulated sessions (two animals, three each), equal steps and batches for every cell, seeds 0-2. Scored on held-out
images of two sessions: bits/spike under frozen masks of each mode, leave-one-out co-smoothing, and a linear probe of
the object's category from the frozen encoder (12 categories, single presentations; beside it a random encoder and plain
counts). Below the modes their ablations: other masking ratios, prompt tokens that tell the mode, masking behind the
Perceiver. Intervals: 95 %, Student's t over seeds. The bar is that every cell is there and that the table says for each
task whether "together wins" holds; whether it does is a finding, not a bar.

    python benchmarks/modes.py [--out runs/modes] [--steps 600]    # under an hour; cells are cached, so it can go on
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

import numpy as np
from _common import last_line
from _simulated import RUNS, cached, category_of_counts, data_folder, pretrained, scores_of, settings_for
from scipy.stats import t as student

from neurobridge.neuro.masking import MODES
from neurobridge.pipeline.spikes import add_units, make_model, pretraining_sessions

SHORT = {"temporal": "T", "neuron": "N", "intra_region": "A", "inter_region": "E"}
TASKS = (*MODES, "co-smoothing", "category")
SCORED = ("monkeyA_1", "monkeyB_1")
TOGETHER = "T+N+A+E"


def cells() -> dict[str, dict]:
    """Name -> changes of the settings."""
    subsets = [s for size in (1, 2, 4) for s in itertools.combinations(MODES, size)]
    named = {"+".join(SHORT[m] for m in subset): {"pretrain": {"modes": list(subset)}} for subset in subsets}
    half, low = (0.3, 0.6), (0.1, 0.3)
    return named | {
        "all, less time hidden (.3-.6)": {"pretrain": {"ratios": {"temporal": half}}},
        "all, low ratios (.1-.3)": {"pretrain": {"ratios": {"temporal": low, "neuron": low, "intra_region": low}}},
        "all, prompt tokens": {"model": {"prompts": True}},
        "all, behind the Perceiver": {"model": {"mask_latents": True}},
    }


def half_width(values: np.ndarray) -> float:
    """Half of the 95 % interval of the mean over seeds."""
    if len(values) < 2:
        return float("nan")
    return float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=RUNS / "modes")
    arguments.add_argument("--steps", type=int, default=600)
    arguments.add_argument("--seeds", type=int, default=3)
    options = arguments.parse_args()
    start = time.monotonic()
    data = data_folder(options.out / "data")
    table: dict[str, dict[str, np.ndarray]] = {}
    for name, changes in cells().items():
        scores = []
        for seed in range(options.seeds):
            folder = options.out / f"{name.replace(' ', '_')}-{seed}-{options.steps}"
            settings = settings_for(data, folder, seed=seed, steps=options.steps, **changes)
            scores.append(cached(folder / "scores.json", lambda s=settings: scores_of(pretrained(s)[0], s, SCORED)))
        table[name] = {task: np.array([s[task] for s in scores]) for task in TASKS}
        print(f"{name}: " + ", ".join(f"{task} {table[name][task].mean():.4f}" for task in TASKS), flush=True)

    settings = settings_for(data, options.out / "random", seed=0, steps=options.steps)
    model = make_model(settings)
    add_units(model, pretraining_sessions(settings), settings)
    floor = cached(options.out / "random.json", lambda: scores_of(model.eval(), settings, SCORED))

    counts = cached(options.out / "counts.json", lambda: category_of_counts(settings, SCORED))
    plain = float(np.mean(list(counts.values())))

    print(f"\n{'bits/spike (category: accuracy)':32s}" + "".join(f"{task:>20s}" for task in TASKS))
    for name, row in table.items():
        cell = "".join(f"{row[task].mean():12.4f} +- {half_width(row[task]):.4f}" for task in TASKS)
        print(f"{name:32s}{cell}")
    print(f"{'random encoder':32s}" + "".join(f"{floor[task]:12.4f}{'':>10s}" for task in TASKS))
    print(f"{'plain counts':32s}" + " " * 22 * (len(TASKS) - 1) + f"{plain:12.4f}")
    print("T temporal, N neuron, A intra-region, E inter-region\n")

    wins, rivals = 0, [name for name in table if not name.startswith("all") and name != TOGETHER]
    for task in TASKS:
        best = max(rivals, key=lambda name: table[name][task].mean())
        gap = table[TOGETHER][task] - table[best][task]
        low, high = gap.mean() - half_width(gap), gap.mean() + half_width(gap)
        said = "holds" if low > 0 else "does not hold" if high < 0 else "is undecided"
        wins += said == "holds"
        interval = f"{gap.mean():+.4f} [{low:+.4f}, {high:+.4f}]"
        print(f"together wins on {task:14s} {said:14s} (best other: {best}, difference {interval})")
    whole = all(
        len(row[task]) == options.seeds and np.isfinite(row[task]).all() for row in table.values() for task in TASKS
    )
    return last_line(
        "modes",
        wins,
        "every cell measured",
        whole,
        tasks=len(TASKS),
        cells=len(table),
        steps=options.steps,
        seeds=options.seeds,
        category_of_counts=round(plain, 4),
        together={task: round(float(table[TOGETHER][task].mean()), 4) for task in TASKS},
        minutes=round((time.monotonic() - start) / 60, 1),
    )


if __name__ == "__main__":
    sys.exit(main())
