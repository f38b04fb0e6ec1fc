"""A session that a pretraining never saw, its units and a few labelled images: what benchmarks of adaptation share."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from _common import Draws, train
from _encoder import ranks_of
from torch import Tensor

from neurobridge.bridge.alignment import ImageHead
from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.model import NeuroBridge
from neurobridge.neuro.prior import NewUnits, UnitPrior
from neurobridge.pipeline.alignment import predict_windows
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.image_data import Bridge, embedded_images, seen_by, show_images, stack_features
from neurobridge.pipeline.joint_encoding import average_by_image
from neurobridge.pipeline.new_units import carried_vectors, reach_of, starts
from neurobridge.pipeline.spikes import (
    UNITS_FASTER,
    add_units,
    joint_options,
    labelled_share,
    make_batcher,
    make_masker,
    open_windows,
)
from neurobridge.training.joint_task import JointTask, Learns, Seen
from neurobridge.training.settings import RunSettings


@dataclass(kw_only=True)
class Base:
    """What a pretraining left; ``prior`` None: nothing was pretrained."""

    model: NeuroBridge
    bridge: Bridge
    prior: UnitPrior | None

    @classmethod
    def of(cls, run: RunFolder) -> Base:
        folder = run / "pretrain"
        return cls(model=NeuroBridge.load(folder), bridge=Bridge.load(folder), prior=UnitPrior.load(folder))


def untrained(base: Base, *, seed: int) -> Base:
    """The same sizes, maps and targets; no weight has learnt anything."""
    torch.manual_seed(seed)
    model, head = NeuroBridge(**base.model.options), ImageHead(**base.bridge.head.options)
    return Base(model=model, bridge=Bridge(head=head, space=base.bridge.space, maps=base.bridge.maps), prior=None)


class NewSession:
    """Session ``name`` before the model of ``base``, grown by its units; ``known``: the model has them already.

    seen: what was made for another base with the same maps and targets (None: it is made).
    """

    def __init__(
        self, base: Base, settings: RunSettings, name: str, *, seen: Seen | None = None, known: bool = False
    ) -> None:
        self.base, self.settings = base, settings
        [self.session] = sessions = open_windows(settings, [name])
        images = show_images(settings, sessions)
        assert images is not None, "sessions of these benchmarks show images"
        self.data = embedded_images(settings, images, sessions)
        self.seen = seen or seen_by(base.bridge, self.data, stack_features(settings, images))
        self.targets = self.seen.targets.numpy()
        self.carried = carried_vectors(base.model, self.session)
        self.first = len(base.model.units)
        self.grown = copy.deepcopy(base.model)
        if not known:
            add_units(self.grown, sessions, settings)
        self.batcher = make_batcher(self.grown, sessions, settings)
        self.facts: dict[str, dict[str, int]] = {}
        self._starts: dict[str, tuple[Tensor, np.ndarray, dict[str, int]]] = {}

    def labelled(self, number: int | None, *, seed: int) -> np.ndarray:
        """Rows of ``number`` images of the train split, drawn by ``seed``; None: all of them."""
        return np.random.default_rng([seed, 41]).permutation(self.session.images_shown("train"))[:number]

    def start(self, how: str) -> tuple[Tensor, np.ndarray]:
        """Vectors [N, E] that the units start from, and which are carried [N]; no label is used."""
        assert self.base.prior is not None, "what was not pretrained knows no unit"
        if how not in self._starts:
            options = {"carried": self.carried, "how": how, "seed": self.settings.seed}
            masker = make_masker(self.settings)
            self._starts[how] = starts(self.grown, self.base.prior, self.batcher, 0, masker, **options)
            self.facts[how] = self._starts[how][2]
        return self._starts[how][:2]

    def adapted(
        self,
        labelled: np.ndarray,
        *,
        how: str,
        learns: Learns,
        steps: int,
        windows: int,
        seed: int,
        scale: float = 1.0,
    ) -> tuple[NeuroBridge, ImageHead]:
        """Model and head after ``steps`` on the labelled images [k] alone (none: the start), both ways.

        how: "carried", "prior", or "random" vectors, which have no prior to be drawn to. learns: "units", "joint"
        (units and head) or "all" (at the rates of pretraining). scale: of the rates of units and body.
        """
        model, head = copy.deepcopy(self.grown), copy.deepcopy(self.base.bridge.head)
        prior, units = self.base.prior, None
        if how != "random":
            assert prior is not None, "what was not pretrained knows no unit"
            vectors, carried = self.start(how)
            reach = reach_of(carried, labelled_share(self.session, len(labelled)))
            units = NewUnits(vectors, prior.factor, first=self.first, reach=reach)
        rows = self.session.shown("train")
        rows = rows[np.isin(self.session.image_row[rows], labelled)]
        if steps and len(rows):

            def draw(rng: np.random.Generator) -> SpikeBatch:
                return self.batcher.batch([(0, rng.choice(rows, min(windows, len(rows)), replace=False))])

            pretraining, adapting = self.settings.pretrain, self.settings.adapt
            rate = scale * (pretraining.learning_rate if learns == "all" else adapting.learning_rate)
            options = joint_options(self.settings) | {"masked_weight": 0.0}
            task = JointTask(
                model,
                head,
                seen=self.seen,
                learns=learns,
                masker=make_masker(self.settings),
                loader=lambda first, last, share: Draws(draw, seed, first, last),
                steps=steps,
                checkpoint_every=steps,
                learning_rate=rate,
                unit_learning_rate=UNITS_FASTER * rate if learns == "all" else rate,
                weight_decay=pretraining.weight_decay if learns == "all" else 0.0,
                new_units=units,
                new_unit_decay=adapting.prior_decay,
                seed=seed,
                **options,
            )
            if learns == "units":  # their biases are the log rates of all training windows, which take no label
                model.units.bias.requires_grad_(False)
            train(task)
        if units is not None:
            new = list(range(self.first, len(model.units)))
            model.units.set_vectors(new, units(torch.tensor(new)).detach())
        return model.eval(), head.eval()

    def decoded(self, model: NeuroBridge, head: ImageHead, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images [I] of a split and their ranks [I] by decoding through the latents."""
        rows = self.session.shown(split)
        predicted = predict_windows(model, head, self.batcher, 0, rows)
        images, mean = average_by_image(predicted, self.session.image_row[rows])
        return images, ranks_of(mean, self.targets[images])
