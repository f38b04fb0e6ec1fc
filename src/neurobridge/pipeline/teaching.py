"""Where a run's lessons come from: the windowed encoding of each session, asked about all training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import track

from neurobridge.bridge.response_noise import remainder, shrunk
from neurobridge.data.datamodule import Batcher
from neurobridge.pipeline.closed_form import SeenImages, closed_form, expected_by
from neurobridge.pipeline.image_data import ImageData, StackFeatures
from neurobridge.pipeline.joint_encoding import average_by_image, counted_bins, responses
from neurobridge.training.lessons import Lesson, Lessons
from neurobridge.training.settings import RunSettings

FEWEST = 50  # images of a session that a teacher can be fitted to
SMALLEST = 0.01  # of a unit's variance: what scatters beyond Poisson spikes at least


@dataclass(frozen=True, kw_only=True)
class Taught:
    """A session of the batcher by its ``index``: mean ``responses`` [P, N] to its training ``images`` [P], rows."""

    index: int
    images: np.ndarray
    responses: np.ndarray


def lessons_of(
    settings: RunSettings, batcher: Batcher, data: ImageData | None, features: StackFeatures | None
) -> Lessons | None:
    """Lessons about the training images of all sessions; None where none are asked for.

    A teacher is fitted to a session's own training images; no image of a valid or a test split is asked about. Sessions
    that were shown the same images share the work: every unit's fit is its own.
    """
    options = settings.encoding
    if data is None or features is None or not (options.taught or options.dreamt):
        return None
    images = np.flatnonzero(data.train)
    alike: dict[bytes, list[Taught]] = {}
    for index, session in enumerate(batcher.sessions):
        rows = session.shown("train")
        if len(np.unique(session.image_row[rows])) >= FEWEST:
            shown, mean = average_by_image(responses(session, rows), session.image_row[rows])
            alike.setdefault(shown.tobytes(), []).append(Taught(index=index, images=shown, responses=mean))
    found: dict[int, Lesson] = {}
    for sessions in track(list(alike.values()), "teachers, closed form", transient=True):
        names = ", ".join(batcher.sessions[taught.index].name for taught in sessions)
        together = np.concatenate([taught.responses for taught in sessions], axis=1)
        seen = SeenImages.of(names, sessions[0].images, together, seed=settings.seed)
        teacher = closed_form(seen, features)
        expected, residual = expected_by(teacher, features, images), seen.responses - teacher.out_of_fold
        last = 0
        for taught in sessions:
            session, units = batcher.sessions[taught.index], slice(last, last + taught.responses.shape[1])
            last = units.stop
            found[taught.index] = lesson_of(
                expected[:, units],
                residual=residual[:, units],
                response=taught.responses,
                valued=session.valued,
                bins=counted_bins(session, batcher.bins[taught.index]),
            )
    if not found:
        return None
    return Lessons(batcher, found, images, sessions=settings.pretrain.groups, windows=settings.pretrain.windows)


def lesson_of(expected: np.ndarray, *, residual: np.ndarray, response: np.ndarray, valued: bool, bins: slice) -> Lesson:
    """expected [L, N]; residual [P, N] of images that the teacher was not fitted to; response [P, N] of all."""
    deviation = response.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    scatter = shrunk(residual)
    if not valued:  # Poisson spikes scatter by as much as is expected of them
        scatter = remainder(scatter, np.diag(response.mean(axis=0)), scale=deviation, least=SMALLEST)
    parts = {"expected": expected, "root": np.linalg.cholesky(scatter), "deviation": deviation}
    return Lesson(**{name: torch.from_numpy(part).float() for name, part in parts.items()}, bins=bins)
