"""Behaviour out of a run's frozen latents, beside untrained latents, smoothed counts and a Wiener filter -> run/probes.

Letters: I chunks, K lags, N units, T cells of the count grid.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from rich.progress import track
from scipy.ndimage import gaussian_filter1d

from neurobridge.baselines.behaviour import Decoding, Method, decode
from neurobridge.baselines.wiener import lagged
from neurobridge.data.behaviour import behaviour_at
from neurobridge.data.store import Session
from neurobridge.errors import UserError, atomic_path
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.chunk_latents import chunk_latents
from neurobridge.pipeline.device import device
from neurobridge.pipeline.folder import DONE, RunFolder
from neurobridge.pipeline.spike_scores import OURS
from neurobridge.pipeline.spikes import held_out_sessions, make_batcher, pretraining_sessions

MOST, FEWEST, FOLDS, CELL_MS, MOST_CELLS = 20_000, 200, 5, 50, 10**8
LAGS = tuple(range(-8, 9))  # in chunks: behaviour so much later than spikes
WIDTHS = (0, 1, 2, 4, 8, 15)  # of the smoothing of counts, in cells
REACHES, MOST_INPUTS = (0, 2, 4, 8), 1500  # chunks to either side of a Wiener filter; of its counts in all
UNTRAINED, SMOOTHED, WIENER = "untrained latents", "smoothed counts", "Wiener filter"


def run_sessions(run: RunFolder) -> list[Session]:
    """The sessions that the run's model knows: adapted ones first."""
    adapted = held_out_sessions(run.settings) if (run / "adapt" / DONE).is_file() else []
    return [*adapted, *pretraining_sessions(run.settings)]


def session_of(run: RunFolder, target: str, name: str | None) -> Session:
    """The session ``name``, or the first one that has the behaviour ``target``. Raises UserError if none has it."""
    sessions = run_sessions(run)
    if name is not None:
        sessions = [s for s in sessions if s.name == name]
        if not sessions:
            there = ", ".join(s.name for s in run_sessions(run))
            raise UserError(f"session '{name}' is not in the run {run.path}; there are: {there}")
    known: list[str] = []
    for session in sessions:
        mine = list(session.recording.behaviour)
        if target in mine:
            return session
        known += [one for one in mine if one not in known]
    if not known:
        raise UserError(
            f"no session of {run.path} has a behaviour: declare 'behaviour' in the manifest and import again (see "
            "docs/own-recordings.md)"
        )
    close = difflib.get_close_matches(target, known, n=1)
    hint = f"do you mean '{close[0]}'?" if close else f"there are: {', '.join(known)}"
    raise UserError(f"no session of {run.path} has a behaviour '{target}'; {hint}")


def probe_session(run: RunFolder, session: Session, target: str, *, folds: int = FOLDS, seed: int = 0) -> dict:
    """Decode ``target`` in ``session`` by every method -> run/probes/<session>-<target>.json and .npz; the result."""
    folder = run.model()
    model = NeuroBridge.load(folder).eval().to(device(run.settings))
    batcher = make_batcher(model, [session], run.settings)
    chunk_s = model.options["chunk_ms"] / 1000
    latents, times = chunk_latents(model, batcher, 0, most=MOST)
    series = session.recording.behaviour[target]
    wanted = np.stack([behaviour_at(series, times + lag * chunk_s, width_s=chunk_s) for lag in LAGS], axis=1)
    known = np.isfinite(wanted).all((1, 2))
    if known.sum() < FEWEST:
        raise UserError(
            f"{session.name}: '{target}' is known at {known.sum()} of {len(known)} chunks of {chunk_s:g} s, too few to "
            f"decode it ({FEWEST}): look at its times and gaps with 'neurobridge data show'"
        )
    times, wanted, latents = times[known], wanted[known], latents[known]
    untrained, _ = chunk_latents(untrained_like(model, seed), batcher, 0, most=MOST)
    cell_ms = cell_of(session, model.options["chunk_ms"])
    counts, rows = count_grid(session, times, cell_ms)
    smooth = [x[:, rows].T for x in smoothed(counts)]
    step = model.options["chunk_ms"] // cell_ms
    reaches = [reach for reach in REACHES if reach == 0 or (2 * reach + 1) * session.units <= MOST_INPUTS]
    still = wanted[:, [LAGS.index(0)]]
    asked: list[tuple[str, Method, Sequence[np.ndarray], np.ndarray]] = [
        (OURS, "ridge", [latents], wanted),
        (UNTRAINED, "ridge", [untrained[known]], wanted),
        (SMOOTHED, "ridge", smooth, wanted),
        (WIENER, "ridge", [lagged(counts, rows, reach, step) for reach in reaches], still),
        (OURS, "k-NN", [latents], wanted),
        (UNTRAINED, "k-NN", [untrained[known]], wanted),
        (SMOOTHED, "k-NN", smooth, wanted),
    ]
    guard = run.settings.window.window_ms / 1000
    results, found = [], None
    for what, method, features, targets in track(asked, f"probing {target}", transient=True):
        decoding = decode(features, targets, times, guard_s=guard, method=method, folds=folds, seed=seed)
        results.append(row_of(what, method, decoding, chunk_s if targets is wanted else 0.0))
        found = found or decoding
    assert found is not None
    result = {
        "session": session.name,
        "target": target,
        "model": run.facts(folder.name)["files"][f"{folder.name}/model.safetensors"],
        "chunk_ms": model.options["chunk_ms"],
        "moments": len(times),
        "folds": folds,
        "seed": seed,
        "rows": results,
    }
    name = f"probes/{session.name}-{target}"
    run.save_arrays(f"{name}.npz", times=times, truth=found.truth, decoded=found.prediction)
    with atomic_path(run / f"{name}.json") as path:
        path.write_text(json.dumps(result, indent=1))
    return result


def row_of(what: str, method: Method, decoding: Decoding, lag_s: float) -> dict:
    """One line of the table: R2 with its interval, by dimension, and the lag in ms that each fold chose."""
    lags = [round(1000 * LAGS[lag] * lag_s) if lag_s else 0 for lag in decoding.lags]
    by_target = [None if np.isnan(x) else float(x) for x in decoding.by_target]
    return {"what": what, "method": method, "r2": list(decoding.r2), "by_target": by_target, "lags_ms": lags}


def untrained_like(model: NeuroBridge, seed: int) -> NeuroBridge:
    """A model of the same size and units, as it is drawn."""
    torch.manual_seed(seed)
    drawn = NeuroBridge(**model.options)
    drawn.units.extend(model.units.keys, log_rates=model.units.bias.detach()[: len(model.units)].clone(), seed=seed)
    return drawn.eval()


def cell_of(session: Session, chunk_ms: int) -> int:
    """Length in ms of a cell of the count grid: a whole chunk, or what divides it and is at most :data:`CELL_MS`, if
    the grid then has :data:`MOST_CELLS` at most."""
    fine = next(cell for cell in range(min(chunk_ms, CELL_MS), 0, -1) if chunk_ms % cell == 0)
    length_ms = 1000 * (session.recording.duration[1] - session.recording.duration[0])
    return fine if session.units * length_ms / fine <= MOST_CELLS else chunk_ms


def count_grid(session: Session, times: np.ndarray, cell_ms: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts (or summed values) [N, T] of a session from its start on, and the cell [I] of each of ``times``."""
    cell_s, start = cell_ms / 1000, session.recording.duration[0]
    count = int(np.ceil((session.recording.duration[1] - start) / cell_s)) + 1
    at = ((session.source.times - start) / cell_s).astype(np.int64)
    counts = np.zeros((session.units, count), np.float32)
    np.add.at(counts, (session.source.units, at), 1.0 if session.source.values is None else session.source.values)
    return counts, ((times - start) / cell_s).astype(np.int64)


def smoothed(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Square roots of counts (values as they are) under Gaussians of all :data:`WIDTHS`."""
    root = np.sqrt(counts) if counts.min() >= 0 else counts
    for width in WIDTHS:
        yield gaussian_filter1d(root, width, axis=1) if width else root
