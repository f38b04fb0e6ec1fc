"""Which decoder identifies held-out images best: NeuroBridge, or small ones that others found hard to beat?

Simulated sessions monkeyA_1 and monkeyB_1 (80 test images, 8 repeats averaged at test, single presentations in
training) and, where the data are at hand, macaque V4 session 201025 (repeat-averaged counts, content split; counts have
no time and no spikes there, so the decoders of time fall together with the time-averaged one and POYO is left out).
Every decoder of embeddings aims at the same target, the frozen embedding of the run; the CNN draws pixels, which the
same image encoder embeds. NeuroBridge: the product's own stages (few steps), several sessions at once, read from the
latents; beside it the same alignment of an untrained encoder. Options were fixed beforehand, none was chosen on test
images.

The bar: on every data set NeuroBridge is above ridge decoding to the same target (interval of the paired difference
over images) and above chance. The other rows are reported as they come out. About ten minutes on two cores.

    python benchmarks/alignment_baselines.py [--out runs/alignment_baselines] [--v4 ../shared/data/macaque_v4]
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import _common
import numpy as np
import torch
from _common import ROOT, settings_of
from _simulated import RUNS, cached, settings_for

from neurobridge.baselines.cnn import CNNDecoder
from neurobridge.baselines.contrastive import ContrastiveDecoder
from neurobridge.baselines.poyo import PoyoDecoder
from neurobridge.data.simulate import simulate
from neurobridge.data.sources.v4 import import_v4
from neurobridge.data.store import Session
from neurobridge.evaluation.controls import bootstrap_difference, bootstrap_interval, chance_level
from neurobridge.pipeline.alignment import load_aligned, sessions_with_images
from neurobridge.pipeline.commands import run_stages
from neurobridge.pipeline.decoding import Decoded, decode_session, ridge_decoder
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.identification import rank
from neurobridge.pipeline.image_data import image_encoder
from neurobridge.pipeline.joint_encoding import average_by_image
from neurobridge.pipeline.pictures import cosine, load_images
from neurobridge.pipeline.spikes import make_batcher
from neurobridge.training.settings import AlignSettings, RunSettings

OURS, RIDGE = "NeuroBridge", "ridge to the same target"
SIMULATED, V4 = ("monkeyA_1", "monkeyB_1"), ("201025",)
SIZES = {"images": 1000, "test_images": 80, "test_repeats": 8, "valid_images": 60, "sessions": 2, "electrodes": 80}
BIN_MS = 25
Ranks = dict[str, list[int]]


def simulated_settings(out: Path, seed: int) -> RunSettings:
    """Both trainings of the shipped alignment, a short pretraining."""
    settings = settings_for(out / "data", out / f"simulated{seed}", seed=seed, steps=150, pretrain={"images": True})
    return replace(settings, align=AlignSettings(groups=2))


def v4_settings(out: Path, seed: int) -> RunSettings:
    """The shipped options of the V4 run, half the steps."""
    settings = settings_of(ROOT / "configs" / "experiments" / "v4.yaml")
    pretrain, align = replace(settings.pretrain, steps=150), replace(settings.align, steps=400)
    return replace(settings, data=out / "v4", out=out / f"v4-{seed}", seed=seed, pretrain=pretrain, align=align)


def variants(settings: RunSettings) -> dict[str, RunFolder]:
    """NeuroBridge, and the same without pretraining, each aligned in a folder of its own."""
    untrained = replace(settings, out=Path(f"{settings.out}-random"), pretrain=replace(settings.pretrain, steps=0))
    runs = {OURS: settings, f"{OURS}, encoder not pretrained": untrained}
    return {name: run_stages(one, ["pretrain", "adapt", "align"]) for name, one in runs.items()}


def decoded_by(run: RunFolder, names: tuple[str, ...]) -> tuple[list[Decoded], np.ndarray]:
    """Decoded sessions and the targets of all images of one aligned run."""
    model, bridge = load_aligned(run)
    sessions = [s for s in sessions_with_images(run) if s.name in names]
    batcher = make_batcher(model, sessions, run.settings, by_area=True)
    decoded = [decode_session(model, bridge.head, batcher, i, run.settings) for i in range(len(sessions))]
    return decoded, bridge.space(torch.from_numpy(load_images(run).embeddings)).numpy()


def small_decoders(run: RunFolder, decoded: list[Decoded], targets: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Ranks of the baselines [sum of the sessions' test images], by name."""
    _, bridge = load_aligned(run)
    space, data, encoder = bridge.space, load_images(run), image_encoder(run.settings)
    sessions = {s.name: s for s in sessions_with_images(run)}
    ranks: dict[str, list[np.ndarray]] = {}

    def add(name: str, predicted: np.ndarray, d: Decoded) -> None:
        ranks.setdefault(name, []).append(rank(cosine(predicted, targets[d.test.images])))

    for d in decoded:
        add(RIDGE, ridge_decoder(d, data.embeddings, space)(d.test.responses), d)
        session = sessions[d.session]
        rows = session.shown("train")
        shown = session.image_row[rows]
        bins = session.window_ms if session.valued else BIN_MS
        x = session.binned(rows, bins).transpose(0, 2, 1)
        test = session.shown("test")
        test = test[np.isin(session.image_row[test], d.test.images)]
        _, held_out = average_by_image(session.binned(test, bins).transpose(0, 2, 1), session.image_row[test])
        for name, attention in (("time-averaged MLP, contrastive", False), ("temporal attention + MLP", True)):
            if attention and session.valued:
                continue
            decoder = ContrastiveDecoder(attention=attention, seed=seed).fit(x, targets[shown], shown)
            add(name, decoder.predict(held_out), d)
        cnn = CNNDecoder(seed=seed).fit(d.train_responses, data.images.pixels[d.train_images])
        drawn = torch.from_numpy(cnn.predict(d.test.responses)).permute(0, 3, 1, 2)
        with torch.no_grad():
            embedded = torch.cat([encoder(part) for part in drawn.split(8)])
        add("CNN decoder to pixels, embedded", space(embedded).numpy(), d)
    if not next(iter(sessions.values())).valued:
        for d, predicted in zip(
            decoded, poyo([sessions[d.session] for d in decoded], decoded, targets, seed), strict=True
        ):
            add("POYO, supervised + alignment", predicted, d)
    return {name: np.concatenate(parts) for name, parts in ranks.items()}


def poyo(sessions: list[Session], decoded: list[Decoded], targets: np.ndarray, seed: int) -> list[np.ndarray]:
    """POYO trained to regress the leading components of the target, then an MLP from its latents under InfoNCE."""
    first = np.cumsum([0, *(s.units for s in sessions)])

    def windows(index: int, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        window, column, tick, _ = sessions[index].events(rows)
        parts = np.split(np.arange(len(window)), np.searchsorted(window, np.arange(1, len(rows))))
        return [(column[part] + first[index], tick[part] / 1000) for part in parts]

    rows = [s.shown("train") for s in sessions]
    every = [w for i, r in enumerate(rows) for w in windows(i, r)]
    session = np.repeat(np.arange(len(sessions)), [len(r) for r in rows])
    shown = np.concatenate([s.image_row[r] for s, r in zip(sessions, rows, strict=True)])
    model = PoyoDecoder(
        unit_session=np.repeat(np.arange(len(sessions)), np.diff(first)),
        window_s=sessions[0].window_ms / 1000,
        depth=1,
        latents=4,
        latent_step_s=0.05,
        steps=200,
        seed=seed,
    ).fit(every, targets[shown, :64], session)
    latents = model.encode(every, session)
    decoder = ContrastiveDecoder(seed=seed).fit(latents, targets[shown], shown)
    predictions = []
    for i, (s, d) in enumerate(zip(sessions, decoded, strict=True)):
        test = s.shown("test")
        test = test[np.isin(s.image_row[test], d.test.images)]
        predicted = decoder.predict(model.encode(windows(i, test), np.full(len(test), i)))
        predictions.append(average_by_image(predicted, s.image_row[test])[1])
    return predictions


def measure(settings: RunSettings, names: tuple[str, ...]) -> Ranks:
    """Rank of the right image for every test image, by decoder; and the sizes of the galleries."""
    ranks: Ranks = {}
    for title, run in variants(settings).items():
        decoded, targets = decoded_by(run, names)
        scores = [rank(cosine(d.test.decoded, targets[d.test.images])) for d in decoded]
        ranks[title] = np.concatenate(scores).tolist()
        if title == OURS:
            single = [rank(cosine(d.test.single, targets[d.test.images])) for d in decoded]
            small = small_decoders(run, decoded, targets, settings.seed)
            ranks |= {name: values.tolist() for name, values in small.items()}
            ranks[f"{OURS}, one presentation"] = np.concatenate(single).tolist()
            ranks["gallery"] = [len(d.test.images) for d in decoded]
    return ranks


def table(title: str, by_seed: list[Ranks]) -> dict:
    """Print one data set's rows; return what the last line holds of it."""
    gallery = by_seed[0].pop("gallery")
    for other in by_seed[1:]:
        other.pop("gallery")
    chance = float(np.mean([chance_level(g) for g in gallery]))
    print(f"\n{title}: gallery {gallery}, chance {chance:.4f} / {5 * chance:.4f}, seeds {len(by_seed)}")
    print(f"{'decoder':36s} {'top-1':>24s} {'top-5':>24s} {'NeuroBridge - it, top-1':>26s}")
    hits = {k: {n: np.mean([np.array(r[n]) < k for r in by_seed], 0) for n in by_seed[0]} for k in (1, 5)}
    result = {"chance": chance}
    for name in sorted(hits[1], key=lambda n: -hits[1][n].mean()):
        top1, top5 = (bootstrap_interval(hits[k][name], seed=0) for k in (1, 5))
        ahead = bootstrap_difference(hits[1][OURS], hits[1][name], seed=0)
        cells = (f"{i[0]:8.3f} [{i[1]:6.3f}, {i[2]:6.3f}]" for i in (top1, top5, ahead))
        print(f"{name:36s} " + " ".join(cells))
        result[name] = [round(float(x), 4) for x in (*top1, top5[0])]
        if name == RIDGE:
            result["above ridge"] = [round(float(x), 4) for x in ahead]
    return result


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=RUNS / "alignment_baselines")
    arguments.add_argument("--v4", type=Path, default=_common.SHARED / "macaque_v4")
    arguments.add_argument("--seeds", type=int, default=2)
    options = arguments.parse_args()
    start, out = time.monotonic(), options.out
    simulate(out / "data", seed=0, **SIZES)
    simulated = [
        cached(
            out / f"simulated-{seed}.json",
            lambda seed=seed: measure(simulated_settings(out, seed), SIMULATED),
        )
        for seed in range(options.seeds)
    ]
    results = {"simulated": table("simulated", simulated)}
    if options.v4.is_dir():
        import_v4(options.v4, out / "v4")
        v4 = [
            cached(out / f"v4-{seed}.json", lambda seed=seed: measure(v4_settings(out, seed), V4)) for seed in range(1)
        ]
        results["v4 201025"] = table("macaque V4, session 201025", v4)
    print(f"\n{time.monotonic() - start:.0f} s, without what was computed before")
    ok = all(r["above ridge"][1] > 0 and r[OURS][1] > r["chance"] for r in results.values())
    value = {name: r["above ridge"][0] for name, r in results.items()}
    bar = f"{OURS} above ridge to the same target and above chance, intervals apart from 0"
    return _common.last_line("alignment_baselines", value, bar, ok, **results)


if __name__ == "__main__":
    sys.exit(main())
