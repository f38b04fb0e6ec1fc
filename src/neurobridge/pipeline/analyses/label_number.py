"""How many labelled images does a new session need? Its units adapted with 0, 25, 50, ... of them, beside ridge.

What pretraining left is asked, body and head as they are; unit vectors alone learn, as in stage adapt. Ridge is fitted
to the same labelled images; without a label it is carried over from the animal's earlier sessions, unit by unit.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from neurobridge.data.store import Session
from neurobridge.errors import UserError
from neurobridge.evaluation.controls import chance_level
from neurobridge.neuro.model import NeuroBridge
from neurobridge.neuro.prior import UnitPrior
from neurobridge.pipeline.adaptation import adapt_units
from neurobridge.pipeline.analyses.parts import kept_rows, pooled, row
from neurobridge.pipeline.decoding import Decoded, carried_ridge, decode_session
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.identification import BOTH, DECODING, RIDGE, evidence_of, rank
from neurobridge.pipeline.image_data import Bridge, embedded_images, show_images, stack_features
from neurobridge.pipeline.spikes import held_out_sessions, labelled_images, make_batcher, pretraining_sessions
from neurobridge.terminal import console

CARRIED = "ridge carried over"
EVERY = -1  # stands for all labelled images, whose number differs from session to session
FEWEST = 10  # labelled images that a ridge is fitted to


def label_curve(run: RunFolder, *, counts: Sequence[int], draws: int, steps: int | None, seed: int) -> dict:
    """Top-1 of the test images against the number of labelled training images, each number drawn ``draws`` times."""
    run.need("pretrain")
    new = NewSessions(run, steps)
    parts = {}
    for session in new.sessions:
        there = len(session.images_shown("train"))
        wanted = [*sorted({k for k in counts if k < there}), EVERY]
        cells = [(k, draw) for k in wanted for draw in range(draws if k > 0 else 1)]
        parts[session.name] = [one for k, draw in cells for one in new.cell(session, k, seed + draw)]
    rows = pooled(parts, ("method", "labels"), seed)
    least = {r["labels"]: r["sessions"] for r in rows if r["method"] == DECODING}
    return {
        "analysis": "labels",
        "options": {"draws": draws, "steps": new.steps, "seed": seed, "sessions": list(parts)},
        "chance": {"top1": float(np.mean([chance_level(len(part[0]["images"])) for part in parts.values()]))},
        "rows": [r for r in rows if least[r["labels"]] == len(parts)],
    }


class NewSessions:
    """The held-out sessions of a run that show images, before the model that its stage pretrain left."""

    def __init__(self, run: RunFolder, steps: int | None) -> None:
        self.run, self.steps = run, run.settings.adapt.steps if steps is None else steps
        self.known, new = pretraining_sessions(run.settings), held_out_sessions(run.settings)
        self.images = show_images(run.settings, [*self.known, *new])
        self.sessions = [s for s in new if (s.image_row >= 0).any()]
        if self.images is None or not self.sessions:
            raise UserError(
                f"{run.path} held out no session that shows images: name one in held_out, for labels are counted on a "
                "session that pretraining never saw"
            )
        if not Bridge.there(run / "pretrain"):
            raise UserError(f"the model of {run.path} reads no images: pretrain with --pretrain.images true")
        self.data = embedded_images(run.settings, self.images, [*self.known, *new])

    @cached_property
    def bridge(self) -> Bridge:
        return Bridge.load(self.run / "pretrain")

    @cached_property
    def targets(self) -> np.ndarray:
        return self.bridge.space(torch.from_numpy(self.data.embeddings)).numpy()

    @cached_property
    def maps(self) -> torch.Tensor:
        assert self.images is not None, "sessions show images"
        return self.bridge.maps.table(stack_features(self.run.settings, self.images).layers)

    def cell(self, session: Session, k: int, seed: int) -> list[dict]:
        """Rows of ``k`` labelled images of a session, drawn by ``seed``; read where they were computed before."""
        path = self.run / "analyses" / "labels" / f"{session.name}-{'all' if k == EVERY else k}-{seed}.json"
        return kept_rows(path, {"steps": self.steps}, lambda: self.compute(session, k, seed))

    def compute(self, session: Session, k: int, seed: int) -> list[dict]:
        told = "all labelled images" if k == EVERY else f"{k} labelled images, draw {seed}"
        console.print(f"{session.name}: {told}", markup=False)
        decoded, embeddings = self.decode(session, k, seed), self.data.embeddings
        one = evidence_of(self.run, decoded, embeddings, self.bridge.space, self.targets)
        test = decoded.test
        scores = {
            DECODING: one.by_decoding(test.decoded),
            BOTH: one.by_both(test.decoded, test.responses, test.repeats),
        }
        if len(decoded.train_images) >= FEWEST:
            scores[RIDGE] = one.by_decoding(one.ridge(test.responses))
        if k == 0 and (ridge := carried_ridge(session, self.known, embeddings)) is not None:
            predicted = torch.from_numpy(ridge.predict(test.responses).astype(np.float32))
            scores[CARRIED] = one.by_decoding(self.bridge.space(predicted).numpy())
        return [
            row(test.images, {"top1": (rank(of) < 1).astype(float)}, method=method, labels=k, units=session.units)
            for method, of in scores.items()
        ]

    def decode(self, session: Session, k: int, seed: int) -> Decoded:
        """The session by the model, its units adapted with ``k`` labelled images; ``train`` holds these alone."""
        options = self.run.settings.adapt
        scratch = self.run / "analyses" / ".labels.part"
        shutil.rmtree(scratch, ignore_errors=True)
        settings = replace(
            self.run.settings, out=scratch, held_out=[session.name], seed=seed, wandb="off",
            adapt=replace(options, method="gradient", labels=None if k == EVERY else k, steps=self.steps),
        )  # fmt: skip
        model = NeuroBridge.load(self.run / "pretrain")
        prior = UnitPrior.load(self.run / "pretrain")
        adapt_units(RunFolder(settings), model, self.bridge, [session], prior)
        shutil.rmtree(scratch)
        batcher = make_batcher(model, [session], settings, by_area=True)
        decoded = decode_session(model, self.bridge.head.eval(), batcher, 0, settings, maps=self.maps)
        labelled = labelled_images([session], settings, len(self.maps)).numpy()[decoded.train_images]
        return replace(
            decoded,
            train_images=decoded.train_images[labelled],
            train_responses=decoded.train_responses[labelled],
        )
