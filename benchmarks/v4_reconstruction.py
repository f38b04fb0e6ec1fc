"""Macaque V4: pictures of 100 held-out images from the spikes of one session, against every floor and a library.

Session 201025 of Cowley et al. 2023, content split, repeat-averaged counts. The windowed closed-form encoding of five
layers (EfficientNet-Lite0) is fitted on the session's training images. Prior: a library of the data set's training
images of all sessions and 1,000 ImageNet photographs, no test or validation image, nothing that correlates above 0.9
with one.

Rows: the library rival (mean of the ten likeliest library images, Naselaris et al. 2009); "windowed encoding", from
counts by the closed-form encoding: the posterior mean; the library image that has the decoded features of four layers
best, its details blended into the posterior mean, and that picture changed until it has them (Shen et al. 2019); a
sample of a small latent diffusion trained on the library; the decoy, another image's picture changed alike; floors,
oracle. "chosen" is the row that scores best on the session's validation images (PixCorr + two-way of three layers of
EfficientNet-Lite1, which no other step has seen); nothing is chosen on test images.

The bar: the chosen row above grey, mean, another test image, nearest training image by decoding (one layer, and all
four), and prior only, with 95 % intervals over images that do not overlap, and above the rival (paired interval above
0), each in PixCorr and in two-way identification by EfficientNet-Lite1 (mean of its three layers). "Training image" is
taken in the strict sense: any of the library. The goal: PixCorr .45, two-way .90. About half an hour on one core;
killed, it goes on where it was (steps are kept in a folder named after the settings). Pictures are judged at 112
pixels, the images' own size.

    python benchmarks/v4_reconstruction.py [--data ../shared/data/macaque_v4] [--cache runs/v4_reconstruction]
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from _common import SHARED, last_line, need
from _pictures import Kept, first, gallery, judge, print_table, sized
from PIL import Image

from neurobridge.baselines.linear_encoding import library_posterior_mean
from neurobridge.baselines.windowed_encoding import WindowedEncoding
from neurobridge.bridge.adapter import Adapter
from neurobridge.bridge.features import DecodedFeatures, blend
from neurobridge.bridge.latent_posterior import Dream
from neurobridge.data.images import ImageSet, content_id
from neurobridge.data.sources.v4 import import_v4
from neurobridge.data.splits import split_of
from neurobridge.data.store import Session
from neurobridge.evaluation.controls import bootstrap_difference, bootstrap_interval
from neurobridge.evaluation.judging import DECOY
from neurobridge.evaluation.networks import OFFLINE
from neurobridge.pipeline.closed_form import SeenImages, closed_form, expected_by
from neurobridge.pipeline.explained import Drawer, Guess, Photographs, dreams_of, guess
from neurobridge.pipeline.image_data import StackFeatures
from neurobridge.pipeline.joint_encoding import average_by_image
from neurobridge.pipeline.pictures import WINDOWED, cosine, paint
from neurobridge.training.generator_training import train_generator
from neurobridge.training.settings import EncodingSettings, ReconstructSettings
from neurobridge.vision.encoders import ImageEncoder, embed_images
from neurobridge.vision.feature_stack import FeatureStack, embed_stack
from neurobridge.vision.generator import Generator

SESSION, IMAGES, SIDE, TWIN = "201025", 100, 64, 0.9
LAYERS, AIMS = EncodingSettings().layers, ReconstructSettings().feature_layers
CHOSEN, RIVAL, ORACLE = "chosen", "library rival", "oracle"
NEAREST, NEAREST_ALL = "nearest training image", "nearest training image, all layers"
FLOORS = ("grey", "mean training image", "another test image", NEAREST, NEAREST_ALL, "prior only")
GOAL = {"PixCorr": 0.45, "two-way": 0.90}
JUDGED = ("valid", "test")
PULLS = {"features inverted": 4.0, "features inverted, near the layout": 8.0}
STEPS, INVERSION_STEPS, POSTERIOR_STEPS = 12, 60, 3000
GENERATOR = {"steps": 400, "sketch_steps": 1000, "noise": 0.3}
SETTINGS = (SESSION, IMAGES, SIDE, TWIN, LAYERS, AIMS, PULLS, STEPS, INVERSION_STEPS, POSTERIOR_STEPS, GENERATOR)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What one split of the session shows: ``pixels`` [I, H, W, 3] uint8 and mean ``responses`` [I, N]."""

    pixels: np.ndarray
    responses: np.ndarray


def read(data: Path, photographs: Path) -> tuple[dict[str, Shown], np.ndarray]:
    """The session's splits (at most 100 images of test, and of valid), and the library [L, H, W, 3] uint8."""
    images = ImageSet.read(data / "images.h5")
    session = Session.open(data / "sessions" / f"{SESSION}.h5", window_ms=100)
    session.attach_images(images)
    splits = {}
    for name in ("train", "valid", "test"):
        rows = session.rows(name)
        shown, responses = average_by_image(session.binned(rows, 100)[:, :, 0], session.image_row[rows])
        if name != "train":
            kept = np.sort(np.random.default_rng(0).permutation(len(shown))[:IMAGES])
            shown, responses = shown[kept], responses[kept]
        splits[name] = Shown(pixels=images.pixels[shown], responses=responses)
    free = [split_of(key, seed=0, test=1 / 6, valid=0.07) == "train" for key in images.ids.tolist()]
    side = images.pixels.shape[1]
    others = [
        np.asarray(Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
        for file in sorted(photographs.glob("*.jpg"))
    ]
    library = np.concatenate([images.pixels[free], np.stack(others)])
    judged = small(np.concatenate([splits["valid"].pixels, splits["test"].pixels]))
    twins = (normalised(small(library)) @ normalised(judged).T).max(1) > TWIN
    print(f"library: {len(library)} images, of which {twins.sum()} near-duplicates of a judged one leave")
    return splits, library[~twins]


def small(pixels: np.ndarray) -> np.ndarray:
    """uint8 [I, H, W, 3] -> float32 [I, SIDE, SIDE, 3] in [0, 1]."""
    return np.concatenate([sized(pixels[at : at + 256] / np.float32(255), SIDE) for at in range(0, len(pixels), 256)])


def normalised(pictures: np.ndarray) -> np.ndarray:
    """Rows centred, of unit length."""
    rows = pictures.reshape(len(pictures), -1)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class Prior:
    """The library and what is known of it.

    library [L, H, W, 3] uint8; ids [L] their content hashes; expected [L, N] responses to it; aims: the layers [L, D]
    that are decoded; embeddings [L, D] by ``encoder``.
    """

    library: np.ndarray
    ids: np.ndarray
    expected: np.ndarray
    aims: list[np.ndarray]
    embeddings: np.ndarray
    encoder: ImageEncoder


def learn(splits: dict[str, Shown], library: np.ndarray, cache: Path) -> tuple[WindowedEncoding, Prior]:
    """The session's encoding, and the library with its features and expected responses."""
    train = splits["train"].pixels
    pixels = np.concatenate([train, library])
    ids = np.array([content_id(picture) for picture in pixels])
    layers = embed_stack(FeatureStack(layers=[*LAYERS, *AIMS]), ids, pixels, cache)
    shown, library_rows = np.arange(len(train)), np.arange(len(train), len(pixels))
    features = StackFeatures(layers=layers[: len(LAYERS)], grids=FeatureStack(layers=LAYERS).grids)
    encoding = closed_form(SeenImages(images=shown, responses=splits["train"].responses), features)
    encoder = ImageEncoder()
    prior = Prior(
        library=library,
        ids=ids[library_rows],
        expected=expected_by(encoding, features, library_rows),
        aims=[layer[library_rows] for layer in layers[len(LAYERS) :]],
        embeddings=embed_images(encoder, ids[library_rows], library, cache),
        encoder=encoder,
    )
    return encoding, prior


class Painter:
    """A small latent diffusion of the library, trained once, and its sampler."""

    def __init__(self, prior: Prior, folder: Path, cache: Path) -> None:
        if not (folder / "adapter.safetensors").is_file():
            train_generator(prior.library, prior.ids, folder, encoder=prior.encoder, cache_dir=cache, **GENERATOR)
        self.generator, self.adapter = Generator.load(folder).freeze(), Adapter.load(folder)
        self.null = self.adapter.null.detach()

    @torch.no_grad()
    def condition(self, embeddings: np.ndarray) -> torch.Tensor:
        """Tokens [I, T, K] of embeddings [I, D]."""
        return self.adapter(torch.from_numpy(embeddings))

    def sample(self, condition: torch.Tensor, seed: int) -> np.ndarray:
        """One picture [I, SIDE, SIDE, 3] for each condition [I, T, K]."""
        seeds = [seed * 10_007 + i for i in range(len(condition))]
        return paint(self.generator, condition, self.null, seeds=seeds, steps=STEPS, guidance=1.0)


def draw(
    splits: dict[str, Shown], prior: Prior, encoding: WindowedEncoding, kept: Kept, cache: Path
) -> dict[str, dict[str, np.ndarray]]:
    """Pictures of the valid and the test images by split and row, at the images' own side."""
    library, expected, noise = prior.library, prior.expected, encoding.noise
    responses = np.concatenate([splits[name].responses for name in JUDGED]).astype(np.float32)
    table = noise.log_likelihood(responses.astype(np.float64), expected)
    found = guessed(prior, dreams_of(expected, noise.covariance), responses, kept)
    pictures = {
        RIVAL: library_posterior_mean(table, library, top=10),
        "best library image": library_posterior_mean(table, library, top=1),
        **invert_features(prior, found, kept),
    }

    true = np.concatenate([splits[name].pixels for name in JUDGED])
    painter = Painter(prior, kept.folder / "generator", cache)
    with torch.no_grad():
        truth = torch.cat([prior.encoder(batch) for batch in first(true / np.float32(255)).split(10)]).numpy()
    condition, oracle = painter.condition(found.embedding), painter.condition(truth)
    null = painter.null[None].expand(len(true), -1, -1)
    centre = prior.embeddings.mean(0)
    near = cosine(found.embedding - centre, prior.embeddings - centre).argmax(1)
    pictures |= {
        WINDOWED + "sample": kept("sample", lambda: painter.sample(condition, 0)),
        ORACLE: kept("oracle", lambda: painter.sample(oracle, 0)),
        "prior only": kept("prior", lambda: painter.sample(null, 7)),
        NEAREST: library[near] / np.float32(255),
        "mean training image": np.broadcast_to(library.mean(0) / 255, true.shape),
        "grey": np.full(true.shape, 0.5),
    }
    pictures = {name: sized(value, true.shape[1]) for name, value in pictures.items()}
    rows = {}
    for at, name in enumerate(JUDGED):
        part = slice(at * IMAGES, (at + 1) * IMAGES)
        rows[name] = {key: value[part] for key, value in pictures.items()}
        rows[name]["another test image"] = np.roll(true[part] / np.float32(255), 1, axis=0)
    return rows


def guessed(prior: Prior, dream: Dream, readings: np.ndarray, kept: Kept) -> Guess:
    """What the library and ``dream`` make of the ``readings`` [I, R]; the layout at SIDE pixels."""
    photographs = Photographs(pixels=small(prior.library), layers=prior.aims, embeddings=prior.embeddings)

    def step() -> np.ndarray:
        one = guess(dream, readings, photographs, steps=POSTERIOR_STEPS, seed=0)
        parts = [one.layout.reshape(len(readings), -1), *(d.numpy() for d in one.features.directions), one.embedding]
        return np.concatenate(parts, axis=1)

    widths = [SIDE * SIDE * 3, *(layer.shape[1] for layer in prior.aims)]
    layout, *directions, embedding = np.split(kept("guess", step), np.cumsum(widths), axis=1)
    features = DecodedFeatures(
        directions=[torch.from_numpy(d) for d in directions],
        centers=[torch.from_numpy(layer.mean(axis=0, dtype=np.float32)) for layer in prior.aims],
    )
    return Guess(layout=layout.reshape(-1, SIDE, SIDE, 3), features=features, embedding=embedding)


def invert_features(prior: Prior, found: Guess, kept: Kept) -> dict[str, np.ndarray]:
    """Rows that a guess gives without a generator, at the library's own side, and the decoy."""
    pixels = prior.library / np.float32(255)
    library = Photographs(pixels=pixels, layers=prior.aims, embeddings=prior.embeddings)
    found = replace(found, layout=sized(found.layout, pixels.shape[1]))
    stack = FeatureStack(layers=AIMS)
    drawers = {name: Drawer(library, stack, steps=INVERSION_STEPS, pull=pull, seed=0) for name, pull in PULLS.items()}
    nearest = next(iter(drawers.values())).nearest(found)
    rows = {
        WINDOWED + "posterior mean": found.layout,
        WINDOWED + "details of the nearest, blended": blend(found.layout, nearest),
        NEAREST_ALL: nearest,
    }
    for name, drawer in drawers.items():
        rows[WINDOWED + name] = kept(name, lambda drawer=drawer: drawer.inverted(found))
    rows[DECOY] = kept(DECOY, lambda: next(iter(drawers.values())).inverted(found, shift=1))
    return rows


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=SHARED / "macaque_v4")
    arguments.add_argument("--photographs", type=Path, default=SHARED / "images" / "imagenet_samples")
    arguments.add_argument("--cache", type=Path, default=Path("runs") / "v4_reconstruction")
    options = arguments.parse_args()
    begun = time.monotonic()
    data = import_v4(need(options.data), options.cache / "v4")
    kept = Kept(options.cache / hashlib.sha1(repr(SETTINGS).encode()).hexdigest()[:8])
    splits, library = read(data, need(options.photographs))

    encoding, prior = learn(splits, library, options.cache / "embeddings")
    print(f"encoding: held-out R2 {encoding.held_out_r2.mean():.3f}, {splits['train'].responses.shape[1]} units")
    rows = draw(splits, prior, encoding, kept, options.cache / "embeddings")

    valid = judge(rows["valid"], splits["valid"].pixels)
    print_table(valid, f"validation, {len(splits['valid'].pixels)} images: what chooses")
    worth = {
        name: valid[name]["PixCorr"].mean() + valid[name]["two-way"].mean() for name in valid if is_candidate(name)
    }
    chosen = max(worth, key=worth.__getitem__)
    test = judge({CHOSEN: rows["test"][chosen], **rows["test"]}, splits["test"].pixels)
    print_table(
        test,
        f"test, {len(splits['test'].pixels)} images of {SESSION}; {CHOSEN} = {chosen}; evaluator {OFFLINE[0].network}",
    )
    gallery(options.cache / "gallery.png", splits["test"].pixels / 255, rows["test"])
    print(f"gallery: {options.cache / 'gallery.png'}; {time.monotonic() - begun:.0f} s")

    ok, value = True, {}
    for metric in ("PixCorr", "two-way"):
        ours = bootstrap_interval(test[CHOSEN][metric], seed=0, share=False)
        beaten = all(ours.above(bootstrap_interval(test[floor][metric], seed=0, share=False)) for floor in FLOORS)
        gain = bootstrap_difference(test[CHOSEN][metric], test[RIVAL][metric], seed=0)
        ok = ok and beaten and gain.low > 0
        by = f"{gain.mean:.3f} [{gain.low:.3f}, {gain.high:.3f}]"
        print(f"{metric}: above every floor: {beaten}; above the rival by {by}")
        value[metric] = {name: round(float(test[name][metric].mean()), 4) for name in (CHOSEN, RIVAL, ORACLE, *FLOORS)}
    bar = "above every floor (separate 95 % intervals) and the library rival (paired), in both"
    return last_line("v4_reconstruction", value, bar, ok, chosen=chosen, goal=GOAL)


def is_candidate(name: str) -> bool:
    """A row that draws from spikes and is neither the rival, nor a floor, nor a decoy."""
    return name.startswith(WINDOWED)


if __name__ == "__main__":
    sys.exit(main())
