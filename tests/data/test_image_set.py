"""A large image set stays in its file: rows of it are what a held one gives, and damage is named when it is read."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from neurobridge.data import images
from neurobridge.data.audit import audit
from neurobridge.data.images import ImageSet, StoredPixels
from neurobridge.data.importing import add_images
from neurobridge.data.simulate import simulate
from neurobridge.data.validation import validate_folder
from neurobridge.errors import UserError
from neurobridge.pipeline.analyses.questions import detail_of
from neurobridge.vision.embedding_cache import embed_images
from neurobridge.vision.encoders import ImageEncoder

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    return simulate(tmp_path_factory.mktemp("simulated"), images=40, test_images=6, valid_images=6, sessions=1)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """(path, set) of twelve pictures that count as many."""
    monkeypatch.setattr(images, "HELD_BYTES", 1000)
    path = tmp_path / "images.h5"
    ImageSet.from_pixels(PIXELS).write(path)
    return path, ImageSet.read(path)


def test_rows_of_a_stored_set_are_those_of_a_held_one(stored):
    found = stored[1].pixels
    assert isinstance(found, StoredPixels)
    assert (len(found), found.shape, found.dtype) == (12, PIXELS.shape, np.uint8)
    mask = np.arange(12) % 3 == 0
    for rows in (3, -1, slice(2, 9, 2), [5, 0, 5], np.array([7, 2]), mask, np.array([], dtype=int)):
        np.testing.assert_array_equal(found[rows], PIXELS[rows])
    np.testing.assert_array_equal(np.stack(list(found)), PIXELS)
    with pytest.raises(IndexError):
        found[12]


def test_whoever_takes_an_image_set_takes_a_stored_one(stored):
    path, found = stored
    encoder = ImageEncoder(layer="block1", grid=2, resolution=32)
    ours, held = (embed_images(encoder, found.ids, some, None, progress=False) for some in (found.pixels, PIXELS))
    np.testing.assert_array_equal(ours, held)
    np.testing.assert_array_equal(detail_of(found.pixels), detail_of(PIXELS))
    other = 255 - PIXELS[:2]
    add_images(path.parent, [*other, PIXELS[0]])
    again = ImageSet.read(path)
    np.testing.assert_array_equal(np.stack(list(again.pixels)), [*PIXELS, *other])
    with pytest.raises(UserError, match=r"images\.h5 has changed since it was opened"):
        found.pixels[0]


def test_damage_of_a_stored_set_is_found_by_validate_and_named_when_read(stored, quick):
    path, _ = stored
    with h5py.File(path) as file:
        chunk = file["pixels"].id.get_chunk_info(7)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 40 : chunk.byte_offset + 80] = bytes(40)
    path.write_bytes(content)
    found = ImageSet.read(path).pixels
    np.testing.assert_array_equal(found[6], PIXELS[6])
    with pytest.raises(UserError, match=r"images\.h5 is not a readable image set .*import the images again"):
        found[[6, 7]]
    (path.parent / "sessions").symlink_to(quick / "sessions")
    wrong = [finding for finding in validate_folder(path.parent) if not finding.ok]
    assert "images.h5 is not a readable image set" in wrong[0].mend


def test_an_audit_of_a_stored_set_finds_what_that_of_a_held_one_does(quick, monkeypatch):
    held = audit(quick)
    monkeypatch.setattr(images, "HELD_BYTES", 1000)
    images._read.cache_clear()
    assert audit(quick) == held
