"""Command experiment: cells of a question, done one after the other, on Ray or as a SLURM array; one table of rows.

A cell is a run folder with a seed, so that an experiment goes on where it stopped; its rows are kept when it is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from neurobridge.api.judge import identified, picture_row
from neurobridge.api.model import settings_with
from neurobridge.baselines.rates import fit_predict_psth
from neurobridge.data.simulate import simulate
from neurobridge.errors import UserError, atomic_path, needs
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.commands import run_stages
from neurobridge.pipeline.device import device
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.inputs import session_names
from neurobridge.pipeline.picture_scores import score_images
from neurobridge.pipeline.spike_scores import (
    OURS,
    PSTH,
    RIVAL_WINDOWS,
    co_smoothing,
    co_smoothing_scores,
    masked_scores,
    some_rows,
)
from neurobridge.pipeline.spikes import held_out_sessions, make_batcher
from neurobridge.terminal import console
from neurobridge.training.settings import RunSettings

STAGES = {
    "spikes": ("pretrain", "adapt"),
    "identification": ("pretrain", "adapt", "align"),
    "pictures": ("pretrain", "adapt", "align", "adapter", "reconstruct"),
}  # what a measure needs
MODES = ("temporal", "neuron", "intra_region", "inter_region")
ROWS = "rows.json"
Executor = Literal["here", "ray", "slurm"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of an experiment: options on top of the scale's, and a seed."""

    name: str
    seed: int
    options: Mapping[str, Any]
    folder: Path


def experiment(
    name: str,
    *,
    scale: Literal["laptop", "paper"] = "laptop",
    out: Path = Path("runs/experiments"),
    data: Path | None = None,
    cells: list[str] | None = None,
    seeds: list[int] | None = None,
    executor: Executor = "here",
) -> Path:
    """Do one of the research plan's experiments: its cells, one Parquet of results, a table and a figure.

    Args:
        name: pretraining, masking, sessions, reconstruction, areas, scaling, ablation, or a YAML file of your own.
        scale: laptop (simulated, an hour or so on two cores) or paper (real data, GPUs).
        out: Folder of all experiments.
        data: Data folder; empty: the scale's own, simulated where it says so.
        cells: Some cells alone; empty: all.
        seeds: Seeds; empty: the scale's.
        executor: here, on a Ray cluster, or as a SLURM array (the script is written, not sent).
    """
    question = read(name)
    place = out / Path(name).stem / scale
    todo = cells_of(question, scale, place, cells, seeds)
    folder = Path(data) if data is not None else data_of(question, scale, out)
    if executor == "slurm":
        return slurm(name, scale, out, todo)
    if executor == "ray":
        with needs("sweep"):
            import ray
        ray.init(ignore_reinit_error=True)
        ray.get([ray.remote(do_cell).remote(question, cell, folder) for cell in todo])
    else:
        for number, cell in enumerate(todo, 1):
            console.print(f"== {number}/{len(todo)} {cell.name}, seed {cell.seed}", markup=False)
            do_cell(question, cell, folder)
    return summarise(question, place, name)


def read(name: str) -> dict[str, Any]:
    """The question ``name``, of the package or a YAML file. Raises UserError for what is none."""
    own = Path(str(files("neurobridge") / "experiments"))
    path = Path(name) if name.endswith((".yaml", ".yml")) else own / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in own.glob("*.yaml")))
        raise UserError(f"there is no experiment '{name}': choose {there}, or give a YAML file")
    question = yaml.safe_load(path.read_text())
    missing = [key for key in ("question", "measures", "cells", "scales") if key not in (question or {})]
    if missing:
        raise UserError(f"{path} has no '{missing[0]}': an experiment has question, measures, cells and scales")
    wrong = [measure for measure in question["measures"] if measure not in STAGES]
    if wrong:
        raise UserError(f"{path} measures '{wrong[0]}': choose among {', '.join(STAGES)}")
    return question


def cells_of(
    question: Mapping[str, Any], scale: str, place: Path, cells: list[str] | None, seeds: list[int] | None
) -> list[Cell]:
    """Every cell with every seed. Raises UserError for a scale or a cell that is not there."""
    if scale not in question["scales"]:
        raise UserError(f"there is no scale '{scale}': choose {', '.join(question['scales'])}")
    asked = question["scales"][scale]
    there = asked.get("cells", question["cells"])
    missing = [cell for cell in cells or () if cell not in there]
    if missing:
        raise UserError(f"there is no cell '{missing[0]}': choose {', '.join(there)}")
    return [
        Cell(
            name=cell,
            seed=seed,
            options=merged(asked.get("options", {}), changes or {}),
            folder=place / f"{cell.replace('/', '=').replace(' ', '_')}-{seed}",
        )
        for cell, changes in there.items()
        if not cells or cell in cells
        for seed in seeds or asked["seeds"]
    ]


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """``first`` with what ``second`` says on top, group by group."""
    both = {**first, **second}
    for key in first.keys() & second.keys():
        if isinstance(first[key], Mapping) and isinstance(second[key], Mapping):
            both[key] = {**first[key], **second[key]}
    return both


def data_of(question: Mapping[str, Any], scale: str, out: Path) -> Path:
    """The data folder of a scale, simulated if it says so."""
    asked = question["scales"][scale]
    if "simulate" not in asked:
        return Path(asked["data"])
    options = asked["simulate"]
    tag = "-".join(f"{key}{value}" for key, value in sorted(options.items()))
    return simulate(out / f"simulated-{tag}", seed=0, **options)


def do_cell(question: Mapping[str, Any], cell: Cell, data: Path) -> None:
    """Run and measure one cell, unless its rows are kept already."""
    if (cell.folder / ROWS).is_file():
        console.print("done before", markup=False)
        return
    start = time.monotonic()
    options = dict(cell.options)
    names = session_names(data)
    held = options.pop("held_out", names[-1:])
    kept = [name for name in names if name not in held]
    number = options.pop("sessions", None)
    sessions = kept if number is None else kept[:number]
    changes = {"data": data, "out": cell.folder, "sessions": sessions, "held_out": held, "seed": cell.seed}
    settings = settings_with(RunSettings(), options, **changes)
    wanted = {stage for measure in question["measures"] for stage in STAGES[measure]}
    folder = run_stages(settings, [stage for stage in STAGES["pictures"] if stage in wanted])
    rows: list[dict] = []
    if "spikes" in question["measures"]:
        rows += spike_rows(folder)
    if "identification" in question["measures"]:
        rows += identified(folder)
    if "pictures" in question["measures"]:
        rows += [picture_row(row, held[0]) for row in score_images(folder)["pictures"]]
    facts = folder.facts("pretrain")
    common = {"cell": cell.name, "seed": cell.seed, "weights": facts["parameters"], "windows": facts["windows"]}
    common |= {"sessions": len(facts["sessions"]), "tasks": len(settings.pretrain.modes)}
    common |= {"minutes": (time.monotonic() - start) / 60}
    with atomic_path(cell.folder / ROWS) as path:
        path.write_text(json.dumps([row | common for row in rows], default=float))


def spike_rows(run: RunFolder) -> list[dict]:
    """Masked prediction in every mode and co-smoothing of the first held-out session, in bits/spike."""
    session = held_out_sessions(run.settings)[0]
    model = NeuroBridge.load(run / "adapt").eval().to(device(run.settings))
    batcher = make_batcher(model, [session], run.settings)
    common = {"session": session.name, "method": OURS, "role": "ours", "unit": "bits/spike"}
    rows = [
        common | {"task": f"masked, {mode}", "value": value}
        for mode, value in masked_scores(model, batcher, 0, MODES).items()
    ]
    ours, true, units = co_smoothing(model, batcher, 0)
    predictions = {OURS: ours}
    if not session.valued and session.locked.all():  # else there is no time course after an onset
        train = session.binned(some_rows(session, "train", RIVAL_WINDOWS), batcher.bin_ms)[:, units]
        predictions[PSTH] = fit_predict_psth(train, true[:, units], bin_s=batcher.bin_ms / 1000)
    found = co_smoothing_scores(predictions, true[:, units], valued=session.valued)
    roles = {OURS: "ours", PSTH: "rival"}
    scores = [{key: row[key] for key in ("task", "method", "value")} for row in found]
    return rows + [common | row | {"role": roles[row["method"]]} for row in scores]


def slurm(name: str, scale: str, out: Path, todo: list[Cell]) -> Path:
    """A script for sbatch: an array with a task a cell and seed, put back in the queue when it is preempted."""
    script = out / Path(name).stem / f"{scale}.sbatch"
    call = f"neurobridge experiment {name} --scale {scale} --out {out}"
    calls = "\n".join(
        f"  {i}) {call} --cells '[\"{cell.name}\"]' --seeds '[{cell.seed}]' ;;" for i, cell in enumerate(todo)
    )
    text = (
        f"#!/bin/bash\n#SBATCH --job-name=nb-{Path(name).stem}\n#SBATCH --array=0-{len(todo) - 1}\n#SBATCH --requeue\n"
        "#SBATCH --gres=gpu:1\n#SBATCH --cpus-per-task=8\n#SBATCH --time=24:00:00\n#SBATCH --signal=TERM@120\n\n"
        f"case $SLURM_ARRAY_TASK_ID in\n{calls}\nesac\n"
    )
    with atomic_path(script) as path:
        path.write_text(text)
    console.print(f"sbatch {script}: {len(todo)} tasks", markup=False, soft_wrap=True)
    return script


def summarise(question: Mapping[str, Any], place: Path, name: str) -> Path:
    """results.parquet of every cell that is done, results.md with a table, results.png; returns the Parquet."""
    from neurobridge.api.experiment_figures import draw, told

    rows = [row for path in sorted(place.glob(f"*/{ROWS}")) for row in json.loads(path.read_text())]
    if not rows:
        raise UserError(f"no cell of {place} is done")
    table = pd.DataFrame(rows)
    with atomic_path(place / "results.parquet") as path:
        table.to_parquet(path, index=False)
    summary, axes = over_seeds(table), question["scales"][place.name].get("axes", question.get("axes", {}))
    with atomic_path(place / "results.md") as path:
        path.write_text(told(question, axes, table, summary, Path(name).stem))
    draw(axes, summary, place / "results.png")
    console.print(
        f"{place / 'results.md'}: {len(set(table.cell))} cells, {len(table)} rows", markup=False, soft_wrap=True
    )
    return place / "results.parquet"


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of each (cell, task, method) with a 95 % interval of Student's t; NaN where there is one seed."""
    keys = ["task", "cell", "method", "role"]
    rows = []
    for key, part in table.groupby(keys, sort=False):
        values = part.value.to_numpy(float)
        half = np.nan
        if len(values) > 1:
            half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
        more = {name: part[name].mean() for name in ("weights", "windows", "sessions", "tasks", "minutes")}
        rows.append(
            dict(zip(keys, key, strict=True)) | {"value": values.mean(), "half": half, "seeds": len(values)} | more
        )
    return pd.DataFrame(rows)
