"""Commands that analyse a run folder: which areas, when, how many units, and what lasts. They train nothing large."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from rich.table import Table as RichTable

from neurobridge.errors import UserError, atomic_path
from neurobridge.pipeline.folder import RunFolder
from neurobridge.terminal import console

Split = Literal["valid", "test"]


def areas(
    run: Path,
    *,
    draws: int = 8,
    repeats: int = 4,
    order: list[str] | None = None,
    label: str = "category",
    split: Split = "test",
    seed: int = 0,
) -> None:
    """Contribution of areas: each alone with as many units as the smallest has, added in order, and all.

    Args:
        run: Run folder; an aligned one is asked too, with the units of other areas removed.
        draws: Draws of units where areas are matched.
        repeats: Presentations averaged of each scored image, at most.
        order: Areas from low to high; others follow as in the visual hierarchy, then by name.
        label: Column of images.h5 to classify; left out where there is none of that name.
        split: Whose images are scored.
        seed: Seed of the draws and intervals.
    """
    from neurobridge.pipeline.analyses.areas import contributions

    shared = {"label": label, "split": split, "repeats": repeats, "seed": seed, "order": order or ()}
    check(1, draws=draws)
    analyse(run, lambda material: contributions(material, draws=draws), **shared)


def time(
    run: Path,
    *,
    width_ms: int = 20,
    step_ms: int = 10,
    repeats: int = 4,
    order: list[str] | None = None,
    label: str = "category",
    split: Split = "test",
    seed: int = 0,
) -> None:
    """Contribution of time: a map of area and sliding window, decoded from the counts inside the window alone.

    Args:
        run: Run folder.
        width_ms: Width of a window in ms, a multiple of the step.
        step_ms: Step from window to window in ms.
        repeats: Presentations averaged of each scored image, at most.
        order: Areas from low to high; others follow as in the visual hierarchy, then by name.
        label: Column of images.h5 to classify; left out where there is none of that name.
        split: Whose images are scored.
        seed: Seed of the intervals.
    """
    from neurobridge.pipeline.analyses.time_course import time_map

    shared = {"label": label, "split": split, "repeats": repeats, "seed": seed, "order": order or ()}
    check(1, step_ms=step_ms, width_ms=width_ms)
    analyse(run, lambda material: time_map(material, width_ms=width_ms, step_ms=step_ms), **shared)


def units(
    run: Path,
    *,
    draws: int = 4,
    smallest: int = 5,
    repeats: int = 4,
    order: list[str] | None = None,
    label: str = "category",
    split: Split = "test",
    seed: int = 0,
) -> None:
    """Scores against the number of units: 5, 10, 20, ... units drawn at random, by area and all together.

    Args:
        run: Run folder; an aligned one is asked too, with the other units removed.
        draws: Draws of units a size.
        smallest: Units of the first point; each further one has twice as many.
        repeats: Presentations averaged of each scored image, at most.
        order: Areas from low to high; others follow as in the visual hierarchy, then by name.
        label: Column of images.h5 to classify; left out where there is none of that name.
        split: Whose images are scored.
        seed: Seed of the draws and intervals.
    """
    from neurobridge.pipeline.analyses.unit_number import curves

    shared = {"label": label, "split": split, "repeats": repeats, "seed": seed, "order": order or ()}
    check(1, draws=draws)
    analyse(run, lambda material: curves(material, draws=draws, smallest=smallest), **shared)


def retention(run: Path, *, repeats: int = 4, label: str = "category", split: Split = "test", seed: int = 0) -> None:
    """What lasts: readouts from session to session of an animal, masked prediction before and after alignment.

    Args:
        run: Run folder.
        repeats: Presentations averaged of each scored image, at most.
        label: Column of images.h5 to classify; left out where there is none of that name.
        split: Whose images are scored.
        seed: Seed of the intervals.
    """
    from neurobridge.pipeline.analyses.retention import retained

    analyse(run, retained, label=label, split=split, repeats=repeats, seed=seed)


def drift(
    run: Path, *, blocks: int = 6, repeats: int = 4, label: str = "category", split: Split = "test", seed: int = 0
) -> None:
    """Scores against the time within a session (single presentations) and against the number of the session.

    Args:
        run: Run folder.
        blocks: Blocks of time into which a session is cut.
        repeats: Presentations averaged of each scored image, at most, where sessions are compared.
        label: Column of images.h5 to classify; left out where there is none of that name.
        split: Whose images are scored.
        seed: Seed of the choice of training images and of the intervals.
    """
    from neurobridge.pipeline.analyses.drift import drifts

    analyse(run, lambda material: drifts(material, blocks=blocks), label=label, split=split, repeats=repeats, seed=seed)


def labels(
    run: Path, *, counts: list[int] | None = None, draws: int = 2, steps: int | None = None, seed: int = 0
) -> None:
    """How many labelled images a new session needs: held-out sessions adapted with 0, 25, 50, ..., beside ridge.

    Args:
        run: Run folder whose stage pretrain is done, with held-out sessions that show images.
        counts: Numbers of labelled images; empty: 0, 25, 50, 100, 200 and 500. All there are come last, always.
        draws: Draws of the labelled images, for each number.
        steps: Optimiser steps of each adaptation; empty: as in the run.
        seed: Seed of the draws and intervals.
    """
    from neurobridge.pipeline.analyses.label_number import label_curve

    counts = [0, 25, 50, 100, 200, 500] if counts is None else counts
    check(0, seed=seed, counts=min(counts, default=0))
    check(1, draws=draws, **{} if steps is None else {"steps": steps})
    folder = RunFolder.existing(run)
    keep(folder, label_curve(folder, counts=counts, draws=draws, steps=steps, seed=seed))


def probe(run: Path, *, target: str, session: str | None = None, folds: int = 5, seed: int = 0) -> None:
    """Decode a behaviour from frozen latents, beside untrained latents, smoothed counts and a Wiener filter.

    Args:
        run: Run folder whose stage pretrain, or adapt, is done.
        target: Name of a behaviour of the session, as 'neurobridge data show' names it.
        session: Which session; empty: the first one that has the behaviour, adapted ones first.
        folds: Folds of interleaved blocks of time; lags, penalties and smoothing are chosen within the training folds.
        seed: Seed of the untrained model and of the intervals.
    """
    from neurobridge.evaluation.report import Figure, Table
    from neurobridge.pipeline.probe_report import drawn
    from neurobridge.pipeline.probing import probe_session, session_of

    check(2, folds=folds)
    check(0, seed=seed)
    folder = RunFolder.existing(run)
    chosen = session_of(folder, target, session)
    blocks = drawn(folder, probe_session(folder, chosen, target, folds=folds, seed=seed))
    name = f"probes/{chosen.name}-{target}"
    picture = next(block for block in blocks if isinstance(block, Figure))
    with atomic_path(folder / f"{name}.png") as path:
        picture.figure.savefig(path, format="png", dpi=150, facecolor="white")
    for block in blocks:
        if isinstance(block, Table):
            show(block)
    console.print(f"kept: {folder / name}.json, .npz, .png", markup=False, soft_wrap=True)
    write_again(folder)


def check(least: int, **options: int) -> None:
    """Raise UserError for the first option below ``least``."""
    for name, value in options.items():
        if value < least:
            raise UserError(f"--{name} is {value}: give {least} or more")


def analyse(run: Path, compute: Callable, **options) -> dict:
    """Compute with what a run folder holds, and :func:`keep` the result."""
    from neurobridge.pipeline.analyses.material import Material

    check(0, seed=options["seed"])
    folder = RunFolder.existing(run)
    return keep(folder, compute(Material.of(folder, **options)))


def keep(folder: RunFolder, result: dict) -> dict:
    """Write a result and its figures into the run folder, show its tables, write the report again if there is one."""
    from neurobridge.evaluation.report import Figure, Table
    from neurobridge.pipeline.analyses.drawing import blocks

    name = result["analysis"]
    drawn = blocks(result)
    figures = [block for block in drawn if isinstance(block, Figure)]
    for number, block in enumerate(figures, 1):
        suffix = f"-{number}" if number > 1 else ""
        with atomic_path(folder / "analyses" / f"{name}{suffix}.png") as path:
            block.figure.savefig(path, format="png", dpi=150, facecolor="white")
    with atomic_path(folder / "analyses" / f"{name}.json") as path:
        path.write_text(json.dumps(result, indent=1))
    for block in drawn:
        if isinstance(block, Table):
            show(block)
    console.print(f"kept: {folder / 'analyses'}/{name}.json, {name}.png", markup=False, soft_wrap=True)
    write_again(folder)
    return result


def write_again(folder: RunFolder) -> None:
    """The report, if there is one, with what was added to the run folder."""
    if folder.done("report"):
        from neurobridge.pipeline.reporting import report

        report(folder)
        console.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)


def show(table) -> None:
    """A table of the report, on the terminal."""
    from neurobridge.evaluation.report import format_cell

    shown = RichTable(title=table.title, title_justify="left")
    for column in table.columns:
        shown.add_column(column)
    for cells in table.rows:
        shown.add_row(*[format_cell(cell) for cell in cells])
    console.print(shown)
