"""What the report shows of a recording without pictures: spikes beside predicted rates, maps of latents and of units.

Letters: N units, T bins, S spikes, I chunks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from neurobridge.data.behaviour import behaviour_at
from neurobridge.data.store import Session
from neurobridge.evaluation import figures
from neurobridge.evaluation.probes import project_2d, region_probe
from neurobridge.evaluation.recording_figures import spikes_beside_rates
from neurobridge.evaluation.report import Block, Figure, Table
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.chunk_latents import chunk_latents
from neurobridge.pipeline.device import device
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.probing import run_sessions
from neurobridge.pipeline.spike_scores import hide_unit, predict, scored_sessions
from neurobridge.pipeline.spikes import make_batcher

SHOWN_S, SHOWN_WINDOWS, SHOWN_UNITS = 12.0, 10, 40
MAPPED, MAPPED_UNITS, PANELS, SHOWN_DIMENSIONS = 1000, 800, 3, 2
FOLDS = 5


def views(run: RunFolder) -> dict[str, np.ndarray]:
    """Arrays of all views of the run's newest model, by name; what a recording does not allow is absent."""
    model = NeuroBridge.load(run.model()).eval().to(device(run.settings))
    arrays = unit_map(model, run_sessions(run), seed=run.settings.seed)
    scored = [pair for pairs in scored_sessions(run).values() for pair in pairs]
    session = scored[0][0] if scored else run_sessions(run)[0]
    arrays |= latent_map(run, model, session)
    if scored and not session.valued and session.units > 1:
        arrays |= rates_view(run, model, *scored[0])
    return arrays


def unit_map(model: NeuroBridge, sessions: Sequence[Session], *, seed: int) -> dict[str, np.ndarray]:
    """Embeddings of the units in 2-D, with their areas."""
    area: dict[str, str] = {}
    for session in sessions:
        area |= zip(session.recording.unit_keys, session.recording.regions.tolist(), strict=True)
    keys = [key for key in model.units.keys if key in area][:MAPPED_UNITS]
    if len(keys) < 4:
        return {}
    vectors = model.units(torch.tensor(model.units.rows_of(keys))).detach().cpu().numpy()
    return {"unit_xy": project_2d(vectors, seed=seed), "unit_area": np.array([area[key] for key in keys])}


def latent_map(run: RunFolder, model: NeuroBridge, session: Session) -> dict[str, np.ndarray]:
    """Latents of chunks all over a session in 2-D, when they were, and the first dimensions of each behaviour then."""
    batcher = make_batcher(model, [session], run.settings)
    latents, times = chunk_latents(model, batcher, 0, most=MAPPED)
    if len(times) < 4:
        return {}
    arrays = {"latent_xy": project_2d(latents, seed=run.settings.seed), "latent_time": times}
    for name, series in session.recording.behaviour.items():
        values = behaviour_at(series, times, width_s=model.options["chunk_ms"] / 1000)
        for column, shown in enumerate(values.T[:SHOWN_DIMENSIONS], 1):
            label = name if values.shape[1] == 1 else f"{name} {column}"
            arrays[f"latent_behaviour/{label}"] = shown
    return arrays


def rates_view(run: RunFolder, model: NeuroBridge, session: Session, split: str) -> dict[str, np.ndarray]:
    """Some windows of a split: their spikes, and the rate of each unit predicted from all the others.

    The units that fire most, by area, in windows that come after each other and hold most spikes.
    """
    batcher = make_batcher(model, [session], run.settings)
    bin_ms, window_s = batcher.bin_ms, session.window_ms / 1000
    rows, shown = session.rows(split), max(1, min(SHOWN_WINDOWS, int(SHOWN_S / window_s)))
    events = np.cumsum(np.concatenate([[0], session.event_counts(session.starts[rows])]))
    first = int(np.argmax(events[shown:] - events[:-shown])) if len(rows) > shown else 0
    rows = rows[first : first + shown]
    counts = session.binned(rows, bin_ms)
    fired = counts.sum((0, 2))
    busiest = np.argsort(fired, kind="stable")[::-1][: min(SHOWN_UNITS, max(1, int((fired > 0).sum())))]
    regions = session.recording.regions
    units = np.array(sorted(busiest.tolist(), key=lambda u: (str(regions[u]), -counts[:, u].sum())))
    rates = np.stack([predict(model, batcher, 0, rows, hide_unit(u))[:, u] for u in units.tolist()])  # [N, W, T]
    window, column, tick, _ = session.events(rows)
    place = np.full(session.units, -1)
    place[units] = np.arange(len(units))
    seen = place[column] >= 0
    gaps = np.flatnonzero(np.diff(session.starts[rows]) > window_s + 1e-6) + 1
    return {
        "view_time": window[seen] * window_s + tick[seen] / 1000,
        "view_unit": place[column[seen]],
        "view_rates": rates.reshape(len(units), -1) * 1000 / bin_ms,
        "view_edges": np.arange(rates.shape[1] * rates.shape[2] + 1) * bin_ms / 1000,
        "view_breaks": gaps * window_s,
        "view_area": regions[units],
    }


def areas_told(run: RunFolder) -> list[dict]:
    """How well a unit's area is read off its embedding, beside the commonest area; none without two areas of units."""
    model = NeuroBridge.load(run.model()).eval().to(device(run.settings))
    sessions = run_sessions(run)
    keys = [key for s in sessions for key in s.recording.unit_keys]
    regions = np.concatenate([s.recording.regions for s in sessions])
    vectors = model.units(torch.tensor(model.units.rows_of(keys))).detach().cpu().numpy()
    try:
        probe = region_probe(vectors, regions, seed=run.settings.seed, folds=FOLDS)
    except ValueError:  # fewer than two areas with units enough
        return []
    return [{"accuracy": float(probe.hits.mean()), "majority": probe.majority, "units": len(probe.kept)}]


def spikes_view(arrays: dict[str, np.ndarray]) -> list[Block]:
    """The chapter on spikes: a raster beside predicted rates."""
    if "view_rates" not in arrays:
        return []
    figure = spikes_beside_rates(
        arrays["view_time"], arrays["view_unit"], arrays["view_rates"], arrays["view_area"].tolist(),
        edges=arrays["view_edges"], breaks=arrays["view_breaks"].tolist(),
    )  # fmt: skip
    caption = "The held-out windows with most spikes, the busiest units. Dashed: windows that do not follow each other."
    return [Figure("Spikes and predicted rates", figure, caption)]


def maps_view(arrays: dict[str, np.ndarray], areas: list[dict]) -> list[Block]:
    """The chapter on the representation: latents over time and behaviour, units by area."""
    blocks: list[Block] = []
    if "latent_xy" in arrays:
        behaviour = {k.partition("/")[2]: v for k, v in arrays.items() if k.startswith("latent_behaviour/")}
        labels = list(({"time (s)": arrays["latent_time"]} | behaviour).items())
        for at in range(0, len(labels), PANELS):
            drawn = figures.representation_scatter(arrays["latent_xy"], dict(labels[at : at + PANELS]))
            caption = "Latents of chunks all over a session, nothing hidden; no label was ever a target."
            blocks.append(Figure("Latents over time and behaviour", drawn, caption))
    if "unit_xy" in arrays:
        caption = "Unit embeddings; the areas were never a target."
        drawn = figures.representation_scatter(arrays["unit_xy"], {"area of the unit": arrays["unit_area"]})
        blocks.append(Figure("Units", drawn, caption))
    if areas:
        rows = [[row["units"], row["accuracy"], row["majority"]] for row in areas]
        note = "Logistic regression in stratified folds, from the unit's embedding alone."
        blocks.append(Table("Area of a unit", ["units", "accuracy", "commonest area"], rows, note=note))
    return blocks
