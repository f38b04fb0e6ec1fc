"""Stage pretrain: a model of many sessions, masked and both ways; its last word is how well it foretells spikes."""

from __future__ import annotations

import json

import numpy as np
import torch

from neurobridge.data.audit import audit_record
from neurobridge.errors import atomic_path
from neurobridge.neuro.model import parameter_count
from neurobridge.neuro.prior import UnitPrior
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.image_data import make_maps, new_bridge, seen_by
from neurobridge.pipeline.new_units import known_regions
from neurobridge.pipeline.spikes import add_units, fit_here, image_side, make_model, mixture_sessions, spike_task


def pretrain(run: RunFolder) -> None:
    """Pretraining on all sessions but the held-out ones, of all folders of the mixture -> run/pretrain."""
    settings = run.settings
    sessions = mixture_sessions(settings)
    for number, session in enumerate(sessions if settings.pretrain.share < 1 else ()):
        session.thin(settings.pretrain.share, np.random.default_rng([settings.seed, number]))
    data, features = image_side(settings, sessions)
    torch.manual_seed(settings.seed)
    maps = None if data is None or features is None else make_maps(features, np.flatnonzero(data.train))
    model = make_model(settings, maps=maps)
    add_units(model, sessions, settings)
    bridge = seen = lessons = None
    if data is not None and features is not None:
        bridge = new_bridge(settings, model, data, features)
        seen, lessons = seen_by(bridge, data, features), (data, features)
    step = 0
    if settings.pretrain.steps:
        task = spike_task(model, sessions, settings, only_units=False, bridge=bridge, seen=seen, lessons=lessons)
        step = fit_here(task, "pretrain", run, average=settings.pretrain.average)
    model.save(run / "pretrain")
    vectors = model.units(torch.arange(len(model.units))).detach()
    UnitPrior.fit(vectors, known_regions(model, sessions)).save(run / "pretrain")
    if bridge is not None:
        bridge.save(run / "pretrain")
    run.finish(
        "pretrain",
        sessions=[s.name for s in sessions],
        step=step,
        units=len(model.units),
        parameters=parameter_count(model.encoder) + parameter_count(model.decoder),
        windows=int(sum(len(s.rows("train")) for s in sessions)),
        leaks=audit_splits(run),
    )


def audit_splits(run: RunFolder) -> int:
    """Look for leaks between the splits of every data folder -> run/pretrain/audit.json; the number of certain ones."""
    settings = run.settings
    window = {"window_ms": settings.window.window_ms, "offset_ms": settings.window.offset_ms}
    records = {str(folder): audit_record(folder, **window) for folder in (settings.data, *settings.mixture.data)}
    with atomic_path(run / "pretrain" / "audit.json") as path:
        path.write_text(json.dumps(records, indent=1))
    return sum(record["certain"] for record in records.values())
