"""Macaque V4: which of up to 200 held-out images was seen? Decoding beside ridge to the same target, and chance.

Sessions 201025, 190928, 210225, 210224 of Cowley et al. 2023; content split; repeat-averaged counts; seeds 0-2. Every
step is the product's own: import, masked pretraining, alignment, scoring. The bar: mean top-1 >= 0.30 and above ridge
decoding to the same target in the same run. Rows beyond the bar: the strongest ridge (targets whitened: two principal
component counts, the better one on test, which flatters it) and the linear encoding likelihood.

    python benchmarks/v4_retrieval.py [--data ../shared/data/macaque_v4]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a waiting thread sleeps,
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # but not at once: between small operations waits are short

import numpy as np
import torch
from jsonargparse import ArgumentParser

from neurobridge.baselines.ridge import RidgeDecoder
from neurobridge.bridge.alignment import EmbeddingSpace
from neurobridge.data.sources.v4 import import_v4
from neurobridge.pipeline.commands import run_stages
from neurobridge.pipeline.pictures import cosine, decode_sessions, load_images
from neurobridge.pipeline.scoring import rank, score_retrieval
from neurobridge.training.settings import RunSettings

ROOT = Path(__file__).resolve().parents[1]
BAR = 0.30
OURS, RIDGE = "NeuroBridge, decoding", "ridge decoding, same target"


def settings_of(config: Path) -> RunSettings:
    """The shipped options of the V4 run."""
    parser = ArgumentParser()
    parser.add_class_arguments(RunSettings, "run")
    values = parser.parse_object({"run": parser_yaml(config)})
    return parser.instantiate_classes(values).run


def parser_yaml(path: Path) -> dict:
    import yaml

    return yaml.safe_load(path.read_text())


def whitened_ridge(run, sessions) -> dict[str, float]:
    """Ridge to partly whitened principal components: mean top-1 over sessions of the better of two sizes."""
    data = load_images(run)
    best: dict[str, float] = {"top1": 0.0, "top5": 0.0}
    for dimensions in (64, 128):
        train = torch.from_numpy(data.embeddings[data.train])
        space = EmbeddingSpace.fit(train, dimensions=dimensions, whitening=0.25)
        targets = space(torch.from_numpy(data.embeddings)).numpy()
        ranks = []
        for d in sessions:
            decoder = RidgeDecoder().fit(d.train_responses, targets[d.train_images])
            ranks.append(rank(cosine(decoder.predict(d.test.responses), targets[d.test.images])))
        top1, top5 = (float(np.mean([(r < k).mean() for r in ranks])) for k in (1, 5))
        if top1 > best["top1"]:
            best = {"top1": top1, "top5": top5}
    return best


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "macaque_v4")
    arguments.add_argument("--seeds", type=int, default=3)
    options = arguments.parse_args()
    if not options.data.is_dir():
        print(f"no V4 data at {options.data}: give --data the folder that holds responses_mean/ and images/")
        return 2
    start = time.monotonic()
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as scratch:
        data = import_v4(options.data, Path(scratch) / "v4")
        for seed in range(options.seeds):
            settings = replace(
                settings_of(ROOT / "configs" / "experiments" / "v4.yaml"),
                data=data,
                out=Path(scratch) / f"seed{seed}",
                seed=seed,
            )
            run = run_stages(settings, ["pretrain", "adapt", "align"])
            sessions = decode_sessions(run)
            rows += [{"seed": seed, **row} for row in score_retrieval(run, sessions)]
            best = whitened_ridge(run, sessions)
            rows += [
                {
                    "seed": seed,
                    "session": "mean",
                    "method": "ridge, whitened target (best)",
                    **{k: [v] for k, v in best.items()},
                }
            ]
    print(f"\n{'method':40s} {'session':>8s} {'top-1 by seed':>22s} {'top-5':>6s} {'gallery':>7s}")
    means: dict[str, float] = {}
    for method in dict.fromkeys(r["method"] for r in rows):
        mine = [r for r in rows if r["method"] == method]
        for session in dict.fromkeys(r["session"] for r in mine):
            of = [r for r in mine if r["session"] == session]
            seeds = " ".join(f"{r['top1'][0]:.3f}" for r in of)
            top5 = np.mean([r["top5"][0] for r in of])
            print(f"{method:40s} {session:>8s} {seeds:>22s} {top5:6.3f} {of[0].get('gallery', ''):>7}")
        means[method] = float(np.mean([r["top1"][0] for r in mine]))
        print(f"{method:40s} {'MEAN':>8s} {means[method]:22.3f} {np.mean([r['top5'][0] for r in mine]):6.3f}")
    chance = float(np.mean([r["chance_top1"] for r in rows if r["method"] == OURS]))
    value = means[OURS]
    ok = value >= BAR and value > means[RIDGE]
    print(f"chance {chance:.4f}; {time.monotonic() - start:.0f} s")
    print(
        json.dumps(
            {
                "name": "v4_retrieval",
                "value": round(value, 4),
                "bar": BAR,
                "ok": ok,
                "chance": round(chance, 4),
                **{m: round(v, 4) for m, v in means.items()},
            }
        )
    )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
