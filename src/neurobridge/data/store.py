"""Fast windows out of sessions: trial-aligned where there are stimuli, on a regular grid where there are none.

No Python object is made per event: a batch of windows is two binary searches and one gather. Ticks are whole
milliseconds, exact on 1 ms-quantised times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neurobridge.data.images import ImageSet
from neurobridge.data.recording import SPLITS, Recording, read_recording
from neurobridge.errors import UserError

TICK = 1e-3
EPSILON = 1e-6


class Session:
    """One recording cut into windows of ``window_ms`` that start ``offset_ms`` after stimulus onset.

    starts [W] s; stimulus_row [W] (-1 on the grid); image_row [W] (see attach_images); split [W]. Windows that leave
    the recording, and invalid presentations, are dropped. Values are z-scored a unit with train-split statistics,
    counts after a square root (Anscombe: the noise then hardly depends on the mean). Without stimuli the recording is
    cut into blocks of ten windows: of every ten blocks one is valid, one is test.
    """

    def __init__(self, recording: Recording, *, window_ms: int, offset_ms: int = 0) -> None:
        self.recording = recording
        self.window_ms = window_ms
        self.name = recording.session
        self.units = len(recording.unit_ids)
        self.valued = recording.spike_values is not None
        start, end = recording.duration
        stimuli = recording.stimuli
        if stimuli is not None and len(stimuli):
            starts = stimuli.start + offset_ms * TICK
            fits = stimuli.valid & (starts >= start - EPSILON) & (starts + window_ms * TICK <= end + EPSILON)
            self.stimulus_row = np.flatnonzero(fits)
            self.starts, self.split = starts[fits], stimuli.split[fits]
        else:
            self.starts = np.arange(start, end - window_ms * TICK + EPSILON, window_ms * TICK)
            self.stimulus_row = np.full(len(self.starts), -1)
            block = np.arange(len(self.starts)) // 10 % 10
            self.split = np.select([block == 4, block == 9], ["valid", "test"], "train")
        if not (self.split == "train").any():
            raise UserError(
                f"session {self.name} has no window of {window_ms} ms in the train split: shorten the window or mend "
                "the splits"
            )
        self.image_row = np.full(len(self.starts), -1)
        order = np.argsort(recording.spike_times, kind="stable")
        self.times = recording.spike_times[order]
        self.columns = recording.spike_units[order].astype(np.int64)
        self.values = None
        if recording.spike_values is not None:
            values = recording.spike_values[order].astype(np.float32)
            self.values = self._zscored(np.sqrt(values.clip(0)) if recording.signal_kind == "binned_count" else values)

    @classmethod
    def open(cls, path: Path | str, *, window_ms: int, offset_ms: int = 0) -> Session:
        return cls(read_recording(path), window_ms=window_ms, offset_ms=offset_ms)

    def rows(self, split: str) -> np.ndarray:
        """Indices of the windows of ``split``."""
        assert split in SPLITS
        return np.flatnonzero(self.split == split)

    def image_ids(self, rows: np.ndarray) -> np.ndarray:
        """Content hash of the image shown in each window. Raises UserError without stimuli."""
        if self.recording.stimuli is None:
            raise UserError(
                f"session {self.name} has no stimuli: it can be used for pretraining, not for alignment or pictures"
            )
        return self.recording.stimuli.image_id[self.stimulus_row[rows]]

    def attach_images(self, images: ImageSet) -> None:
        """Set ``image_row`` [W]: the row in ``images`` of what each window shows; -1 where no image is known."""
        if self.recording.stimuli is None:
            return
        ids = self.image_ids(np.arange(len(self.starts)))
        known = ids != ""
        self.image_row = np.full(len(ids), -1)
        self.image_row[known] = images.rows(ids[known])

    def events(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """(window index 0.., unit column, tick in ms, value or None) of all events in the windows ``rows``."""
        window, event = self._gather(rows)
        tick = np.floor((self.times[event] - self.starts[rows][window] + EPSILON) / TICK).astype(np.int64)
        tick = np.clip(tick, 0, self.window_ms - 1)
        return window, self.columns[event], tick, None if self.values is None else self.values[event]

    def _gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(window index 0.., index into the sorted events) of every event in the windows ``rows``."""
        starts = self.starts[rows]
        first = np.searchsorted(self.times, starts - EPSILON)
        counts = np.searchsorted(self.times, starts + self.window_ms * TICK - EPSILON) - first
        window = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return window, np.repeat(first, counts) + within

    def binned(self, rows: np.ndarray, bin_ms: int) -> np.ndarray:
        """Counts (or summed values) [len(rows), N, T] float32 on bins of ``bin_ms``."""
        window, column, tick, value = self.events(rows)
        bins = self.window_ms // bin_ms
        cell = (window * self.units + column) * bins + np.minimum(tick // bin_ms, bins - 1)
        size = len(rows) * self.units * bins
        return np.bincount(cell, weights=value, minlength=size).astype(np.float32).reshape(len(rows), self.units, bins)

    def start_bias(self, bin_ms: int) -> np.ndarray:
        """[N] where the model's bias starts: log mean count a bin over the train windows; 0 for z-scored values."""
        if self.valued:
            return np.zeros(self.units, dtype=np.float32)
        counts = self.binned(self.rows("train"), self.window_ms)[:, :, 0].mean(0) * bin_ms / self.window_ms
        return np.log(np.maximum(counts, 1e-4)).astype(np.float32)

    def _zscored(self, values: np.ndarray) -> np.ndarray:
        _, event = self._gather(self.rows("train"))
        column = self.columns[event]
        count = np.maximum(np.bincount(column, minlength=self.units), 1)
        mean = np.bincount(column, weights=values[event], minlength=self.units) / count
        variance = np.bincount(column, weights=(values[event] - mean[column]) ** 2, minlength=self.units) / count
        deviation = np.where(variance > 0, np.sqrt(variance), 1.0)
        return ((values - mean[self.columns]) / deviation[self.columns]).astype(np.float32)
