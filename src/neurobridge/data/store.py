"""Fast windows out of sessions: trial-aligned where there are stimuli, on a regular grid where there are none.

No session is held: a batch of windows reads its own stretches of the file (:mod:`events`), and no Python object is made
per event. Ticks are whole milliseconds, exact on 1 ms-quantised times.

Letters: W windows, S events, N units, T bins.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from neurobridge.baselines.rates import blocks, psth_of
from neurobridge.data.binning import bin_events
from neurobridge.data.checks import SPLITS
from neurobridge.data.continuous import EPSILON, TICK, any_millisecond, free_time, left_out
from neurobridge.data.events import HeldEvents
from neurobridge.data.images import ImageSet, is_content_id
from neurobridge.data.intervals import contains, merged
from neurobridge.data.recording import Recording
from neurobridge.data.stored import StoredRecording
from neurobridge.errors import UserError

WINDOWS_AT_ONCE = 256
MOST_BIAS_WINDOWS = 10_000
COURSE_WINDOWS = 5  # that a time course can be told from
SPLIT_NAMES = np.array([*SPLITS, "none"])


class Session:
    """One recording cut into windows of ``window_ms`` that start ``offset_ms`` after stimulus onset.

    starts [W] s; stimulus_row [W] (-1 on the grid); image_row [W] (see attach_images); split [W]. Windows that leave
    observed time, and invalid presentations, are dropped. Values are z-scored a unit with train-split statistics,
    counts after a square root (Anscombe: the noise then hardly depends on the mean). Without stimuli each observed
    interval is cut from its start on, and all windows in a row make blocks of ten: of every ten blocks one is valid,
    one is test.

    ``statistics``: mean and deviation [N] of values, where they are not those of the session's own train split.

    ``dataset``: what the session is counted under where data sets are mixed; the recording's own by default. Besides
    the windows of :attr:`starts` there are those of :meth:`random_starts`, which begin on any millisecond, and in
    sessions with stimuli those of :meth:`continuous_starts`: these know no onset and show no image.
    free [K, 2] s: there, spikes may be trained on; all that was observed but the presentations outside the train split
    and their windows (none without stimuli, or for values, which exist at presentations alone).
    """

    def __init__(
        self,
        recording: Recording | StoredRecording,
        *,
        window_ms: int,
        offset_ms: int = 0,
        dataset: str = "",
        statistics: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.recording = recording
        self.window_ms, self.offset_ms = window_ms, offset_ms
        self.name, self.dataset = recording.session, dataset or recording.dataset
        self.units = len(recording.unit_ids)
        self.source = recording.events if isinstance(recording, StoredRecording) else HeldEvents(recording)
        self.valued = self.source.values is not None
        self._cut(offset_ms)
        if not (self.split_code == 0).any():
            raise UserError(
                f"session {self.name} has no window of {window_ms} ms in the train split: shorten the window or mend "
                "the splits"
            )
        self.image_row = np.broadcast_to(-1, len(self.starts))
        self._courses: dict[int, np.ndarray] = {}
        if statistics is not None:
            self.statistics = statistics

    @classmethod
    def open(cls, path: Path | str, **cut: Any) -> Session:
        """The session at ``path``, which stays on disk. ``cut``: as above. Raises UserError if it cannot be used."""
        session = cls(StoredRecording(path), **cut)
        session.name = Path(path).stem  # of two subjects' sessions of one name the files differ
        return session

    def _cut(self, offset_ms: int) -> None:
        recording, length = self.recording, self.window_ms * TICK
        stimuli = recording.presentations() if isinstance(recording, StoredRecording) else recording.stimuli
        observed = merged(recording.observed_time)
        self.free = np.empty((0, 2))
        if stimuli is not None and len(stimuli):
            if not self.valued:
                held = stimuli.split != "train"
                spans = stimuli.start[held], stimuli.end[held]
                self.free = free_time(observed, *spans, offset=offset_ms * TICK, length=length)
            starts = stimuli.start + offset_ms * TICK
            fits = stimuli.valid & contains(starts, starts + length, observed)
            self.stimulus_row = np.flatnonzero(fits).astype(np.int32)
            self.starts, split = starts[fits], stimuli.split[fits]
            self.split_code = np.select([split == name for name in SPLITS], range(len(SPLITS)), 3).astype(np.int8)
        else:
            grids = [np.arange(start, end - length + EPSILON, length) for start, end in observed.tolist()]
            self.starts = np.concatenate([np.empty(0), *grids])
            block = np.arange(len(self.starts)) // 10 % 10
            self.stimulus_row = np.broadcast_to(-1, len(self.starts))
            self.split_code = np.select([block == 4, block == 9], [1, 2], 0).astype(np.int8)

    @property
    def locked(self) -> np.ndarray:
        """[W] bool: which windows begin at a known time after the onset of a stimulus."""
        return self.stimulus_row >= 0

    @cached_property
    def unseen(self) -> float:
        """Share of the :attr:`free` time that the windows of the train split leave out: 0 where there is none."""
        return left_out(self.free, self.starts[self.rows("train")], self.window_ms * TICK)

    @property
    def split(self) -> np.ndarray:
        """[W] train, valid, test or none."""
        return SPLIT_NAMES[self.split_code]

    @property
    def columns(self) -> np.ndarray:
        """[S] unit of every event of the session, as it lies on disk."""
        return self.source.units

    def rows(self, split: str) -> np.ndarray:
        """Indices of the windows of ``split``."""
        return np.flatnonzero(self.split_code == SPLITS.index(split))

    def shown(self, split: str) -> np.ndarray:
        """Those of :meth:`rows` that show an image which is at hand (see attach_images)."""
        rows = self.rows(split)
        return rows[self.image_row[rows] >= 0]

    def images_shown(self, split: str) -> np.ndarray:
        """Images of a split that are at hand: rows of the image set, sorted."""
        return np.unique(self.image_row[self.shown(split)])

    def count(self, split: str) -> int:
        """Number of windows of ``split``."""
        return int(np.count_nonzero(self.split_code == SPLITS.index(split)))

    def thin(self, share: float, rng: np.random.Generator) -> None:
        """Keep so large a ``share`` of the training windows, one at least; the others belong to no split then."""
        rows = self.rows("train")
        dropped = rng.permutation(rows)[max(1, round(share * len(rows))) :]
        self.split_code = self.split_code.copy()
        self.split_code[dropped] = len(SPLITS)
        self._courses.clear()

    def random_starts(self, split: str, count: int, rng: np.random.Generator) -> np.ndarray:
        """[count] s: windows that begin on any millisecond and stay within the windows of ``split``.

        Windows of the split that touch are one stretch; every millisecond of every stretch is as likely. On the grid
        this is a random window of a block; trials with gaps between them leave nothing but the trials themselves.
        """
        starts = np.sort(self.starts[self.rows(split)])
        assert len(starts), "a session has windows of the split that is drawn from"
        breaks = np.flatnonzero(np.diff(starts) > self.window_ms * TICK + EPSILON)
        first = starts[np.concatenate([[0], breaks + 1])]
        last = starts[np.concatenate([breaks, [len(starts) - 1]])]
        return any_millisecond(first, last, count, rng)

    def continuous_starts(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """[count] s: windows on whole milliseconds within :attr:`free`, each as likely as any other."""
        return any_millisecond(self.free[:, 0], self.free[:, 1] - self.window_ms * TICK, count, rng)

    def draw(
        self, split: str, count: int, rng: np.random.Generator, *, continuous: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Starts [count] in s and rows [count] of windows of ``split``, each as likely as any other.

        ``continuous``: of the train split, as many are drawn from the whole recording (row -1) as :attr:`unseen` says,
        so that what lies between and outside presentations is seen as often as what follows an onset.
        """
        rows = rng.choice(self.rows(split), size=count)
        starts = self.starts[rows]
        if continuous and split == "train" and self.unseen:
            loose = rng.random(count) < self.unseen
            starts[loose], rows[loose] = self.continuous_starts(int(loose.sum()), rng), -1
        return starts, rows

    def image_ids(self, rows: np.ndarray) -> np.ndarray:
        """Content hash of the image shown in each window. Raises UserError without stimuli."""
        stimuli = self.recording.stimuli
        if stimuli is None:
            raise UserError(
                f"session {self.name} has no stimuli: it can be used for pretraining, not for alignment or pictures"
            )
        return stimuli.image_id[self.stimulus_row[rows]]

    def attach_images(self, images: ImageSet) -> None:
        """Set ``image_row`` [W]: the row in ``images`` of what each window shows; -1 where it is not at hand.

        Raises UserError for a picture, by its content, that is not in the set.
        """
        stimuli = self.recording.stimuli
        if stimuli is None or not len(stimuli):
            return
        ids = stimuli.image_id[self.stimulus_row]
        known = np.isin(ids, images.ids) | [is_content_id(key) for key in ids.tolist()]
        self.image_row = np.full(len(ids), -1)
        self.image_row[known] = images.rows(ids[known])

    def events(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """(window index 0.., unit column, tick in ms, value or None) of all events in the windows ``rows``."""
        return self.events_from(self.starts[rows])

    def events_from(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """The same for windows that begin at ``starts`` [W] s; in order of window, then time."""
        counts, tick, units, values = self.source.read(*self._bounds(starts))
        window = np.repeat(np.arange(len(starts)), counts)
        column = units.astype(np.int64, copy=False)
        np.clip(tick, 0, self.window_ms - 1, out=tick)
        return window, column, tick, None if values is None else self._zscored(values, column)

    def event_counts(self, starts: np.ndarray) -> np.ndarray:
        """[W]: how many events each window from ``starts`` holds; nothing but their times is looked at."""
        return self.source.counts(*self._bounds(starts))

    def _bounds(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return starts - EPSILON, starts + self.window_ms * TICK - EPSILON

    def _read(self, starts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """(units, values) of the events of all windows, some windows at a time."""
        for at in range(0, len(starts), WINDOWS_AT_ONCE):
            _, _, units, values = self.source.read(*self._bounds(starts[at : at + WINDOWS_AT_ONCE]))
            yield units, values

    def binned(self, rows: np.ndarray, bin_ms: int) -> np.ndarray:
        """Counts (or summed values) [len(rows), N, T] float32 on bins of ``bin_ms``."""
        window, column, tick, value = self.events(rows)
        return bin_events(window, column, tick, value, (len(rows), self.units, self.window_ms // bin_ms), bin_ms)

    def start_bias(self, bin_ms: int) -> np.ndarray:
        """[N] where the model's bias starts: log mean count a bin over the train windows; 0 for z-scored values.

        Of more than ten thousand windows, ten thousand at equal distances are looked at.
        """
        if self.valued:
            return np.zeros(self.units, dtype=np.float32)
        rows = self.rows("train")
        if len(rows) > MOST_BIAS_WINDOWS:
            rows = rows[np.linspace(0, len(rows) - 1, MOST_BIAS_WINDOWS).astype(np.int64)]
        counts = np.zeros(self.units)
        for units, _ in self._read(self.starts[rows]):
            counts += np.bincount(units, minlength=self.units)
        mean = (counts / len(rows)).astype(np.float32) * bin_ms / self.window_ms
        return np.log(np.maximum(mean, 1e-4)).astype(np.float32)

    def course(self, bin_ms: int) -> np.ndarray:
        """[N, T] log of each unit's time course from the stimulus onset over its mean rate, in the train windows.

        Smoothed as much as blocks of windows that are held out ask, unit by unit. Zeros for values, and where the
        windows know of no onset. Taken from ten thousand windows at most, and once a bin.
        """
        if bin_ms not in self._courses:
            self._courses[bin_ms] = self._course(bin_ms)
        return self._courses[bin_ms]

    def _course(self, bin_ms: int) -> np.ndarray:
        bins = self.window_ms // bin_ms
        rows = self.rows("train")
        rows = rows[self.stimulus_row[rows] >= 0]
        if self.valued or len(rows) < COURSE_WINDOWS or bins < 2:
            return np.zeros((self.units, bins), dtype=np.float32)
        if len(rows) > MOST_BIAS_WINDOWS:
            rows = rows[np.linspace(0, len(rows) - 1, MOST_BIAS_WINDOWS).astype(np.int64)]
        block = blocks(len(rows))
        sums = np.zeros((block[-1] + 1, self.units, bins))
        for k in range(len(sums)):
            some = rows[block == k]
            for at in range(0, len(some), WINDOWS_AT_ONCE):
                sums[k] += self.binned(some[at : at + WINDOWS_AT_ONCE], bin_ms).sum(0)
        course = psth_of(sums, np.bincount(block), bin_s=bin_ms / 1000)
        return np.log(course / course.mean(1, keepdims=True)).astype(np.float32)

    def _zscored(self, values: np.ndarray, column: np.ndarray) -> np.ndarray:
        mean, deviation = self.statistics
        return ((self._stable(values) - mean[column]) / deviation[column]).astype(np.float32)

    def _stable(self, values: np.ndarray) -> np.ndarray:
        """Counts after a square root, envelopes as they are."""
        values = values.astype(np.float32)
        return np.sqrt(values.clip(0)) if self.recording.signal_kind == "binned_count" else values

    @cached_property
    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [N] of each unit's values, taken of the train windows when first needed."""
        starts = self.starts[self.rows("train")]
        count, total, mean = np.zeros(self.units), np.zeros(self.units), np.zeros(self.units)
        for moment in (1, 2):
            total[:] = 0
            for column, values in self._read(starts):
                centred = self._stable(values) - mean[column]
                total += np.bincount(column, weights=centred**moment, minlength=self.units)
                count += np.bincount(column, minlength=self.units) * (moment == 1)
            if moment == 1:
                mean = total / np.maximum(count, 1)
        variance = total / np.maximum(count, 1)
        return mean, np.where(variance > 0, np.sqrt(variance), 1.0)
