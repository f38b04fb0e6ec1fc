"""Ten kills (kill -9) at random moments of the whole run: does it end exactly where an uninterrupted one ends?

A tiny run through the command line, from pretraining to the report, in a process of its own that is killed a random
while after it began to work, and started again, ten times; then it may end. Compared with a run that nobody killed:
every weight of every stage bit for bit, the losses, the pictures and the scores. Two seeds of moments would take twice
as long; the moments differ from run to run with the speed of the machine anyway. About five minutes on one thread.

    python benchmarks/resume_exact.py [--kills 10] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import last_line
from _faults import Bench, process
from safetensors.numpy import load_file

from neurobridge.training.trainer import read_metrics

COURSE = {
    "pretrain": {"steps": 60, "windows": 8, "groups": 2, "checkpoint_every": 7, "unit_dropout": 0.1, "jitter_ms": 2},
    "adapt": {"steps": 30, "windows": 8, "checkpoint_every": 4},
    "align": {"steps": 20, "joint_steps": 20, "windows": 8, "queries": 2, "hidden": 16, "checkpoint_every": 3},
}


def killed_after(arguments: list[str], seconds: float) -> tuple[bool, str]:
    """Start the run, and kill it so long after its first word; whether it was still at work, and what it was at."""
    running = process("run", *arguments)
    said = ""
    while running.poll() is None and "..." not in said:  # imports are done, a stage begins
        line = running.stdout.readline()
        said = line if "..." in line else said
    time.sleep(seconds)
    at_work = running.poll() is None
    running.kill()
    out, _ = running.communicate()
    stages = [line for line in (said + out).splitlines() if line.startswith("[") and line.rstrip().endswith("...")]
    return at_work, stages[-1].strip() if stages else ""


def finished(arguments: list[str]) -> None:
    running = process("run", *arguments)
    out, errors = running.communicate()
    if running.returncode:
        raise SystemExit(f"the run ended with exit code {running.returncode}: {errors[-2000:] or out[-2000:]}")


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two run folders: weights, losses, arrays, scores; leftovers of the second."""
    found = []
    for path in sorted(one.rglob("*.safetensors")):
        name = path.relative_to(one)
        a, b = load_file(path), load_file(other / name)
        if a.keys() != b.keys() or any(not np.array_equal(a[key], b[key], equal_nan=True) for key in a):
            found.append(str(name))
    for name in ("reconstruct/pictures.npz", "evaluate/arrays.npz", "align/embeddings.npz"):
        a, b = np.load(one / name), np.load(other / name)
        if set(a.files) != set(b.files) or any(not np.array_equal(a[key], b[key]) for key in a.files):
            found.append(name)
    rows = [sorted(tuple(row.values()) for row in read_metrics(run / "metrics.csv")) for run in (one, other)]
    if rows[0] != rows[1]:
        found.append("metrics.csv")
    scores = [json.dumps(json.loads((run / "evaluate" / "results.json").read_text())) for run in (one, other)]
    if scores[0] != scores[1]:
        found.append("evaluate/results.json")
    return found + [str(path.relative_to(other)) for path in other.rglob("*.part")]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--kills", type=int, default=10)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    rng, start = np.random.default_rng(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        whole, out = bench.folder() / "run", bench.folder() / "run"
        finished(bench.options(whole, **COURSE))
        length, kills, early = time.monotonic() - start, 0, 0
        command = bench.options(out, **COURSE)
        while kills < options.kills and early < options.kills:
            at_work, stage = killed_after(command, rng.uniform(0, length / 5))
            kills, early = kills + at_work, early + (not at_work)
            print(f"kill {kills} during {stage}" if at_work else "it had ended before", flush=True)
            if not at_work:  # what is left to do is shorter than the wait: begin another run
                found = differences(whole, out)
                out = bench.folder() / "run"
                command = bench.options(out, **COURSE)
                if found:
                    break
        finished(command)
        found = differences(whole, out)
    print("differs: " + (", ".join(found) or "nothing"))
    return last_line(
        "resume_exact",
        len(found),
        f"0 differences after {options.kills} kills",
        not found and kills == options.kills,
        kills=kills,
        differing=found,
        minutes=round((time.monotonic() - start) / 60, 1),
    )


if __name__ == "__main__":
    sys.exit(main())
