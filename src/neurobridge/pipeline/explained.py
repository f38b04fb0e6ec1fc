"""Pictures that an encoding model and a library give, without an adapter or a trained sampler."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from neurobridge.baselines.linear_encoding import library_posterior_mean
from neurobridge.baselines.windowed_encoding import Encoding
from neurobridge.bridge.features import blend, decode_features
from neurobridge.bridge.inversion import invert, latent_scale
from neurobridge.bridge.posterior import AmortisedPosterior
from neurobridge.data.images import ImageSet
from neurobridge.pipeline.decoding import Decoded, Split
from neurobridge.pipeline.encodings import (
    SeenImages,
    closed_form,
    expected_by,
)
from neurobridge.pipeline.image_data import feature_stack, stack_features
from neurobridge.training.settings import RunSettings
from neurobridge.vision.autoencoder import PatchPCA

PATCH = 8
BATCH = 10


@dataclass(frozen=True, kw_only=True)
class Explainer:
    """A session's closed-form encoding of encoding.layers, and the library that is its prior.

    library [L] rows of the image set; pixels [L, H, W, 3] float32 in [0, 1]; expected [L, N] responses to them.
    """

    settings: RunSettings
    encoding: Encoding
    images: ImageSet
    library: np.ndarray
    pixels: np.ndarray
    expected: np.ndarray

    @classmethod
    def of(
        cls, settings: RunSettings, decoded: Decoded, images: ImageSet, library: np.ndarray, pixels: np.ndarray
    ) -> Explainer:
        """Fit the encoding on the session's training images."""
        features = stack_features(settings, images)
        encoding = closed_form(SeenImages(images=decoded.train_images, responses=decoded.train_responses), features)
        expected = expected_by(encoding, features, library)
        return cls(
            settings=settings, encoding=encoding, images=images, library=library, pixels=pixels, expected=expected
        )

    def likelihood(self, pictures: np.ndarray, responses: np.ndarray) -> np.ndarray:
        """Log likelihood [I] in nats of ``responses`` [I, N], each under its own of the ``pictures`` [I, H, W, 3]."""
        stack = feature_stack(self.settings, self.settings.encoding.layers)
        batches = [stack(batch) for batch in channels_first(pictures).split(BATCH)]
        expected = self.encoding.predict([torch.cat(layer).numpy() for layer in zip(*batches, strict=True)])
        return self.encoding.noise.log_likelihood(responses.astype(np.float64), expected).diagonal()

    def pictures(self, test: Split) -> dict[str, np.ndarray]:
        """Rows of pictures [I, H, W, 3] by name."""
        options, seed = self.settings.reconstruct, self.settings.seed
        responses, noise = test.responses.astype(np.float32), self.encoding.noise.covariance / test.repeats
        table = self.encoding.noise.log_likelihood(test.responses.astype(np.float64), self.expected)
        dreamt = torch.from_numpy(self.expected).float()
        posterior = AmortisedPosterior().fit(dreamt, noise, self.pixels, steps=options.posterior_steps, seed=seed)
        mean = posterior.mean(responses).clip(0, 1)
        rows = {
            "library posterior": library_posterior_mean(table, self.pixels).astype(np.float32),
            "posterior mean": mean,
        }
        if options.inversion_steps:
            rows |= self._inverted(responses, noise, mean)
        return rows

    def _inverted(self, responses: np.ndarray, noise: np.ndarray, layout: np.ndarray) -> dict[str, np.ndarray]:
        """Features decoded; the library picture that has them; that one's details in ``layout``, changed to have them.

        It is drawn at the image encoder's own side at most, for it sees no more, and resized.
        """
        options, seed = self.settings.reconstruct, self.settings.seed
        aims = stack_features(self.settings, self.images, options.feature_layers).of(self.library)
        decoded = decode_features(
            responses,
            expected=self.expected,
            covariance=noise,
            library=aims,
            steps=options.posterior_steps,
            seed=seed,
        )
        stack = feature_stack(self.settings, options.feature_layers)
        nearest = self.pixels[decoded.nearest(aims)]
        side = min(nearest.shape[1], stack.encoders[0].resolution) // PATCH * PATCH  # pyright: ignore
        library = to_side(channels_first(self.pixels), side)
        coder = PatchPCA(patch=PATCH, channels=3 * PATCH**2).fit(library)
        start = to_side(channels_first(blend(layout, nearest)), side)
        drawn = invert(
            start,
            to_side(channels_first(layout), side),
            decoded,
            stack=stack,
            autoencoder=coder,
            scale=latent_scale(coder, library[: 4 * 256]),
            steps=options.inversion_steps,
            seed=seed,
        )
        inverted = channels_last(to_side(drawn, nearest.shape[1]))
        return {"features inverted": inverted, "nearest by decoded features": nearest}


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
