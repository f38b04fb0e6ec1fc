"""From what is read of a session to pictures, the same way whatever is read: latents (ours), or counts (the rival).

Letters: I test images, V valid images, L library images, R numbers of a reading, N units, K feature layers, D width of
a layer, E width of an embedding, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from neurobridge.bridge.features import DecodedFeatures, FeatureTarget, blend
from neurobridge.bridge.inversion import invert, latent_scale
from neurobridge.bridge.latent_posterior import Dream, LatentPosterior
from neurobridge.bridge.response_noise import ResponseNoise
from neurobridge.pipeline.closed_form import SeenImages, closed_form, expected_by
from neurobridge.pipeline.decoding import Decoded
from neurobridge.pipeline.device import device
from neurobridge.pipeline.image_data import ImageData, StackFeatures, feature_stack
from neurobridge.training.settings import RunSettings
from neurobridge.vision.autoencoder import PatchPCA
from neurobridge.vision.feature_stack import FeatureStack

PATCH = 8
BATCH = 10
COMPONENTS = (200, 400, 200)  # of pixels, features, embeddings


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """Images of one role: pixels [L, H, W, 3] float32 in [0, 1], K layers [L, D], embeddings [L, E]."""

    pixels: np.ndarray
    layers: list[np.ndarray]
    embeddings: np.ndarray

    @classmethod
    def of(cls, data: ImageData, features: StackFeatures, rows: np.ndarray, side: int) -> Photographs:
        """Some images of the data folder, by row, at ``side`` pixels."""
        return cls(
            pixels=resized(side, data.images.pixels[rows]),
            layers=features.of(rows),
            embeddings=data.embeddings[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What is read of a session, and what a library's images would give.

    dream: see :data:`Dream`, noise as in the average that was read; test [I, R]; valid [V, R], to set sizes by (None:
    they stay as they were dreamt); library [I, L]: log likelihood in nats of each test response under each image of the
    library; likelihood: the same of drawn pictures [I, H, W, 3], [I], each response under its own picture.
    """

    dream: Dream
    test: np.ndarray
    valid: np.ndarray | None
    library: np.ndarray
    likelihood: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Guess:
    """Posterior means of I images: layout [I, H, W, 3] in [0, 1], features, embedding [I, E]."""

    layout: np.ndarray
    features: DecodedFeatures
    embedding: np.ndarray


def guess(
    dream: Dream,
    readings: np.ndarray,
    library: Photographs,
    *,
    valid: np.ndarray | None = None,
    known: Photographs | None = None,
    steps: int,
    seed: int,
) -> Guess:
    """What ``readings`` [I, R] say of their images under the ``library`` that is dreamt of.

    valid [V, R]: readings of images that are ``known``, which set the sizes; ``steps`` of the posterior's net.
    """
    target = FeatureTarget(library.layers)

    def targets(photographs: Photographs) -> list[np.ndarray]:
        return [photographs.pixels, target.joined(photographs.layers), photographs.embeddings]

    posterior = LatentPosterior(components=COMPONENTS).fit(dream, targets(library), steps=steps, seed=seed)
    if valid is not None and known is not None:
        posterior.calibrate(valid, targets(known))
    layout, features, embedding = posterior.mean(readings)
    return Guess(layout=layout.clip(0, 1), features=target.decoded(features), embedding=embedding)


class Drawer:
    """Draws pictures that have decoded features, for a library with the layers of ``stack``.

    It works at the image encoder's own side at most, for it sees no more, in all components of the library's patches.
    """

    def __init__(
        self,
        library: Photographs,
        stack: FeatureStack,
        *,
        steps: int,
        pull: float = 16.0,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = device
        self.library, self.stack, self.steps, self.pull, self.seed = library, stack, steps, pull, seed
        resolution = int(stack.encoders[0].resolution)  # pyright: ignore
        self.side = min(library.pixels.shape[1], resolution) // PATCH * PATCH
        images = to_side(channels_first(library.pixels), self.side)
        self.coder = PatchPCA(patch=PATCH, channels=3 * PATCH**2).fit(images)
        self.scale = latent_scale(self.coder, images[: 4 * 256]).to(device)
        self.coder.to(device)
        stack.to(device)

    def rows(self, guess: Guess) -> dict[str, np.ndarray]:
        """[I, H, W, 3] by name: what is drawn of a guess; the posterior mean alone where there are no steps."""
        if not self.steps:
            return {"posterior mean": guess.layout}
        return {
            "posterior mean": guess.layout,
            "features inverted": self.inverted(guess),
            "nearest by decoded features": self.nearest(guess),
        }

    def nearest(self, guess: Guess) -> np.ndarray:
        """[I, H, W, 3]: the library images that have the decoded features best."""
        return self.library.pixels[guess.features.nearest(self.library.layers)]

    def inverted(self, guess: Guess, shift: int = 0) -> np.ndarray:
        """[I, H, W, 3]: the posterior mean with the details of the nearest, changed until it has the decoded features.

        With a ``shift`` it is a decoy: the layout and the start are those of the image so many rows before. A judge
        that calls it right looks at features of the kind that were inverted, and at nothing else.
        """
        start = blend(guess.layout, self.nearest(guess))
        layout, start = (np.roll(x, shift, axis=0) for x in (guess.layout, start))
        start, layout = (to_side(channels_first(x), self.side) for x in (start, layout))
        drawn = invert(
            start.to(self.device),
            layout.to(self.device),
            guess.features.to(self.device),
            stack=self.stack,
            autoencoder=self.coder,
            scale=self.scale,
            steps=self.steps,
            pull=self.pull,
            seed=self.seed,
        )
        return channels_last(to_side(drawn.cpu(), guess.layout.shape[1]))


def windowed_readings(
    settings: RunSettings, decoded: Decoded, features: StackFeatures, library: np.ndarray
) -> Readings:
    """The rival: mean counts, and the closed-form encoding that dreams them for ``library`` [L], rows of the images.

    It is fitted on training images of the session (:class:`SeenImages`), one presentation each. Its errors do not
    shrink with repeats of a test image, the scatter of presentations does; valid images that were shown twice or more
    tell the two apart.
    """
    seen = SeenImages.of(decoded.session, decoded.train_images, decoded.train_responses)
    encoding, test, several = closed_form(seen, features), decoded.test, decoded.valid.presentations
    differences = None if several is None else np.diff(several.responses, axis=1).reshape(-1, test.responses.shape[1])
    noise = ResponseNoise.of(encoding.residual, repeats=1.0, differences=differences)
    expected, observed = expected_by(encoding, features, library), test.responses.astype(np.float64)
    stack = looking(feature_stack(settings, settings.encoding.layers), device(settings))

    def likelihood(pictures: np.ndarray) -> np.ndarray:
        batches = [stack(batch) for batch in channels_first(pictures).split(BATCH)]
        drawn = encoding.predict([torch.cat(layer).numpy() for layer in zip(*batches, strict=True)])
        return noise.log_likelihood(observed, drawn, repeats=test.repeats).diagonal()

    return Readings(
        dream=dreams_of(expected, noise.covariance(test.repeats)),
        test=test.responses,
        valid=None,
        library=noise.log_likelihood(observed, expected, repeats=test.repeats),
        likelihood=likelihood,
    )


def looking(stack: FeatureStack, there: torch.device) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """The ``stack`` on the device ``there``, for pictures [B, 3, H, W] and with features on the CPU."""
    stack.to(there)
    return torch.no_grad()(lambda pictures: [layer.cpu() for layer in stack(pictures.to(there))])


def dreams_of(expected: np.ndarray, covariance: np.ndarray) -> Dream:
    """Responses that scatter with ``covariance`` [N, N] about those ``expected`` [L, N] of a library."""
    middle = torch.from_numpy(expected).float()
    root = torch.linalg.cholesky(torch.from_numpy(covariance)).float()

    def dream(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return middle[rows] + torch.randn(len(rows), len(root), generator=generator) @ root.T

    return dream


def resized(side: int, pixels: np.ndarray) -> np.ndarray:
    """uint8 [I, H, W, 3] -> float32 in [0, 1] at ``side`` pixels."""
    parts = torch.from_numpy(pixels).permute(0, 3, 1, 2).split(256)
    return channels_last(torch.cat([to_side(part.float() / 255, side) for part in parts]))


def channels_first(pictures: np.ndarray) -> torch.Tensor:
    """[I, H, W, 3] -> [I, 3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).contiguous()


def channels_last(images: torch.Tensor) -> np.ndarray:
    """[I, 3, H, W] -> [I, H, W, 3]."""
    return images.permute(0, 2, 3, 1).numpy()


def to_side(images: torch.Tensor, side: int) -> torch.Tensor:
    """[I, 3, H, W] in [0, 1] at ``side`` pixels."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
