"""Macaque V4: which of up to 200 held-out images was seen? Through the encoder, both ways; closed forms beside.

Sessions 201025, 190928, 210225, 210224 of Cowley et al. 2023; content split; repeat-averaged counts; seeds 0-2. Route
of ours: counts -> the encoder's chunks -> latents -> head (decoding); image -> the same model's backbone -> expected
counts (likelihood). Every step is the product's own: import, pretraining, alignment, scoring. All choices are made on
training and validation images. The bar: decoding and likelihood together, mean top-1 >= 0.85, above ridge decoding and
above the linear encoding likelihood (a ridge a layer, stacked per unit) of the same run; the likelihood alone above
the latter; decoding alone >= 0.55 and above ridge decoding to the same target. Rows beyond: ours stacked with the
windowed encoding (both names), the windowed encoding alone, and the strongest ridge (targets whitened: two numbers of
principal components, the better one on test, which flatters it). Control: images shuffled within the gallery, at
chance. About ten minutes a seed on two cores.

    python benchmarks/v4_retrieval.py [--data ../shared/data/macaque_v4] [--seeds 3]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from _common import ROOT, SHARED, last_line, need, settings_of

from neurobridge.baselines.ridge import RidgeDecoder
from neurobridge.bridge.alignment import EmbeddingSpace
from neurobridge.data.sources.v4 import import_v4
from neurobridge.pipeline.commands import run_stages
from neurobridge.pipeline.encodings import closed_forms
from neurobridge.pipeline.identification import (
    BOTH,
    DECODING,
    ENCODING,
    RIDGE,
    STACKED,
    Evidence,
    gather_evidence,
    rank,
    rows_of,
)
from neurobridge.pipeline.image_data import stack_features
from neurobridge.pipeline.pictures import cosine, decode_sessions, load_images

TOP1, DECODES = 0.85, 0.55
CONTROL = "control: images exchanged"


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
    arguments.add_argument("--data", type=Path, default=SHARED / "macaque_v4")
    arguments.add_argument("--seeds", type=int, default=3)
    options = arguments.parse_args()
    start = time.monotonic()
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as scratch:
        data = import_v4(need(options.data), Path(scratch) / "v4")
        features, closed = None, {}
        for seed in range(options.seeds):
            settings = replace(
                settings_of(ROOT / "configs" / "experiments" / "v4.yaml"),
                data=data,
                out=Path(scratch) / f"seed{seed}",
                seed=seed,
            )
            run = run_stages(settings, ["pretrain", "adapt", "align"])
            sessions = decode_sessions(run)
            if features is None:  # neither features nor closed forms know the seed
                features = stack_features(settings, load_images(run).images)
                closed = closed_forms(sessions, features)
            print(f"seed {seed}: encodings after {time.monotonic() - start:.0f} s")
            for evidence in gather_evidence(run, sessions):
                found = rows_of(evidence, features, closed[evidence.decoded.session], seed=seed)
                rows += [{"seed": seed, **row} for row in [*found, control(evidence, seed)]]
            best = {k: [v] for k, v in whitened_ridge(run, sessions).items()}
            rows.append({"seed": seed, "session": "mean", "method": "ridge, whitened target (best)", **best})
            print(f"seed {seed}: {time.monotonic() - start:.0f} s")
    means = table(rows)
    chance = float(np.mean([r["chance_top1"] for r in rows if r["method"] == DECODING]))
    print(f"chance {chance:.4f}; {time.monotonic() - start:.0f} s")
    top1 = {method: mean[0] for method, mean in means.items()}
    together = top1[BOTH] >= TOP1 and top1[BOTH] > max(top1[RIDGE], top1[STACKED])
    likely = top1[ENCODING] > top1[STACKED]
    decodes = top1[DECODING] >= DECODES and top1[DECODING] > top1[RIDGE]
    return last_line(
        "v4_retrieval",
        round(top1[BOTH], 4),
        TOP1,
        together and likely and decodes and top1[CONTROL] < 3 * chance,
        top5=round(means[BOTH][1], 4),
        together=together,
        likelihood={"value": round(top1[ENCODING], 4), "above": round(top1[STACKED], 4), "ok": likely},
        decoding={"value": round(top1[DECODING], 4), "bar": DECODES, "above": round(top1[RIDGE], 4), "ok": decodes},
        chance=round(chance, 4),
        seconds=round(time.monotonic() - start),
        methods={method: [round(x, 4) for x in mean] for method, mean in means.items()},
    )


def control(evidence: Evidence, seed: int) -> dict:
    """Ours with the images of the gallery exchanged: at chance, whatever the model knows."""
    test = evidence.decoded.test
    scores = evidence.by_both(test.decoded, test.responses, test.repeats)
    ranks = rank(scores[:, np.random.default_rng([seed, 9]).permutation(len(scores))])
    shares = {f"top{k}": [float((ranks < k).mean())] for k in (1, 5)}
    return {"session": evidence.decoded.session, "method": CONTROL, "gallery": len(scores), **shares}


def table(rows: list[dict]) -> dict[str, tuple[float, float]]:
    """Print every method and session; return the mean top-1 and top-5 of each method over sessions and seeds."""
    print(f"\n{'method':40s} {'session':>8s} {'top-1 by seed':>22s} {'top-5':>6s} {'gallery':>7s}")
    means: dict[str, tuple[float, float]] = {}
    for method in dict.fromkeys(r["method"] for r in rows):
        mine = [r for r in rows if r["method"] == method]
        for session in dict.fromkeys(r["session"] for r in mine):
            of = [r for r in mine if r["session"] == session]
            seeds = " ".join(f"{r['top1'][0]:.3f}" for r in of)
            top5 = np.mean([r["top5"][0] for r in of])
            print(f"{method:40s} {session:>8s} {seeds:>22s} {top5:6.3f} {of[0].get('gallery', ''):>7}")
        means[method] = tuple(float(np.mean([r[k][0] for r in mine])) for k in ("top1", "top5"))
        print(f"{method:40s} {'MEAN':>8s} {means[method][0]:22.3f} {means[method][1]:6.3f}")
    return means


if __name__ == "__main__":
    sys.exit(main())
