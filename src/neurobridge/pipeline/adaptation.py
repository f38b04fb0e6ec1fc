"""Stage adapt: unit embeddings for sessions that pretraining never saw; body and head stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from neurobridge.data.store import Session
from neurobridge.neuro.identity import IDEncoder
from neurobridge.neuro.model import NeuroBridge
from neurobridge.neuro.prior import NewUnits, UnitPrior
from neurobridge.pipeline.device import device
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.image_data import Bridge, seen_by
from neurobridge.pipeline.new_units import carried_vectors, reach_of, starts
from neurobridge.pipeline.spikes import (
    add_units,
    fit_here,
    held_out_sessions,
    image_side,
    labelled_share,
    make_batcher,
    make_masker,
    pretraining_sessions,
    schedule,
    spike_task,
)
from neurobridge.training.settings import RunSettings
from neurobridge.training.tasks import IdentityTask


def adapt(run: RunFolder) -> None:
    """New unit embeddings for the held-out sessions, body frozen -> run/adapt."""
    settings = run.settings
    run.need("pretrain")
    model = NeuroBridge.load(run / "pretrain")
    bridge = Bridge.load(run / "pretrain") if Bridge.there(run / "pretrain") else None
    sessions = held_out_sessions(settings)
    facts: dict[str, dict[str, int]] = {}
    if sessions and settings.adapt.method == "identity":
        known = pretraining_sessions(settings)
        encoder = train_identity(run, model, known)
        encoder.save(run / "adapt")
        add_units(model, sessions, settings)
        embed_units(model, encoder, sessions, settings)
    elif sessions:
        facts = adapt_units(run, model, bridge, sessions, UnitPrior.load(run / "pretrain"))
    model.save(run / "adapt")
    if bridge is not None:
        bridge.save(run / "adapt")
    run.finish("adapt", sessions=[s.name for s in sessions], units=facts)


def adapt_units(
    run: RunFolder, model: NeuroBridge, bridge: Bridge | None, sessions: Sequence[Session], prior: UnitPrior
) -> dict[str, dict[str, int]]:
    """Vectors of the units of ``sessions``: their starts, then the MAP estimate; session -> how many were carried."""
    settings, options = run.settings, run.settings.adapt
    first = len(model.units)
    vectors = {session.name: carried_vectors(model, session) for session in sessions}
    add_units(model, sessions, settings)
    batcher, masker = make_batcher(model.to(device(settings)), sessions, settings), make_masker(settings)
    data, features = image_side(settings, sessions) if bridge is not None and options.steps else (None, None)
    parts, reach, facts = [], [], {}
    for index, session in enumerate(sessions):
        part, carried, facts[session.name] = starts(
            model, prior, batcher, index, masker, carried=vectors[session.name], how=options.start, seed=settings.seed
        )
        parts.append(part)
        reach.append(reach_of(carried, 1.0 if bridge is None else labelled_share(session, options.labels)))
    model.cpu()
    new_units = NewUnits(torch.cat(parts), prior.factor, first=first, reach=torch.cat(reach))
    if options.steps:
        seen = None if bridge is None or data is None else seen_by(bridge, data, features)
        all_known = settings.adapt.labels is None and data is not None and features is not None
        task = spike_task(
            model,
            sessions,
            settings,
            only_units=True,
            bridge=bridge,
            seen=seen,
            lessons=(data, features) if all_known else None,
            new_units=new_units,
        )
        fit_here(task, "adapt", run)
    rows = list(range(first, len(model.units)))
    model.units.set_vectors(rows, new_units(torch.tensor(rows)).detach())
    return facts


def train_identity(run: RunFolder, model: NeuroBridge, sessions: Sequence[Session]) -> IDEncoder:
    """An IDEncoder fitted to the frozen body on the sessions that the body knows."""
    settings = run.settings
    torch.manual_seed(settings.seed + 3)
    bins = settings.window.window_ms // settings.window.bin_ms
    encoder = IDEncoder(bins=bins, unit_width=model.units.embedding.shape[1])
    encoder.fit_scale(model.units(torch.arange(len(model.units))).detach())
    batcher = make_batcher(model, sessions, settings)
    options = schedule(batcher, settings.adapt, settings, 2) | {"learning_rate": 1e-3}
    fit_here(IdentityTask(model, encoder, masker=make_masker(settings), **options), "adapt", run)
    return encoder


@torch.no_grad()
def embed_units(model: NeuroBridge, encoder: IDEncoder, sessions: Sequence[Session], settings: RunSettings) -> None:
    """Set the embeddings of the units of ``sessions`` from calibration windows of their train split; no gradient."""
    there = device(settings)
    encoder.eval().to(there)
    for session in sessions:
        rows = session.rows("train")
        some = np.linspace(0, len(rows) - 1, min(len(rows), settings.adapt.calibration)).astype(int)
        counts = torch.from_numpy(session.binned(rows[some], settings.window.bin_ms))[None].to(there)
        unit = encoder(counts, torch.ones(1, session.units, dtype=torch.bool, device=there))[0].cpu()
        model.units.set_vectors(model.units.rows_of(session.recording.unit_keys), unit)
