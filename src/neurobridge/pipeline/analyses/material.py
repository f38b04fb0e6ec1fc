"""What every analysis starts from: the run opened from its folder, its sessions, and responses averaged by image.

Letters: W windows, N units, I training images of a session, J scored images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np

from neurobridge.data.store import Session
from neurobridge.errors import UserError
from neurobridge.evaluation.protocols import NO_REGION
from neurobridge.pipeline.alignment import sessions_with_images
from neurobridge.pipeline.analyses.model import AlignedModel
from neurobridge.pipeline.analyses.questions import FEWEST_IMAGES, Questions
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.image_data import embedded_images, show_images
from neurobridge.pipeline.joint_encoding import average_by_image, responses

Split = Literal["valid", "test"]
HIERARCHY = ("LGN", "LGd", "V1", "VISp", "V2", "V3", "MT", "V4", "TEO", "TE", "IT")
FEWEST_UNITS = 4
WINDOWS_AT_ONCE = 2000


@dataclass(kw_only=True)
class Material:
    """A run's sessions with images, the questions asked of them, and its aligned model if there is one.

    split: whose images are scored. repeats: presentations averaged of each scored image, at most.
    order: areas from low to high; those not named follow in the order of the visual hierarchy, then of the alphabet.
    """

    run: RunFolder
    sessions: list[Session]
    questions: Questions
    model: AlignedModel | None
    split: Split
    repeats: int
    seed: int
    order: Sequence[str] = ()

    @classmethod
    def of(
        cls, run: RunFolder, *, label: str, split: Split, repeats: int, seed: int, order: Sequence[str] = ()
    ) -> Material:
        """Raises UserError if no session of the run shows images."""
        if repeats < 1:
            raise UserError(f"--repeats is {repeats}: average 1 presentation or more")
        sessions = sessions_with_images(run)
        images = show_images(run.settings, sessions)
        assert images is not None, "sessions_with_images lets no other pass"
        data = embedded_images(run.settings, images, sessions)
        questions = Questions(data.images, data.embeddings, data.train, label=label)
        model = AlignedModel(run, data.embeddings) if run.done("align") else None
        shown = {s.name: [len(np.unique(shown_rows(s, part)[1])) for part in ("train", split)] for s in sessions}
        sessions = [s for s in sessions if shown[s.name][0] >= FEWEST_IMAGES and shown[s.name][1] > 1]
        if not sessions:
            raise UserError(
                f"no session of {run.path} shows {FEWEST_IMAGES} training images and two of the {split} split: score "
                "another --split, or add images"
            )
        return cls(
            run=run,
            sessions=sessions,
            questions=questions,
            model=model,
            split=split,
            repeats=repeats,
            seed=seed,
            order=order,
        )

    def seen(self, session: Session) -> Seen:
        return Seen(session=session, material=self)

    def areas(self, session: Session) -> dict[str, np.ndarray]:
        """Name -> unit columns, from low to high, of areas with four units or more and a name that says something."""
        regions = session.recording.regions.astype(str)
        names = [n for n in np.unique(regions).tolist() if n.lower() not in NO_REGION]
        columns = {name: np.flatnonzero(regions == name) for name in names}
        rank = [*self.order, *[name for name in HIERARCHY if name not in self.order]]
        names.sort(key=lambda name: (rank.index(name) if name in rank else len(rank), name))
        return {name: columns[name] for name in names if len(columns[name]) >= FEWEST_UNITS}


@dataclass(kw_only=True)
class Seen:
    """One session: responses to training images, one row an image, and to scored images.

    train_images [I], train [I, N]; images [J], test [J, N], each the mean of at most ``repeats`` presentations, those
    of the windows ``rows``.
    """

    session: Session
    material: Material

    @cached_property
    def train_rows(self) -> np.ndarray:
        return shown_rows(self.session, "train")[0]

    @cached_property
    def rows(self) -> np.ndarray:
        rows, images = shown_rows(self.session, self.material.split)
        order = np.random.default_rng([self.material.seed, 31]).permutation(len(rows))
        count = np.zeros(images.max() + 1, dtype=int)
        kept = []
        for at in order.tolist():
            if count[images[at]] < self.material.repeats:
                count[images[at]] += 1
                kept.append(at)
        return rows[np.sort(kept)]

    @cached_property
    def images(self) -> np.ndarray:
        return np.unique(self.session.image_row[self.rows])

    @cached_property
    def train_images(self) -> np.ndarray:
        return np.unique(self.session.image_row[self.train_rows])

    @cached_property
    def train(self) -> np.ndarray:
        return mean_by_image(self.session, self.train_rows, lambda rows: responses(self.session, rows))

    @cached_property
    def test(self) -> np.ndarray:
        return mean_by_image(self.session, self.rows, lambda rows: responses(self.session, rows))

    def ask(
        self,
        columns: np.ndarray,
        train: np.ndarray | None = None,
        test: np.ndarray | None = None,
        *,
        areas: Iterable[np.ndarray] = (),
    ) -> dict[str, np.ndarray]:
        """Question -> scores [J] of a decoder of the units ``columns``; other responses [I, N] and [J, N] if given.

        areas: the units of each area; those among ``columns`` are a band of the decoder.
        """
        train, test = self.train if train is None else train, self.test if test is None else test
        questions = self.material.questions
        bands = [np.flatnonzero(np.isin(columns, units)) for units in areas]
        return questions.ask(
            train[:, columns],
            self.train_images,
            test[:, columns],
            self.images,
            self.images,
            bands=[band for band in bands if len(band)],
        )


def shown_rows(session: Session, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Windows of a split that show a known image, and the rows of those images."""
    rows = session.shown(split)
    return rows, session.image_row[rows]


def mean_by_image(session: Session, rows: np.ndarray, read: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Mean of ``read(windows)`` [W, ...] over the windows of each image, some windows at a time: [images, ...]."""
    shown = session.image_row[rows]
    order = np.argsort(shown, kind="stable")
    rows, shown = rows[order], shown[order]
    starts = np.flatnonzero(np.diff(shown, prepend=-1))
    cuts = [0]
    for start in [*starts[1:].tolist(), len(rows)]:
        if start - cuts[-1] >= WINDOWS_AT_ONCE or start == len(rows):
            cuts.append(start)
    parts = [average_by_image(read(rows[a:b]), shown[a:b])[1] for a, b in pairwise(cuts)]
    return np.concatenate(parts)
