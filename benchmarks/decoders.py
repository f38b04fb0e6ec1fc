"""Grid decoder against factorised decoder: quality and cost, at equal steps and at equal time.

Simulated sessions, all four masking modes, one seed of each (three with --seeds 3). Rows: factorised; grid with two
cross-attention layers, 512 sampled queries a window with importance weights; the factorised one trained for as long
as the grid took. Scores as in benchmarks/modes.py. The bar: the package's default decoder is the winner: it scores at
least as high as the other in co-smoothing at equal time.

    python benchmarks/decoders.py [--out runs/decoders]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from _common import last_line
from _simulated import RUNS, cached, category_of_counts, data_folder, pretrained, scores_of, settings_for

from neurobridge.neuro.masking import MODES
from neurobridge.neuro.model import parameter_count
from neurobridge.training.settings import ModelSettings

STEPS = 250
TASKS = (*MODES, "co-smoothing", "category")
SCORED = ("monkeyA_1", "monkeyB_1")


def cell(out: Path, data: Path, name: str, seed: int, steps: int, model: dict) -> dict:
    """Scores, seconds a step and weights of one training, cached."""
    settings = settings_for(data, out / f"{name}-{seed}-{steps}", seed=seed, steps=steps, model=model)

    def compute() -> dict:
        network, seconds = pretrained(settings)
        weights = parameter_count(network.encoder) + parameter_count(network.decoder)
        return scores_of(network, settings, SCORED) | {"seconds": seconds, "weights": weights, "steps": steps}

    return cached(settings.out / "scores.json", compute)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=RUNS / "decoders")
    arguments.add_argument("--seeds", type=int, default=1)
    options = arguments.parse_args()
    data, seeds = data_folder(options.out / "data"), range(options.seeds)
    grid_model = {"decoder": "grid", "decoder_depth": 2}
    rows = {
        "factorised": [cell(options.out, data, "factorised", s, STEPS, {}) for s in seeds],
        "grid": [cell(options.out, data, "grid", s, STEPS, grid_model) for s in seeds],
    }
    slower = np.mean([r["seconds"] for r in rows["grid"]]) / np.mean([r["seconds"] for r in rows["factorised"]])
    longer = max(STEPS, 100 * round(STEPS * slower / 100))
    rows["factorised, grid's time"] = [cell(options.out, data, "factorised", s, longer, {}) for s in seeds]

    print(
        f"\n{'':26s}" + "".join(f"{task:>14s}" for task in TASKS) + f"{'steps':>8s}{'ms a step':>10s}{'weights':>10s}"
    )
    for name, results in rows.items():
        mean = {key: np.mean([r[key] for r in results]) for key in results[0]}
        cells = "".join(f"{mean[task]:14.4f}" for task in TASKS)
        print(
            f"{name:26s}{cells}{mean['steps']:8.0f}{1e3 * mean['seconds'] / mean['steps']:10.1f}{mean['weights']:10.0f}"
        )
    probe = settings_for(data, options.out / "counts", seed=0, steps=STEPS)
    counts = cached(options.out / "counts.json", lambda: category_of_counts(probe, SCORED))
    plain = float(np.mean(list(counts.values())))
    print(f"{'plain counts':26s}" + " " * 14 * (len(TASKS) - 1) + f"{plain:14.4f}")
    score = {name: float(np.mean([r["co-smoothing"] for r in results])) for name, results in rows.items()}
    best = {"factorised": score["factorised, grid's time"], "grid": score["grid"]}
    default = ModelSettings().decoder
    other = "grid" if default == "factorised" else "factorised"
    print(f"the default is {default}; a step with the grid decoder costs {slower:.1f} times one with the factorised")
    return last_line(
        "decoders",
        round(best[default] - best[other], 4),
        0.0,
        best[default] >= best[other],
        default=default,
        co_smoothing={name: round(value, 4) for name, value in score.items()},
        category_of_counts=round(plain, 4),
        grid_cost=round(float(slower), 2),
    )


if __name__ == "__main__":
    sys.exit(main())
