"""Stage reconstruct: pictures of the held-out images, with their floors and oracle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from neurobridge.baselines.linear_encoding import library_posterior_mean
from neurobridge.bridge.adapter import Adapter
from neurobridge.data.datamodule import Batcher
from neurobridge.errors import UserError
from neurobridge.evaluation.judging import DECOY
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.alignment import load_aligned, sessions_with_images
from neurobridge.pipeline.decoding import Calibration, Decoded, decode_session, ridge_embeddings
from neurobridge.pipeline.device import device
from neurobridge.pipeline.explained import (
    Drawer,
    Photographs,
    Readings,
    channels_last,
    guess,
    to_side,
    windowed_readings,
)
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.generators import load_generator, load_images
from neurobridge.pipeline.image_data import Bridge, feature_stack, stack_features
from neurobridge.pipeline.latent_readings import latent_readings
from neurobridge.pipeline.spikes import make_batcher
from neurobridge.training.settings import RunSettings
from neurobridge.vision.generator import Generator
from neurobridge.vision.ip_adapter import EmbeddingCondition
from neurobridge.vision.protocol import PictureGenerator

LIBRARY = 4000
WINDOWED = "windowed encoding: "  # what the names of a rival's rows begin with; ours begin with nothing


def picture_sessions(settings: RunSettings) -> list[str]:
    return list(settings.picture_sessions or settings.held_out)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The aligned model, and which sessions of ``batcher`` are ``wanted``: those whose pictures are asked for.

    maps [images, positions, W] of all images; None: the model reads none.
    """

    settings: RunSettings
    model: NeuroBridge
    bridge: Bridge
    batcher: Batcher
    wanted: list[int]
    maps: torch.Tensor | None

    @classmethod
    def of(cls, run: RunFolder) -> Chosen:
        """All sessions with images, if none is named or held out."""
        model, bridge = load_aligned(run)
        sessions = sessions_with_images(run)
        wanted = picture_sessions(run.settings) or [s.name for s in sessions]
        missing = set(wanted) - {s.name for s in sessions}
        if missing:
            raise UserError(
                f"session '{sorted(missing)[0]}' shows no images or is not part of the run: mend picture_sessions"
            )
        maps = None
        if model.memory is not None:
            maps = bridge.maps.table(stack_features(run.settings, load_images(run).images).layers)
        return cls(
            settings=run.settings,
            model=model,
            bridge=bridge,
            batcher=make_batcher(model, sessions, run.settings, by_area=True),
            wanted=[i for i, s in enumerate(sessions) if s.name in wanted],
            maps=maps,
        )

    def decode(self, index: int) -> Decoded:
        """Predictions of one session of the batcher."""
        return decode_session(self.model, self.bridge.head, self.batcher, index, self.settings, maps=self.maps)

    def readings(self, index: int, decoded: Decoded, library: np.ndarray) -> Readings:
        """Latents of one session of the batcher; ``library`` [L]: rows of the images."""
        return latent_readings(self.settings, self.model, self.bridge, self.batcher, index, decoded, self.maps, library)


def decode_sessions(run: RunFolder) -> list[Decoded]:
    """Predictions of every session with pictures asked for (all with images, if none is named or held out)."""
    chosen = Chosen.of(run)
    return [chosen.decode(index) for index in chosen.wanted]


def reconstruct(run: RunFolder) -> None:
    """Pictures of the first picture session's test images, with floors and oracle -> run/reconstruct/pictures.npz."""
    settings, options = run.settings, run.settings.reconstruct
    run.need("adapter")
    torch.manual_seed(settings.seed)
    data = load_images(run)
    generator, tokens = load_generator(run)
    chosen = Chosen.of(run)
    space, session = chosen.bridge.space, chosen.wanted[0]
    targets = space(torch.from_numpy(data.embeddings)).numpy()
    decoded = chosen.decode(session)
    test = decoded.test
    embedding = Calibration(decoded.valid.decoded, targets[decoded.valid.images])(test.decoded, space)

    rng = np.random.default_rng(settings.seed)
    side = min(generator.image_size, data.images.pixels.shape[1])
    rows = data.library(LIBRARY, rng)
    aims = stack_features(settings, data.images, options.feature_layers)
    library, known, shown = (
        Photographs.of(data, aims, some, side) for some in (rows, decoded.valid.images, test.images)
    )
    shift = 1 + int(rng.integers(len(test.images) - 1))
    ways = {
        "": chosen.readings(session, decoded, rows),
        WINDOWED: windowed_readings(settings, decoded, stack_features(settings, data.images), rows),
    }
    guesses = {
        way: guess(
            read.dream,
            read.test,
            library,
            valid=read.valid,
            known=known,
            steps=options.posterior_steps,
            seed=settings.seed,
        )
        for way, read in ways.items()
    }
    stack = feature_stack(settings, options.feature_layers)
    drawer = Drawer(library, stack, steps=options.inversion_steps, seed=settings.seed, device=device(settings))
    guessed = {way + name: array for way, found in guesses.items() for name, array in drawer.rows(found).items()}
    if options.inversion_steps:
        guessed[DECOY] = drawer.inverted(guesses[""], shift)

    painter = Painter(run=run, generator=generator, tokens=tokens, images=test.images, side=side)
    candidates = np.stack([painter.sample(embedding, number) for number in range(options.samples)])
    explained = np.stack([ways[""].likelihood(pictures) for pictures in candidates])
    best = candidates[explained.argmax(0), np.arange(len(test.images))]
    nearest = cosine(test.decoded, targets[rows]).argmax(1)
    run.save_arrays(
        "reconstruct/pictures.npz",
        image_rows=test.images,
        explained=explained,
        **({"samples": candidates} if options.samples > 1 else {}),
        **{
            "target": shown.pixels,
            **({"sketch": painter.once(embedding)} if generator.sketches else {}),
            "first sample": candidates[0],
            "best of samples": best,
            "mean of samples": candidates.mean(0),
            **guessed,
            **{f"{way}posterior sample": painter.sample(found.embedding, 0) for way, found in guesses.items()},
            "library posterior": library_posterior_mean(ways[WINDOWED].library, library.pixels).astype(np.float32),
            "ridge + generator": painter.once(ridge_embeddings(decoded, data.embeddings)),
            "oracle": painter.sample(shown.embeddings, 0),
            "nearest training image": library.pixels[nearest],
            "another test image": np.roll(shown.pixels, shift, axis=0),
            "mean training image": np.broadcast_to(library.pixels.mean(0), shown.pixels.shape).copy(),
            "grey": np.full_like(shown.pixels, 0.5),
            "prior only": painter.prior(),
        },
    )
    run.finish("reconstruct", session=decoded.session, images=len(test.images), repeats=test.repeats)


@dataclass(frozen=True, kw_only=True)
class Painter:
    """The run's generator, for the test ``images`` [I] (rows of the image set), at ``side`` pixels."""

    run: RunFolder
    generator: PictureGenerator
    tokens: Adapter | EmbeddingCondition
    images: np.ndarray
    side: int

    @torch.no_grad()
    def sample(self, embeddings: np.ndarray, number: int) -> np.ndarray:
        """Pictures [I, H, W, 3] of embeddings [I, E]; of several the ``number``-th."""
        condition = self.tokens(torch.from_numpy(embeddings).to(self.tokens.null.device))
        return self._paint(condition, number * 10_007, self.run.settings.reconstruct.guidance)

    def once(self, embeddings: np.ndarray) -> np.ndarray:
        """The same without chance, where the generator has a regression beside its diffusion."""
        if isinstance(self.generator, Generator) and isinstance(self.tokens, Adapter):
            return sketch(self.generator, self.tokens, embeddings)
        return self.sample(embeddings, 0)

    def prior(self) -> np.ndarray:
        """Pictures [I, H, W, 3] of nothing."""
        return self._paint(self.tokens.null.detach()[None].expand(len(self.images), -1, -1), 999_983, 1.0)

    def _paint(self, condition: torch.Tensor, first: int, guidance: float) -> np.ndarray:
        settings = self.run.settings
        seeds = [settings.seed * 1_000_003 + first + int(image) for image in self.images]
        options = {"seeds": seeds, "steps": settings.reconstruct.steps, "guidance": guidance, "side": self.side}
        return paint(self.generator, condition, self.tokens.null, **options)


def paint(
    generator: PictureGenerator,
    condition: torch.Tensor,
    null: torch.Tensor,
    *,
    seeds: list[int],
    steps: int,
    guidance: float,
    side: int | None = None,
) -> np.ndarray:
    """Sample in small batches -> [I, H, W, 3] float32 in [0, 1], at the generator's own size or at ``side`` pixels."""
    parts = []
    for at in range(0, len(condition), 50):
        rows = slice(at, at + 50)
        drawn = generator.sample(condition[rows], null.detach(), seeds=seeds[rows], steps=steps, guidance=guidance)
        parts.append(to_side(drawn.float().cpu(), side or generator.image_size))
    return channels_last(torch.cat(parts).clamp(0, 1))


@torch.no_grad()
def sketch(generator: Generator, tokens: Adapter, embeddings: np.ndarray) -> np.ndarray:
    """The generator's regression, before any diffusion -> [I, H, W, 3] in [0, 1]."""
    pictures = generator.decode(generator.sketch(tokens(torch.from_numpy(embeddings).to(tokens.null.device))))
    return channels_last(pictures.clamp(0, 1).cpu())


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[I, D], [G, D] -> [I, G]."""
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
