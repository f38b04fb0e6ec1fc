"""Latents alone: which image was seen, read from the encoder's latents by a head that sees no count?

Route: spikes -> encoder -> latents -> image head -> embedding, all from one joint pretraining (`neurobridge pretrain`);
ranked against the embeddings of the held-out images of the session by cosine. Nothing is chosen on test images.

demo  all six simulated sessions, demo options; 100 test images, predictions of 20 presentations averaged.
v4    macaque V4, pretrained on the nine sessions of configs/experiments/v4.yaml, scored on 201025, 190928, 210225 and
      210224; repeat-averaged responses, up to 200 test images.
few   frozen pretrained against frozen untrained encoder: five sessions pretrain, 200 labelled images of the sixth teach
      unit vectors and head alone, the same steps and rates for both, their number chosen on the valid split.

Rivals of demo and v4, same process, same split: ridge on counts to the same target; a contrastive MLP a session, with
as many steps and windows a step as the pretraining had for all sessions together (over counts or with attention over
time, test responses or predictions averaged: chosen on the valid split). Control that must fail: the same head while
each unit's windows are shuffled, unit by unit. Intervals over images, 95 %; mean over sessions and seeds.

Bars: demo >= 0.60, v4 >= 0.55; both above ridge (paired interval above 0), not below the contrastive MLP (paired
interval not wholly below 0), control's interval down to chance; few: difference >= 0.05, paired interval above 0.

    python benchmarks/latents.py [--data runs/encoder/simulated] [--v4 ../shared/data/macaque_v4] [--seeds 3]
                                 [--parts demo v4 few]

Two cores, a seed: demo 9 minutes, v4 5, few 9. Pretrainings and ranks are kept in runs/encoder.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _adaptation import Base, NewSession, untrained
from _common import SHARED, last_line
from _encoder import (
    HERE,
    V4_SESSIONS,
    Hits,
    Seeing,
    as_hits,
    as_json,
    demo_settings,
    interval,
    mean_hits,
    pretrain,
    ranks_of,
    recorded,
    rounded,
    sessions_named,
    shown,
    shuffled,
    simulated,
    v4_settings,
)
from _simulated import cached

from neurobridge.baselines.contrastive import ContrastiveDecoder
from neurobridge.data.store import Session
from neurobridge.pipeline.decoding import Decoded, decode_session, ridge_decoder
from neurobridge.pipeline.joint_encoding import average_by_image, responses

OURS, RIDGE, MLP, CONTROL = "latents", "ridge on counts", "contrastive MLP", "latents, units shuffled"
ALONE, GAP, LABELS, LENGTHS = {"demo": 0.60, "v4": 0.55}, 0.05, 200, (100, 300)
UNTRAINED = "untrained encoder, frozen"
WAYS = {
    "pretrained encoder, frozen": "carried",
    "the same, units from the prior": "prior",
    UNTRAINED: "random",
}


def contrastive(
    session: Session, decoded: Decoded, targets: np.ndarray, *, steps: int, windows: int, seed: int
) -> np.ndarray:
    """Ranks of the test images by the best contrastive MLP on valid images."""

    def predicted(decoder: ContrastiveDecoder, read: Callable, split: str, *, average_first: bool) -> np.ndarray:
        """Ranks of the split's images, responses or predictions averaged."""
        images = getattr(decoded, split).images
        rows = session.shown(split)
        rows = rows[np.isin(session.image_row[rows], images)]
        x = read(rows) if average_first else decoder.predict(read(rows))
        _, mean = average_by_image(x, session.image_row[rows])
        return ranks_of(decoder.predict(mean) if average_first else mean, targets[images])

    inputs: dict[bool, Callable] = {False: lambda rows: responses(session, rows)}
    if not session.valued:
        inputs[True] = lambda rows: session.binned(rows, 50).transpose(0, 2, 1)
    rows = session.shown("train")
    image = session.image_row[rows]
    best, ranks = np.inf, np.empty(0)
    for attention, read in inputs.items():
        decoder = ContrastiveDecoder(attention=attention, steps=steps, batch=windows, seed=seed)
        decoder.fit(read(rows), targets[image], image)
        for average_first in (True, False):
            valid = np.log1p(predicted(decoder, read, "valid", average_first=average_first)).mean()
            if valid < best:
                best, ranks = valid, predicted(decoder, read, "test", average_first=average_first)
    return ranks


@torch.no_grad()
def shuffled_ranks(seeing: Seeing, index: int, decoded: Decoded, *, seed: int) -> np.ndarray:
    """Ranks of the test images where no window holds one image's responses any more."""
    session, head, rng = seeing.sessions[index], seeing.bridge.head, np.random.default_rng([seed, 9])
    rows = session.shown("test")
    rows = rows[np.isin(session.image_row[rows], decoded.test.images)]
    parts = [
        F.normalize(head(seeing.model.encode(shuffled(batch, rng), level=head.level)), dim=-1)
        for batch in seeing.batcher.sequence(index, rows, 512)
    ]
    images, mean = average_by_image(torch.cat(parts).numpy(), session.image_row[rows])
    return ranks_of(mean, seeing.targets[images])


def ranks_by_session(seeing: Seeing, *, seed: int) -> dict[str, dict]:
    """Session -> method -> images and ranks."""
    found: dict[str, dict] = {}
    budget = seeing.settings.pretrain
    for index, session in enumerate(seeing.sessions):
        d = decode_session(seeing.model, seeing.bridge.head, seeing.batcher, index, seeing.settings)
        true = seeing.targets[d.test.images]
        ridge = ridge_decoder(d, seeing.data.embeddings, seeing.bridge.space)
        ranks = {
            OURS: ranks_of(d.test.decoded, true),
            f"{OURS}, one presentation": ranks_of(d.test.single, true),
            RIDGE: ranks_of(ridge(d.test.responses), true),
            MLP: contrastive(session, d, seeing.targets, steps=budget.steps, windows=budget.windows, seed=seed),
            CONTROL: shuffled_ranks(seeing, index, d, seed=seed),
        }
        found[session.name] = {method: as_json(d.test.images, r) for method, r in ranks.items()}
    return found


def few_by_way(data: Path, *, seed: int) -> dict[str, dict]:
    """Way -> images and ranks of the held-out session's test images, the number of steps chosen on its valid ones."""
    names = sessions_named(data)
    settings = demo_settings(data, HERE / f"new-day-{seed}", seed=seed, held_out=names[-1:])
    base = Base.of(pretrain(settings))
    new = {True: NewSession(base, settings, names[-1])}
    new[False] = NewSession(untrained(base, seed=seed), settings, names[-1], seen=new[True].seen)
    found = {}
    for way, how in WAYS.items():
        session, best = new[how != "random"], np.inf
        labelled = session.labelled(LABELS, seed=seed)
        for steps in LENGTHS:
            model, head = session.adapted(labelled, how=how, learns="joint", steps=steps, windows=128, seed=seed)
            valid = np.log1p(session.decoded(model, head, "valid")[1]).mean()
            if valid < best:
                best, found[way] = valid, as_json(*session.decoded(model, head, "test"))
    return found


def collect(by_session: list[dict[str, dict]], method: str, k: int) -> Hits:
    """Mean over seeds of a method's hits, by session."""
    return mean_hits([[as_hits(seed[name][method], k) for name in seed] for seed in by_session])


def judged(part: str, by_session: list[dict[str, dict]]) -> dict:
    """Table of demo or v4, and whether its bar holds."""
    names = list(by_session[0])
    chance = float(np.mean([1 / len(by_session[0][name][OURS]["images"]) for name in names]))
    print(f"\n{part}: {len(names)} sessions, {len(by_session)} seeds, chance {chance:.4f}")
    print(f"{'method':28s} {'top-1':>22s} {'top-5':>22s} {'latents minus it':>24s}  by session")
    ours, scores, minus = collect(by_session, OURS, 1), {}, {}
    for method in by_session[0][names[0]]:
        hits = collect(by_session, method, 1)
        scores[method], minus[method] = interval(hits), interval(ours, hits)
        each = " ".join(f"{values.mean():.2f}" for _, values in hits)
        print(
            f"{method:28s} {shown(scores[method]):>22s} {shown(interval(collect(by_session, method, 5))):>22s} "
            f"{shown(minus[method]):>24s}  {each}"
        )
    seeds = [np.mean([as_hits(s[name][OURS], 1)[1].mean() for name in names]) for s in by_session]
    return {
        "top1": rounded(scores[OURS]),
        "by_seed": [round(float(x), 4) for x in seeds],
        "bar": ALONE[part],
        "minus_ridge": rounded(minus[RIDGE]),
        "minus_mlp": rounded(minus[MLP]),
        "control": rounded(scores[CONTROL]),
        "chance": round(chance, 4),
        "ok": scores[OURS].mean >= ALONE[part]
        and minus[RIDGE].low > 0
        and minus[MLP].high >= 0
        and scores[CONTROL].low <= chance,
    }


def few_judged(seeds: list[dict[str, dict]]) -> dict:
    """Table of frozen pretrained against frozen untrained, and whether the bar holds."""
    print(f"\nfew: {LABELS} labelled images of a held-out session, {len(seeds)} seeds")
    print(f"{'encoder':32s} {'top-1':>22s} {'top-5':>22s} {'minus untrained':>24s}")
    wrapped = [{"held out": seed} for seed in seeds]
    rival, differences = collect(wrapped, UNTRAINED, 1), {}
    for way in WAYS:
        hits = collect(wrapped, way, 1)
        differences[way] = interval(hits, rival)
        five = shown(interval(collect(wrapped, way, 5)))
        print(f"{way:32s} {shown(interval(hits)):>22s} {five:>22s} {shown(differences[way]):>24s}")
    first = differences[next(iter(WAYS))]
    others = {way: rounded(found) for way, found in differences.items() if way != UNTRAINED}
    return {"minus_untrained": others, "bar": GAP, "ok": first.mean >= GAP and first.low > 0}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=HERE / "simulated")
    arguments.add_argument("--v4", type=Path, default=SHARED / "macaque_v4")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--parts", nargs="+", choices=("demo", "v4", "few"), default=("demo", "v4", "few"))
    options = arguments.parse_args()
    start, results = time.monotonic(), {}
    for part in options.parts:
        data = recorded(options.v4) if part == "v4" else simulated(options.data)
        settings = v4_settings if part == "v4" else demo_settings

        def one(seed: int, part=part, data=data, settings=settings) -> dict:
            if part == "few":
                return few_by_way(data, seed=seed)
            run = pretrain(settings(data, HERE / f"{part}-{seed}", seed=seed))
            names = V4_SESSIONS if part == "v4" else sessions_named(data)
            return ranks_by_session(Seeing.of(run, names), seed=seed)

        seeds = []
        for seed in range(options.seeds):
            seeds.append(cached(HERE / "latents" / f"{part}-{seed}.json", lambda seed=seed: one(seed)))
            print(f"{part}, seed {seed}: {time.monotonic() - start:.0f} s")
        results[part] = few_judged(seeds) if part == "few" else judged(part, seeds)
    return last_line(
        "latents",
        {part: r["top1"][0] if "top1" in r else r["minus_untrained"] for part, r in results.items()},
        {part: r["bar"] for part, r in results.items()},
        all(r["ok"] for r in results.values()),
        parts=results,
        seeds=options.seeds,
        seconds=round(time.monotonic() - start),
    )


if __name__ == "__main__":
    sys.exit(main())
