"""A recording that stays on disk: the units are held, tables are read when asked for, events by the window."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neurobridge.data.checks import SignalKind, check_observed, check_range, check_stimuli, check_units
from neurobridge.data.events import FileEvents, file_events
from neurobridge.data.hdf5 import read_text
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

    def _read(self, reader):
        with open_recording(self.path) as file:
            return reader(file)
