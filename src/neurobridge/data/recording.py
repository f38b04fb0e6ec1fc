"""One session on disk: an HDF5 file in torch_brain's format with our additions (regions, values, signal kind, stimuli).

A file written here opens with ``torch_brain.data.Data.from_hdf5``; a file written by torch_brain's own pipelines opens
here. Times are float64 seconds, ``spike_units`` are 0-based rows of the unit table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

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
from neurobridge.data.guard import open_hdf5
from neurobridge.data.hdf5 import atomic_hdf5, storable
from neurobridge.data.shapes import check_shapes
from neurobridge.errors import UserError, reading

SignalKind = Literal["sorted", "threshold_crossing", "binned_count", "mua_envelope"]
SPLITS = ("train", "valid", "test")
UNKNOWN_REGION = "unknown"
STIMULUS_FIELDS = ("start", "end", "image_id", "repeat", "split", "valid", "condition")


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
    def unit_keys(self) -> list[str]:
        """(dataset, subject, session, unit) strings: the only identity a unit has."""
        return [f"{self.dataset}/{self.subject}/{self.session}/{unit}" for unit in self.unit_ids]


def write_recording(recording: Recording, path: Path | str) -> None:
    """Write ``recording`` as HDF5, atomically. Raises UserError if it is not sound (see :func:`check`)."""
    check(recording, str(path))
    start, end = recording.duration
    domain = Interval(start=np.array([start]), end=np.array([end]))
    order = np.argsort(recording.spike_times, kind="stable")
    spikes = {"unit_index": recording.spike_units[order].astype(np.int64)}
    if recording.spike_values is not None:
        spikes["value"] = recording.spike_values[order].astype(np.float32)
    parts: dict = {
        "spikes": IrregularTimeSeries(
            timestamps=recording.spike_times[order].astype(np.float64), domain=domain, **spikes
        ),
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
        condition = {} if stimuli.condition is None else {"condition": stimuli.condition.astype(str)}
        parts["stimuli"] = Interval(
            start=stimuli.start.astype(np.float64),
            end=stimuli.end.astype(np.float64),
            image_id=stimuli.image_id.astype(str),
            repeat=stimuli.repeat.astype(np.int64),
            split=stimuli.split.astype(str),
            valid=stimuli.valid.astype(bool),
            **condition,
            **{name: _storable(column) for name, column in stimuli.columns.items()},
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
        data.to_hdf5(file)


def read_recording(path: Path | str) -> Recording:
    """Read a session file. Raises UserError, with the file and the mend, if it is missing, truncated or foreign."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no recording at {path}: check the path, or import one with 'neurobridge data import'")
    mend = "it may be empty or truncated; download or import it again"
    with reading(path, "HDF5 recording", mend), open_hdf5(path) as file:
        recording = _read(file, path)
    check(recording, str(path))
    return recording


def _read(file: h5py.File, path: Path) -> Recording:
    for key in ("spikes/timestamps", "spikes/unit_index", "units/id"):
        if key not in file:
            raise UserError(f"{path} has no '{key}': it is not a recording in torch_brain's format; import it first")

    def attribute(group: str, name: str, default: str) -> str:
        value = file[group].attrs.get(name, default) if group in file else default
        return value.decode() if isinstance(value, bytes) else str(value)

    units = file["units"]
    unit_ids = _strings(units["id"][:])
    regions = _strings(units["brain_region"][:]) if "brain_region" in units else np.full(len(unit_ids), UNKNOWN_REGION)
    columns = {
        name: _column(column)
        for name, column in units.items()
        if isinstance(column, h5py.Dataset) and name not in ("id", "brain_region")
    }
    stimuli = None
    if "stimuli" in file:
        table = file["stimuli"]
        count = len(table["start"])
        stimuli = Stimuli(
            start=table["start"][:],
            end=table["end"][:],
            image_id=_strings(table["image_id"][:]),
            repeat=table["repeat"][:] if "repeat" in table else np.zeros(count, np.int64),
            split=_strings(table["split"][:]) if "split" in table else np.full(count, "train"),
            valid=table["valid"][:].astype(bool) if "valid" in table else np.ones(count, bool),
            condition=_strings(table["condition"][:]) if "condition" in table else None,
            columns={
                name: _column(column)
                for name, column in table.items()
                if name not in STIMULUS_FIELDS and isinstance(column, h5py.Dataset)
            },
        )
    times = file["spikes/timestamps"][:]
    if "domain" in file and "start" in file["domain"] and len(file["domain/start"]):
        duration = (float(file["domain/start"][0]), float(file["domain/end"][-1]))
    else:
        duration = (float(times.min(initial=0.0)), float(times.max(initial=0.0)))
    observed = None
    if "observed_domain" in file:
        observed = np.stack([file["observed_domain"][edge][:] for edge in ("start", "end")], axis=1)
    behaviour = {
        name: TimeSeries(timestamps=group["timestamps"][:], values=group["values"][:])
        for name, group in file.items()
        if isinstance(group, h5py.Group) and name != "spikes" and "timestamps" in group and "values" in group
    }
    kind = attribute("session", "signal_kind", "sorted")
    return Recording(
        dataset=attribute("brainset", "id", "unknown"),
        subject=attribute("subject", "id", "unknown"),
        species=attribute("subject", "species", "UNKNOWN"),
        session=attribute("session", "id", path.stem),
        signal_kind=kind,  # pyright: ignore
        spike_times=times,
        spike_units=file["spikes/unit_index"][:].astype(np.int64),
        spike_values=file["spikes/value"][:] if "value" in file["spikes"] else None,
        unit_ids=unit_ids,
        regions=regions,
        unit_columns=columns,
        duration=duration,
        stimuli=stimuli,
        behaviour=behaviour,
        provenance=_provenance(attribute("brainset", "description", "{}")),
        observed=observed,
    )


def check(recording: Recording, where: str) -> None:
    """Raise UserError at the first thing that makes a recording unusable; ``where`` names the file in the sentence."""
    r = recording
    if r.signal_kind not in get_args(SignalKind):
        raise UserError(f"{where}: signal_kind is '{r.signal_kind}', expected one of {', '.join(get_args(SignalKind))}")
    if len(r.unit_ids) == 0:
        raise UserError(f"{where} holds no units: relax the quality filters, or leave this session out")
    if len(set(r.unit_ids.tolist())) != len(r.unit_ids):
        raise UserError(f"{where}: unit ids are not unique; every unit of a session needs an id of its own")
    if len(r.regions) != len(r.unit_ids):
        raise UserError(f"{where}: {len(r.regions)} regions for {len(r.unit_ids)} units; give one region a unit")
    if len(r.spike_times) != len(r.spike_units):
        raise UserError(f"{where}: {len(r.spike_times)} spike times but {len(r.spike_units)} unit indices")
    check_shapes(r, where)
    if len(r.spike_times) == 0:
        raise UserError(f"{where} holds no spikes: the file is empty or the import went wrong; import it again")
    bad = np.flatnonzero(~np.isfinite(r.spike_times))
    if len(bad):
        raise UserError(f"{where}: spike {bad[0]} has time {r.spike_times[bad[0]]}; remove non-finite times")
    bad = np.flatnonzero((r.spike_units < 0) | (r.spike_units >= len(r.unit_ids)))
    if len(bad):
        raise UserError(
            f"{where}: spike {bad[0]} belongs to unit row {r.spike_units[bad[0]]} of {len(r.unit_ids)}; "
            "unit indices count from 0 (is the index base off by one?)"
        )
    start, end = r.duration
    if r.spike_times.min() < start - 1e-6 or r.spike_times.max() > end + 1e-6:
        raise UserError(
            f"{where}: spikes run from {r.spike_times.min():.3f} to {r.spike_times.max():.3f} s but the recording from "
            f"{start:.3f} to {end:.3f} s (milliseconds taken for seconds?)"
        )
    if r.observed is not None and (np.diff(r.observed.ravel()) < 0).any():
        raise UserError(f"{where}: the observed intervals overlap or are not in order; sort and merge them")
    if r.stimuli is not None and len(r.stimuli):
        outside = np.flatnonzero((r.stimuli.start < start - 1e-6) | (r.stimuli.end > end + 1e-6))
        if len(outside):
            row = outside[0]
            raise UserError(
                f"{where}: stimulus row {row} starts at {r.stimuli.start[row]:.3f} s, outside the recording "
                f"({start:.3f}-{end:.3f} s); mend the onset or the clock"
            )
        for name, column in r.stimuli.columns.items():
            if name in STIMULUS_FIELDS or np.shape(column)[:1] != (len(r.stimuli),):
                raise UserError(
                    f"{where}: stimulus column '{name}' has shape {np.shape(column)}, not one row a presentation "
                    f"({len(r.stimuli)}): give one value each, under a name other than {', '.join(STIMULUS_FIELDS)}"
                )
        foreign = set(r.stimuli.split.tolist()) - {*SPLITS, "none"}
        if foreign:
            raise UserError(f"{where}: split '{foreign.pop()}' is unknown; use train, valid, test or none")


def _storable(column: np.ndarray) -> np.ndarray:
    """Strings as UTF-8 bytes where they are not ASCII (torch_brain stores only ASCII strings)."""
    column = np.asarray(column)
    ascii_only = column.dtype.kind != "U" or all(text.isascii() for text in np.unique(column).tolist())
    return column if ascii_only else np.char.encode(column, "utf-8")


def _column(dataset: h5py.Dataset) -> np.ndarray:
    return dataset.asstr("utf-8")[()].astype(str) if h5py.check_string_dtype(dataset.dtype) else dataset[()]


def _strings(array: np.ndarray) -> np.ndarray:
    return np.array([x.decode() if isinstance(x, bytes) else str(x) for x in array.tolist()], dtype=str)


def _provenance(text: str) -> dict[str, str]:
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError:
        return {"description": text}
    return loaded if isinstance(loaded, dict) else {"description": text}
