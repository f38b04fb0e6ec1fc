"""Macaque V4: does masked pretraining on 47 sessions help decoding? The same model from scratch, few images too.

Sessions 201025, 190928, 210225, 210224 of Cowley et al. 2023, with all their training images and with 50, 100 and 200 a
session (drawn by seed); test images are never touched. Four encoders, on the same alignment data: pretrained or
untrained, and either frozen or all of it trained with the head. The two frozen ones share a recipe, and so do the two
trained ones (one rate for encoder and readout), so that pretraining is best read off within a pair. Pretraining sees
spikes alone, of the training windows of all sessions, those of the left-out images included.
Top-1 of decoding among up to 200 held-out images, mean of the four sessions; the interval of a difference is a
bootstrap over test images, paired and within sessions, of the mean over seeds. There is no bar but that every cell is
measured: the line reports what comes out. Ten minutes on two cores.

    python benchmarks/v4_pretraining.py [--data ../shared/data/macaque_v4] [--seeds 1] [--steps 150]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from _common import ROOT, SHARED, last_line, need, settings_of

from neurobridge.data.recording import read_recording, write_recording
from neurobridge.data.sources.v4 import import_v4
from neurobridge.pipeline.alignment import align, load_aligned
from neurobridge.pipeline.commands import run_stages
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.identification import rank
from neurobridge.pipeline.pictures import cosine, decode_sessions, load_images
from neurobridge.pipeline.spikes import add_units, make_model, mixture_sessions
from neurobridge.training.settings import RunSettings

SIZES = (50, 100, 200, 0)  # 0: all
FROZEN, TUNED, SCRATCH = "pretrained, frozen", "pretrained, trained on", "from scratch"
UNTRAINED = "untrained, frozen"
NAMES = (FROZEN, UNTRAINED, TUNED, SCRATCH)
COMPARED = ((FROZEN, SCRATCH), (TUNED, SCRATCH), (FROZEN, UNTRAINED))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=SHARED / "macaque_v4")
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_argument("--steps", type=int, default=150, help="alignment steps of every cell")
    options = arguments.parse_args()
    start = time.monotonic()
    hits: dict[tuple[int, str], list[dict[str, np.ndarray]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = import_v4(need(options.data), folder / "v4")
        shipped = settings_of(ROOT / "configs" / "experiments" / "v4.yaml")
        shipped.pretrain = replace(shipped.pretrain, images=False)
        for seed in range(options.seeds):
            base = replace(shipped, data=data, out=folder / f"base{seed}", seed=seed)
            pretrained = run_stages(base, ["pretrain", "adapt"])
            untrained = untrained_run(replace(base, out=folder / f"untrained{seed}"))
            for size in SIZES:
                fewer = with_fewer_images(data, folder / f"v4-{size}-{seed}", shipped.align.sessions, size, seed)
                for name in NAMES:
                    origin = pretrained if name in (FROZEN, TUNED) else untrained
                    settings = replace(base, data=fewer, out=folder / f"{name}-{size}-{seed}".replace(", ", "-"))
                    settings.align = recipe(settings, joint=name in (TUNED, SCRATCH), steps=options.steps)
                    hits.setdefault((size, name), []).append(aligned_hits(settings, origin))
                    mean = np.mean([h.mean() for h in hits[size, name][-1].values()])
                    print(f"seed {seed}, {size or 'all'} images, {name}: {mean:.3f} ({time.monotonic() - start:.0f} s)")
    print(f"\n{'training images':16s}" + "".join(f"{name:>26s}" for name in NAMES) + "   differences")
    cells, gains = {}, {}
    for size in SIZES:
        label = str(size or "all")
        means = {name: mean_over_seeds(hits[size, name]) for name in NAMES}
        cells[label] = {name: round(float(np.mean([v.mean() for v in m.values()])), 4) for name, m in means.items()}
        gains[label] = {f"{a} - {b}": [round(x, 4) for x in session_bootstrap(means[a], means[b])] for a, b in COMPARED}
        print(f"{label:16s}" + "".join(f"{value:26.3f}" for value in cells[label].values()) + f"   {gains[label]}")
    print(f"{time.monotonic() - start:.0f} s")
    return last_line(
        "v4_pretraining",
        gains["all"][f"{FROZEN} - {SCRATCH}"][0],
        "every cell measured",
        len(hits) == len(NAMES) * len(SIZES),
        top1=cells,
        differences=gains,
        seeds=options.seeds,
        steps=options.steps,
    )


def recipe(settings: RunSettings, *, joint: bool, steps: int):
    """The shipped alignment, shorter; ``joint``: the whole encoder and the unit embeddings learn with the head."""
    if not joint:
        return replace(settings.align, steps=steps, joint_steps=0)
    depth, rate = settings.model.depth, settings.align.learning_rate / 2
    return replace(
        settings.align,
        steps=0,
        joint_steps=steps,
        joint_blocks=depth,
        learning_rate=rate,
        joint_learning_rate=rate,
        anti_forgetting=0.0,
    )


def untrained_run(settings: RunSettings) -> RunFolder:
    """A run whose encoder and unit embeddings are as they were drawn."""
    run = RunFolder(settings)
    torch.manual_seed(settings.seed)
    model = make_model(settings)
    add_units(model, mixture_sessions(settings), settings)
    model.save(run / "adapt")
    run.finish("adapt")
    return run


def with_fewer_images(data: Path, out: Path, sessions: list[str], size: int, seed: int) -> Path:
    """A copy of ``data`` in which each of ``sessions`` trains on ``size`` of its images (0: all)."""
    (out / "sessions").mkdir(parents=True)
    (out / "images.h5").symlink_to(data / "images.h5")
    (data / "embeddings").mkdir(exist_ok=True)
    (out / "embeddings").symlink_to(data / "embeddings")
    for name in sessions:
        recording = read_recording(data / "sessions" / f"{name}.h5")
        stimuli = recording.stimuli
        train = np.unique(stimuli.image_id[stimuli.split == "train"])
        kept = np.random.default_rng(seed).permutation(train)[: size or None]
        dropped = (stimuli.split == "train") & ~np.isin(stimuli.image_id, kept)
        split = np.where(dropped, "none", stimuli.split)
        write_recording(replace(recording, stimuli=replace(stimuli, split=split)), out / "sessions" / f"{name}.h5")
    return out


def aligned_hits(settings: RunSettings, origin: RunFolder) -> dict[str, np.ndarray]:
    """Align the encoder of ``origin``; session -> [I] whether each test image came first."""
    run = RunFolder(settings)
    shutil.copytree(origin / "adapt", run / "adapt")
    align(run)
    _, bridge = load_aligned(run)
    targets = bridge.space(torch.from_numpy(load_images(run).embeddings)).numpy()
    return {d.session: rank(cosine(d.test.decoded, targets[d.test.images])) == 0 for d in decode_sessions(run)}


def mean_over_seeds(hits: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Session -> [I]; galleries above 200 are drawn by seed, so images are matched in order, not by name."""
    return {name: np.mean([h[name] for h in hits], axis=0) for name in hits[0]}


def session_bootstrap(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], draws: int = 2000
) -> tuple[float, float, float]:
    """Mean paired difference over sessions and its 95 % interval, images drawn anew within each session."""
    rng = np.random.default_rng(0)
    differences = [ours[name] - theirs[name] for name in ours]
    means = np.mean([d[rng.integers(len(d), size=(draws, len(d)))].mean(1) for d in differences], axis=0)
    return float(np.mean([d.mean() for d in differences])), *map(float, np.quantile(means, [0.025, 0.975]))


if __name__ == "__main__":
    sys.exit(main())
