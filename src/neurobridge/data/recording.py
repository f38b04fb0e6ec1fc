"""One session on disk: an HDF5 file in torch_brain's format with our additions (regions, values, signal kind, stimuli).

A file written here opens with ``torch_brain.data.Data.from_hdf5``; a file written by torch_brain's own pipelines opens
here. Times are float64 seconds, ``spike_units`` are 0-based rows of the unit table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from torch_brain.data import (
    ArrayDict,
    BrainsetDescription,
    Data,
    Interval,
    IrregularTimeSeries,
    SessionDescription,
    SubjectDescription,
)

from neurobridge import __version__
from neurobridge.data.checks import SPLITS, STIMULUS_FIELDS, SignalKind, check
from neurobridge.data.guard import open_hdf5
from neurobridge.data.hdf5 import atomic_hdf5, has, read_array, read_text, storable, strings, text
from neurobridge.data.shapes import name_defect
from neurobridge.errors import UserError, reading

UNKNOWN_REGION = "unknown"
CHECKED = "checked"  # attribute of 'spikes' in files of ours: sorted, finite, in range when they were written


@dataclass(kw_only=True)
class Stimuli:
    """One row a presentation. ``start``, ``end`` in s; ``image_id`` is a content hash (:func:`images.content_id`).

    ``condition``, where there is one, names what was shown or done (a frame, a grating, a reach): rows that share it
    are repeats for a PSTH. ``columns``: further columns by name, [P] or [P, ...] numbers or strings (choice, ...).
    """

    start: np.ndarray
    end: np.ndarray
    image_id: np.ndarray
    repeat: np.ndarray
    split: np.ndarray
    valid: np.ndarray
    condition: np.ndarray | None = None
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.start)

    def rows(self, split: str) -> np.ndarray:
        """Indices of the valid presentations of ``split``."""
        return np.flatnonzero((self.split == split) & self.valid)


@dataclass(kw_only=True)
class TimeSeries:
    """A behaviour: ``timestamps`` [T] in s, ``values`` [T] or [T, D]."""

    timestamps: np.ndarray
    values: np.ndarray


@dataclass(kw_only=True)
class Recording:
    """Spikes (or values) of one session with its units, stimuli and behaviour, whole in memory.

    ``spike_values`` is None for spike events. For ``binned_count`` and ``mua_envelope`` signals there is one event per
    (unit, presentation), whose time is the centre of the counting window and whose value is the count or envelope.

    ``observed`` [K, 2] in s, ascending and disjoint, says when spikes were recorded: outside, a count is unknown, not
    zero. None: throughout ``duration``.
    """

    dataset: str
    subject: str
    session: str
    signal_kind: SignalKind
    spike_times: np.ndarray
    spike_units: np.ndarray
    unit_ids: np.ndarray
    regions: np.ndarray
    duration: tuple[float, float]
    species: str = "UNKNOWN"
    spike_values: np.ndarray | None = None
    unit_columns: dict[str, np.ndarray] = field(default_factory=dict)
    stimuli: Stimuli | None = None
    behaviour: dict[str, TimeSeries] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)
    observed: np.ndarray | None = None

    @property
    def observed_time(self) -> np.ndarray:
        """[K, 2] s: :attr:`observed`, or the whole of :attr:`duration`."""
        return np.array([self.duration], dtype=np.float64) if self.observed is None else self.observed

    @property
    def unit_keys(self) -> list[str]:
        """(dataset, subject, session, unit) strings: the only identity a unit has."""
        return unit_keys(self.dataset, self.subject, self.session, self.unit_ids)


def unit_keys(dataset: str, subject: str, session: str, unit_ids: Sequence[str] | np.ndarray) -> list[str]:
    """dataset/subject/session/unit, one string a unit."""
    return [f"{dataset}/{subject}/{session}/{unit}" for unit in unit_ids]


def write_recording(recording: Recording, path: Path | str) -> None:
    """Write ``recording`` as HDF5, atomically. Raises UserError if it is not sound (see :mod:`checks`)."""
    check(recording, str(path))
    shown = {} if recording.stimuli is None else recording.stimuli.columns
    for name in (*recording.unit_columns, *shown, *recording.behaviour):
        if defect := name_defect(name):
            raise UserError(f"{path}: '{name}' cannot be the name of a column or behaviour ({defect}): rename it")
    start, end = recording.duration
    domain = Interval(start=np.array([start]), end=np.array([end]))
    times = recording.spike_times
    order = slice(None) if (times[1:] >= times[:-1]).all() else np.argsort(times, kind="stable")
    spikes = {"unit_index": recording.spike_units[order].astype(np.int64)}
    if recording.spike_values is not None:
        spikes["value"] = recording.spike_values[order].astype(np.float32)
    times = times[order].astype(np.float64, copy=False)
    del order  # as large as the times
    parts: dict = {
        "spikes": IrregularTimeSeries(timestamps=times, domain=domain, **spikes),
        "units": ArrayDict(
            id=storable(recording.unit_ids.astype(str)),
            brain_region=storable(recording.regions.astype(str)),
            **{name: storable(column) for name, column in recording.unit_columns.items()},
        ),
    }
    for name, series in recording.behaviour.items():
        parts[name] = IrregularTimeSeries(
            timestamps=series.timestamps.astype(np.float64), values=series.values, domain=domain
        )
    if recording.observed is not None:
        parts["observed_domain"] = Interval(start=recording.observed[:, 0], end=recording.observed[:, 1])
    if recording.stimuli is not None:
        stimuli = recording.stimuli
        condition = {} if stimuli.condition is None else {"condition": storable(stimuli.condition.astype(str))}
        parts["stimuli"] = Interval(
            start=stimuli.start.astype(np.float64),
            end=stimuli.end.astype(np.float64),
            image_id=storable(stimuli.image_id.astype(str)),
            repeat=stimuli.repeat.astype(np.int64),
            split=stimuli.split.astype(str),
            valid=stimuli.valid.astype(bool),
            **condition,
            **{name: storable(np.asarray(column)) for name, column in stimuli.columns.items()},
        )
        for split in SPLITS:
            rows = np.sort(stimuli.rows(split))
            parts[f"{split}_domain"] = Interval(start=stimuli.start[rows], end=stimuli.end[rows])
    data = Data(
        brainset=BrainsetDescription(
            id=recording.dataset,
            origin_version=recording.provenance.get("origin_version", "unknown"),
            derived_version=__version__,
            source=recording.provenance.get("source", "unknown"),
            description=json.dumps(recording.provenance),
        ),
        subject=SubjectDescription(id=recording.subject, species=recording.species),
        session=SessionDescription(
            id=recording.session,
            recording_date=None,
            signal_kind=recording.signal_kind,  # pyright: ignore
        ),
        domain=domain,
        **parts,
    )
    with atomic_hdf5(path) as file:
        data.to_hdf5(file)  # contiguous data sets and an index of whole seconds: what the store maps
        file["spikes"].attrs[CHECKED] = 1


def read_recording(path: Path | str) -> Recording:
    """Read a session file whole. Raises UserError, with the file and the mend, if it is missing, truncated or foreign.

    The store does not need this: see :class:`neurobridge.data.stored.StoredRecording`.
    """
    path = Path(path)
    with open_recording(path, damaged=True) as file:
        spikes = file["spikes"]
        recording = Recording(
            **read_identity(file, path),
            species=read_text(file, "subject", "species", "UNKNOWN"),
            spike_times=spikes["timestamps"][:],
            spike_units=spikes["unit_index"][:].astype(np.int64),
            spike_values=spikes["value"][:] if "value" in spikes else None,
            unit_columns=read_unit_columns(file),
            stimuli=read_stimuli(file),
            behaviour=read_behaviour(file),
            provenance=read_provenance(file),
            observed=read_observed(file),
        )
    check(recording, str(path))
    return recording


@contextmanager
def open_recording(path: Path, *, damaged: bool = False) -> Iterator[h5py.File]:
    """The HDF5 file of a session, open for reading. Raises UserError if it is missing, truncated or foreign.

    ``damaged``: look through the whole file first for damage on which the HDF5 library would hang.
    """
    if not path.is_file():
        raise UserError(f"no recording at {path}: check the path, or import one with 'neurobridge data import'")
    mend = "it may be empty or truncated; download or import it again"
    with reading(path, "HDF5 recording", mend), open_hdf5(path) if damaged else h5py.File(path, "r") as file:
        for key in ("spikes/timestamps", "spikes/unit_index", "units/id"):
            if not has(file, key):
                raise UserError(
                    f"{path} has no '{key}': it is not a recording in torch_brain's format; import it first"
                )
        yield file


def read_identity(file: h5py.File, path: Path) -> dict:
    """What is small and always needed: who, which signal, the units and their regions, from when to when."""
    unit_ids = strings(read_array(file, "units/id"))
    known = has(file, "units/brain_region")
    bounds = read_array(file, "domain/start") if has(file, "domain/start") else np.zeros(0)
    if len(bounds):
        duration = (float(bounds[0]), float(read_array(file, "domain/end")[-1]))
    else:
        times = read_array(file, "spikes/timestamps")
        duration = (float(times.min(initial=0.0)), float(times.max(initial=0.0)))
    return {
        "dataset": read_text(file, "brainset", "id", "unknown"),
        "subject": read_text(file, "subject", "id", "unknown"),
        "session": read_text(file, "session", "id", path.stem),
        "signal_kind": read_text(file, "session", "signal_kind", "sorted"),
        "unit_ids": unit_ids,
        "regions": strings(read_array(file, "units/brain_region")) if known else np.full(len(unit_ids), UNKNOWN_REGION),
        "duration": duration,
    }


def read_stimuli(file: h5py.File) -> Stimuli | None:
    """The stimulus table, None where the session has none."""
    stimuli = read_presentations(file)
    if stimuli is None:
        return None
    stimuli.image_id = strings(read_array(file, "stimuli/image_id"))
    if has(file, "stimuli/repeat"):
        stimuli.repeat = read_array(file, "stimuli/repeat")
    if has(file, "stimuli/condition"):
        stimuli.condition = strings(read_array(file, "stimuli/condition"))
    stimuli.columns = {
        name: text(table[:])
        for name, table in file["stimuli"].items()
        if name not in STIMULUS_FIELDS and isinstance(table, h5py.Dataset)
    }
    return stimuli


def read_presentations(file: h5py.File) -> Stimuli | None:
    """The same with what windows are cut by alone (times, split, valid); the rest of it is empty."""
    if not has(file, "stimuli"):
        return None
    start = read_array(file, "stimuli/start")
    count = len(start)
    split = has(file, "stimuli/split")
    valid = has(file, "stimuli/valid")
    return Stimuli(
        start=start,
        end=read_array(file, "stimuli/end"),
        image_id=np.full(count, ""),
        repeat=np.zeros(count, np.int64),
        split=strings(read_array(file, "stimuli/split")) if split else np.full(count, "train"),
        valid=read_array(file, "stimuli/valid").astype(bool) if valid else np.ones(count, bool),
    )


def read_observed(file: h5py.File) -> np.ndarray | None:
    """[K, 2] s: when spikes were recorded; None: throughout."""
    if not has(file, "observed_domain"):
        return None
    return np.stack([read_array(file, f"observed_domain/{edge}") for edge in ("start", "end")], axis=1)


def read_unit_columns(file: h5py.File) -> dict[str, np.ndarray]:
    """Columns of the unit table beside id and region."""
    return {
        name: text(column[:])
        for name, column in file["units"].items()
        if name not in ("id", "brain_region") and isinstance(column, h5py.Dataset)
    }


def read_behaviour(file: h5py.File) -> dict[str, TimeSeries]:
    """Every group but the spikes that holds timestamps and values."""
    return {
        name: TimeSeries(timestamps=file[name]["timestamps"][:], values=file[name]["values"][:])
        for name in behaviour_names(file)
    }


def behaviour_names(file: h5py.File) -> list[str]:
    """Names of the groups that are behaviour."""
    groups = {name: group for name, group in file.items() if isinstance(group, h5py.Group) and name != "spikes"}
    return [name for name, group in groups.items() if "timestamps" in group and "values" in group]


def read_provenance(file: h5py.File) -> dict[str, str]:
    """Where the recording comes from; a description that is no JSON of ours is kept as it is."""
    text = read_text(file, "brainset", "description", "{}")
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError:
        return {"description": text}
    return loaded if isinstance(loaded, dict) else {"description": text}
