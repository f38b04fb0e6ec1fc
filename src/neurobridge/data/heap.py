"""Whether the text in an HDF5 file can be read at all: at a hole in a heap of text the HDF5 library loops for ever.

A download that broke off and went on elsewhere leaves such holes, zeros in the middle of a file. Layout: HDF5 File
Format Specification 3.0, section III.E (global heap).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

MOST = 256 * 2**20
SIGNATURE = b"GCOL"
HEADER, OBJECT = struct.Struct("<4sB3sQ"), struct.Struct("<H6xQ")


def text_can_be_read(path: Path) -> bool:
    """False if reading some text of the file would never end. Other damage is left to h5py, which raises.

    Files above :data:`MOST` bytes are taken on trust, for a look at every heap takes a look at every byte.
    """
    if not 0 < path.stat().st_size <= MOST:
        return True
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return all(_ends(content, start, stop) for start, stop in _heaps(content))


def _heaps(content: mmap.mmap) -> Iterator[tuple[int, int]]:
    """(first byte, end) of every heap of text."""
    at = content.find(SIGNATURE)
    while at >= 0:
        if at + HEADER.size <= len(content):
            _, version, reserved, size = HEADER.unpack_from(content, at)
            if at % 8 == 0 and version == 1 and reserved == b"\0\0\0":
                yield at, min(at + size, len(content))
        at = content.find(SIGNATURE, at + 1)


def _ends(content: mmap.mmap, start: int, stop: int) -> bool:
    """Whether a walk over the objects of a heap comes to an end: free space (index 0) of no length is no step."""
    at = start + HEADER.size
    while at + OBJECT.size <= stop:
        index, length = OBJECT.unpack_from(content, at)
        step = OBJECT.size + (length + 7) // 8 * 8 if index else length
        if step == 0:
            return False
        at += step
    return True
