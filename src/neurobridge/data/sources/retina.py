"""Salamander ganglion cells under natural images: Liu & Gollisch 2021, GIN gollischlab, spikes at 1 ms.

``responses2naturalimages.h5`` holds ``spikes`` [C, I, R, T] (0 or 1 in each ms from the onset of an image to 100 ms
after its end) and ``images`` (contrast of the first I - 3 images; black, grey and white follow). A cell with fewer
trials than R has zeros in the others, which are not silence: ``trialnumbers.txt`` says how many are its own. Cells come
from several retinas; those with equally many trials make a session.

Letters: C cells, I images, R trials, T ms, P presentations, K intervals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
from rich.progress import Progress

from neurobridge.data.doctor import Finding
from neurobridge.data.findings import Check, reading, refuse, require, unreadable
from neurobridge.data.guard import read_dataset, refuse_endless_heap
from neurobridge.data.importing import add_images, file_hash, is_there, repeats, signature, write_session
from neurobridge.data.quality import QualitySettings, select_units
from neurobridge.data.recording import Recording, Stimuli
from neurobridge.data.sessions import Identity
from neurobridge.data.sources.things import centre_square
from neurobridge.data.splits import split_of
from neurobridge.errors import UserError

DATASET, SUBJECT = "retina", "salamander"
FILE, TRIALS = "responses2naturalimages.h5", "trialnumbers.txt"
UNIFORM = ("black", "grey", "white")
MOST_CONTRAST = 10.0  # beyond 1 pictures shrink; beyond this they are none of contrasts
SHOWN_S, INTERVAL_S, TICK_S = 0.2, 0.5, 1e-3
AGAIN = "download it again ('neurobridge data get retina')"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the arrays lie: ``spikes`` axes that give [C, I, R, T]; ``images`` axes that give [I, H, W]."""

    spikes: tuple[int, ...]
    images: tuple[int, ...]


def import_retina(
    path: Path,
    out: Path = Path("data/retina"),
    *,
    side: int = 128,
    seed: int = 0,
    quality: QualitySettings = QualitySettings(),
) -> Path:
    """Import salamander ganglion cells under natural images; cells with equally many trials make a session.

    The release holds no clock: presentation i starts at 0.5 i s of ours, and what lies between two responses was not
    observed. Natural images are split by content and ``seed``; black, grey and white are ``none``. Sessions already
    written from the same bytes and options are skipped. Raises UserError for input that cannot be used.

    Args:
        path: Folder of the release, or its responses2naturalimages.h5.
        out: Data folder to write.
        side: Side in pixels to which pictures are cut (centre) and resized.
        seed: Seed of the splits.
        quality: Thresholds of unit quality.
    """
    file, out = _file(Path(path)), Path(out)
    if side < 1:
        raise UserError(f"--side is {side}: give the side of a picture in pixels, such as 128")
    refuse(_checks(file))
    spikes, contrast, trials, told = _read(file)
    numbers = file.with_name(TRIALS)
    files = [file, *([numbers] if numbers.is_file() else [])]
    mark = signature(files, side=side, seed=seed, **asdict(quality))
    groups = {count: np.flatnonzero(trials == count) for count in sorted(set(trials.tolist()) - {0})}
    pending = [count for count in groups if not is_there(out, _identity(count), mark)]
    if not pending:
        return out
    with Progress(transient=True) as progress:
        shown = progress.track(pictures_of(contrast, side), total=len(contrast), description="pictures")
        ids = add_images(out, shown)
        for count in progress.track(pending, description="sessions"):
            recording = _recording(spikes, groups[count], count, ids, seed)
            recording.provenance |= {
                "file": f"{file.name} {file_hash(file)}",
                "trials": told,
                "left_out": _left_out(trials, count, len(groups[count])),
                "signature": mark,
            }
            write_session(select_units(recording, quality), out)
    return out


def recognises(path: Path) -> bool:
    """True for the release's file, or a folder that holds it. Never raises."""
    path = Path(path)
    try:
        file = path / FILE if path.is_dir() else path
        if not h5py.is_hdf5(file):
            return False
        with h5py.File(file, "r") as opened:
            return all(isinstance(opened.get(name), h5py.Dataset) for name in ("spikes", "images"))
    except OSError:
        return False


def examine(path: Path) -> list[Finding]:
    """What the release's file holds beside what :func:`import_retina` needs; never raises UserError."""
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    try:
        return list(_checks(file))
    except UserError as error:
        return [unreadable(file, error)]


def pictures_of(contrast: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Pictures [side, side, 3] uint8 of contrasts [I, H, W]: -1 is black, 1 white; turned to stand upright.

    Contrasts beyond 1 in any picture shrink all of them alike, so that nothing is clipped.
    """
    most = max(1.0, float(np.abs(contrast).max()))
    for one in contrast:
        grey = np.round((np.rot90(one) / most + 1) / 2 * 255).astype(np.uint8)
        yield centre_square(np.repeat(grey[..., None], 3, axis=2), side)


def _identity(count: int) -> Identity:
    return Identity(DATASET, SUBJECT, f"trials_{count:02d}")


def _file(path: Path) -> Path:
    file = path / FILE if path.is_dir() else path
    return require(file)


def _checks(file: Path) -> Iterator[Check]:
    """What the file has to hold, and whether the numbers of trials are there."""
    said: dict = {"file": file, "mend": AGAIN}
    with reading(file):
        refuse_endless_heap(file)
        with h5py.File(file, "r") as opened:
            found = {name: opened.get(name) for name in ("spikes", "images")}
            shapes = {n: d.shape for n, d in found.items() if isinstance(d, h5py.Dataset) and d.dtype.kind in "iufb"}
    for name, expected in (("spikes", "0 or 1 (cell, image, trial, ms)"), ("images", "contrasts (image, y, x)")):
        told = f"numbers {shapes[name]}" if name in shapes else "absent, or no numbers"
        yield Check(key=name, found=told, expected=expected, ok=name in shapes, **said)
    if len(shapes) == 2:
        layout = layout_of(shapes["spikes"], shapes["images"])
        told = "as expected" if layout else f"spikes {shapes['spikes']} beside images {shapes['images']}"
        expected = f"as many images as pictures, or {len(UNIFORM)} more, in this or in reversed order of axes"
        yield Check(key="axes", found=told, expected=expected, ok=layout is not None, **said)
    numbers = file.with_name(TRIALS)
    told = "there" if numbers.is_file() else "absent: counted from the last trial with a spike"
    yield Check(
        file=numbers,
        key="trials",
        found=told,
        expected="a number a cell",
        ok=numbers.is_file(),
        mend=AGAIN,
        needed=False,
    )


def layout_of(spikes: tuple[int, ...], images: tuple[int, ...]) -> Layout | None:
    """The order of axes, as the release has it or as MATLAB writes it; None if the shapes do not fit."""
    if len(spikes) != 4 or len(images) != 3 or 0 in (*spikes, *images):
        return None
    for axes in ((0, 1, 2, 3), (3, 2, 1, 0)):
        for turned in ((0, 1, 2), (2, 1, 0)):
            if spikes[axes[1]] - images[turned[0]] in (0, len(UNIFORM)) and spikes[axes[3]] > SHOWN_S / TICK_S:
                return Layout(spikes=axes, images=turned)
    return None


def _read(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Spikes [C, I, R, T] uint8, contrasts [I, H, W], trials of each cell [C], and how these are known."""
    with reading(file), h5py.File(file, "r") as opened:
        spikes, images = read_dataset(opened["spikes"]), read_dataset(opened["images"])
    layout = layout_of(spikes.shape, images.shape)
    assert layout is not None, "refused before"
    spikes, images = spikes.transpose(layout.spikes), images.transpose(layout.images).astype(np.float64)
    bad = np.argwhere((spikes != 0) & (spikes != 1))
    if len(bad):
        raise UserError(f"{file}: spikes{bad[0].tolist()} is {spikes[tuple(bad[0])]}, expected 0 or 1; {AGAIN}")
    if not np.isfinite(images).all():
        raise UserError(f"{file}: {np.sum(~np.isfinite(images))} contrasts are no finite numbers; {AGAIN}")
    if images.min() >= 0 or np.abs(images).max() > MOST_CONTRAST:
        raise UserError(
            f"{file}: images run from {images.min():g} to {images.max():g}, expected contrasts around 0, -1 (black) to "
            f"1 (white), and no grey levels; {AGAIN}"
        )
    any_spike = spikes.any((1, 3))
    last = np.where(any_spike.any(1), spikes.shape[2] - any_spike[:, ::-1].argmax(1), 0)
    numbers = file.with_name(TRIALS)
    if not numbers.is_file():
        return spikes.astype(np.uint8), images, last, "counted from the last trial with a spike, as no list was there"
    with reading(numbers):
        told = numbers.read_text().replace(",", " ").split()
    if not all(word.isdecimal() for word in told) or len(told) != len(spikes):
        raise UserError(f"{numbers} holds {len(told)} entries for {len(spikes)} cells, expected a number each; {AGAIN}")
    trials = np.array(told, dtype=np.int64)
    wrong = np.flatnonzero((trials > spikes.shape[2]) | (trials < last))
    if len(wrong):
        cell = wrong[0]
        raise UserError(
            f"{numbers}: cell {cell} (from 0) has {trials[cell]} trials, but its last spike is in trial {last[cell]} "
            f"of {spikes.shape[2]}; {AGAIN}"
        )
    return spikes.astype(np.uint8), images, trials, f"from {TRIALS}"


def _recording(spikes: np.ndarray, cells: np.ndarray, count: int, ids: list[str], seed: int) -> Recording:
    shown, length = spikes.shape[1], spikes.shape[3] * TICK_S
    mine = spikes[cells, :, :count]  # [N, I, R, T]
    unit, image, trial, tick = np.nonzero(mine)
    names = [*ids, *("" for _ in range(shown - len(ids)))]
    conditions = [f"natural/{number:03d}" for number in range(len(ids))] + list(UNIFORM[: shown - len(ids)])
    row = np.tile(np.arange(shown), count)
    start = INTERVAL_S * np.arange(shown * count)
    times = start[trial * shown + image] + (tick + 0.5) * TICK_S
    order = np.argsort(times, kind="stable")
    splits = np.array([split_of(key, seed=seed) if key else "none" for key in names])
    image_id, condition = np.array(names)[row], np.array(conditions)[row]
    return Recording(
        **_identity(count)._asdict(),
        species="AMBYSTOMA_MEXICANUM",
        signal_kind="sorted",
        spike_times=times[order],
        spike_units=unit[order],
        unit_ids=np.array([f"{cell:03d}" for cell in cells]),
        regions=np.full(len(cells), "retina"),
        duration=(0.0, INTERVAL_S * shown * count),
        observed=np.stack([start, start + length], axis=1),
        stimuli=Stimuli(
            start=start,
            end=start + SHOWN_S,
            image_id=image_id,
            repeat=repeats(np.where(image_id == "", condition, image_id)),
            split=splits[row],
            valid=np.ones(len(row), dtype=bool),
            condition=condition,
        ),
        provenance={
            "source": "Liu & Gollisch 2021, GIN gollischlab/Liu_Gollisch_2021_RGC_spiketrains_spatial_contrast_model",
            "time": f"onsets are nominal ({INTERVAL_S:g} s apart); {length:g} s from each onset were recorded",
            "cells": "from several retinas, not all recorded together: no masked prediction across cells is meant",
            "split": f"natural images by sha1 of seed {seed} and content",
        },
    )


def _left_out(trials: np.ndarray, count: int, cells: int) -> str:
    silent = int((trials == 0).sum())
    told = f"{cells} of {len(trials)} cells have {count} trials"
    return f"{told}, {silent} none" if silent else told
