"""The embedded default: does the held-out session identify its images, and do its pictures beat every floor?

Runs 'neurobridge demo' (simulated ventral stream; unit embeddings of the last session adapted, body frozen) and reads
its results. The bars: retrieval top-1 of 100 held-out images >= 0.30, and two-way identification of the reconstructions
by an evaluator network that is not the decoding target (EfficientNet-Lite1, block 4), above every floor with 95 %
intervals that do not overlap. Deeper layers of the evaluator are in the table: there the nearest training image, a real
picture of an object, is hard to beat for a generator trained in half an hour.

    python benchmarks/demo_quality.py [--out runs/demo]    # a finished run is read, an unfinished one goes on
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from neurobridge.cli import main as neurobridge
from neurobridge.evaluation.networks import OFFLINE
from neurobridge.pipeline.reporting import FLOORS

BAR = 0.30
EVALUATOR = OFFLINE[0].network
LAYER = "block4"  # early layers judge layout, colour and texture; the table shows the deeper ones too
OURS, PICTURES = "NeuroBridge, decoding", "mean of samples"


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
        results = json.loads((out / "evaluate" / "results.json").read_text())
    print(f"\n{'identification':42s} {'top-1':>24s} {'top-5':>7s} {'gallery':>8s} {'chance':>7s}")
    for row in results["retrieval"]:
        mean, low, high = row["top1"]
        rest = f"{row['top5'][0]:7.3f} {row['gallery']:8d} {row['chance_top1']:7.3f}"
        print(f"{row['method']:42s} {mean:8.3f} [{low:.3f}, {high:.3f}] {rest}")
    metrics = list(dict.fromkeys(r["metric"] for r in results["pictures"]))
    print(f"\n{'pictures':26s}" + "".join(f"{m:>36s}" for m in metrics))
    table = {(r["name"], r["metric"]): r["value"] for r in results["pictures"]}
    for name in dict.fromkeys(r["name"] for r in results["pictures"]):
        cells = (table[name, m] for m in metrics)
        print(f"{name:26s}" + "".join(f"{m:20.3f} [{a:.3f}, {b:.3f}]" for m, a, b in cells))
    print(f"\n{'session':12s} {'task':32s} {'method':22s} score")
    for row in results["spikes"]:
        print(f"{row['session']:12s} {row['task']:32s} {row['method']:22s} {row['value']:.4f} {row['unit']}")

    top1 = next(r["top1"][0] for r in results["retrieval"] if r["method"] == OURS)
    judge = f"two-way {EVALUATOR} {LAYER}"
    low = table[PICTURES, judge][1]
    highest = max((table[floor, judge][2], floor) for floor in FLOORS)
    ok = top1 >= BAR and low > highest[0]
    line = {
        "name": "demo_quality",
        "value": round(top1, 4),
        "bar": BAR,
        "ok": ok,
        "two_way": [round(x, 4) for x in table[PICTURES, judge]],
        "evaluator": judge.removeprefix("two-way "),
        "highest_floor": [highest[1], *[round(x, 4) for x in table[highest[1], judge]]],
        "oracle": [round(x, 4) for x in table["oracle", judge]],
        "other_layers": {
            m: [round(x, 3) for x in table[PICTURES, m]] for m in metrics if EVALUATOR in m and m != judge
        },
        "seconds": round(time.monotonic() - start),
    }
    print(json.dumps(line))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
