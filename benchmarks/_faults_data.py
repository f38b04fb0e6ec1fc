"""Data that change while a run is under way, and data that are odd: each is named, or goes through to the report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from _faults import Bench, Fault, command, fault, sessions, weights

from neurobridge.data.recording import Recording, read_recording, write_recording

HELD_OUT = "monkeyB_2"
NAMES = ["V1$\\bad{$", "[/x]", "\x1b[31mred\x1b[0m", "<b>&", "IT\u202e", "^_%#{}", "[bold]", "V4\nIT"]


def faults(bench: Bench) -> Iterator[Fault]:
    yield from changed(bench)
    yield from same_data(bench)
    yield from unsound(bench)
    yield from odd(bench)


def emptied(recording: Recording, *, split: str) -> None:
    """Presentations of ``split`` belong to none."""
    stimuli = recording.stimuli
    assert stimuli is not None, "the simulation shows images"
    stimuli.split = np.where(stimuli.split == split, "none", stimuli.split)


def rewritten(path: Path, change: Callable[[Recording], None]) -> None:
    """A session with something changed, as its own reader and writer have it."""
    recording = read_recording(path)
    change(recording)
    write_recording(recording, path)


def changed(bench: Bench) -> Iterator[Fault]:
    """Data altered between pretrain and adapt, and between evaluate and report's making anew."""
    for name, change in {
        "spikes of a session altered": lambda d: rewritten(next(sessions(d)), other_units),
        "unit ids renamed": lambda d: rewritten(next(sessions(d)), rename_units),
        "train and test exchanged": lambda d: rewritten(next(sessions(d)), exchange),
        "spikes of the held-out session altered": lambda d: rewritten(d / "sessions" / f"{HELD_OUT}.h5", other_units),
        "a session gone": lambda d: next(sessions(d)).unlink(),
        "a session added": lambda d: shutil.copy(next(sessions(d)), d / "sessions" / "monkeyC_1.h5"),
        "a session's file renamed": lambda d: next(sessions(d)).rename(d / "sessions" / "renamed.h5"),
        "other pixels under the same ids": other_pixels,
        "images.h5 gone": lambda d: (d / "images.h5").unlink(),
        "a session cut off": lambda d: truncate(next(sessions(d))),
    }.items():
        for before, stage in (("pretrain", "adapt"), ("adapter", "reconstruct")):
            data, out = bench.copied(bench.data, "data"), bench.stages(before)
            change(data)
            found = command(stage, *bench.options(out, data=data))
            yield fault(f"{name} before {stage}", found, found.refused(".h5") and not (out / stage).exists())


def other_units(recording: Recording) -> None:
    recording.spike_units = (recording.spike_units + 1) % len(recording.unit_ids)


def rename_units(recording: Recording) -> None:
    recording.unit_ids = np.array([f"new{i}" for i in range(len(recording.unit_ids))])


def exchange(recording: Recording) -> None:
    split = recording.stimuli.split
    recording.stimuli.split = np.where(split == "train", "test", np.where(split == "test", "train", split))


def other_pixels(data: Path) -> None:
    with h5py.File(data / "images.h5", "r+") as file:
        file["pixels"][0] = 255 - file["pixels"][0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def same_data(bench: Bench) -> Iterator[Fault]:
    """What is the same data, and has to go on."""
    data, out = bench.copied(bench.data, "elsewhere"), bench.stages("pretrain")
    found = command("adapt", *bench.options(out, data=data))
    right = found.code == 0 and weights(out, "adapt") == weights(bench.finished, "adapt")
    yield fault("data folder moved", found, right, "went on, the same weights" if right else "")
    out = bench.stages("pretrain")
    spelt = Path(os.path.relpath(bench.data)) / ".." / bench.data.name
    found = command("adapt", *bench.options(out, data=spelt))
    yield fault("data folder spelt otherwise", found, found.code == 0, "went on" if found.code == 0 else "")
    out = bench.folder() / "run"
    found = command("reconstruct", *bench.options(out))
    yield fault("reconstruct in a new folder", found, found.refused("has not finished"))
    renamed = bench.copied(bench.data, "data")
    next(sessions(renamed)).rename(renamed / "sessions" / "another name.h5")
    found = command("run", *bench.options(bench.folder() / "run", data=renamed))
    yield fault("a session's file renamed before the run", found, found.code == 0)


def unsound(bench: Bench) -> Iterator[Fault]:
    """Recordings that no stage can use: one sentence before anything is made."""
    for name, change in {
        "one spike time is NaN": lambda p: stored(p, "timestamps", np.nan),
        "one spike time is infinite": lambda p: stored(p, "timestamps", np.inf),
        "a unit row out of range": lambda p: stored(p, "unit_index", 10_000),
        "a negative unit row": lambda p: stored(p, "unit_index", -1),
        "cut off": truncate,
        "emptied": lambda p: p.write_bytes(b""),
        "another kind of file": lambda p: p.write_bytes(b"not hdf5" * 500),
    }.items():
        for which in (0, -1):
            data, out = bench.copied(bench.data, "data"), bench.folder() / "run"
            path = list(sessions(data))[which]
            change(path)
            found = command("pretrain", *bench.options(out, data=data))
            where = "held-out session" if which else "session"
            yield fault(f"{where}: {name}", found, found.refused(path.name) and not out.exists())
    for told, value in (("NaN", np.nan), ("infinite", np.inf)):
        for which in (0, -1):
            data, out = bench.copied(bench.data, "data"), bench.folder() / "run"
            for path in sessions(data):
                rewritten(path, values)
            path = list(sessions(data))[which]
            stored(path, "value", value)
            found = command("pretrain", *bench.options(out, data=data, window={"bin_ms": 300}))
            where = "held-out session" if which else "session"
            yield fault(f"{where}: one value is {told}", found, found.refused(path.name) and not out.exists())
    for split, stage, words in (("train", "pretrain", ["train split"]), ("test", "run", []), ("valid", "run", [])):
        data, out = bench.copied(bench.data, "data"), bench.folder() / "run"
        for path in sessions(data):
            rewritten(path, partial(emptied, split=split))
        found = command(stage, *bench.options(out, data=data))
        yield fault(f"no {split} split", found, found.refused(*words) and not out.exists())
    data, out = bench.copied(bench.data, "data"), bench.folder() / "run"
    truncate(data / "images.h5")
    found = command("pretrain", *bench.options(out, data=data))
    yield fault("images.h5 cut off", found, found.refused("images.h5") and not out.exists())


def stored(path: Path, column: str, value: float) -> None:
    """One entry of a stored column of events, behind the back of the writer's checks."""
    with h5py.File(path, "r+") as file:
        events = file["spikes"][column]
        events[len(events) // 2] = value


def odd(bench: Bench) -> Iterator[Fault]:
    """Sessions that are poor or strange and yet sound: through to the report, or refused before the first stage."""
    for name, change, options in (
        ("half of the units silent", silent, {}),
        ("two units a session", two_units, {}),
        ("one spike in the held-out session", one_spike, {}),
        ("one presentation a split", one_trial, {}),
        ("regions with markup and ESC bytes", strange_names, {}),
        ("values with bin_ms below window_ms", values, {}),
    ):
        data, out = bench.copied(bench.data, "data"), bench.folder() / "run"
        for path in sessions(data):
            if name.startswith("one spike") and path.stem != HELD_OUT:
                continue
            rewritten(path, change)
        found = command("run", *bench.options(out, data=data, **options))
        through = found.code == 0 and (out / "report.html").is_file() and "\x1b[31m" not in found.text
        yield fault(name, found, not found.traceback and (through or (found.refused() and not out.exists())))
    out = bench.folder() / "run"
    found = command("align", *bench.options(out, image={"layer": "block2", "grid": 1}))
    yield fault("image.grid 1 with the small generator", found, found.refused() and not out.exists())
    data = bench.copied(bench.data, "data")
    path = next(sessions(data))
    path.rename(path.with_name("[bold]x[x]\x1b[31m.h5"))
    found = command("data", "list", data)
    yield fault(
        "session file named with markup and ESC, data list", found, found.code == 0 and "\x1b" not in found.text
    )
    found = command("pretrain", *bench.options(bench.folder() / "run", data=data))
    yield fault(
        "session file named with markup and ESC, pretrain", found, not found.traceback and "\x1b[31m" not in found.text
    )


def silent(recording: Recording) -> None:
    keep = recording.spike_units % 2 == 0
    recording.spike_times, recording.spike_units = recording.spike_times[keep], recording.spike_units[keep]


def two_units(recording: Recording) -> None:
    keep = recording.spike_units < 2
    recording.spike_times, recording.spike_units = recording.spike_times[keep], recording.spike_units[keep]
    recording.unit_ids, recording.regions = recording.unit_ids[:2], recording.regions[:2]
    recording.unit_columns = {name: column[:2] for name, column in recording.unit_columns.items()}


def one_spike(recording: Recording) -> None:
    recording.spike_times, recording.spike_units = recording.spike_times[:1], recording.spike_units[:1]


def one_trial(recording: Recording) -> None:
    shown = recording.stimuli
    kept = np.zeros(len(shown), dtype=bool)
    for split in ("train", "valid", "test"):
        kept[np.flatnonzero(shown.split == split)[0]] = True
    shown.valid = shown.valid & kept


def strange_names(recording: Recording) -> None:
    recording.regions = np.array([NAMES[i % len(NAMES)] for i in range(len(recording.unit_ids))])


def values(recording: Recording) -> None:
    """Counts a presentation, at the middle of its window, in the place of spikes."""
    units, shown = len(recording.unit_ids), recording.stimuli
    times = np.sort(recording.spike_times)
    rng = np.random.default_rng(0)
    counts = np.searchsorted(times, shown.start + 0.3) - np.searchsorted(times, shown.start)
    value = counts[:, None] / units + rng.normal(size=(len(shown), units))
    recording.signal_kind = "mua_envelope"
    recording.spike_times = np.repeat(shown.start + 0.15, units)
    recording.spike_units = np.tile(np.arange(units), len(shown))
    recording.spike_values = value.ravel().astype(np.float32)
