"""What the benchmarks on simulated sessions share: the data, a small pretraining cached by name, and its scores."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import _common  # noqa: F401  (sets up threads and memory before torch is used)
import numpy as np
import torch

from neurobridge.data.datamodule import Batcher
from neurobridge.data.images import ImageSet
from neurobridge.data.simulate import simulate
from neurobridge.data.store import Session
from neurobridge.errors import atomic_path
from neurobridge.evaluation.probes import linear_probe
from neurobridge.evaluation.spikes import bits_per_spike
from neurobridge.neuro.masking import MODES
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.commands import run_stages
from neurobridge.pipeline.spike_scores import co_smoothing, masked_scores
from neurobridge.pipeline.spikes import make_batcher, open_windows
from neurobridge.training.settings import AdaptSettings, ModelSettings, PretrainSettings, RunSettings

RUNS = Path(__file__).resolve().parents[1] / "runs"
SIZE = ModelSettings(width=64, depth=2, latents=2, unit_width=32)


def data_folder(out: Path) -> Path:
    """Two animals with three sessions each, 1,400 scenes, 40-60 units a session."""
    sizes = {"images": 1400, "test_images": 80, "test_repeats": 8, "valid_images": 80, "electrodes": 80}
    return simulate(out, seed=0, **sizes)


def settings_for(data: Path, out: Path, *, seed: int, steps: int, **changes) -> RunSettings:
    """A pretraining of tiny size, on spikes alone; ``changes`` by section: model, pretrain, adapt, or of the run."""
    settings = RunSettings(
        data=data,
        out=out,
        seed=seed,
        model=replace(SIZE, **changes.pop("model", {})),
        pretrain=replace(
            PretrainSettings(steps=steps, images=False, windows=64, groups=4, checkpoint_every=min(steps, 200)),
            **changes.pop("pretrain", {}),
        ),
        adapt=replace(AdaptSettings(windows=64), **changes.pop("adapt", {})),
        accelerator="cpu",
    )
    return replace(settings, **changes)


def pretrained(settings: RunSettings) -> tuple[NeuroBridge, float]:
    """The model that the pretrain stage leaves, and the seconds it took (0 if it was done before)."""
    start = time.monotonic()
    run = run_stages(settings, ["pretrain"])
    return NeuroBridge.load(run / "pretrain").eval(), time.monotonic() - start


def scores_of(model: NeuroBridge, settings: RunSettings, names: Sequence[str]) -> dict[str, float]:
    """Bits/spike in each mode's task and in co-smoothing, and the category probe: means over the sessions ``names``."""
    sessions = open_windows(settings, names)
    images = ImageSet.read(settings.data / "images.h5")
    for session in sessions:
        session.attach_images(images)
    batcher = make_batcher(model, sessions, settings)
    rows = []
    for index, session in enumerate(sessions):
        scores = masked_scores(model, batcher, index, MODES)
        ours, truth, units = co_smoothing(model, batcher, index)
        scores["co-smoothing"] = bits_per_spike(ours, truth[:, units])
        scores["category"] = category_accuracy(model, batcher, index, session, images)
        rows.append(scores)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


@torch.no_grad()
def category_accuracy(model: NeuroBridge, batcher: Batcher, index: int, session: Session, images: ImageSet) -> float:
    """Accuracy of a linear probe from frozen latents (mean of each chunk) of single presentations to 12 categories."""
    rows = shown_rows(session)
    features = [model.encode(batch) for batch in batcher.sequence(index, rows, 256)]
    latents = torch.cat(features)[:, int(model.encoder.in_front) :]
    x = latents.unflatten(1, (-1, model.options["latents"])).mean(2).flatten(1).numpy()
    return category_probe(x, session, images)


def category_of_counts(settings: RunSettings, names: Sequence[str]) -> dict[str, float]:
    """The same probe, by session, from what needs no encoder: each unit's spikes in the window."""
    sessions, images = open_windows(settings, names), ImageSet.read(settings.data / "images.h5")
    found = {}
    for session in sessions:
        session.attach_images(images)
        counts = session.binned(shown_rows(session), settings.window.window_ms)
        found[session.name] = category_probe(counts[:, :, 0], session, images)
    return found


def shown_rows(session: Session) -> np.ndarray:
    """Presentations of known images in the train and valid splits."""
    return np.concatenate([session.shown("train"), session.shown("valid")])


def category_probe(x: np.ndarray, session: Session, images: ImageSet) -> float:
    """Accuracy from features [I, D] of :func:`shown_rows`; presentations of one image are never in two folds."""
    shown = session.image_row[shown_rows(session)]
    return float(linear_probe(x, images.labels["category"][shown], seed=0, groups=shown, strengths=(0.003,)).mean())


def cached(path: Path, compute) -> dict:
    """What ``compute()`` gave, from ``path`` if it was computed before."""
    if path.is_file():
        return json.loads(path.read_text())
    result = compute()
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(result))
    return result
