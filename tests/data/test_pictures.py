"""The one decoder of pictures: shown as a viewer shows it, or refused in a sentence; the same behind every source."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from neurobridge.data.frames import read_frames
from neurobridge.data.images import ImageSet
from neurobridge.data.pictures import decode_picture, read_pages, read_picture
from neurobridge.data.sources import things
from neurobridge.data.sources.lab import import_lab
from neurobridge.errors import UserError

TURN = Image.Transpose
STORED_AS = {  # EXIF orientation -> how the picture lies in the file
    2: TURN.FLIP_LEFT_RIGHT,
    3: TURN.ROTATE_180,
    4: TURN.FLIP_TOP_BOTTOM,
    5: TURN.TRANSPOSE,
    6: TURN.ROTATE_90,
    7: TURN.TRANSVERSE,
    8: TURN.ROTATE_270,
}


def blocks(height: int = 24, width: int = 32, seed: int = 2) -> np.ndarray:
    """[H, W, 3]: blocks of 8 x 8 pixels in colours of their own, which JPEG keeps."""
    colours = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.kron(colours, np.ones((8, 8, 1), np.uint8)).astype(np.uint8)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def deep_png(levels: np.ndarray, colour: int) -> bytes:
    """A PNG of 16 bits a channel from [H, W, C] uint16; ``colour`` is the format's colour type."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = levels.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in levels)
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp"])
@pytest.mark.parametrize("orientation", STORED_AS)
def test_a_photo_is_turned_as_a_viewer_turns_it(kind, orientation):
    seen = blocks()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpeg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(kind, {})
    data = encoded(Image.fromarray(seen).transpose(STORED_AS[orientation]), kind, exif=exif, **options)
    found = decode_picture(data, "photo")
    assert found.shape == seen.shape
    np.testing.assert_allclose(found, seen, atol=2)


def test_kinds_that_have_one_look_are_read():
    seen = blocks()
    picture = Image.fromarray(seen)
    grey = np.repeat(np.asarray(picture.convert("L"))[..., None], 3, axis=-1)
    few = picture.quantize(12)
    for data, expected in (
        (encoded(picture.convert("CMYK"), "jpeg", quality=100, subsampling=0), seen),
        (encoded(picture.convert("CMYK"), "tiff"), seen),
        (encoded(picture.convert("YCbCr"), "tiff"), seen),
        (encoded(picture.convert("L"), "png"), grey),
        (encoded(picture.convert("1"), "tiff"), (grey > 0) * 0 + np.asarray(picture.convert("1").convert("RGB"))),
        (encoded(few, "png"), np.asarray(few.convert("RGB"))),
        (encoded(few, "gif"), np.asarray(few.convert("RGB"))),
        (encoded(picture.convert("RGBA"), "png"), seen),
        (encoded(picture.convert("LA"), "png"), grey),
        (encoded(picture, "png", transparency=(1, 2, 3)), seen),
        (b"P5 2 1 127\n\x00\x7f", np.repeat(np.array([[[0], [255]]], np.uint8), 3, axis=-1)),
    ):
        np.testing.assert_allclose(decode_picture(data, "picture"), expected, atol=3)


def veiled(alpha: int) -> Image.Image:
    pixels = np.array(Image.fromarray(blocks()).convert("RGBA"))
    pixels[:8, :8, 3] = alpha
    return Image.fromarray(pixels)


ramp = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
few_colours = Image.fromarray(blocks()).quantize(8)
REFUSED = {
    "grey of 16 bits": (encoded(Image.fromarray(ramp), "png"), "more than 8 bits a channel"),
    "TIFF of 16 bits": (encoded(Image.fromarray(ramp), "tiff"), "more than 8 bits a channel"),
    "RGB of 16 bits": (deep_png(np.stack([ramp] * 3, axis=-1), 2), "more than 8 bits a channel"),
    "grey and alpha of 16 bits": (deep_png(np.stack([ramp, ramp | 65535], axis=-1), 4), "more than 8 bits a channel"),
    "floats": (encoded(Image.fromarray(ramp.astype(np.float32) / 65535), "tiff"), "or floats"),
    "32 bits": (encoded(Image.fromarray(ramp.astype(np.int32)), "tiff"), "more than 8 bits a channel"),
    "PPM of 16 bits": (b"P6 1 1 65535\n" + bytes(6), "more than 8 bits a channel"),
    "clear": (encoded(veiled(0), "png"), "transparent in 64 of 768 pixels"),
    "half clear": (encoded(veiled(128), "webp", lossless=True), "transparent in 64 of 768 pixels"),
    "a clear colour": (encoded(few_colours, "png", transparency=few_colours.getpixel((0, 0))), "transparent in"),
    "a clear GIF": (encoded(few_colours, "gif", transparency=few_colours.getpixel((0, 0))), "transparent in"),
    "ink with a profile": (encoded(Image.new("CMYK", (8, 8)), "jpeg", icc_profile=profile), "inks (CMYK)"),
    "Lab": (encoded(Image.new("LAB", (8, 8)), "tiff"), "colours of the kind 'LAB'"),
    "pages": (
        encoded(veiled(255), "tiff", save_all=True, append_images=[Image.new("RGBA", (32, 24))]),
        "holds 2 pictures",
    ),
    "animation": (encoded(few_colours, "gif", save_all=True, append_images=[Image.new("P", (32, 24))]), "2 pictures"),
    "too large": (encoded(Image.new("1", (16_400, 16_400)), "png"), "more than 67 million pixels"),
    "cut off": (encoded(veiled(255).convert("RGB"), "jpeg")[:-60], "is a picture, but cut off"),
    "damaged": (deep_png(np.full((64, 64, 1), 7, np.uint16), 0).replace(b"IHDR", b"IHDX"), "is a picture, but damaged"),
    "text": (b"<!DOCTYPE html>not found", "no picture of a kind that is read (PNG, JPEG"),
    "nothing": (b"", "is empty"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_one_look_is_refused(what):
    data, sentence = REFUSED[what]
    with pytest.raises(UserError) as caught:
        decode_picture(data, "picture")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_source_has_the_same_decoder(tmp_path: Path, write_lab, lab_tables):
    seen = blocks(16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = encoded(Image.fromarray(seen).transpose(TURN.ROTATE_90), "png", exif=exif)
    write_lab(tmp_path / "raw", lab_tables)
    pictures = tmp_path / "raw" / "images" / "set"
    for number, content in enumerate(
        [photo] + [encoded(Image.fromarray(blocks(16, 16, 9 + i)), "png") for i in range(3)]
    ):
        (pictures / f"{number}.png").write_bytes(content)
    images = ImageSet.read(import_lab(tmp_path / "raw" / "day1.yaml", tmp_path / "out") / "images.h5")
    first = images.pixels[images.labels["name"].tolist().index("im0")]
    for found in (first, next(read_frames(pictures))[1], things.read_picture(pictures / "0.png", 16)):
        np.testing.assert_array_equal(found, seen)
    for data, sentence in REFUSED.values():
        (pictures / "0.png").write_bytes(data)
        with pytest.raises(UserError) as by_lab:
            import_lab(tmp_path / "raw" / "day1.yaml", tmp_path / "out")
        with pytest.raises(UserError) as by_frame:
            list(read_frames(pictures))
        with pytest.raises(UserError) as by_things:
            things.read_picture(pictures / "0.png", 16)
        assert sentence in str(by_lab.value)
        assert str(by_lab.value) == str(by_frame.value) == str(by_things.value)


def test_a_stack_of_pages_is_read_and_its_bad_page_named(tmp_path: Path):
    pages = [Image.fromarray(blocks(seed=seed)) for seed in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    for found, page in zip(read_pages(tmp_path / "stack.tif"), pages, strict=True):
        np.testing.assert_array_equal(found, np.asarray(page))
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=[Image.fromarray(ramp)])
    with pytest.raises(UserError, match=r"page 1 of .*stack.tif holds more than 8 bits"):
        list(read_pages(tmp_path / "stack.tif"))
    with pytest.raises(UserError, match="is a folder, expected a file"):
        read_picture(tmp_path)
