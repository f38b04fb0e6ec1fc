"""Several data sets in one training: how often each is drawn, by size and by step, and batches that mix them.

What a step sees is a function of (seed, step) alone, so the step is all the state that a resumed run needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch.utils.data import IterableDataset

from neurobridge.data.datamodule import WHOLE, Batcher, Share, steps_here
from neurobridge.errors import UserError
from neurobridge.neuro.batch import SpikeBatch

GOLDEN = (5**0.5 - 1) / 2
Schedule = Sequence[tuple[float, float]]  # (step, weight), linear in between, constant outside


class Shares:
    """Probability of each data set at each step: weight(step) * n ** power, n its windows in ``split``.

    datasets [D]: names, in order of arrival; members: the sessions of each; cumulated: their probabilities, summed up.
    Sessions of a data set are drawn by the same power of their own windows. Raises UserError for schedules that cannot
    be: a name that is not there, a negative weight, a step at which nothing is left.
    """

    def __init__(self, batcher: Batcher, *, split: str, power: float, weights: Mapping[str, Schedule]) -> None:
        windows = np.array([session.count(split) for session in batcher.sessions], dtype=float)
        self.datasets = list(dict.fromkeys(batcher.datasets))
        label = np.array([self.datasets.index(name) for name in batcher.datasets])
        self.members = [np.flatnonzero(label == d) for d in range(len(self.datasets))]
        self.base = np.array([windows[members].sum() for members in self.members]) ** power
        self.cumulated = [np.cumsum(windows[members] ** power) for members in self.members]
        self.schedules = [np.asarray(weights.get(name, [(0, 1.0)]), dtype=float) for name in self.datasets]
        self._check(weights)

    def _check(self, weights: Mapping[str, Schedule]) -> None:
        unknown = [name for name in weights if name not in self.datasets]
        if unknown:
            raise UserError(f"mixture.weights names '{unknown[0]}'; the data sets are {', '.join(self.datasets)}")
        for name, schedule in zip(self.datasets, self.schedules, strict=True):
            if schedule.ndim != 2 or schedule.shape[1] != 2 or (np.diff(schedule[:, 0]) <= 0).any():
                raise UserError(f"mixture.weights of '{name}' is no list of [step, weight] with rising steps: mend it")
            if (schedule[:, 1] < 0).any():
                raise UserError(f"mixture.weights of '{name}' holds a negative weight: give 0 or more")
        for step in np.concatenate([schedule[:, 0] for schedule in self.schedules]):
            if not self._weighted(step).any():
                raise UserError(f"mixture.weights leaves no data set at step {step:.0f}: give one of them a weight")

    def _weighted(self, step: float) -> np.ndarray:
        return self.base * [np.interp(step, schedule[:, 0], schedule[:, 1]) for schedule in self.schedules]

    def at(self, step: float) -> np.ndarray:
        """[D] probabilities at ``step``, summing to 1."""
        weighted = self._weighted(step)
        return weighted / weighted.sum()

    def draw(self, step: int, slots: int, *, offset: float, rng: np.random.Generator) -> list[int]:
        """``slots`` sessions for ``step``.

        Data sets follow the additive recurrence of the golden ratio from ``offset``, counted on over the steps, so that
        even after few steps each has its share to within about one draw; sessions of a data set are independent draws.
        """
        point = np.mod(offset + (step * slots + np.arange(slots)) * GOLDEN, 1.0)
        until = np.cumsum(self.at(step))
        dataset = np.minimum(np.searchsorted(until / until[-1], point, side="right"), len(until) - 1)
        sessions = []
        for d in dataset:
            summed = self.cumulated[d]
            place = np.searchsorted(summed, rng.random() * summed[-1], side="right")
            sessions.append(int(self.members[d][min(place, len(summed) - 1)]))
        return sessions


class MixtureBatches(IterableDataset):
    """The training batches of steps first..last, each a list of SpikeBatches: one a kind of signal and window.

    groups sessions a step, windows / groups windows of each, from ``split``. max_events: most events a step; where the
    windows are too dense for it, every session gives fewer. random_starts: sessions without stimuli give windows that
    begin on any millisecond. continuous: those with stimuli give windows between and outside presentations too.
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
        power: float = 0.5,
        weights: Mapping[str, Schedule] | None = None,
        max_events: int | None = None,
        random_starts: bool = False,
        continuous: bool = False,
    ) -> None:
        super().__init__()
        self.batcher, self.split, self.groups, self.per_group = batcher, split, groups, max(share.of, windows // groups)
        self.seed, self.first, self.last, self.share = seed, first, last, share
        self.max_events, self.random_starts, self.continuous = max_events, random_starts, continuous
        self.shares = Shares(batcher, split=split, power=power, weights=weights or {})
        self.offset = float(np.random.default_rng([seed, 0, 3]).random())

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[SpikeBatch]]:
        for step in steps_here(self.first, self.last):
            yield self.batches(step)

    def chosen(self, step: int) -> list[int]:
        """The sessions that ``step`` draws windows from, as many windows of each."""
        rng = np.random.default_rng([self.seed, step, 0, 2])
        return self.shares.draw(step, self.groups, offset=self.offset, rng=rng)

    def batches(self, step: int) -> list[SpikeBatch]:
        """What ``step`` sees."""
        rng = np.random.default_rng([self.seed, step, 0, 4])
        picks = [self._windows(i, rng) for i in self.chosen(step)]
        most = self._affordable(picks)
        kinds: dict[tuple, list] = {}
        for i, starts, rows in picks:
            parts = self.share.part(starts[:most]), self.share.part(rows[:most])
            kinds.setdefault(self.batcher.kind(i), []).append((i, *parts))
        return [
            self.batcher.batch_from([(i, starts) for i, starts, _ in alike], rows=[rows for _, _, rows in alike])
            for alike in kinds.values()
        ]

    def _windows(self, index: int, rng: np.random.Generator) -> tuple[int, np.ndarray, np.ndarray]:
        """(session, starts in s, rows; -1 where a start is on no row) of the windows of one group."""
        session = self.batcher.sessions[index]
        if self.random_starts and not session.locked[0]:
            return index, session.random_starts(self.split, self.per_group, rng), np.full(self.per_group, -1)
        return index, *session.draw(self.split, self.per_group, rng, continuous=self.continuous)

    def _affordable(self, picks: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> int:
        """How many windows each group may give within ``max_events``, at least one a process."""
        if self.max_events is None:
            return self.per_group
        counts = np.sum([self.batcher.sessions[i].event_counts(starts) for i, starts, _ in picks], axis=0)
        return max(self.share.of, int(np.searchsorted(np.cumsum(counts), self.max_events, side="right")))
