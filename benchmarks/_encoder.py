"""What the benchmarks of the whole model share: data, one cached pretraining a seed, who was seen, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from _common import ROOT, need, settings_of
from _simulated import RUNS

from neurobridge.data.datamodule import Batcher
from neurobridge.data.simulate import simulate
from neurobridge.data.sources.v4 import import_v4
from neurobridge.data.store import Session
from neurobridge.evaluation.controls import Interval
from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.commands import run_stages
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.identification import rank
from neurobridge.pipeline.image_data import Bridge, ImageData, embedded_images, show_images
from neurobridge.pipeline.pictures import cosine
from neurobridge.pipeline.spikes import make_batcher, open_windows
from neurobridge.training.settings import RunSettings

HERE = RUNS / "encoder"
V4_SESSIONS = ("201025", "190928", "210225", "210224")

Hits = list[tuple[np.ndarray, np.ndarray]]  # a session each: images [I] by row, and how often each was named [I]


def simulated(folder: Path) -> Path:
    """The demo's simulated sessions: what lies in ``folder``, or is written there."""
    return folder if (folder / "images.h5").is_file() else simulate(folder)


def recorded(folder: Path) -> Path:
    """Macaque V4: a data folder, or one made of the published files in ``folder``."""
    return folder if (folder / "images.h5").is_file() else import_v4(need(folder), HERE / "v4")


def demo_settings(data: Path, out: Path, *, seed: int, **changes) -> RunSettings:
    """The options of ``configs/experiments/demo.yaml``, no session held out; ``changes``: which sessions it sees."""
    return shipped("demo", data=data, out=out, seed=seed, **{"held_out": []} | changes)


def v4_settings(data: Path, out: Path, *, seed: int, **changes) -> RunSettings:
    """The options of ``configs/experiments/v4.yaml``."""
    return shipped("v4", data=data, out=out, seed=seed, **changes)


def shipped(name: str, **changes) -> RunSettings:
    """A configuration of ``configs/experiments`` with changes."""
    return replace(settings_of(ROOT / "configs" / "experiments" / f"{name}.yaml"), **changes)


def pretrain(settings: RunSettings) -> RunFolder:
    """The run that the pretrain stage leaves; done before, it is read."""
    return run_stages(settings, ["pretrain"])


def sessions_named(data: Path) -> list[str]:
    """Every session of a data folder."""
    return sorted(path.stem for path in (data / "sessions").glob("*.h5"))


@dataclass(kw_only=True)
class Seeing:
    """A pretrained model and sessions that it knows; targets [images, K] in the space of its embeddings."""

    settings: RunSettings
    model: NeuroBridge
    bridge: Bridge
    sessions: list[Session]
    batcher: Batcher
    data: ImageData
    targets: np.ndarray

    @classmethod
    def of(cls, run: RunFolder, names: Sequence[str]) -> Seeing:
        settings = run.settings
        sessions = open_windows(settings, names)
        images = show_images(settings, sessions)
        assert images is not None, "sessions of these benchmarks show images"
        data = embedded_images(settings, images, sessions)
        model, bridge = NeuroBridge.load(run / "pretrain").eval(), Bridge.load(run / "pretrain")
        bridge.head.eval()
        return cls(
            settings=settings,
            model=model,
            bridge=bridge,
            sessions=sessions,
            batcher=make_batcher(model, sessions, settings),
            data=data,
            targets=bridge.space(torch.from_numpy(data.embeddings)).numpy(),
        )


def ranks_of(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[I]: wrong images nearer to each prediction [I, K] than its own target [I, K]."""
    return rank(cosine(predicted, targets))


def shuffled(batch: SpikeBatch, rng: np.random.Generator) -> SpikeBatch:
    """A batch of one session whose units each keep their responses, but in another order of windows, unit by unit."""
    windows = np.tile(np.arange(batch.windows), (batch.unit_mask.shape[1], 1))
    moved = torch.from_numpy(rng.permuted(windows, axis=1))[batch.event_unit, batch.event_window]
    order = moved.argsort(stable=True)
    return replace(
        batch,
        event_window=moved[order],
        event_unit=batch.event_unit[order],
        event_tick=batch.event_tick[order],
        event_value=None if batch.event_value is None else batch.event_value[order],
    )


def mean_hits(parts: Sequence[Hits]) -> Hits:
    """Mean over seeds or draws, each with the same sessions and images."""
    return [(same[0][0], np.mean([hits for _, hits in same], axis=0)) for same in zip(*parts, strict=True)]


def interval(hits: Hits, minus: Hits | None = None, *, seed: int = 0, draws: int = 2000) -> Interval:
    """Mean over sessions and its 95 % bootstrap interval over images; with ``minus`` of the paired difference.

    An image that several sessions show is drawn for all of them together.
    """
    values = [h for _, h in hits] if minus is None else [a - b for (_, a), (_, b) in zip(hits, minus, strict=True)]
    images, at = np.unique(np.concatenate([i for i, _ in hits]), return_inverse=True)
    columns = np.split(at, np.cumsum([len(v) for v in values])[:-1])
    drawn = np.random.default_rng(seed).multinomial(len(images), np.full(len(images), 1 / len(images)), size=draws)
    means = np.mean([drawn[:, c] @ v / drawn[:, c].sum(1) for c, v in zip(columns, values, strict=True)], axis=0)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(np.mean([v.mean() for v in values])), float(low), float(high))


def shown(found: Interval) -> str:
    """0.123 [0.100, 0.150]"""
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def rounded(found: Interval) -> list[float]:
    return [round(x, 4) for x in found]


def as_json(images: np.ndarray, ranks: np.ndarray) -> dict:
    """What a cache file holds of one session and method."""
    return {"images": images.tolist(), "ranks": ranks.tolist()}


def as_hits(kept: dict, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [I] of :func:`as_json` and whether each was among the first ``k``."""
    return np.array(kept["images"]), (np.array(kept["ranks"]) < k).astype(float)
