"""An adapter, and what of its generator is not frozen, learn from images: the denoising loss and the sketch's.

Shape letters: I images, D width of an embedding, C latent channels, h, w latent sides.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from neurobridge.bridge.adapter import Adapter
from neurobridge.data.datamodule import steps_here
from neurobridge.training.optimiser import RowAdamW
from neurobridge.training.task import Task
from neurobridge.vision.protocol import TrainableGenerator


class Numbers(IterableDataset):
    """The numbers of steps first..last: all that a step draws follows from its own."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[int]:
        yield from steps_here(self.first, self.last)


class ConditionTask(Task):
    """The first ``sketch_steps`` train the regression only (no UNet, hence cheap, in batches four times as large); then
    everything trains, what the regression has trained at a fifth of the rate unless the generator is frozen. In both
    phases the rate warms up and falls as a cosine.

    ``latents`` [I, C, h, w] from ``generator.encode`` and ``embeddings`` [I, D], on the CPU. ``batch_size`` images a
    step, over all processes. A generator that is frozen is no part of what is saved, nor cut over processes.
    """

    def __init__(
        self,
        generator: TrainableGenerator,
        adapter: Adapter,
        *,
        latents: Tensor,
        embeddings: Tensor,
        steps: int,
        sketch_steps: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
        checkpoint_every: int = 50,
    ) -> None:
        assert generator.sketches or sketch_steps == 0, "there is no regression to train"
        super().__init__(
            loader=lambda first, last, share: Numbers(first, last),
            steps=steps + sketch_steps,
            checkpoint_every=checkpoint_every,
            learning_rate=learning_rate,
            weight_decay=0.01,
            seed=seed,
        )
        self.adapter = adapter
        self.trains = any(p.requires_grad for p in generator.parameters())
        self.network = generator if self.trains else None
        self.frozen = None if self.trains else (generator,)
        self.latents, self.embeddings = latents, embeddings
        self.sketch_steps, self.batch_size = sketch_steps, batch_size
        adapter.fit_statistics(embeddings)
        adapter.train()

    @property
    def generator(self) -> TrainableGenerator:
        return self.network if self.frozen is None else self.frozen[0]

    def on_fit_start(self) -> None:
        self.generator.to(self.device)

    def origin(self, stage: str) -> str:
        course = [self.steps, self.sketch_steps, self.batch_size, self.learning_rate, list(self.latents.shape)]
        return sha256(json.dumps([super().origin(stage), course]).encode()).hexdigest()

    def step_losses(self, batch: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Losses of step ``batch``: its images and its noise are drawn for all processes, of which each has a share."""
        draws, share = torch.Generator().manual_seed(self.seed * 1_000_003 + batch), self.share
        warm = batch < self.sketch_steps
        count = max(share.of, 4 * self.batch_size if warm else self.batch_size)
        rows = share.part(torch.randint(0, len(self.latents), (count,), generator=draws))
        some, embeddings = self.latents[rows].to(self.device), self.embeddings[rows].to(self.device)
        condition = self.adapter(embeddings, draws, part=share)
        if warm:
            losses = {"sketch": self.generator.sketch_loss(some, condition)}
        else:
            losses = self.generator.latent_losses(some, condition, draws, part=share)
        return losses | {"loss": torch.stack(list(losses.values())).sum()}

    def configure_optimizers(self):
        refined = [p for p in self.generator.unet.parameters() if p.requires_grad]
        sketcher = self.generator.sketcher.parameters() if self.generator.sketches else ()
        sketching = [p for p in (*sketcher, *self.adapter.parameters()) if p.requires_grad]
        groups = [{"params": sketching}, {"params": refined}] if refined else [{"params": sketching}]
        optimizer = RowAdamW(groups, lr=self.learning_rate, betas=(0.9, 0.99), weight_decay=self.weight_decay)

        def factor(slower: float) -> Callable[[int], float]:
            return lambda step: self.rate(step) * (1.0 if step < self.sketch_steps else slower)

        factors = [factor(0.2), factor(1.0)] if refined else [factor(1.0)]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """Share of the learning rate: in each of the two phases a ramp of 50 steps, then a cosine to 0."""
        start, end = (0, self.sketch_steps) if step < self.sketch_steps else (self.sketch_steps, self.steps)
        done = (step - start) / max(1, end - start)
        return min(1.0, (step - start + 1) / 50) * 0.5 * (1.0 + math.cos(math.pi * done))
