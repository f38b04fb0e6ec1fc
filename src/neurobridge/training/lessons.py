"""What a teacher expects of images that a session was not shown: lessons for both directions of the model.

A session was shown some thousand images, its data folder has many more. A teacher fitted to each session expects a
response of every image, so that the model learns from (image, response) pairs that nobody recorded: of "image seen,
spikes hidden" for the units of several sessions at once, and of "spikes seen, image wanted" by responses that scatter
about what is expected as the recorded ones do about the teacher.

Letters: L images of the lessons, N units of a session, V units of several, W windows, T bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from neurobridge.data.datamodule import WHOLE, Batcher, Share
from neurobridge.neuro.batch import SpikeBatch, bin_events
from neurobridge.neuro.losses import expected_counts

MOST_CELLS = 2**19  # of a question: windows x units x bins
SHARED_BY = 8  # images are a multiple of it, the same for 1, 2, 4 and 8 processes; else a multiple of theirs too
MOST_COUNTS = 4.0  # of a dreamt response, over the largest that is expected


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is taught of one session, in its responses: counts in the ``bins`` after the onset, or values.

    expected [L, N]; root [N, N]: of the covariance of a presentation about it, for counts without what Poisson spikes
    scatter anyhow; deviation [N]: of the responses over images.
    """

    expected: Tensor
    root: Tensor
    deviation: Tensor
    bins: slice


@dataclass(frozen=True, kw_only=True)
class Question:
    """Images, and what is expected of them: ``batch``, W windows without events in which all V units are one session;
    images [W] rows; expected [W, V]; deviation [V]; bins of each of the V units are the same.
    """

    batch: SpikeBatch
    images: Tensor
    expected: Tensor
    deviation: Tensor
    bins: slice

    def loss(self, prediction: Tensor) -> Tensor:
        """Mean squared error of the responses in ``prediction`` [W, V, T], in deviations of each unit."""
        if self.batch.event_value is None:
            found = expected_counts(prediction)[:, :, self.bins].sum(-1)
        else:
            found = prediction.mean(-1)
        return ((found - self.expected.to(found)) / self.deviation.to(found)).square().mean()


class Lessons:
    """Lessons by the index of a session in ``batcher``, all about the same ``images`` [L] (rows of the image set).

    sessions, windows: how many sessions and images a question is about; of images fewer where the units of these
    sessions have too many bins in all (:data:`MOST_CELLS`).
    """

    def __init__(
        self, batcher: Batcher, lessons: Mapping[int, Lesson], images: np.ndarray, *, sessions: int, windows: int
    ) -> None:
        self.batcher, self.lessons, self.images = batcher, dict(lessons), torch.from_numpy(images)
        self.sessions, self.windows = sessions, windows

    def question(self, rng: np.random.Generator, share: Share = WHOLE) -> Question:
        """Some images, and some sessions of one kind of signal; of the images this process's ``share``."""
        first = rng.choice(list(self.lessons))
        alike = [i for i in self.lessons if self.batcher.kind(i) == self.batcher.kind(first)]
        chosen = rng.permutation(alike)[: self.sessions].tolist()
        _, window_ms, bin_ms = self.batcher.kind(first)
        cells = sum(len(self.batcher.unit_rows[i]) for i in chosen) * (window_ms // bin_ms)
        even = math.lcm(SHARED_BY, share.of)
        windows = min(self.windows, max(even, MOST_CELLS // cells // even * even))
        rows = torch.from_numpy(share.part(rng.integers(0, len(self.images), windows)))
        lessons = [self.lessons[i] for i in chosen]
        return Question(
            batch=self._empty(chosen, len(rows)),
            images=self.images[rows],
            expected=torch.cat([lesson.expected[rows] for lesson in lessons], dim=1),
            deviation=torch.cat([lesson.deviation for lesson in lessons]),
            bins=lessons[0].bins,
        )

    def _empty(self, chosen: list[int], windows: int) -> SpikeBatch:
        """Windows locked to an onset in which nothing is seen; the units of all ``chosen`` sessions are one session's.

        What the model expects of an image where all spikes are hidden depends on a session through its units alone.
        """
        sessions = [self.batcher.sessions[i] for i in chosen]
        valued, window_ms, bin_ms = self.batcher.kind(chosen[0])
        units = torch.from_numpy(np.concatenate([self.batcher.unit_rows[i] for i in chosen]))[None]
        none, bins = torch.zeros(0, dtype=torch.int64), window_ms // bin_ms
        course = None if valued else torch.from_numpy(np.concatenate([s.course(bin_ms) for s in sessions]))[None]
        return SpikeBatch(
            unit_row=units,
            unit_mask=torch.ones_like(units, dtype=torch.bool),
            region=torch.full_like(units, -1),
            event_window=none,
            event_unit=none,
            event_tick=none,
            event_value=none.float() if valued else None,
            target=torch.zeros(1).expand(windows, units.shape[1], bins),
            window_ms=window_ms,
            bin_ms=bin_ms,
            stimulus=torch.full((windows,), -1),
            locked=torch.ones(windows, dtype=torch.bool),
            session=torch.tensor([-1]),
            row=torch.full((windows,), -1),
            course=course,
        )

    def dreamt(self, batch: SpikeBatch, rng: np.random.Generator, share: float, part: Share = WHOLE) -> SpikeBatch:
        """``batch`` with so large a ``share`` of its windows, of sessions that are taught, in the place of which a
        response to another image is dreamt up. ``part``: as which ``batch`` was taken from the whole batch of a step.
        """
        per_session = batch.windows // batch.groups
        whole = per_session * part.of
        stimulus, dreams, parts = batch.stimulus.clone(), torch.zeros(batch.windows, dtype=torch.bool), []
        draw = torch.Generator().manual_seed(int(rng.integers(2**62)))
        for g, index in enumerate(batch.session.tolist()):
            here = torch.from_numpy(part.part(rng.random(whole) < share))
            rows = torch.from_numpy(part.part(rng.integers(0, len(self.images), whole)))
            lesson = self.lessons.get(index)
            if lesson is None:
                continue
            noise = torch.from_numpy(part.part(rng.standard_normal((whole, len(lesson.root)), dtype=np.float32)))
            windows = torch.arange(g * per_session, (g + 1) * per_session)[here]
            dreams[windows] = True
            stimulus[windows] = self.images[rows[here]].to(stimulus)
            response = lesson.expected[rows[here]] + noise[here] @ lesson.root.T
            parts.append((index, lesson, windows, response))
        dreams = dreams.to(batch.stimulus.device)
        fill = self._valued if batch.event_value is not None else self._spiking
        return replace(fill(batch, dreams, parts, draw), stimulus=stimulus)

    def _valued(self, batch: SpikeBatch, dreams: Tensor, parts: list, draw: torch.Generator) -> SpikeBatch:
        assert batch.event_value is not None
        value = torch.zeros(batch.windows, batch.unit_row.shape[1])
        for _, _, windows, response in parts:
            value[windows, : response.shape[1]] = response
        value = value.to(batch.event_value)[batch.event_window, batch.event_unit]
        return replace(batch, event_value=torch.where(dreams[batch.event_window], value, batch.event_value))

    def _spiking(self, batch: SpikeBatch, dreams: Tensor, parts: list, draw: torch.Generator) -> SpikeBatch:
        """Poisson spikes that follow each unit's own time course, as many as were dreamt up."""
        kept = ~dreams[batch.event_window]
        window, unit, tick = ([x[kept].cpu()] for x in (batch.event_window, batch.event_unit, batch.event_tick))
        for index, lesson, windows, response in parts:
            session = self.batcher.sessions[index]
            course = torch.from_numpy(session.course(batch.bin_ms)).exp()
            course = course / course[:, lesson.bins].sum(1, keepdim=True).clamp(min=1e-6)
            most = MOST_COUNTS * lesson.expected.max().clamp(min=1.0)
            counts = torch.poisson(response.clamp(min=0).minimum(most)[..., None] * course, generator=draw).long()
            w, n, t = counts.nonzero(as_tuple=True)
            w, n, t = (x.repeat_interleave(counts[w, n, t]) for x in (w, n, t))
            within = torch.randint(batch.bin_ms, (len(t),), generator=draw)
            for into, more in ((window, windows[w]), (unit, n), (tick, t * batch.bin_ms + within)):
                into.append(more)
        events = [torch.cat(x).to(batch.event_tick) for x in (window, unit, tick)]
        target = bin_events(*events, None, batch.target.shape, batch.bin_ms).to(batch.target)
        return replace(batch, event_window=events[0], event_unit=events[1], event_tick=events[2], target=target)
