"""A recording that stays on disk: the units are held, tables are read when asked for, events by the window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from neurobridge.data.checks import SPLITS, SignalKind, check_observed, check_range, check_stimuli, check_units
from neurobridge.data.events import FileEvents, file_events
from neurobridge.data.hdf5 import read_text
from neurobridge.data.intervals import length_of
from neurobridge.data.recording import (
    Stimuli,
    TimeSeries,
    open_recording,
    read_behaviour,
    read_identity,
    read_observed,
    read_presentations,
    read_provenance,
    read_stimuli,
    read_unit_columns,
    unit_keys,
)


class StoredRecording:
    """What a :class:`Recording` offers, read from ``path`` bit by bit. Small to keep, cheap to send to a worker.

    Opening reads the tables of units and stimuli and looks at the first and the last spike. Raises UserError for a file
    that is missing, truncated, foreign or unsound (see :mod:`checks`).
    """

    dataset: str
    subject: str
    session: str
    signal_kind: SignalKind
    unit_ids: np.ndarray
    regions: np.ndarray
    duration: tuple[float, float]

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with open_recording(self.path) as file:
            for name, value in read_identity(file, self.path).items():
                setattr(self, name, value)
            check_units(self.signal_kind, self.unit_ids, self.regions, str(self.path))
            self.events: FileEvents = file_events(self.path, file, len(self.unit_ids))
            self._presentations = read_presentations(file)
            self.observed: np.ndarray | None = read_observed(file)
        self.has_stimuli = self._presentations is not None
        check_observed(self.observed, str(self.path))
        check_range(*self.events.bounds(), self.duration, str(self.path))
        if self._presentations is not None:
            check_stimuli(self._presentations, self.duration, str(self.path))

    @property
    def observed_time(self) -> np.ndarray:
        """[K, 2] s: when spikes were recorded."""
        return np.array([self.duration], dtype=np.float64) if self.observed is None else self.observed

    @property
    def unit_keys(self) -> list[str]:
        return unit_keys(self.dataset, self.subject, self.session, self.unit_ids)

    @property
    def spike_times(self) -> np.ndarray:
        return self.events.times

    @property
    def spike_units(self) -> np.ndarray:
        return self.events.units

    @property
    def spike_values(self) -> np.ndarray | None:
        return self.events.values

    @property
    def stimuli(self) -> Stimuli | None:
        """The stimulus table, read anew at every call."""
        return self._read(read_stimuli) if self.has_stimuli else None

    def presentations(self) -> Stimuli | None:
        """Times, splits and validity alone. The first call gets what opening has read, which is then forgotten."""
        read, self._presentations = self._presentations, None
        return read if read is not None or not self.has_stimuli else self._read(read_presentations)

    @property
    def species(self) -> str:
        return self._read(lambda file: read_text(file, "subject", "species", "UNKNOWN"))

    @property
    def unit_columns(self) -> dict[str, np.ndarray]:
        return self._read(read_unit_columns)

    @property
    def behaviour(self) -> dict[str, TimeSeries]:
        return self._read(read_behaviour)

    @property
    def provenance(self) -> dict[str, str]:
        return self._read(read_provenance)

    def facts(self) -> dict[str, object]:
        """What a table says of a recording."""
        shown = self.presentations()
        counts = {} if shown is None else {split: len(shown.rows(split)) for split in SPLITS}
        return {
            "session": self.path.stem,
            "subject": f"{self.dataset}/{self.subject}",
            "signal": self.signal_kind,
            "units": len(self.unit_ids),
            "regions": ", ".join(sorted(set(self.regions.tolist()))),
            "minutes": round(length_of(self.observed_time) / 60, 1),
            "presentations": ", ".join(f"{n} {split}" for split, n in counts.items()) or "none",
            "behaviour": ", ".join(self.behaviour) or "none",
        }

    def __repr__(self) -> str:
        facts = ", ".join(f"{key}: {value}" for key, value in self.facts().items())
        return f"<neurobridge recording {facts}>"

    def _repr_html_(self) -> str:
        return html_table([self.facts()])

    def _read(self, reader):
        with open_recording(self.path) as file:
            return reader(file)


def html_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of one shape as a table for a notebook."""
    head = "".join(f"<th>{escape(key)}</th>" for key in (rows[0] if rows else ()))
    cells = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row.values()) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
