"""MC_Maze (Neural Latents Benchmark, DANDI 000128): co-smoothing at 5 ms, and POYO's velocity decoding as a check.

Needs the release's file or folder; docs/mc_maze.md says where to get it, what is scored and how. Not run here. Training
trials fit, validation trials score (the public release has no test labels). Co-smoothing: the units that the release
holds out, from all others, pooled bits per spike, beside the leave-out GLM and the binned masked transformer. Check of
the import: torch_brain's POYO, trained on all units, decodes hand velocity 100 ms later with R2 of about 0.87 (uniform
average). The bars: POYO >= 0.85, and our co-bps above the GLM's. Hours on a CPU.

    python benchmarks/mc_maze.py path/to/000128 [--config configs/experiments/mc_maze.yaml] [--out runs/mc_maze]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentParser
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score

from neurobridge.baselines.binned_transformer import BinnedTransformer
from neurobridge.baselines.glm import fit_predict_glm
from neurobridge.baselines.poyo import PoyoDecoder
from neurobridge.data.store import Session
from neurobridge.errors import UserError
from neurobridge.evaluation.spikes import bits_per_spike
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.commands import run_stages
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.spikes import make_batcher, pretraining_sessions
from neurobridge.training.settings import RunSettings

ROOT = Path(__file__).resolve().parents[1]
BAR_POYO, LAG_S, VELOCITY, HELD_OUT = 0.85, 0.1, "hand_vel", "heldout"
SCORED = "test"  # the benchmark's val: see data/sources/nlb.py


def settings_of(config: Path) -> RunSettings:
    parser = ArgumentParser()
    parser.add_class_arguments(RunSettings, "run")
    return parser.instantiate_classes(parser.parse_object({"run": yaml.safe_load(config.read_text())})).run


def velocity(session: Session, rows: np.ndarray, bin_ms: int) -> tuple[np.ndarray, np.ndarray]:
    """Hand velocity [len(rows), T, 2], ``LAG_S`` after the centres of the bins, and which windows [len(rows)] have it
    throughout (the series has gaps)."""
    series = session.recording.behaviour.get(VELOCITY)
    if series is None:
        raise UserError(f"session {session.name} has no '{VELOCITY}': import the file that holds behaviour too")
    known = np.isfinite(series.values).all(1)
    time, values = series.timestamps[known], series.values[known]
    bins = np.arange(session.window_ms // bin_ms)
    wanted = session.starts[rows][:, None] + (bins + 0.5) * bin_ms / 1000 + LAG_S
    after = np.clip(np.searchsorted(time, wanted), 1, len(time) - 1)
    whole = (time[after] - time[after - 1] < 0.0025) & (wanted >= time[0]) & (wanted <= time[-1])
    return np.stack([np.interp(wanted, time, column) for column in values.T], axis=-1), whole.all(1)


def spikes_of(session: Session, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(unit, time in s) of each window."""
    window, column, tick, _ = session.events(rows)
    cuts = np.searchsorted(window, np.arange(1, len(rows)))
    return list(zip(np.split(column, cuts), np.split(tick / 1000, cuts), strict=True))


def poyo_r2(session: Session, bin_ms: int, **options) -> float:
    """R2 of hand velocity on validation trials, decoded by POYO from all units."""
    (train, y_train), (valid, y_valid) = (
        (spikes_of(session, rows[whole]), y[whole])
        for rows in (session.rows("train"), session.rows(SCORED))
        for y, whole in [velocity(session, rows, bin_ms)]
    )
    decoder = PoyoDecoder(
        unit_session=np.zeros(session.units, int), window_s=session.window_ms / 1000, latent_step_s=0.1, **options
    ).fit(train, y_train)
    return float(r2_score(y_valid.reshape(-1, 2), decoder.predict(valid).reshape(-1, 2)))


def our_rates(model: NeuroBridge, session: Session, settings: RunSettings, held_out: np.ndarray) -> Callable:
    """split -> expected counts [W, N, T] of all units, those held out removed from the data first."""
    batcher = make_batcher(model, [session], settings)
    keep = torch.from_numpy(~held_out)[None]

    @torch.no_grad()
    def rates(split: str) -> np.ndarray:
        batches = batcher.sequence(0, session.rows(split), 32)
        return torch.cat([model(batch.only_units(keep)).exp() for batch in batches]).double().numpy()

    return rates


def ridge_r2(rates: Callable, session: Session, bin_ms: int) -> float:
    """The benchmark's own decoding: ridge from predicted log rates of one bin to hand velocity."""
    sets = []
    for split in ("train", SCORED):
        y, whole = velocity(session, session.rows(split), bin_ms)
        x = np.log(np.maximum(rates(split)[whole], 1e-9)).transpose(0, 2, 1)
        sets.append((x.reshape(-1, x.shape[-1]), y[whole].reshape(-1, 2)))
    fitted = RidgeCV(alphas=np.logspace(-4, 0, 9)).fit(*sets[0])
    return float(r2_score(sets[1][1], fitted.predict(sets[1][0])))


def evaluate(run: RunFolder, session: Session, *, poyo: dict, binned: dict) -> dict[str, float]:
    """All rows of the table for one session, the model read from ``run``."""
    settings, bin_ms = run.settings, run.settings.window.bin_ms
    flags = session.recording.unit_columns.get(HELD_OUT)
    if flags is None or not flags.any():
        raise UserError(f"session {session.name} has no unit marked '{HELD_OUT}': co-smoothing needs the full MC_Maze")
    held_out = flags.astype(bool)
    model = NeuroBridge.load(run / "pretrain").eval()
    rates = our_rates(model, session, settings, held_out)
    train, valid = (session.binned(session.rows(split), bin_ms).astype(float) for split in ("train", SCORED))
    truth = valid[:, held_out]
    visible = np.broadcast_to(~held_out, (session.units, session.units))
    glm = fit_predict_glm(
        train, valid, bin_s=bin_ms / 1000, units=np.flatnonzero(held_out), visible=visible, max_samples=100_000
    )
    transformer = BinnedTransformer(modes=("temporal", "neuron"), **binned).fit(train)
    return {
        "co_bps": bits_per_spike(rates(SCORED)[:, held_out], truth),
        "co_bps_glm": bits_per_spike(glm, truth),
        "co_bps_binned": bits_per_spike(transformer.predict(valid, held_out[:, None])[:, held_out], truth),
        "velocity_r2_ridge_on_rates": ridge_r2(rates, session, bin_ms),
        "velocity_r2_poyo": poyo_r2(session, bin_ms, **poyo),
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("path", type=Path, nargs="?")
    arguments.add_argument("--config", type=Path, default=ROOT / "configs" / "experiments" / "mc_maze.yaml")
    arguments.add_argument("--out", type=Path, default=Path("runs/mc_maze"))
    options = arguments.parse_args()
    if options.path is None or not options.path.exists():
        place = "no path was given" if options.path is None else f"there is nothing at {options.path}"
        print(f"MC_Maze is not run: {place}; give the file or folder of DANDI 000128 (see docs/mc_maze.md)")
        return 2
    from neurobridge.data.sources.nlb import import_nlb

    try:
        settings = replace(settings_of(options.config), out=options.out)
        import_nlb(options.path, settings.data)
        run = run_stages(settings, ["pretrain"])
        session = pretraining_sessions(run.settings)[0]
        value = evaluate(
            run,
            session,
            poyo={"width": 128, "depth": 6, "heads": 8, "latents": 16, "dropout": 0.2, "steps": 6000, "batch": 64},
            binned={"width": 128, "depth": 4, "steps": 6000},
        )
    except UserError as error:
        print(f"MC_Maze is not run: {error}")
        return 2
    for name, score in value.items():
        print(f"{name:28s} {score:7.4f}")
    bar = {"velocity_r2_poyo": BAR_POYO, "co_bps": value["co_bps_glm"]}
    ok = all(value[name] >= least for name, least in bar.items())
    rounded = [{name: round(score, 4) for name, score in scores.items()} for scores in (value, bar)]
    print(json.dumps({"name": "mc_maze", "value": rounded[0], "bar": rounded[1], "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
