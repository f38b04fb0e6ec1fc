"""Sessions to batches: which windows a step sees is a function of (seed, step) alone, so a resumed run repeats none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch.utils.data import IterableDataset, get_worker_info

from neurobridge.data.binning import bin_events
from neurobridge.data.events import joined
from neurobridge.data.sessions import Identity, session_files
from neurobridge.data.store import Session
from neurobridge.errors import UserError
from neurobridge.neuro.batch import SpikeBatch

NO_REGION = ("", "unknown", "root", "void")  # as in the frozen protocols of evaluation


def open_sessions(folder: Path, names: Sequence[str] = (), *, window_ms: int, offset_ms: int = 0) -> list[Session]:
    """The sessions of a data folder, all or by name, in alphabetical order.

    A name is that of the file. Raises UserError for what is not there, and for one session in two files.
    """
    files = session_files(folder)
    unknown = [name for name in names if name not in files]
    if unknown:
        raise UserError(f"session '{unknown[0]}' is not in {folder}; there are: {', '.join(files)}")
    wanted = track(names or list(files), "opening sessions", transient=True, disable=len(names or files) < 200)
    cut = {"window_ms": window_ms, "offset_ms": offset_ms, "dataset": folder.name}
    sessions = [Session.open(files[name], **cut) for name in wanted]
    refuse_twins(sessions)
    return sessions


def refuse_twins(sessions: Sequence[Session]) -> None:
    """Raise UserError for two files that hold one session: their units would be the same units."""
    seen: dict[Identity, Session] = {}
    apart = len({session.dataset for session in sessions}) > 1

    def told(session: Session) -> str:
        return f"{session.dataset}/{session.name}" if apart else session.name

    for session in sessions:
        r = session.recording
        other = seen.setdefault(Identity(r.dataset, r.subject, r.session), session)
        if other is not session:
            raise UserError(
                f"{told(session)} and {told(other)} are one session, {r.dataset}/{r.subject}/{r.session}: remove "
                "one of the files, or import it under another name"
            )


def region_codes(sessions: Sequence[Session]) -> dict[str, int]:
    """Region name -> code, over all sessions; names that say nothing have none."""
    names = sorted({region for s in sessions for region in s.recording.regions.tolist()})
    names = [name for name in names if name.lower() not in NO_REGION]
    return {name: code for code, name in enumerate(names)}


class Batcher:
    """Makes SpikeBatches of one or several sessions.

    rows_of_units: session name -> vocabulary row of each unit. bin_ms: bin of the rate grid, or one a session.
    Sessions of a batch give equal numbers of windows. datasets: the data set of each session. area_windows: region ->
    (low, high) ms since the start of the window, outside which its units' events are left out. device: of the batches.
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        *,
        rows_of_units: dict[str, list[int]],
        bin_ms: int | Sequence[int],
        area_windows: Mapping[str, tuple[int, int]] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.sessions, self.device = list(sessions), device
        self.bins = [bin_ms] * len(self.sessions) if isinstance(bin_ms, int) else list(bin_ms)
        self.datasets = [s.dataset for s in self.sessions]
        codes = region_codes(sessions)
        self.unit_rows = [np.asarray(rows_of_units[s.name]) for s in self.sessions]
        self.regions = [np.array([codes.get(r, -1) for r in s.recording.regions.tolist()]) for s in self.sessions]
        self.unit_windows = None
        if area_windows:
            parts = ([area_windows.get(r, (0, s.window_ms)) for r in s.recording.regions.tolist()] for s in sessions)
            self.unit_windows = [np.array(part, dtype=np.int64) for part in parts]

    @property
    def bin_ms(self) -> int:
        """The bin of all sessions, where they have one."""
        assert len(set(self.bins)) == 1, "sessions with bins of their own are asked one by one"
        return self.bins[0]

    def kind(self, index: int) -> tuple[bool, int, int]:
        """What the sessions of one batch have in common: values or spikes, length of a window, bin."""
        return self.sessions[index].valued, self.sessions[index].window_ms, self.bins[index]

    def batch(self, picks: Sequence[tuple[int, np.ndarray]]) -> SpikeBatch:
        """picks: (index of a session, rows of its windows), equally many rows each, of one :meth:`kind`."""
        return self.batch_from([(i, self.sessions[i].starts[rows]) for i, rows in picks], rows=[r for _, r in picks])

    def batch_from(
        self, picks: Sequence[tuple[int, np.ndarray]], *, rows: Sequence[np.ndarray] | None = None
    ) -> SpikeBatch:
        """picks: (index of a session, starts of windows in s), equally many each, of one :meth:`kind`.

        rows: which windows of their sessions these are, -1 for none (a start on any millisecond).
        """
        per_group = len(picks[0][1])
        assert all(len(starts) == per_group for _, starts in picks), "sessions of a batch give equal numbers of windows"
        first = self.sessions[picks[0][0]]
        assert len({self.kind(i) for i, _ in picks}) == 1, "sessions of a batch give one kind of signal and window"
        widest = max(self.sessions[i].units for i, _ in picks)
        unit_row = np.zeros((len(picks), widest), dtype=np.int64)
        region = np.full((len(picks), widest), -1, dtype=np.int64)
        unit_mask = np.zeros((len(picks), widest), dtype=bool)
        rows = [np.full(per_group, -1)] * len(picks) if rows is None else rows
        bins = first.window_ms // self.bins[picks[0][0]]
        course = np.zeros((len(picks), widest, bins), dtype=np.float32)
        parts, shown, locked = [], [], []
        for g, (i, starts) in enumerate(picks):
            session = self.sessions[i]
            shown.append(np.where(rows[g] >= 0, session.image_row[rows[g]], -1))
            locked.append((rows[g] >= 0) & session.locked[rows[g]])
            if locked[-1].any():
                course[g, : session.units] = session.course(self.bins[i])
            unit_row[g, : session.units] = self.unit_rows[i]
            region[g, : session.units] = self.regions[i]
            unit_mask[g, : session.units] = True
            window, column, tick, value = session.events_from(starts)
            parts.append((window + g * per_group if g else window, column, tick, value))
        window, column, tick = (joined([p[k] for p in parts]) for k in range(3))
        value = joined([p[3] for p in parts]) if first.valued else None
        bin_ms, windows = self.bins[picks[0][0]], len(picks) * per_group
        target = bin_events(window, column, tick, value, (windows, widest, first.window_ms // bin_ms), bin_ms)
        batch = SpikeBatch(
            unit_row=torch.from_numpy(unit_row),
            unit_mask=torch.from_numpy(unit_mask),
            region=torch.from_numpy(region),
            event_window=torch.from_numpy(window),
            event_unit=torch.from_numpy(column),
            event_tick=torch.from_numpy(tick),
            event_value=None if value is None else torch.from_numpy(value),
            target=torch.from_numpy(target),
            window_ms=first.window_ms,
            bin_ms=bin_ms,
            stimulus=torch.from_numpy(np.concatenate(shown)),
            locked=torch.from_numpy(np.concatenate(locked)),
            session=torch.tensor([i for i, _ in picks]),
            row=torch.from_numpy(np.concatenate(rows)),
            course=torch.from_numpy(course) if np.any(locked) and not first.valued else None,
        )
        if self.unit_windows is None:
            return batch.to(self.device)
        within = np.zeros((len(picks), widest, 2), dtype=np.int64)
        for g, (i, _) in enumerate(picks):
            within[g, : self.sessions[i].units] = self.unit_windows[i]
        return batch.within(torch.from_numpy(within)).to(self.device)

    def sequence(self, index: int, rows: np.ndarray, size: int) -> Iterator[SpikeBatch]:
        """All ``rows`` of session ``index`` in order, ``size`` windows a batch."""
        for at in range(0, len(rows), size):
            yield self.batch([(index, rows[at : at + size])])


class Share(NamedTuple):
    """Which part of every batch is asked for: of every ``of`` windows of a session the ``number``-th (from 0)."""

    number: int = 0
    of: int = 1

    def part(self, drawn: np.ndarray) -> np.ndarray:
        """This share of what was drawn for one session; the last few are left out where it cannot be shared evenly."""
        return drawn[self.number : len(drawn) // self.of * self.of : self.of]


WHOLE = Share()


def steps_here(first: int, last: int) -> range:
    """Those of the steps first..last whose batches this worker process makes; all of them without workers."""
    worker = get_worker_info()
    offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
    return range(first + offset, last, stride)


class StepBatches(IterableDataset):
    """The training batches of steps first..last: each drawn by a generator seeded with (seed, step).

    ``share``: processes that train together take a share each of one and the same batch.
    groups sessions a batch (all of them if there are fewer), windows / groups windows of each, from ``split``.
    Sessions are drawn with probability proportional to the square root of their number of windows. continuous: sessions
    with stimuli give windows between and outside presentations too (:meth:`Session.draw`). preferred: index of a
    session -> rows of which, where there are any, half of its windows are.
    """

    def __init__(
        self,
        batcher: Batcher,
        *,
        split: str,
        windows: int,
        groups: int,
        seed: int,
        first: int,
        last: int,
        share: Share = WHOLE,
        continuous: bool = False,
        preferred: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        super().__init__()
        self.continuous, self.preferred = continuous, preferred or {}
        self.batcher, self.seed, self.first, self.last, self.part = batcher, seed, first, last, share.part
        self.split = split
        root = np.sqrt([s.count(split) for s in batcher.sessions])
        self.share = root / root.sum()
        self.groups = min(groups, len(batcher.sessions))
        self.per_group = max(share.of, windows // self.groups)

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[SpikeBatch]:
        for step in steps_here(self.first, self.last):
            rng = np.random.default_rng([self.seed, step, 0])
            chosen = rng.choice(len(self.share), size=self.groups, replace=False, p=self.share)
            drawn = [self._windows(int(i), rng) for i in chosen]
            starts = [(int(i), self.part(starts)) for i, (starts, _) in zip(chosen, drawn, strict=True)]
            yield self.batcher.batch_from(starts, rows=[self.part(rows) for _, rows in drawn])

    def _windows(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Starts and rows of one session's windows of a step."""
        session = self.batcher.sessions[index]
        starts, rows = session.draw(self.split, self.per_group, rng, continuous=self.continuous)
        preferred = self.preferred.get(index, rows[:0])
        if len(preferred):
            half = rng.random(len(rows)) < 0.5
            rows[half] = rng.choice(preferred, int(half.sum()))
            starts[half] = session.starts[rows[half]]
        return starts, rows
