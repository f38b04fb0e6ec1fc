"""A recording that stays on disk: the units are held, tables are read when asked for, events by the window."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neurobridge.data.checks import SignalKind, check_range, check_stimuli, check_units
from neurobridge.data.events import FileEvents, file_events
from neurobridge.data.hdf5 import read_text
from neurobridge.data.recording import (
    Stimuli,
    TimeSeries,
    open_recording,
    read_behaviour,
    read_identity,
    read_observed,
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
            self._just_read = read_stimuli(file)
            self.observed: np.ndarray | None = read_observed(file)
        self.has_stimuli = self._just_read is not None
        check_range(*self.events.bounds(), self.duration, str(self.path))
        if self._just_read is not None:
            check_stimuli(self._just_read, self.duration, str(self.path))

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
        """Read anew at every call but the first, which gets the table that opening has read."""
        if not self.has_stimuli:
            return None
        table, self._just_read = self._just_read, None
        return table if table is not None else self._read(read_stimuli)

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

    def _read(self, reader):
        with open_recording(self.path) as file:
            return reader(file)
