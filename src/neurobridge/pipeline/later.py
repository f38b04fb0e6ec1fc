"""Sessions that did not exist when a run was made: their units are adapted to its model, in a folder of their own."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

from neurobridge.errors import UserError
from neurobridge.pipeline.adaptation import adapt
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.inputs import check_numbers, session_names
from neurobridge.pipeline.spikes import held_out_sessions
from neurobridge.terminal import console
from neurobridge.training.ranges import check_ranges


def adapt_later(
    run: Path,
    *,
    data: Path | None = None,
    sessions: list[str] | None = None,
    out: Path | None = None,
    start: Literal["carried", "prior"] = "carried",
    method: Literal["gradient", "identity"] = "gradient",
    labels: int | None = None,
    steps: int | None = None,
) -> RunFolder:
    """Adapt a run's model to sessions that came after it; body and head stay as they are.

    Args:
        run: Folder of a run whose stage pretrain is done.
        data: Data folder of the new sessions; empty: the run's own.
        sessions: Names of the new sessions.
        out: Run folder for the adapted model; empty: RUN/later/<first session>.
        start: Where unit vectors start: carried over from the same electrode of the subject, or at the prior.
        method: gradient learns vectors from their start; identity computes them (IDEncoder).
        labels: Images of a session whose responses count as labelled; empty: all of its train split, 0: none.
        steps: Optimiser steps; empty: as in the run, 0: units stay where they start.
    """
    old = RunFolder.existing(run)
    old.need("pretrain")
    if not sessions:
        raise UserError("no session is named: give --sessions '[NAME]', one or more of those in --data")
    data = old.settings.data if data is None else data
    there = session_names(data)
    missing = [name for name in sessions if name not in there]
    if missing:
        raise UserError(f"session '{missing[0]}' is not in {data}; there are: {', '.join(there)}")
    options = old.settings.adapt
    changed = replace(
        options, start=start, method=method, labels=labels, steps=options.steps if steps is None else steps
    )
    settings = replace(
        old.settings, data=data, out=out or run / "later" / sessions[0], sessions=[], held_out=list(sessions),
        picture_sessions=[], adapt=changed,
    )  # fmt: skip
    check_ranges(settings)
    for name in sessions:
        check_numbers(data / "sessions" / f"{name}.h5")
    held_out_sessions(settings)
    folder = RunFolder(settings)
    if folder.done("adapt"):
        console.print(f"{folder.path}: done before", markup=False)
        return folder
    if not folder.done("pretrain"):
        part = folder / ".pretrain.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(run / "pretrain", part)
        shutil.rmtree(folder / "pretrain", ignore_errors=True)
        part.rename(folder / "pretrain")
    adapt(folder)
    for name, units in folder.facts("adapt")["units"].items():
        told = f"{units['carried']} units carried over, {units['others']} found to be others, {units['new']} new"
        console.print(f"{name}: {told} -> {folder / 'adapt'}", markup=False)
    return folder
