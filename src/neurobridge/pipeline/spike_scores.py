"""How well spikes are predicted on the test split, under frozen masks, beside the closed-form rivals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from neurobridge.baselines.glm import fit_predict_glm, fit_predict_psth_glm
from neurobridge.baselines.rates import fit_predict_population_coupling, fit_predict_psth
from neurobridge.baselines.ridge import ridge
from neurobridge.data.datamodule import Batcher
from neurobridge.data.store import Session
from neurobridge.evaluation.protocols import Task, collect, forward_prediction, inter_region, intra_region
from neurobridge.evaluation.protocols import co_smoothing as co_smoothing_task
from neurobridge.evaluation.spikes import (
    bits_per_spike_interval,
    bits_per_spike_per_neuron,
    gaussian_r2_interval,
    gaussian_r2_per_unit,
)
from neurobridge.neuro.losses import expected_counts
from neurobridge.neuro.masking import Masker, MaskPlan, nothing_hidden
from neurobridge.neuro.model import NeuroBridge
from neurobridge.neuro.modes import MODES
from neurobridge.pipeline.device import device
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.spikes import held_out_sessions, make_batcher, pretraining_sessions
from neurobridge.terminal import console

WINDOWS, UNITS, GLM_SAMPLES = 300, 20, 30_000
MOST_PREDICTORS, TOGETHER_MS = 512, 50  # units that a GLM sees at most; bins in which they go together
WIDTHS_S = (0.02, 0.05, 0.2, 0.5, 1.0)  # of the smoothing of a GLM where windows know no onset: to a quarter of one
GLM = {"sigmas_s": (0.02, 0.05), "lags_s": ((0.0,), (-0.05, 0.0, 0.05)), "alphas": (0.1, 1.0, 3.0), "folds": 2}
RIVAL_WINDOWS = 1500  # of training, that rivals are fitted to
OURS, PSTH = "NeuroBridge", "time course of the unit (PSTH)"
CO_SMOOTHING = "co-smoothing, leave one out"
OVER_PSTH = "co-smoothing, leave one out, over the PSTH"


def score_spikes(run: RunFolder) -> list[dict]:
    """One row a (session, task, method): bits/spike, or R2 for values, on the test split with frozen masks.

    Of the first held-out and the first pretraining session that have a test split, or else a valid one; none if no
    session has either.
    """
    model = NeuroBridge.load(run.model()).eval().to(device(run.settings))
    rows = []
    for role, sessions in scored_sessions(run).items():
        for session, split in sessions[:1]:
            batcher = make_batcher(model, [session], run.settings)
            for score in spike_tasks(model, batcher, 0, run.settings.pretrain.modes, split):
                rows.append({"session": session.name, "role": role, **score, "split": split})
    return rows


def scored_sessions(run: RunFolder) -> dict[str, list[tuple[Session, str]]]:
    """Role -> the run's sessions (held-out ones only if the run has adapted) with the split that they are scored on."""
    adapted = run.done("adapt")
    roles = {
        "held out, adapted": held_out_sessions(run.settings) if adapted else [],
        "pretrained": pretraining_sessions(run.settings),
    }
    return {
        role: [(s, split) for s in sessions if (split := next((x for x in ("test", "valid") if s.count(x)), ""))]
        for role, sessions in roles.items()
    }


def spike_tasks(
    model: NeuroBridge, batcher: Batcher, index: int, modes: Sequence[str], split: str = "test"
) -> list[dict]:
    """Masked prediction in every mode, the frozen protocols, then co-smoothing beside its rivals."""
    session = batcher.sessions[index]
    unit = "R2" if session.valued else "bits/spike"
    scores = []
    for mode, score in masked_tasks(model, batcher, index, modes, split).items():
        scores.append({"task": f"masked, {mode}", "method": OURS, **score, "unit": unit})
    for task, score in protocol_scores(model, batcher, index, split).items():
        scores.append({"task": task, "method": OURS, **score, "unit": unit})
    if session.units < 2:  # no other unit to predict one from
        return scores
    ours, truth, units = co_smoothing(model, batcher, index, split=split)
    if not session.valued and not truth[:, units].any():
        return scores
    predictions = {OURS: ours} | rival_predictions(session, batcher.bin_ms, truth, units)
    rows = co_smoothing_scores(predictions, truth[:, units], valued=session.valued)
    for row in rows:
        if row["method"].endswith("GLM") and session.units > MOST_PREDICTORS:
            row["predictors"] = [MOST_PREDICTORS, session.units]
    return scores + rows


def co_smoothing_scores(predictions: Mapping[str, np.ndarray], truth: np.ndarray, *, valued: bool) -> list[dict]:
    """Rows of method -> [W, U, T] beside ``truth``: over the mean rate and, where there is a PSTH, over the PSTH.

    ``interval``: 95 % over units; ``ours_minus``: how far ours is above the method, paired over the same units.
    """
    interval, unit = (gaussian_r2_interval, "R2") if valued else (bits_per_spike_interval, "bits/spike")
    rows = []
    for task, null in {CO_SMOOTHING: None, OVER_PSTH: predictions.get(PSTH)}.items():
        if task == OVER_PSTH and null is None:
            continue
        for method, prediction in predictions.items():
            if prediction is null:
                continue
            found = interval(prediction, truth, null=null, seed=0)
            row = {"task": task, "method": method, "value": found.mean, "unit": unit, "interval": list(found)}
            if method != OURS:
                row["ours_minus"] = list(interval(predictions[OURS], truth, null=prediction, seed=0))
            rows.append(row)
    return rows


def masked_scores(model: NeuroBridge, batcher: Batcher, index: int, modes: Sequence[str]) -> dict[str, float]:
    """Mode -> bits/spike (R2 for values) on test windows of a session under frozen masks; impossible modes left out."""
    return {mode: score["value"] for mode, score in masked_tasks(model, batcher, index, modes).items()}


def masked_tasks(
    model: NeuroBridge, batcher: Batcher, index: int, modes: Sequence[str], split: str = "test"
) -> dict[str, dict]:
    """The same with intervals over units, on any split: mode -> :func:`scored`."""
    session = batcher.sessions[index]
    test = some_rows(session, split, WINDOWS)
    batch = batcher.batch([(index, test)])
    scores = {}
    for number, mode in enumerate(modes):
        plan = Masker(modes=MODES).draw(batch, np.random.default_rng([7, number]), mode)
        if MODES[int(plan.mode[0])] == mode:
            prediction = predict(model, batcher, index, test, lambda b, plan=plan: plan)
            truth, cells = batch.target.cpu().numpy(), plan.scored(batch).cpu().numpy()
            scores |= scored(mode, prediction, truth, cells, valued=session.valued)
    return scores


def scored(name: str, rates: np.ndarray, truth: np.ndarray, cells: np.ndarray, *, valued: bool) -> dict[str, dict]:
    """{name: value and, for spikes, its interval over units}; empty where there is nothing to score."""
    if not (cells & ~np.isnan(truth)).any():
        return {}
    if valued:
        found = gaussian_r2_per_unit(rates, truth, cells)
        return {} if np.isnan(found).all() else {name: {"value": float(np.nanmean(found))}}
    if not truth[cells].any():
        return {}
    found = bits_per_spike_interval(rates, truth, cells, seed=0)
    return {name: {"value": found.mean, "interval": list(found)}}


def co_smoothing(
    model: NeuroBridge, batcher: Batcher, index: int, *, split: str = "test", units: int = UNITS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leave one out: expected counts [W, U, T] of some units, each from all the others; truth [W, N, T]; units [U]."""
    session = batcher.sessions[index]
    test = some_rows(session, split, WINDOWS)
    some = np.random.default_rng(3).permutation(session.units)[:units]
    ours = np.stack([predict(model, batcher, index, test, hide_unit(u))[:, u] for u in some], axis=1)
    return ours, session.binned(test, batcher.bin_ms), some


def protocol_scores(model: NeuroBridge, batcher: Batcher, index: int, split: str = "test") -> dict[str, dict]:
    """The frozen tasks of ``evaluation.protocols`` on test windows; what a session does not allow is absent.

    Bits/spike, pooled and as the mean over neurons; for values R2.
    """
    session = batcher.sessions[index]
    test = some_rows(session, split, WINDOWS)
    truth = session.binned(test, batcher.bin_ms)
    units, bins = truth.shape[1:]
    regions = session.recording.regions
    protocols = {
        "a tenth of the units": co_smoothing_task(units=units, bins=bins, session=session.name),
        "intra-region": intra_region(regions=regions, bins=bins, session=session.name, folds=4),
        "inter-region": inter_region(regions=regions, bins=bins),
    }
    if bins >= 5:
        protocols["forward, last fifth"] = forward_prediction(units=units, bins=bins, ahead=bins // 5)
    scores = {}
    for name, tasks in protocols.items():
        if not tasks:
            continue
        rates, hidden = collect(tasks, lambda task: predict(model, batcher, index, test, hide(task, batcher.bin_ms)))
        cells = np.broadcast_to(hidden, truth.shape)
        pooled = scored(name, rates, truth, cells, valued=session.valued)
        scores |= pooled
        if pooled and not session.valued:
            mean = float(np.nanmean(bits_per_spike_per_neuron(rates, truth, cells)))
            scores[f"{name}, mean over neurons"] = {"value": mean}
    return scores


def rival_predictions(
    session: Session, bin_ms: int, truth: np.ndarray, units: np.ndarray, *, samples: int = GLM_SAMPLES
) -> dict[str, np.ndarray]:
    """Closed-form rivals of leave-one-out co-smoothing: method -> [W, len(units), T].

    samples: training bins that a GLM sees at most. Of more than :data:`MOST_PREDICTORS` units it sees so many, those
    that go most with the ones it predicts, and that is said: it inverts a matrix of their number squared.
    """
    train = session.binned(some_rows(session, "train", RIVAL_WINDOWS), bin_ms)
    if session.valued:
        x, y = (np.moveaxis(part, 1, 2).reshape(-1, session.units) for part in (train, truth))  # a bin a row
        others = [np.delete(np.arange(session.units), u) for u in units]
        fits = [ridge(x[:, o], x[:, [u]]).predict(y[:, o]) for o, u in zip(others, units, strict=True)]
        predicted = np.concatenate(fits, axis=1).reshape(len(truth), -1, len(units))
        return {"ridge on the other units": np.moveaxis(predicted, 1, 2)}
    bin_s = bin_ms / 1000
    some = predictors(train, units, bin_ms)
    if len(some) < session.units:
        told = f"session {session.name}: the GLMs, which are rivals, see the {len(some)} of its {session.units:,} units"
        console.print(f"{told} that go most with those they predict", markup=False, soft_wrap=True)
    counts = train[:, some], truth[:, some]
    options = {"bin_s": bin_s, "units": np.searchsorted(some, units), "max_samples": samples}
    onsets = session.locked.all()
    if not onsets:  # of a grid, which may be long and slow
        wide = tuple(width for width in WIDTHS_S if width * 4000 <= session.window_ms)
        options["sigmas_s"] = wide or GLM["sigmas_s"][:1]
    rivals = {
        "population coupling": fit_predict_population_coupling(train, truth, bin_s=bin_s, units=units),
        "leave-one-out GLM": fit_predict_glm(*counts, **GLM | options),
    }
    if not onsets:
        return rivals
    return rivals | {
        PSTH: fit_predict_psth(train[:, units], truth[:, units], bin_s=bin_s),
        "PSTH x leave-one-out GLM": fit_predict_psth_glm(*counts, **options),
    }


def predictors(train: np.ndarray, units: np.ndarray, bin_ms: int) -> np.ndarray:
    """Rows, sorted, of ``units`` and of those that correlate most with one of them in the counts ``train`` [W, N, T].

    All, where there are no more than :data:`MOST_PREDICTORS`. Correlations are those of counts in :data:`TOGETHER_MS`.
    """
    number = train.shape[1]
    if number <= MOST_PREDICTORS:
        return np.arange(number)
    counts = np.add.reduceat(train, np.arange(0, train.shape[2], max(1, TOGETHER_MS // bin_ms)), axis=2)
    counts = np.moveaxis(counts, 1, 2).reshape(-1, number)
    counts = counts - counts.mean(0)
    counts /= np.maximum(np.linalg.norm(counts, axis=0), 1e-9)
    together = np.abs(counts[:, units].T @ counts).max(0)
    together[units] = np.inf
    return np.sort(np.argsort(-together, kind="stable")[:MOST_PREDICTORS])


def some_rows(session: Session, split: str, most: int) -> np.ndarray:
    """At most ``most`` windows of a split, the same ones every time."""
    rows = session.rows(split)
    return np.sort(np.random.default_rng(11).permutation(rows)[:most])


@torch.no_grad()
def predict(model: NeuroBridge, batcher: Batcher, index: int, rows: np.ndarray, plan: Callable) -> np.ndarray:
    """Expected counts (or values) [W, N, T] under ``plan(batch)``."""
    batch = batcher.batch([(index, rows)])
    prediction = model(batch, plan(batch))
    return (prediction if batcher.sessions[index].valued else expected_counts(prediction)).cpu().numpy()


def hide_unit(unit: int) -> Callable:
    def plan(batch) -> MaskPlan:
        made = nothing_hidden(batch)
        made.hidden_unit[:, unit] = True
        return made

    return plan


def hide(task: Task, bin_ms: int) -> Callable:
    """The plan of a frozen protocol: its units and bins are not seen in any window."""

    def plan(batch) -> MaskPlan:
        made = nothing_hidden(batch)
        made.hidden_unit |= torch.from_numpy(task.hidden_unit).to(made.hidden_unit.device)
        made.hidden_tick |= torch.from_numpy(np.repeat(task.hidden_bin, bin_ms)).to(made.hidden_tick.device)
        return made

    return plan
