"""Stage reconstruct: pictures of the held-out images, with their floors and oracle."""

from __future__ import annotations

import numpy as np
import torch

from neurobridge.bridge.adapter import Adapter
from neurobridge.errors import UserError
from neurobridge.pipeline.alignment import load_aligned, sessions_with_images
from neurobridge.pipeline.decoding import Calibration, Decoded, decode_session, linear_encoding, ridge_embeddings
from neurobridge.pipeline.explained import Explainer, channels_last, to_side
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.generators import load_generator, load_images
from neurobridge.pipeline.image_data import stack_features
from neurobridge.pipeline.spikes import make_batcher
from neurobridge.training.settings import RunSettings
from neurobridge.vision.generator import Generator
from neurobridge.vision.protocol import PictureGenerator

LIBRARY = 4000


def picture_sessions(settings: RunSettings) -> list[str]:
    return list(settings.picture_sessions or settings.held_out)


def decode_sessions(run: RunFolder) -> list[Decoded]:
    """Predictions of every session with pictures asked for (all with images, if none is named or held out)."""
    model, bridge = load_aligned(run)
    sessions = sessions_with_images(run)
    batcher = make_batcher(model, sessions, run.settings, by_area=True)
    wanted = picture_sessions(run.settings) or [s.name for s in sessions]
    missing = set(wanted) - {s.name for s in sessions}
    if missing:
        raise UserError(
            f"session '{sorted(missing)[0]}' shows no images or is not part of the run: mend picture_sessions"
        )
    maps = None
    if model.memory is not None:
        maps = bridge.maps.table(stack_features(run.settings, load_images(run).images).layers)
    chosen = [i for i, s in enumerate(sessions) if s.name in wanted]
    return [decode_session(model, bridge.head, batcher, i, run.settings, maps=maps) for i in chosen]


def reconstruct(run: RunFolder) -> None:
    """Pictures of the first picture session's test images, with floors and oracle -> run/reconstruct/pictures.npz."""
    settings, options = run.settings, run.settings.reconstruct
    torch.manual_seed(settings.seed)
    data = load_images(run)
    generator, tokens = load_generator(run)
    space = load_aligned(run)[1].space
    targets = space(torch.from_numpy(data.embeddings)).numpy()
    decoded = decode_sessions(run)[0]
    test = decoded.test
    calibration = Calibration(decoded.valid.decoded, targets[decoded.valid.images])
    encoding = linear_encoding(decoded, data.embeddings)
    train_rows = np.flatnonzero(data.train)
    embedding = encoding.posterior_mean(test.responses, data.embeddings[train_rows], repeats=test.repeats)
    embedding = embedding.astype(np.float32)

    rng = np.random.default_rng(settings.seed)
    side = min(generator.image_size, data.images.pixels.shape[1])
    true = resized(side, data.images.pixels[test.images])
    library = train_rows if len(train_rows) <= LIBRARY else np.sort(rng.choice(train_rows, LIBRARY, replace=False))
    train_pixels = resized(side, data.images.pixels[library])
    explainer = Explainer.of(settings, decoded, data.images, library, train_pixels)
    guesses = explainer.pictures(test)

    def draw(embeddings: np.ndarray, seed: int) -> np.ndarray:
        with torch.no_grad():
            condition = tokens(torch.from_numpy(embeddings))
        seeds = [settings.seed * 1_000_003 + seed * 10_007 + int(i) for i in test.images]
        options_ = {"steps": options.steps, "guidance": options.guidance, "side": side}
        return paint(generator, condition, tokens.null, seeds=seeds, **options_)

    def mean_of(embeddings: np.ndarray) -> np.ndarray:
        if isinstance(generator, Generator) and isinstance(tokens, Adapter):
            return sketch(generator, tokens, embeddings)
        return draw(embeddings, 0)

    candidates = np.stack([draw(embedding, sample) for sample in range(options.samples)])
    explained = np.stack([explainer.likelihood(c, test.responses) for c in candidates])
    best = candidates[explained.argmax(0), np.arange(len(test.images))]

    mean = train_pixels.mean(0, dtype=np.float64).astype(np.float32)
    nearest = cosine(test.decoded, targets[library]).argmax(1)
    shift = 1 + rng.integers(len(test.images) - 1)
    null = tokens.null.detach()[None].expand(len(test.images), -1, -1)
    prior_seeds = [settings.seed * 1_000_003 + 999_983 + int(i) for i in test.images]
    run.save_arrays(
        "reconstruct/pictures.npz",
        image_rows=test.images,
        explained=explained,
        **({"samples": candidates} if options.samples > 1 else {}),
        **{
            "target": true,
            **({"sketch": mean_of(embedding)} if generator.sketches else {}),
            "first sample": candidates[0],
            "best of samples": best,
            "mean of samples": candidates.mean(0),
            **guesses,
            "decoder alone": mean_of(calibration(test.decoded, space)),
            "ridge + generator": mean_of(ridge_embeddings(decoded, data.embeddings)),
            "oracle": draw(data.embeddings[test.images], 0),
            "nearest training image": train_pixels[nearest],
            "another test image": np.roll(true, shift, axis=0),
            "mean training image": np.broadcast_to(mean, true.shape).copy(),
            "grey": np.full_like(true, 0.5),
            "prior only": paint(
                generator, null, tokens.null, seeds=prior_seeds, steps=options.steps, guidance=1.0, side=side
            ),
        },
    )
    run.finish("reconstruct", session=decoded.session, images=len(test.images), repeats=test.repeats)


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
    pictures = generator.decode(generator.sketch(tokens(torch.from_numpy(embeddings))))
    return channels_last(pictures.clamp(0, 1))


def resized(side: int, pixels: np.ndarray) -> np.ndarray:
    """uint8 [I, H, W, 3] -> float32 in [0, 1] at ``side`` pixels."""
    parts = torch.from_numpy(pixels).permute(0, 3, 1, 2).split(256)
    return channels_last(torch.cat([to_side(part.float() / 255, side) for part in parts]))


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[I, D], [G, D] -> [I, G]."""
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
