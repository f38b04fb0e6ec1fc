"""Pictures that an encoding model and a library give, without an adapter or a trained sampler."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from neurobridge.bridge.ascent import ascend
from neurobridge.bridge.encoding import library_posterior_mean
from neurobridge.bridge.features import DecodedFeatures, decode_features
from neurobridge.bridge.inversion import Inverter
from neurobridge.bridge.posterior import AmortisedPosterior
from neurobridge.bridge.steering import ResponseLikelihood
from neurobridge.bridge.windowed_encoding import Encoding
from neurobridge.data.images import ImageSet, content_id
from neurobridge.pipeline.decoding import Decoded, Split
from neurobridge.pipeline.encodings import (
    SeenImages,
    closed_form,
    expected_responses,
    feature_stack,
    stack_features,
)
from neurobridge.training.settings import RunSettings
from neurobridge.vision.generator import Generator
from neurobridge.vision.protocol import PictureGenerator

PATCH = 8


@dataclass(frozen=True, kw_only=True)
class Explainer:
    """A session's closed-form encoding of encoding.layers, and the library that is its prior.

    library: how many pictures L it has; pixels [P, H, W, 3] float32 in [0, 1], expected [P, N] responses to them, aims
    [P, D] of reconstruct.feature_layers: first the library, then, with reconstruct.mirrored, its mirror images, which
    only the posterior means learn from.
    """

    settings: RunSettings
    encoding: Encoding
    library: int
    pixels: np.ndarray
    expected: np.ndarray
    aims: list[np.ndarray]
    test_aims: list[np.ndarray]

    @classmethod
    def of(cls, settings: RunSettings, decoded: Decoded, images: ImageSet, library: np.ndarray, side: int) -> Explainer:
        """Fit the encoding on the session's training images. ``library`` [L]: rows of the image set."""
        options = settings.reconstruct
        aimed = options.feature_layers if options.inversion_steps else []
        layers = [*settings.encoding.layers, *aimed]
        features = stack_features(settings, images, layers).split(len(layers) - len(aimed))
        encoding = closed_form(SeenImages(images=decoded.train_images, responses=decoded.train_responses), features[0])
        pixels = images.pixels[library]
        parts = [(features, library)]
        if options.mirrored:
            mirrored = mirror_images(pixels)
            pixels = np.concatenate([pixels, mirrored.pixels])
            seen = stack_features(settings, mirrored, layers).split(len(layers) - len(aimed))
            parts.append((seen, np.arange(len(mirrored))))
        aims = [seen[1].of(rows) for seen, rows in parts]
        return cls(
            settings=settings,
            encoding=encoding,
            library=len(library),
            pixels=resized(side, pixels),
            expected=np.concatenate([expected_responses(encoding, seen[0], rows) for seen, rows in parts]),
            aims=[np.concatenate(layer) for layer in zip(*aims, strict=True)],
            test_aims=features[1].of(decoded.test.images),
        )

    def likelihood(self, repeats: float = 1.0) -> ResponseLikelihood:
        """Of averages over ``repeats`` presentations, as a function of pictures."""
        stack = feature_stack(self.settings, self.settings.encoding.layers)
        return ResponseLikelihood(self.encoding, stack, repeats=repeats)

    def pictures(self, test: Split, generator: PictureGenerator) -> dict[str, np.ndarray]:
        """Rows of pictures [I, H, W, 3] by name."""
        options, seed = self.settings.reconstruct, self.settings.seed
        responses, noise = test.responses.astype(np.float32), self.encoding.noise.covariance / test.repeats
        shown = self.pixels[: self.library]
        table = self.encoding.noise.log_likelihood(test.responses.astype(np.float64), self.expected[: self.library])
        dreamt = torch.from_numpy(self.expected).float()
        posterior = AmortisedPosterior().fit(dreamt, noise, self.pixels, steps=options.posterior_steps, seed=seed)
        mean = posterior.mean(responses).clip(0, 1)
        rows = {
            "library posterior": library_posterior_mean(table, shown).astype(np.float32),
            "posterior mean": mean,
        }
        if options.ascent_steps and isinstance(generator, Generator):
            drawn = ascend(
                channels_first(mean),
                torch.from_numpy(responses),
                likelihood=self.likelihood(test.repeats),
                autoencoder=generator.autoencoder,
                steps=options.ascent_steps,
            )
            rows["likelihood ascent"] = channels_last(drawn)
        if options.inversion_steps:
            rows |= self._inverted(test, noise, mean)
        return rows

    def _inverted(self, test: Split, noise: np.ndarray, layout: np.ndarray) -> dict[str, np.ndarray]:
        """Pictures with the features decoded from the responses, and with the true ones: the ceiling.

        They are drawn at the image encoder's own side at most, for it sees no more, and resized.
        """
        options, seed = self.settings.reconstruct, self.settings.seed
        decoded = decode_features(
            test.responses.astype(np.float32),
            expected=self.expected,
            covariance=noise,
            library=self.aims,
            steps=options.posterior_steps,
            seed=seed,
        )
        shown, aims = self.pixels[: self.library], [layer[: self.library] for layer in self.aims]
        stack = feature_stack(self.settings, options.feature_layers)
        side = min(shown.shape[1], stack.encoders[0].resolution) // PATCH * PATCH  # pyright: ignore
        inverter = Inverter(to_side(channels_first(shown), side), aims, stack, patch=PATCH)

        def draw(known: DecodedFeatures) -> np.ndarray:
            drawn = inverter(known, to_side(channels_first(layout), side), steps=options.inversion_steps, seed=seed)
            return channels_last(to_side(drawn, shown.shape[1]))

        return {
            "features inverted": draw(decoded),
            "nearest by decoded features": shown[decoded.nearest(aims)],
            "oracle, inverted": draw(DecodedFeatures.exact(self.test_aims, self.aims)),
        }


def mirror_images(pixels: np.ndarray) -> ImageSet:
    """The mirror images of ``pixels`` [I, H, W, 3] uint8."""
    mirrored = np.ascontiguousarray(pixels[:, :, ::-1])
    return ImageSet(ids=np.array([content_id(picture) for picture in mirrored]), pixels=mirrored)


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
