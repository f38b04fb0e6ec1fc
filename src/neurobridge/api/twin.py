"""A digital twin: what the units of a recording would answer to images that they were never shown.

Every answer carries how far it can be trusted: the correlation of expected and recorded mean responses over test images
that nothing was fitted to, and its ceiling, which the noise of the recording sets (Wang et al. 2025 judge theirs so).

Letters: I images, U units, T bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from neurobridge.api.model import Model
from neurobridge.api.use import one
from neurobridge.bridge.image_maps import ImageMaps
from neurobridge.bridge.inversion import latent_scale, shaken, total_variation
from neurobridge.data.datamodule import Batcher
from neurobridge.data.images import ImageSet
from neurobridge.data.pictures import read_picture
from neurobridge.data.store import Session
from neurobridge.errors import UserError, needs
from neurobridge.evaluation.spikes import split_half_reliability
from neurobridge.neuro.losses import expected_counts
from neurobridge.neuro.masking import everything_hidden
from neurobridge.pipeline.decoding import first_presentations
from neurobridge.pipeline.image_data import feature_stack
from neurobridge.pipeline.joint_encoding import (
    average_by_image,
    counted_bins,
    expected_rates,
    expected_responses,
    responses,
)
from neurobridge.vision.autoencoder import PatchPCA
from neurobridge.vision.feature_stack import FeatureStack

if TYPE_CHECKING:
    from xarray import DataArray

AT_ONCE = 32
PATCH = 8
LIBRARY = 2000
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def predict(model: Model, recording: object, images: Path | str | np.ndarray) -> DataArray:
    """What the units of a recording are expected to do when an image is shown.

    Args:
        model: A model that was pretrained with images.
        recording: A recording with stimuli, whose units the model knows.
        images: A folder of pictures, or uint8 [I, H, W, 3].

    Returns:
        DataArray [image, unit, time] in Hz (or values), time in ms since the start of the window; coordinates of a
        unit: its region, ``correlation`` with recorded mean responses to test images, and the ``ceiling`` of that.

    Raises:
        UserError: The model reads no images, or there are no pictures.
    """
    return Twin(model, recording).predict(*pictures_of(images))


def exciting(
    model: Model, recording: object, units: Sequence[object] | None = None, *, steps: int = 100, seed: int = 0
) -> DataArray:
    """Pictures that a unit is expected to answer most, by gradient, beside the best image of the library.

    A picture starts from the unit's best training image and changes in the principal components of patches, so that it
    stays a picture of the library's kind; each step looks at it shifted, zoomed and with noise, so that it pleases the
    model everywhere and not in one pixel.

    Args:
        model: A model that was pretrained with images.
        recording: A recording that shows images, whose units the model knows.
        units: Ids of units; empty: all.
        steps: Steps of gradient ascent.
        seed: Seed of shifts and noise.

    Returns:
        DataArray [unit, picture, row, column, colour] in [0, 1]; ``picture``: drawn, library; coordinates
        ``expected`` [unit, picture]: the response that each is expected to evoke; correlation and ceiling as above.

    Raises:
        UserError: The model reads no images, or a unit is not there.
    """
    with needs("data"):
        from xarray import DataArray
    twin = Twin(model, recording)
    session = twin.session
    ids = session.recording.unit_ids.tolist()
    wanted = ids if units is None else [str(unit) for unit in units]
    missing = [unit for unit in wanted if unit not in ids]
    if missing:
        raise UserError(
            f"there is no unit '{missing[0]}' in session {session.name}; there are {', '.join(ids[:8])}, ..."
        )
    columns = torch.tensor([ids.index(unit) for unit in wanted])
    library = twin.library(seed)
    maps = torch.cat([twin.maps_of(part) for part in library.split(AT_ONCE)])
    expected = expected_responses(model.net, twin.batcher, 0, maps, np.arange(len(maps)))[:, columns]
    best = library[torch.from_numpy(expected.argmax(0))]
    coder = PatchPCA(patch=PATCH, channels=3 * PATCH**2).fit(library)
    scale = latent_scale(coder, library)
    parts = [
        twin.climb(best[at : at + AT_ONCE], columns[at : at + AT_ONCE], coder, scale, steps=steps, seed=seed)
        for at in range(0, len(best), AT_ONCE)
    ]
    drawn = torch.cat(parts)
    reached = np.concatenate([twin.response(part, columns[i * AT_ONCE :][: len(part)]) for i, part in enumerate(parts)])
    correlation, ceiling = twin.trust
    both = torch.stack([drawn, best], dim=1).permute(0, 1, 3, 4, 2).numpy()
    return DataArray(
        both,
        dims=("unit", "picture", "row", "column", "colour"),
        coords={
            "unit": wanted,
            "picture": ["drawn", "library"],
            "expected": (("unit", "picture"), np.stack([reached, expected.max(0)], axis=1)),
            "correlation": ("unit", correlation[columns.numpy()]),
            "ceiling": ("unit", ceiling[columns.numpy()]),
        },
        name="most exciting pictures",
        attrs={"session": session.name},
    )


class Twin:
    """A model and one recording, asked about images."""

    def __init__(self, model: Model, recording: object) -> None:
        """Raises UserError for a model that reads no images, and for a recording that knows no onset."""
        if model.bridge is None or model.net.memory is None:
            raise UserError("the model reads no images: pretrain it on recordings that show some (images=True)")
        self.model, self.maps = model, model.bridge.maps
        self.recording = one(recording)
        self.session: Session = model.session(self.recording)
        if not self.session.locked.any():
            raise UserError(f"session {self.session.name} has no stimuli: there is no onset to predict responses from")
        self.batcher: Batcher = model.batcher(self.session)
        self.stack: FeatureStack = feature_stack(model.settings, model.settings.encoding.layers)
        self.images = ImageSet.read(path) if (path := self._image_set()).is_file() else None
        if self.images is not None:
            self.session.attach_images(self.images)

    def _image_set(self) -> Path:
        return self.recording.path.parent.parent / "images.h5"

    @torch.no_grad()
    def maps_of(self, pictures: torch.Tensor) -> torch.Tensor:
        """What the backbone reads of ``pictures`` [I, 3, H, W] in [0, 1]."""
        return self.maps(self.stack(pictures)).half()

    def predict(self, names: Sequence[str], pixels: np.ndarray) -> DataArray:
        """What :func:`predict` returns, of pictures [I, H, W, 3] uint8."""
        with needs("data"):
            from xarray import DataArray
        maps = torch.cat([self.maps_of(part) for part in tensors(pixels).split(AT_ONCE)])
        rates = torch.cat(list(expected_rates(self.model.net, self.batcher, 0, maps, np.arange(len(maps))))).numpy()
        bin_ms, session = self.batcher.bin_ms, self.session
        correlation, ceiling = self.trust
        return DataArray(
            rates if session.valued else rates * (1000 / bin_ms),
            dims=("image", "unit", "time"),
            coords={
                "image": list(names),
                "unit": session.recording.unit_ids,
                "time": (np.arange(rates.shape[2]) + 0.5) * bin_ms + session.offset_ms,
                "region": ("unit", session.recording.regions),
                "correlation": ("unit", correlation),
                "ceiling": ("unit", ceiling),
            },
            name="expected rate",
            attrs={"session": session.name, "units": "value" if session.valued else "Hz"},
        )

    @cached_property
    def trust(self) -> tuple[np.ndarray, np.ndarray]:
        """Correlation [N] of expected and recorded mean responses to test images, and its ceiling [N]; NaN: unknown."""
        unknown = np.full(self.session.units, np.nan)
        rows = self.session.shown("test")
        if self.images is None or len(np.unique(self.session.image_row[rows])) < 3:
            return unknown, unknown.copy()
        counts, shown = responses(self.session, rows), self.session.image_row[rows]
        images, mean = average_by_image(counts, shown)
        maps = torch.cat([self.maps_of(part) for part in tensors(self.images.pixels[images]).split(AT_ONCE)])
        expected = expected_responses(self.model.net, self.batcher, 0, maps, np.arange(len(maps)))
        correlation = correlations(expected, mean.astype(np.float64))
        repeats = int(np.unique(shown, return_counts=True)[1].min())
        if repeats < 2:
            return correlation, unknown
        reliability = split_half_reliability(counts[first_presentations(shown, repeats)], seed=0)
        return correlation, np.sqrt(np.clip(reliability, 0, 1))

    def library(self, seed: int) -> torch.Tensor:
        """Training images [L, 3, H, W] at a multiple of the patch, at most LIBRARY of them."""
        rows = self.session.images_shown("train")
        if self.images is None or not len(rows):
            raise UserError(f"session {self.session.name} shows no training images: there is no library to start from")
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:LIBRARY])
        images = tensors(self.images.pixels[rows])
        side = images.shape[-1] // PATCH * PATCH
        return (
            F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
            if side != images.shape[-1]
            else images
        )

    def drive(self, pictures: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """[U] expected response of unit ``columns`` [U] to its own of the ``pictures`` [U, 3, H, W]; differentiable."""
        maps: ImageMaps = self.maps
        row = np.flatnonzero(self.session.locked)[:1]
        batch = self.batcher.batch([(0, np.repeat(row, len(pictures)))])
        rates = self.model.net(batch, everything_hidden(batch), memory=maps(self.stack(pictures)))
        rates = rates if self.session.valued else expected_counts(rates)
        bins = counted_bins(self.session, self.batcher.bins[0])
        return rates[torch.arange(len(columns)), columns][:, bins].sum(-1)

    @torch.no_grad()
    def response(self, pictures: torch.Tensor, columns: torch.Tensor) -> np.ndarray:
        """:meth:`drive` as numbers."""
        return self.drive(pictures, columns).numpy()

    def climb(
        self, start: torch.Tensor, columns: torch.Tensor, coder: PatchPCA, scale: torch.Tensor, *, steps: int, seed: int
    ) -> torch.Tensor:
        """Pictures [U, 3, H, W] that excite their units, from ``start``; never less than ``start`` is expected to."""
        with torch.no_grad():
            origin = coder.encode(start)
        change = torch.zeros_like(origin, requires_grad=True)
        optimizer = torch.optim.Adam([change], lr=0.05)
        for step in range(steps):
            pictures = coder.decode(origin + scale * change)
            seen = shaken(pictures, seed=seed * 1_000_003 + step, jitter=0.03, noise=0.02)
            gain = self.drive(seen, columns).clamp(min=1e-6).log()
            loss = (0.5 * total_variation(pictures) - gain).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            drawn = coder.decode(origin + scale * change)
            better = self.drive(drawn, columns) > self.drive(start, columns)
            return torch.where(better[:, None, None, None], drawn, start)


def correlations(expected: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """[N] over images of responses [I, N]; NaN for a unit of which one of the two never varies."""
    a, b = (x - x.mean(0) for x in (expected, recorded))
    length = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.where(length > 0, (a * b).sum(0) / np.where(length > 0, length, 1), np.nan)


def pictures_of(images: Path | str | np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names and pixels uint8 [I, H, W, 3] of a folder of pictures, or of an array."""
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(f"images are {images.dtype} {list(images.shape)}, expected uint8 [I, H, W, 3]")
        return [str(i) for i in range(len(images))], images
    folder = Path(images)
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES) if folder.is_dir() else [folder]
    if not files or not files[0].is_file():
        raise UserError(f"no picture at {folder}: give a folder of {', '.join(SUFFIXES)}, or one of these")
    found = [read_picture(file) for file in files]
    sizes = {picture.shape for picture in found}
    if len(sizes) > 1:
        raise UserError(
            f"pictures of several sizes in {folder} ({sorted(sizes)[0]}, {sorted(sizes)[1]}): bring them to one"
        )
    return [file.name for file in files], np.stack(found)


def tensors(pixels: np.ndarray) -> torch.Tensor:
    """uint8 [I, H, W, 3] -> [I, 3, H, W] in [0, 1]."""
    return torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255
