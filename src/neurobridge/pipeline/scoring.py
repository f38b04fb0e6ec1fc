"""Stage evaluate: retrieval against ridge and chance, the representation; pictures and spikes have their own files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neurobridge.data.intervals import elapsed, length_of, merged
from neurobridge.errors import UserError, atomic_path
from neurobridge.evaluation.probes import project_2d
from neurobridge.evaluation.spikes import fano_factor, split_half_reliability
from neurobridge.pipeline.decoding import Decoded, first_presentations
from neurobridge.pipeline.encodings import closed_forms
from neurobridge.pipeline.folder import DONE, RunFolder
from neurobridge.pipeline.identification import Evidence, both_ways, gather_evidence, layer_rows, rows_of
from neurobridge.pipeline.image_data import stack_features
from neurobridge.pipeline.joint_encoding import responses
from neurobridge.pipeline.picture_scores import score_images
from neurobridge.pipeline.pictures import Chosen, load_images
from neurobridge.pipeline.probing import probe_session, run_sessions
from neurobridge.pipeline.repeats import by_repeats
from neurobridge.pipeline.sharpening import sharpening
from neurobridge.pipeline.spike_scores import score_spikes, some_rows
from neurobridge.pipeline.spikes import held_out_sessions, pretraining_sessions
from neurobridge.pipeline.unit_views import attention, looking, unit_rows
from neurobridge.pipeline.views import areas_told, rates_view, unit_map, views
from neurobridge.terminal import console

PROBED = 3  # behaviours that stage evaluate decodes unasked


def evaluate(run: RunFolder) -> None:
    """Every number of the report, with intervals -> run/evaluate/results.json and arrays.npz.

    Of a run without pictures those of the spikes, with behaviour where there is any -> run/probes.
    """
    results: dict[str, list[dict]] = {"spikes": score_spikes(run)}
    if (run / "reconstruct" / DONE).is_file():
        run.need("reconstruct")
        chosen = Chosen.of(run)
        decoded = [chosen.decode(index) for index in chosen.wanted]
        evidence = gather_evidence(run, decoded)
        results |= {**score_retrieval(run, decoded, evidence), **score_images(run)}
        results["units"] = unit_rows(chosen.batcher.sessions, decoded)
        arrays = representation(run, chosen, decoded[0]) | noise(run) | closer(run, chosen, evidence[0])
    else:
        results["areas"] = areas_told(run)
        results["units"] = unit_rows(run_sessions(run))
        arrays = views(run)
        probe_all(run)
    run.save_arrays("evaluate/arrays.npz", **arrays)
    with atomic_path(run / "evaluate" / "results.json") as path:
        path.write_text(json.dumps(results, indent=1))
    run.finish("evaluate")


def probe_all(run: RunFolder) -> None:
    """Decode the first behaviours of the first session that has any, where that is not done yet."""
    session = next((s for s in run_sessions(run) if s.recording.behaviour), None)
    for target in [] if session is None else list(session.recording.behaviour)[:PROBED]:
        try:
            probe_session(run, session, target, seed=run.settings.seed)
        except UserError as error:
            console.print(f"not decoded: {error}", markup=False, soft_wrap=True)


def score_retrieval(run: RunFolder, sessions: Sequence[Decoded], evidence: Sequence[Evidence]) -> dict[str, list[dict]]:
    """Which image was seen: rows of every method ("retrieval"), of decoders in both directions ("both_ways"), over
    averaged presentations ("repeats"), and of the layers that suit each area ("layers")."""
    settings = run.settings
    features = stack_features(settings, load_images(run).images)
    closed = closed_forms(sessions, features)
    layers = [layer_rows(d, settings.encoding.layers, features, closed[d.session]) for d in sessions]
    return {
        "retrieval": [
            row for one in evidence for row in rows_of(one, features, closed[one.decoded.session], seed=settings.seed)
        ],
        "both_ways": [row for one in evidence for row in both_ways(one, seed=settings.seed)],
        "repeats": [row for one in evidence for row in by_repeats(one, seed=settings.seed)],
        "layers": [row for rows in layers for row in rows],
    }


def closer(run: RunFolder, chosen: Chosen, evidence: Evidence) -> dict[str, np.ndarray]:
    """The first session whose pictures are asked for: spikes beside rates, attention, encoding maps, sharpening."""
    index = chosen.wanted[0]
    session = chosen.batcher.sessions[index]
    arrays = attention(chosen, index) | looking(chosen, index, evidence.decoded)
    arrays |= sharpening(evidence, load_images(run), seed=run.settings.seed)
    if not session.valued and session.units > 1:
        arrays |= rates_view(run, chosen.model, session, "test")
    return arrays


def representation(run: RunFolder, chosen: Chosen, decoded: Decoded) -> dict[str, np.ndarray]:
    """2-D maps: readouts of test images by category, unit embeddings by area."""
    images = load_images(run).images
    arrays = {
        "image_xy": project_2d(np.concatenate([decoded.valid.decoded, decoded.test.decoded]), seed=run.settings.seed),
        **unit_map(chosen.model, chosen.batcher.sessions, seed=run.settings.seed),
    }
    rows = np.concatenate([decoded.valid.images, decoded.test.images])
    if "category" in images.labels:
        arrays["image_category"] = images.labels["category"][rows]
    return arrays


def noise(run: RunFolder) -> dict[str, np.ndarray]:
    """Rates (Hz), Fano factors and split-half reliability of the units of the first session, and its raster."""
    session = [*held_out_sessions(run.settings), *pretraining_sessions(run.settings)][0]
    images = run.settings.data / "images.h5"
    if session.valued or not Path(images).is_file():
        return {}
    session.attach_images(load_images(run).images)
    rows = session.rows("test")
    counts, shown = responses(session, rows), session.image_row[rows]
    repeats = min(np.unique(shown, return_counts=True)[1])
    if repeats < 4:
        return {}
    by_image = counts[first_presentations(shown, repeats)]
    binned = session.binned(some_rows(session, "test", 200), 10)
    observed = merged(session.recording.observed_time)
    inside = elapsed(session.source.times, observed)[0] >= 0
    rates = np.bincount(session.columns[inside], minlength=session.units) / length_of(observed)
    return {
        "rates": rates,
        "fano": fano_factor(by_image),
        "reliability": split_half_reliability(by_image, seed=0, spearman_brown=False),
        "raster": binned,
        "areas": session.recording.regions,
    }
