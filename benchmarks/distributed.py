"""Two processes on one batch: is the loss curve that of one process? And does bfloat16 train?

Tiny simulated data, everything through the command line with --accelerator cpu (gloo). Each stage that trains starts
from the same folder, with --devices 1 and with --devices 2, there by DDP (each process holds all weights) and by FSDP2
(each holds its part of them), for 50 steps: pretraining (masked, encoding, decoding), adaptation, alignment (negatives
gathered from both processes; then its joint stage) and the adapter. Nothing drops out, for each process draws that by
itself. Bar: every logged loss within 1e-4 of that of one process (relative above 1). Then 20 steps of each with
bf16-mixed in two processes, by both: finite, and lower at the end than at the start. Ten minutes on two idle cores.

    python benchmarks/distributed.py [--steps 50] [--strategies ddp fsdp]
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

from _common import last_line
from _faults import Bench, ended, process

from neurobridge.training.trainer import read_metrics

STAGES = {"pretrain": ("pretrain",), "adapt": ("adapt",), "align": ("align", "align-joint"), "adapter": ("adapter",)}
BAR = 1e-4


def course(steps: int) -> dict:
    """Options of trainings of so many steps without dropout."""
    common = {"windows": 16, "checkpoint_every": steps}
    return {
        "pretrain": common | {"steps": steps, "groups": 2},
        "adapt": common | {"steps": steps},
        "align": common
        | {"steps": steps, "joint_steps": steps, "queries": 2, "hidden": 16, "dropout": 0.0, "unit_dropout": 0.0},
        "generator": {"adapter_steps": steps, "sketch_steps": steps, "batch": 8},
    }


def trained(bench: Bench, stage: str, begun: Path | None, steps: int, *more: str) -> Path:
    """The folder in which ``stage`` was done, on from a copy of the folder ``begun``."""
    out = bench.folder() / "run"
    if begun is not None:
        shutil.copytree(begun, out)
    arguments = bench.options(out, data=bench.data, **course(steps))
    found = ended(process(stage, *arguments, *more), timeout=3600)
    if found.code:
        raise SystemExit(f"{stage} {' '.join(more)} ended with exit code {found.code}: {found.text[-3000:]}")
    return out


def losses(out: Path, names: tuple[str, ...]) -> dict[tuple[str, str, int], float]:
    """(stage, loss, step) -> value, of training and validation."""
    rows = [row for row in read_metrics(out / "metrics.csv") if row["stage"] in names]
    return {(row["stage"], row["name"], int(row["step"])): float(row["value"]) for row in rows}


def difference(one: dict, other: dict) -> float:
    """The largest difference of two curves, relative where losses exceed 1; infinite where their steps differ."""
    if one.keys() != other.keys():
        return math.inf
    return max(abs(one[key] - other[key]) / max(1.0, abs(one[key])) for key in one)


def falls(curve: dict[tuple[str, str, int], float], stage: str) -> bool:
    """Whether the training loss of ``stage`` is finite throughout and lower in its second half than in its first."""
    name = "train/loss" if stage != "adapter" else "train/sketch"  # to which the other loss is added half-way
    values = [value for (of, what, _), value in sorted(curve.items()) if of == stage and what == name]
    middle = len(values) // 2
    return middle > 0 and all(map(math.isfinite, curve.values())) and mean(values[middle:]) < mean(values[:middle])


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=50)
    arguments.add_argument("--strategies", nargs="+", default=["ddp", "fsdp"])
    options = arguments.parse_args()
    start, worst, half = time.monotonic(), {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        bench, begun, halved = Bench(Path(scratch)), None, dict.fromkeys(options.strategies)
        for stage, names in STAGES.items():
            one = trained(bench, stage, begun, options.steps, "--devices", "1")
            for strategy in options.strategies:
                asked = ("--devices", "2", "--train.strategy", strategy)
                two = trained(bench, stage, begun, options.steps, *asked)
                halved[strategy] = trained(bench, stage, halved[strategy], 20, *asked, "--precision", "bf16-mixed")
                for name in names:
                    row, curves = f"{name}, {strategy}", (losses(one, (name,)), losses(two, (name,)))
                    worst[row], half[row] = difference(*curves), falls(losses(halved[strategy], (name,)), name)
                    said = "finite and falling" if half[row] else "NOT falling"
                    print(f"{row}: {len(curves[0])} losses, difference {worst[row]:.2g}; bf16: {said}", flush=True)
            begun = one
    largest = max(worst.values())
    return last_line(
        "distributed",
        largest,
        BAR,
        largest <= BAR and all(half.values()),
        differences=worst,
        bf16_falls=half,
        steps=options.steps,
        minutes=round((time.monotonic() - start) / 60, 1),
    )


if __name__ == "__main__":
    sys.exit(main())
