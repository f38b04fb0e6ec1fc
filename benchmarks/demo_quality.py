"""The embedded default: does the held-out session identify its images, and do its pictures beat floors and ridge?

Runs 'neurobridge demo' (simulated ventral stream; the units of the last session adapted, body frozen) and reads what it
left. The bars, on 100 held-out images:

1. decoding through the latents: top-1 >= 0.30, and above ridge from counts to the same target;
2. pictures through the encoder, of the row "features inverted", which is named here and chosen nowhere: above every
   floor and above ridge + generator, in PixCorr and in two-way identification by HOG and by AlexNet. A judge that calls
   more than 0.6 of the decoys right (the same method, the layout of another photograph, the features of the target) is
   no basis: it is left out, and one has to remain.

"Above ridge" is a paired interval above 0, "above a floor" two 95 % intervals that do not overlap.
AlexNet judges where stlpips-pytorch is installed (pip install 'neurobridge[bench]'). A quarter of an hour.

    python benchmarks/demo_quality.py [--out runs/demo]    # a finished run is read, an unfinished one goes on
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
from _pictures import judge, judge_fitness, print_table

from neurobridge.cli import main as neurobridge
from neurobridge.evaluation.controls import Interval, bootstrap_difference, bootstrap_interval
from neurobridge.evaluation.images import FLOORS
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.identification import gather_evidence, rank
from neurobridge.pipeline.picture_scores import SAMPLES
from neurobridge.pipeline.pictures import decode_sessions

BAR = 0.30
PICTURES, RIDGE = "features inverted", "ridge + generator"
JUDGES = ("two-way HOG", "two-way AlexNet")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=None)
    options = arguments.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch) / "demo"
        code = neurobridge(["demo", "--out", str(out)])
        if code:
            return code
        run = RunFolder.existing(out)
        show(json.loads((out / "evaluate" / "results.json").read_text()))
        top1, above_ridge = identification(run)
        pictures = run.load_arrays("reconstruct/pictures.npz")
    target = pictures.pop("target")
    rows = {name: array for name, array in pictures.items() if name != SAMPLES and array.shape == target.shape}
    values = judge(rows, target * 255)
    print_table(values, f"pictures, {len(target)} held-out images")
    basis, beaten, above = picture_bar(values)

    print(f"\ndecoding: top-1 {said(top1)}; above ridge by {said(above_ridge)}")
    for metric in basis:
        print(f"{PICTURES}, {metric}: above every floor: {beaten[metric]}; above {RIDGE} by {said(above[metric])}")
    decoded = top1.mean >= BAR and above_ridge.low > 0
    drawn = len(basis) > 1 and all(beaten.values()) and all(gain.low > 0 for gain in above.values())
    return last_line(
        "demo_quality",
        round(top1.mean, 4),
        BAR,
        decoded and drawn,
        decoding={"ok": decoded, "top1": rounded(top1), "above_ridge": rounded(above_ridge)},
        pictures={
            "ok": drawn,
            "row": PICTURES,
            "unfit": [name for name in JUDGES if name in values[PICTURES] and name not in basis],
            "above_floors": beaten,
            f"above {RIDGE}": {metric: rounded(gain) for metric, gain in above.items()},
            **{metric: rounded(interval(values, PICTURES, metric)) for metric in basis},
        },
        seconds=round(time.monotonic() - start),
    )


def identification(run: RunFolder) -> tuple[Interval, Interval]:
    """Top-1 of decoding, and how far it is above ridge, paired over the images of the first session with pictures."""
    evidence = gather_evidence(run, decode_sessions(run)[:1])[0]
    test = evidence.decoded.test
    ours, ridge = (
        rank(evidence.by_decoding(predicted)) < 1 for predicted in (test.decoded, evidence.ridge(test.responses))
    )
    return bootstrap_interval(ours, seed=0), bootstrap_difference(ours, ridge, seed=0)


def picture_bar(values: dict[str, dict[str, np.ndarray]]) -> tuple[list[str], dict[str, bool], dict[str, Interval]]:
    """The metrics that count; for each whether every floor is beaten, and how far the row is above ridge."""
    judges = judge_fitness(values)
    basis = ["PixCorr", *(name for name in JUDGES if name in judges and not judges[name].unfit)]
    beaten = {
        metric: all(interval(values, PICTURES, metric).above(interval(values, floor, metric)) for floor in FLOORS)
        for metric in basis
    }
    above = {metric: bootstrap_difference(values[PICTURES][metric], values[RIDGE][metric], seed=0) for metric in basis}
    return basis, beaten, above


def interval(values: dict[str, dict[str, np.ndarray]], row: str, metric: str) -> Interval:
    return bootstrap_interval(values[row][metric], seed=0, share=False)


def said(found: Interval) -> str:
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def rounded(found: Interval) -> list[float]:
    return [round(float(x), 4) for x in found]


def show(results: dict) -> None:
    """The run's own tables of identification and of spikes."""
    print(f"\n{'identification':60s} {'top-1':>24s} {'top-5':>7s} {'gallery':>8s} {'chance':>7s}")
    for row in results["retrieval"]:
        mean, low, high = row["top1"]
        rest = f"{row['top5'][0]:7.3f} {row['gallery']:8d} {row['chance_top1']:7.3f}"
        print(f"{row['method']:60s} {mean:8.3f} [{low:.3f}, {high:.3f}] {rest}")
    print(f"\n{'session':12s} {'task':46s} {'method':32s} score")
    for row in results["spikes"]:
        print(f"{row['session']:12s} {row['task']:46s} {row['method']:32s} {row['value']:.4f} {row['unit']}")


if __name__ == "__main__":
    sys.exit(main())
