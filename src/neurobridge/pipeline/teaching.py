"""Where a run's lessons come from: the windowed encoding of each session, asked about all training images."""

from __future__ import annotations

import numpy as np
import torch
from rich.progress import track

from neurobridge.bridge.response_noise import remainder, shrunk
from neurobridge.data.datamodule import Batcher
from neurobridge.pipeline.closed_form import SeenImages, closed_form_of_all, expected_by
from neurobridge.pipeline.image_data import ImageData, StackFeatures
from neurobridge.pipeline.joint_encoding import counted_bins, mean_responses
from neurobridge.training.lessons import Lesson, Lessons
from neurobridge.training.settings import RunSettings

FEWEST = 50  # images of a session that a teacher can be fitted to
SMALLEST = 0.01  # of a unit's variance: what scatters beyond Poisson spikes at least


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
    alike: dict[bytes, dict[int, SeenImages]] = {}
    for index, session in enumerate(batcher.sessions):
        if len(session.images_shown("train")) >= FEWEST:
            seen = SeenImages.of(session.name, *mean_responses(session, "train"))
            alike.setdefault(seen.images.tobytes(), {})[index] = seen
    found: dict[int, Lesson] = {}
    for together in track(list(alike.values()), "teachers, closed form", transient=True):
        teachers = closed_form_of_all(list(together.values()), features)
        for (index, seen), teacher in zip(together.items(), teachers, strict=True):
            session = batcher.sessions[index]
            found[index] = lesson_of(
                expected_by(teacher, features, images),
                residual=teacher.residual,
                response=seen.responses,
                valued=session.valued,
                bins=counted_bins(session, batcher.bins[index]),
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
