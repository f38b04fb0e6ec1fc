"""Picture files as pixels: the one decoder of every source. What cannot be shown as 8-bit RGB as it was is refused.

A viewer turns a photo by its EXIF orientation, so it is turned here; ink (CMYK), grey, 1-bit and palette pictures have
one look as RGB. Depth beyond 8 bits, transparency and several pages have none without a choice that only the user can
make.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neurobridge.errors import UserError, needs, reading

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
TIFFS = (b"II*\0", b"MM\0*")
STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", *TIFFS, b"RIFF")
COLOURS = ("1", "L", "P", "RGB", "RGBX", "YCbCr", "CMYK")
VEILED = ("LA", "La", "PA", "RGBA", "RGBa")
DEEP = re.compile(r"(?!BGR).*;(?:12|16|24|32|64)")
MOST_PIXELS = 2**26
OPAQUE = 255


def decode_picture(data: bytes, what: str) -> np.ndarray:
    """RGB pixels [H, W, 3] uint8 of an encoded picture; ``what`` names it in the UserError if it has none."""
    with _opened(io.BytesIO(data), what) as picture:
        pages = getattr(picture, "n_frames", 1)
        if pages > 1 and picture.format != "MPO":  # a phone's JPEG: the photo, then its previews
            raise UserError(f"{what} holds {pages} pictures (pages of a TIFF, an animation): save the one shown alone")
        return _pixels(picture, what)


def read_picture(file: Path) -> np.ndarray:
    """RGB pixels [H, W, 3] uint8 of a picture file. Raises UserError, as :func:`decode_picture`."""
    return decode_picture(_content(file), str(file))


def read_pages(file: Path) -> Iterator[np.ndarray]:
    """RGB pixels [H, W, 3] uint8 of every page of a TIFF. Raises UserError, as :func:`decode_picture`."""
    from PIL import ImageSequence

    with _opened(io.BytesIO(_content(file)), str(file)) as picture:
        for number, page in enumerate(ImageSequence.Iterator(picture)):
            yield _pixels(page, f"page {number} of {file}")


def _content(file: Path) -> bytes:
    with reading(file, "picture", "mend the path"):
        return file.read_bytes()


@contextmanager
def _opened(data: io.BytesIO, what: str) -> Iterator[Image]:
    with needs("data"):
        from PIL import Image, UnidentifiedImageError
    big = f"{what} has more than {MOST_PIXELS // 10**6} million pixels: make it smaller"
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            picture = Image.open(data, formats=FORMATS)
        with picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise UserError(big)
            yield picture
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(big) from error
    except Exception as error:  # what a decoder raises on damaged bytes is not documented
        head = data.getvalue()[:8]
        if not head:
            raise UserError(f"{what} is empty: fetch it again") from error
        if isinstance(error, UnidentifiedImageError) and head.startswith(TIFFS):
            raise UserError(
                f"{what} is a TIFF whose pixels are of no kind that is read (floats? more than 8 bits?), or damaged: "
                "save it as RGB with 8 bits"
            ) from error
        if isinstance(error, UnidentifiedImageError) and not head.startswith(STARTS):
            kinds = ", ".join(FORMATS)
            raise UserError(f"{what} is no picture of a kind that is read ({kinds}): replace it") from error
        state = "cut off" if "truncated" in str(error).lower() else "damaged"
        raise UserError(f"{what} is a picture, but {state}: fetch it again") from error


def _pixels(page: Image, what: str) -> np.ndarray:
    from PIL import ImageOps

    depths = [str(tile.args[0] if isinstance(tile.args, tuple) else tile.args) for tile in page.tile]
    deepest = page.tile[0].args[1] if page.format == "PPM" and len(page.tile[0].args) > 1 else 0
    if page.mode[0] in "IF" or any(DEEP.match(depth) for depth in depths) or deepest > OPAQUE:
        raise UserError(f"{what} holds more than 8 bits a channel, or floats ('{page.mode}'): save it with 8 bits")
    if page.mode not in (*COLOURS, *VEILED):
        raise UserError(f"{what} holds colours of the kind '{page.mode}': save it as RGB")
    if page.mode == "CMYK" and page.info.get("icc_profile"):
        raise UserError(f"{what} holds inks (CMYK) whose look is in a profile: save it as RGB")
    page.load()
    if page.mode in VEILED or "transparency" in page.info:
        with warnings.catch_warnings(action="ignore"):  # a palette of more than one degree of transparency
            page = page.convert("RGBA")
        clear = np.asarray(page)[..., 3] < OPAQUE
        if clear.any():
            raise UserError(
                f"{what} is transparent in {clear.sum()} of {clear.size} pixels, and what was seen there is not known: "
                "save it over the background that was shown, without transparency"
            )
    return np.asarray(ImageOps.exif_transpose(page).convert("RGB"))
