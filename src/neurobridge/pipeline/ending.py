"""What 'neurobridge pretrain' says at its end: bits/spike, whether they still rose, what is next."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress

import numpy as np
from rich.table import Table

from neurobridge.data.store import Session
from neurobridge.errors import atomic_path
from neurobridge.evaluation.report import format_cell
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.advice import Advice, advice_for
from neurobridge.pipeline.device import device
from neurobridge.pipeline.folder import DONE, RunFolder
from neurobridge.pipeline.inputs import shows_pictures
from neurobridge.pipeline.kept import sealed_json, unsealed_json
from neurobridge.pipeline.spike_scores import CO_SMOOTHING, OURS, co_smoothing, co_smoothing_scores, rival_predictions
from neurobridge.pipeline.spikes import make_batcher, mixture_sessions
from neurobridge.terminal import console
from neurobridge.training.settings import RunSettings
from neurobridge.training.trainer import read_metrics

KEPT = "ending.json"
SESSIONS, UNITS, GLM_SAMPLES = 3, 10, 10_000
RISING = 0.05  # of all that the loss fell: a last third that fell by more had not come to its end
MEAN = "mean rate"
FAR = 1.6  # times as long or as short as advised: worth a word


def ending(run: RunFolder) -> None:
    """Print the valid split's co-smoothing beside its rivals, whether it still rose, and the next command."""
    sessions = mixture_sessions(run.settings)
    rows = valid_scores(run, sessions)
    if rows:
        over = f"{rows[0]['unit']} over the {MEAN}"
        table = Table("session", "method", over, title="valid split, each unit from the others")
        for name in dict.fromkeys(row["session"] for row in rows):
            table.add_row(name, MEAN, "0")
            for row in (row for row in rows if row["session"] == name):
                style = "bold" if row["method"] == OURS else None
                table.add_row("", row["method"], format_cell(tuple(row["interval"])), style=style)
        console.print(table)
    else:
        console.print("no session has two units and spikes in its valid split: there is nothing to score")
    console.print(course(run), markup=False, soft_wrap=True)
    if better := better_windows(run.settings):
        console.print(better, markup=False, soft_wrap=True)
    console.print(f"folder: {run.path}; next: {next_command(run)}", markup=False, soft_wrap=True)


def valid_scores(run: RunFolder, sessions: list[Session]) -> list[dict]:
    """Rows of leave-one-out co-smoothing on the valid split of the first sessions, kept as long as the model stays."""
    model_digest = run.facts("pretrain")["files"]["pretrain/model.safetensors"]
    path = run / KEPT
    with suppress(FileNotFoundError, ValueError):
        kept = unsealed_json(path.read_text())
        if kept["model"] == model_digest:
            return kept["rows"]
    model = NeuroBridge.load(run / "pretrain").eval().to(device(run.settings))
    rows = []
    for session in [s for s in sessions if s.count("valid") and s.units > 1][:SESSIONS]:
        batcher = make_batcher(model, [session], run.settings)
        ours, truth, units = co_smoothing(model, batcher, 0, split="valid", units=UNITS)
        if not np.isfinite(ours).all():  # of a training that ran away, if to no infinite loss
            unit = "R2" if session.valued else "bits/spike"
            rows.append({"session": session.name, "method": OURS, "unit": unit, "interval": [np.nan] * 3})
        elif session.valued or truth[:, units].any():
            rivals = rival_predictions(session, batcher.bin_ms, truth, units, samples=GLM_SAMPLES)
            scores = co_smoothing_scores({OURS: ours} | rivals, truth[:, units], valued=session.valued)
            rows += [{"session": session.name, **row} for row in scores if row["task"] == CO_SMOOTHING]
    with atomic_path(path) as temporary:
        temporary.write_text(sealed_json({"model": model_digest, "rows": rows}))
    return rows


def told(settings: RunSettings, advice: Advice | None) -> str:
    """What was advised, and what is used of it, in a sentence."""
    if advice is None:
        return "these signals have values: no advice on their windows, the options are used as they are"
    used = settings.window.window_ms, settings.window.bin_ms, settings.model.chunk_ms
    return (
        f"for {advice.why}: windows of {used[0]} ms, bins of {used[1]} ms, chunks of {used[2]} ms, "
        f"{settings.pretrain.windows} windows a batch, {settings.pretrain.steps} steps, masking by "
        f"{', '.join(settings.pretrain.modes)}"
    )


def better_windows(settings: RunSettings) -> str:
    """A sentence where much longer or shorter windows are advised than were used; empty where not."""
    advice = None if settings.advise or settings.mixture.data else advice_for(settings)
    if advice is None or 1 / FAR < settings.window.window_ms / advice.window_ms < FAR:
        return ""
    return (
        f"for {advice.why}, windows of {advice.window_ms} ms, bins of {advice.bin_ms} ms and chunks of "
        f"{advice.chunk_ms} ms did better (docs/own-recordings.md): try --window auto, in another --out"
    )


def course(run: RunFolder) -> str:
    """Whether the valid loss still fell when training ended, in a sentence, from run/metrics.csv."""
    steps = run.settings.pretrain.steps
    if (best := run.facts("pretrain").get("step", steps)) < steps:
        return (
            f"the valid loss was lowest at step {best} of {steps} and no lower since: the model has the weights of "
            f"step {best} (training would go on from step {steps})"
        )
    if (share := still_falling(run)) is None:
        return "too few checkpoints with a valid split to tell whether more steps would help"
    if share > RISING:
        return (
            f"it was still getting better: the last third of {steps} steps brought {share:.0%} of what the valid loss "
            "fell; raise --pretrain.steps and run the same command again, and training goes on from here"
        )
    last = f"the last third of {steps} steps brought {max(share, 0):.0%} of what the valid loss fell"
    return f"it had come to its end: {last}"


def still_falling(run: RunFolder) -> float | None:
    """Share of the fall of the valid loss (mean of the modes) that the last third of the steps brought."""
    by_step: dict[int, list[float]] = defaultdict(list)
    for row in read_metrics(run / "metrics.csv"):
        if row["stage"] == "pretrain" and row["name"].startswith("valid/"):
            by_step[int(row["step"])].append(float(row["value"]))
    at = np.array(sorted(by_step))
    if len(at) < 3:
        return None
    loss = np.array([np.mean(by_step[step]) for step in at.tolist()])
    fall = loss[0] - loss.min()
    before = loss[at <= at[0] + 2 / 3 * (at[-1] - at[0])][-1]
    return float((before - loss[-1]) / fall) if fall > 0 else 0.0


def next_command(run: RunFolder) -> str:
    """The stage that comes after pretraining, as a command."""
    pictured = shows_pictures(run.settings)
    if (run.settings.held_out or pictured) and not (run / "adapt" / DONE).is_file():
        return f"neurobridge adapt {run.path}"
    return f"neurobridge {'align' if pictured else 'evaluate'} {run.path}"
