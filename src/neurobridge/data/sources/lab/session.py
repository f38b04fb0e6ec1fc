"""One session out of its declared tables, as a recording with its pictures; or one sentence.

Letters: N units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neurobridge.data.checks import check
from neurobridge.data.intervals import contains
from neurobridge.data.recording import UNKNOWN_REGION, Recording, Stimuli
from neurobridge.data.sources.lab.behaviour import read_behaviour
from neurobridge.data.sources.lab.columns import first_of_each, read_frame
from neurobridge.data.sources.lab.events import read_binned, read_events
from neurobridge.data.sources.lab.extras import kept_columns
from neurobridge.data.sources.lab.manifest import Manifest
from neurobridge.data.sources.lab.observed import observe
from neurobridge.data.sources.lab.presentations import read_presentations
from neurobridge.errors import UserError

UNIT_COLUMNS = ("unit_id", "electrode_id", "area")


@dataclass(kw_only=True)
class Session:
    """``recording`` as it is written, before the quality filters; ``pictures`` content id -> pixels; ``labels`` of
    those pictures: name and, where the table has it, concept."""

    recording: Recording
    pictures: dict[str, np.ndarray]
    labels: dict[str, dict[str, str]]


def build(manifest: Manifest) -> Session:
    """Read all files that the manifest names. Raises UserError at the first thing that cannot be right."""
    unit_ids, regions, columns = _units(manifest)
    shown, pictures = read_presentations(manifest)
    if manifest.spikes.layout == "binned":
        assert shown is not None, "the manifest was checked"
        times, rows, values = read_binned(manifest, shown, len(unit_ids))
        of_file = rows
    else:
        times, rows, values, of_file = read_events(manifest, unit_ids)
    seen, observed, told = observe(manifest, times, rows, of_file)
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
        provenance={key: text for key, text in {"observed": told, "behaviour": measured}.items() if text},
    )
    check(recording, str(manifest.file))
    labels: dict[str, dict[str, str]] = {}
    if shown is not None and pictures:
        labels["name"] = dict(zip(shown.key.tolist(), shown.name.tolist(), strict=True))
        if shown.concept is not None:
            labels["concept"] = dict(zip(shown.key.tolist(), shown.concept.tolist(), strict=True))
    return Session(recording=recording, pictures=pictures, labels=labels)


def _units(manifest: Manifest) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Ids [N], regions [N] and further columns of the unit table."""
    frame = read_frame(manifest, manifest.units, UNIT_COLUMNS, extra=True)
    ids, areas = frame.text("unit_id"), frame.text("area")
    if not len(ids):
        raise UserError(f"{frame.file} holds no units: fill the table, or mend its path in {manifest.file.name}")
    frame.refuse(
        ~first_of_each(ids), lambda row: f"unit_id '{ids[row]}' was there before; give every unit an id of its own"
    )
    known = {*manifest.areas, UNKNOWN_REGION}
    frame.refuse(
        np.array([area not in known for area in areas.tolist()]),
        lambda row: (
            f"area '{areas[row]}' is not among the areas of {manifest.file.name} "
            f"({', '.join(manifest.areas)}); mend the row, or add it there ('{UNKNOWN_REGION}' is always allowed)"
        ),
    )
    columns = {"electrode_id": frame.text("electrode_id"), **kept_columns(frame, UNIT_COLUMNS, ("id", "brain_region"))}
    return ids, areas, columns
