"""One session out of its declared tables, as a recording with its pictures; or one sentence.

Letters: N units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from neurobridge.data.checks import check
from neurobridge.data.intervals import contains
from neurobridge.data.recording import UNKNOWN_REGION, Recording, Stimuli
from neurobridge.data.sources.lab.behaviour import read_behaviour
from neurobridge.data.sources.lab.columns import Frame, first_of_each, read_frame
from neurobridge.data.sources.lab.counts import count_of_units, read_counts
from neurobridge.data.sources.lab.events import event_frame, read_binned, read_events
from neurobridge.data.sources.lab.extras import kept_columns
from neurobridge.data.sources.lab.manifest import Manifest, Table, resolve
from neurobridge.data.sources.lab.observed import observe, silences
from neurobridge.data.sources.lab.phy import sampling_rate
from neurobridge.data.sources.lab.presentations import read_presentations
from neurobridge.errors import UserError

UNIT_COLUMNS, UNIT_OPTIONS = ("unit_id",), ("electrode_id", "area")


@dataclass(kw_only=True)
class Session:
    """``recording`` as it is written, before the quality filters; ``pictures`` content id -> pixels; ``labels`` of
    those pictures: name and, where the table has it, concept."""

    recording: Recording
    pictures: dict[str, np.ndarray]
    labels: dict[str, dict[str, str]]


def build(manifest: Manifest) -> Session:
    """Read all files that the manifest names. Raises UserError at the first thing that cannot be right."""
    manifest = _with_rate(manifest)
    shown, pictures = read_presentations(manifest)
    span, left_out = None, ""
    if manifest.spikes.layout == "binned":
        assert shown is not None, "the manifest was checked"
        units = _units(manifest, None, lambda: count_of_units(manifest, axis=2))
        times, rows, values = read_binned(manifest, shown, len(units[0]))
        of_file = rows
    elif manifest.spikes.layout == "continuous":
        units = _units(manifest, None, lambda: count_of_units(manifest, axis=1))
        times, rows, values, span = read_counts(manifest, len(units[0]))
        of_file = rows
    else:
        frame = event_frame(manifest)
        units = _units(manifest, frame, lambda: 0)
        if manifest.spikes.layout == "trains" and manifest.units is not None:
            _name_trains(manifest, frame, units[0])
        times, rows, values = read_events(manifest, frame, units[0])
        of_file, left_out = frame.rows, frame.left_out
    unit_ids, regions, columns = units
    seen, observed, told = observe(manifest, times, rows, of_file, span)
    behaviour, measured = read_behaviour(manifest)
    stimuli = None
    if shown is not None:
        names = ("start", "end", "repeat", "split", "valid", "condition", "columns")
        stimuli = Stimuli(image_id=shown.image, **{name: getattr(shown, name) for name in names})
        if observed is not None:
            inside = contains(stimuli.start, stimuli.end, observed)
            gone = int((stimuli.valid & ~inside).sum())
            told += f", {gone} of {len(inside)} presentations not all observed are not valid" if gone else ""
            stimuli.valid = stimuli.valid & inside
    quiet = silences(manifest, times[seen], observed) if values is None else ""
    told_of = {"observed": told, "silence": quiet, "behaviour": measured, "left_out": left_out}
    recording = Recording(
        dataset=manifest.dataset,
        subject=manifest.subject,
        session=manifest.session_id,
        species=manifest.species,
        signal_kind=manifest.signal_kind,
        spike_times=times[seen],
        spike_units=rows[seen],
        spike_values=None if values is None else values[seen],
        unit_ids=unit_ids,
        regions=regions,
        unit_columns=columns,
        duration=manifest.duration,
        stimuli=stimuli,
        observed=observed,
        behaviour=behaviour,
        provenance={key: text for key, text in told_of.items() if text},
    )
    check(recording, str(manifest.file))
    labels: dict[str, dict[str, str]] = {}
    if shown is not None and pictures:
        labels["name"] = dict(zip(shown.key.tolist(), shown.name.tolist(), strict=True))
        if shown.concept is not None:
            labels["concept"] = dict(zip(shown.key.tolist(), shown.concept.tolist(), strict=True))
    return Session(recording=recording, pictures=pictures, labels=labels)


def _with_rate(manifest: Manifest) -> Manifest:
    """With the sampling rate that a phy folder knows, where the manifest leaves it to that."""
    if manifest.spikes.format != "phy" or manifest.sampling_rate is not None:
        return manifest
    folder = resolve(manifest, manifest.spikes.path)
    rate = sampling_rate(folder)
    if rate is None or not 0 < rate < float("inf"):
        raise UserError(
            f"{manifest.file}: times are in samples but sampling_rate is not given, and {folder / 'params.py'} does "
            "not tell it ('sample_rate = 30000.'); give it in Hz"
        )
    return replace(manifest, sampling_rate=rate)


def _name_trains(manifest: Manifest, frame: Frame, ids: np.ndarray) -> None:
    """Trains that are known by their number alone are the units of the table, in its order."""
    assert frame.units is not None, "trains bring their units"
    labels = frame.units["unit_id"].tolist()
    if labels != [str(number + 1) for number in range(len(labels))] or set(labels) == set(ids.tolist()):
        return
    if len(labels) != len(ids):
        assert manifest.units is not None, "asked of a table"
        raise UserError(
            f"{frame.file} holds {len(labels)} spike trains for the {len(ids)} units of {manifest.units.path}; give as "
            "many, in one order, or a list of unit ids beside the trains ('unit_id' under columns)"
        )
    name_of = dict(zip(labels, ids.tolist(), strict=True))
    frame.columns["unit_id"] = np.array([name_of[label] for label in frame.columns["unit_id"].tolist()], dtype=object)


def _units(
    manifest: Manifest, spikes: Frame | None, count: Callable[[], int]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Ids [N], regions [N] and further columns of the unit table; of what the spikes tell where there is none."""
    frame = _unit_frame(manifest, spikes, count)
    ids = frame.text("unit_id")
    if not len(ids):
        raise UserError(f"{frame.file} holds no units: fill the table, or mend its path in {manifest.file.name}")
    frame.refuse(
        ~first_of_each(ids), lambda row: f"unit_id '{ids[row]}' was there before; give every unit an id of its own"
    )
    columns = kept_columns(frame, (*UNIT_COLUMNS, *UNIT_OPTIONS), ("id", "brain_region"))
    if "electrode_id" in frame:
        columns = {"electrode_id": frame.text("electrode_id", empty=manifest.units is None), **columns}
    return ids, _regions(manifest, frame, len(ids)), columns


def _unit_frame(manifest: Manifest, spikes: Frame | None, count: Callable[[], int]) -> Frame:
    if manifest.units is not None:
        return read_frame(manifest, manifest.units, UNIT_COLUMNS, UNIT_OPTIONS, extra=True)
    table, file = manifest.spikes, resolve(manifest, manifest.spikes.path)
    if table.format == "nwb":
        return read_frame(
            manifest, Table(path=table.path, format="nwb", table=table.table or "units"), UNIT_COLUMNS, UNIT_OPTIONS
        )
    if spikes is None:
        columns = {"unit_id": np.arange(count()) + manifest.index_base}
    elif spikes.units is not None:
        columns = spikes.units
    else:
        labels = sorted(set(spikes.text("unit_id").tolist()), key=lambda one: (not one.isdecimal(), len(one), one))
        columns = {"unit_id": np.array(labels, dtype=object)}
    return Frame(file=file, columns=columns, rows=np.arange(len(columns["unit_id"])), lines=False)


def _regions(manifest: Manifest, frame: Frame, count: int) -> np.ndarray:
    """Region of each unit [N]: the table's, or the one region that the manifest declares."""
    if "area" not in frame:
        if len(manifest.areas) != 1:
            raise UserError(
                f"{frame.file} has no column 'area', and areas of {manifest.file.name} names "
                f"{', '.join(manifest.areas)}: add the column, or declare the one region that all units lie in"
            )
        return np.full(count, manifest.areas[0])
    areas = frame.text("area", empty=manifest.units is None)
    areas = np.where(areas == "", UNKNOWN_REGION, areas) if manifest.units is None else areas
    known = {*manifest.areas, UNKNOWN_REGION}
    frame.refuse(
        np.array([area not in known for area in areas.tolist()], dtype=bool),
        lambda row: (
            f"area '{areas[row]}' is not among the areas of {manifest.file.name} "
            f"({', '.join(manifest.areas)}); mend the row, or add it there ('{UNKNOWN_REGION}' is always allowed)"
        ),
    )
    return areas
