"""What several benchmarks share: batches from binned counts, training in a scratch folder, the last line."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a waiting thread sleeps,
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # but not at once: between small operations waits are short

import numpy as np
import torch
from torch.utils.data import IterableDataset

from neurobridge.cli import keep_memory
from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.masking import Masker
from neurobridge.neuro.model import NeuroBridge
from neurobridge.neuro.readout import chunk_sequence
from neurobridge.pipeline.chunk_latents import cover
from neurobridge.pipeline.folder import settings_of as options_of
from neurobridge.training.settings import RunSettings
from neurobridge.training.task import Task
from neurobridge.training.tasks import MaskedTask
from neurobridge.training.trainer import fit

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"

keep_memory()


def need(path: Path) -> Path:
    """``path``, or exit code 1 and a sentence: a benchmark without its data has not held its bar."""
    if not path.exists():
        raise SystemExit(f"no data at {path}: give the path of the data with --data")
    return path


def settings_of(config: Path) -> RunSettings:
    """The options of a shipped configuration."""
    return options_of(config.read_text())


def last_line(name: str, value: float, bar: object, ok: bool, **more: object) -> int:
    """Print the JSON line that ends every benchmark; return its exit code."""
    print(json.dumps({"name": name, "value": value, "bar": bar, "ok": bool(ok), **more}, default=float))
    return 0 if ok else 1


def batch_of_counts(
    counts: np.ndarray,
    starts: np.ndarray,
    *,
    bins: int,
    bin_ms: int,
    regions: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> SpikeBatch:
    """Windows of ``bins`` bins of gap-free counts [N, T] from the bins ``starts`` [B], one session, units 0..N-1.

    A count of k is k spikes in its bin: anywhere in it with ``rng``, in its middle without.
    """
    some = counts[:, starts[:, None] + np.arange(bins)].transpose(1, 0, 2)
    window, unit, bin_ = np.nonzero(some)
    times = some[window, unit, bin_]
    window, unit, bin_ = (np.repeat(x, times) for x in (window, unit, bin_))
    inside = bin_ms // 2 if rng is None else rng.integers(0, bin_ms, len(bin_))
    units = len(counts)
    region = torch.full((1, units), -1) if regions is None else torch.from_numpy(regions.astype(np.int64))[None]
    return SpikeBatch(
        unit_row=torch.arange(units)[None],
        unit_mask=torch.ones(1, units, dtype=torch.bool),
        region=region,
        event_window=torch.from_numpy(window),
        event_unit=torch.from_numpy(unit),
        event_tick=torch.from_numpy(bin_ * bin_ms + inside),
        event_value=None,
        target=torch.from_numpy(some.astype(np.float32)),
        window_ms=bins * bin_ms,
        bin_ms=bin_ms,
        stimulus=torch.full((len(starts),), -1),
        locked=torch.zeros(len(starts), dtype=torch.bool),
        session=torch.zeros(1, dtype=torch.int64),
        row=torch.from_numpy(np.asarray(starts)),
    )


def whole_windows(allowed: np.ndarray, bins: int) -> np.ndarray:
    """Every start whose ``bins`` bins are all ``allowed`` [T] bool."""
    missing = np.concatenate([[0], np.cumsum(~allowed)])
    return np.flatnonzero(missing[bins:] == missing[:-bins])


def stretches(allowed: np.ndarray) -> list[tuple[int, int]]:
    """(first, last + 1) of every gap-free stretch of ``allowed`` [T] bool."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], allowed.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


class Draws(IterableDataset):
    """Batches of the steps first..last, each from a generator seeded with (seed, step)."""

    def __init__(self, draw: Callable[[np.random.Generator], SpikeBatch], seed: int, first: int, last: int) -> None:
        super().__init__()
        self.draw, self.seed, self.first, self.last = draw, seed, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[SpikeBatch]:
        for step in range(self.first, self.last):
            yield self.draw(np.random.default_rng([self.seed, step]))


def train(task: Task) -> None:
    """Fit a task in a scratch folder."""
    with tempfile.TemporaryDirectory() as scratch:
        fit(task, stage="train", out=Path(scratch), accelerator="cpu")


def new_model(counts: np.ndarray, *, seed: int, **options) -> NeuroBridge:
    """A model whose units are the rows of ``counts`` [N, T], biases at their log mean counts."""
    torch.manual_seed(seed)
    model = NeuroBridge(**options)
    mean = np.maximum(counts.mean(1), 1e-4)
    keys = [f"benchmark/one/day/{i}" for i in range(len(counts))]
    model.units.extend(keys, log_rates=torch.from_numpy(np.log(mean)).float(), seed=seed)
    return model


@torch.no_grad()
def latents_of(
    model: NeuroBridge, counts: np.ndarray, allowed: np.ndarray, *, bins: int, bin_ms: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frozen features of every chunk of the stretches ``allowed`` [T] bool of counts [N, T].

    Returns features [I, L * D], the latents of a chunk side by side, from half-overlapping windows, and rows [I], the
    first bin of each chunk. Nothing is hidden.
    """
    per_chunk = model.options["chunk_ms"] // bin_ms
    model.eval()
    features, rows = [], []
    for stretch in stretches(allowed):
        if stretch[1] - stretch[0] < bins:
            continue
        windows = cover(stretch, bins)
        for part in range(0, len(windows), 256):
            some = windows[part : part + 256]
            batch = batch_of_counts(counts, np.array([start for start, _ in some]), bins=bins, bin_ms=bin_ms)
            sequence = chunk_sequence(model.encode(batch), model.options["latents"]).numpy()
            for (start, keep), values in zip(some, sequence, strict=True):
                for chunk in range(-(-keep.start // per_chunk), keep.stop // per_chunk):
                    features.append(values[chunk])
                    rows.append(start + chunk * per_chunk)
    rows, first = np.unique(rows, return_index=True)
    return np.stack(features)[first], rows


def masked_model(
    counts: np.ndarray,
    allowed: np.ndarray,
    *,
    bins: int,
    bin_ms: int,
    steps: int,
    seed: int,
    size: dict,
    masker: Masker,
    regions: np.ndarray | None = None,
    windows: int = 32,
    learning_rate: float = 2e-3,
) -> NeuroBridge:
    """Masked pretraining on random windows of the bins ``allowed`` [T] bool of counts [N, T]; 0 steps: untrained."""
    starts = whole_windows(allowed, bins)
    model = new_model(counts[:, allowed], seed=seed, **size)

    def draw(rng: np.random.Generator) -> SpikeBatch:
        chosen = rng.choice(starts, windows)
        return batch_of_counts(counts, chosen, bins=bins, bin_ms=bin_ms, regions=regions, rng=rng)

    if steps:
        task = MaskedTask(
            model,
            masker=masker,
            loader=lambda first, last, share: Draws(draw, seed, first, last),
            steps=steps,
            checkpoint_every=steps,
            learning_rate=learning_rate,
            weight_decay=0.01,
            seed=seed,
        )
        train(task)
    return model
