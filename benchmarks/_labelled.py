"""Ours and the rivals of few_labels.py on one new session, a cell each: k labelled images, one draw of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _adaptation import NewSession, untrained
from _encoder import as_json, ranks_of, sessions_named
from _identifying import Identifier, Isotropic, best_way
from _simulated import cached

from neurobridge.baselines.ridge import RidgeDecoder
from neurobridge.pipeline.decoding import carried_ridge
from neurobridge.pipeline.image_data import show_images
from neurobridge.pipeline.joint_encoding import mean_responses
from neurobridge.pipeline.spikes import open_windows

OURS, RIDGE, CARRIED, SCRATCH, LINEAR = (
    "NeuroBridge",
    "ridge",
    "ridge carried over",
    "from scratch",
    "isotropic linear encoding",
)
SCRATCH_STEPS, SCRATCH_RATES = 200, (1.0, 0.3)


@dataclass(kw_only=True)
class Case:
    """A session that its pretraining never saw; ``folder`` keeps what was computed."""

    name: str
    new: NewSession
    how: str
    known: str
    features: np.ndarray
    folder: Path
    steps: int
    seed: int

    def ours(self, k: int | None, draw: int) -> dict:
        labelled = self.new.labelled(k, seed=draw)
        model, head = self.new.adapted(labelled, how=self.how, learns="units", steps=self.steps, windows=64, seed=draw)
        mine = Identifier(self.new, model, head, labelled)
        way = best_way(mine if k != 0 else Identifier(self.known_session(), model, head, labelled))
        images, ranks = mine.ranks("test", way)
        return as_json(images, ranks) | {"way": list(way), "facts": self.new.facts.get(self.how)}

    def known_session(self) -> NewSession:
        """A session of the pretraining, looked at in the same way."""
        return NewSession(self.new.base, self.new.settings, self.known, seen=self.new.seen, known=True)

    def ridge(self, k: int | None, draw: int) -> dict:
        images, x = mean_responses(self.new.session, "train", self.new.labelled(k, seed=draw))
        decoder = RidgeDecoder().fit(x, self.new.data.embeddings[images])
        return self.tested(decoder.predict)

    def carried(self, k: int | None, draw: int) -> dict:
        """Ridge of each earlier session of the subject, all of its labels; none of the new one's."""
        known = open_windows(self.new.settings, self.earlier())
        show_images(self.new.settings, known)
        ridge = carried_ridge(self.new.session, known, self.new.data.embeddings)
        assert ridge is not None, "the units of a new day have the names of earlier ones"
        return self.tested(ridge.predict)

    def earlier(self) -> list[str]:
        """The sessions that were pretrained on."""
        settings = self.new.settings
        names = settings.sessions or sessions_named(settings.data)
        return [name for name in names if name not in settings.held_out]

    def scratch(self, k: int | None, draw: int) -> dict:
        """The same sizes without pretraining, all weights on the labelled images; the better rate on valid."""
        blank = NewSession(untrained(self.new.base, seed=draw), self.new.settings, self.name, seen=self.new.seen)
        labelled, best, found = blank.labelled(k, seed=draw), np.inf, {}
        for scale in SCRATCH_RATES:
            options = {"how": "random", "learns": "all", "windows": 64, "seed": draw, "scale": scale}
            model, head = blank.adapted(labelled, steps=SCRATCH_STEPS, **options)
            mine = Identifier(blank, model, head, labelled)
            way = best_way(mine)
            valid = mine.loss(way)
            if valid < best:
                best, found = valid, as_json(*mine.ranks("test", way)) | {"way": [*way, scale]}
        return found

    def linear(self, k: int | None, draw: int) -> dict:
        images, x = mean_responses(self.new.session, "train", self.new.labelled(k, seed=draw))
        encoding = Isotropic.fit(self.features[images], x)
        images, x = mean_responses(self.new.session, "test")
        return as_json(images, encoding.ranks(x, self.features[images]))

    def tested(self, predict: Callable[[np.ndarray], np.ndarray]) -> dict:
        """Ranks of the test images by predictions of raw embeddings, moved into the space of the targets."""
        images, x = mean_responses(self.new.session, "test")
        return as_json(images, ranks_of(self.in_space(predict(x)), self.new.targets[images]))

    def in_space(self, embeddings: np.ndarray) -> np.ndarray:
        return self.new.base.bridge.space(torch.from_numpy(embeddings.astype(np.float32))).numpy()

    def cell(self, method: str, k: int | None, draw: int) -> dict:
        compute = {
            OURS: self.ours,
            RIDGE: self.ridge,
            CARRIED: self.carried,
            SCRATCH: self.scratch,
            LINEAR: self.linear,
        }[method]
        name = f"{method}-{'all' if k is None else k}-{draw}".replace(" ", "-")
        if method == OURS:
            name += f"-{self.steps}"
        return cached(self.folder / f"{name}.json", lambda: compute(k, draw))
