"""Files of our own on disk, and torch_brain's: recognised and examined like any source (docs/data-format.md)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py

from neurobridge.data.doctor import Finding
from neurobridge.data.guard import open_hdf5
from neurobridge.data.images import ImageSet
from neurobridge.data.recording import read_recording
from neurobridge.errors import UserError, reading


class Key(NamedTuple):
    """A data set: its name, the dtype kinds it may have, its number of dimensions (0: any), and what it should be."""

    name: str
    kinds: str
    dimensions: int
    expected: str
    must: bool = False


RECORDING = (
    Key("spikes/timestamps", "f", 1, "float64 [S], s, ascending", True),
    Key("spikes/unit_index", "iu", 1, "int64 [S], row of the unit table from 0", True),
    Key("spikes/value", "f", 1, "float32 [S], for binned_count and mua_envelope only"),
    Key("units/id", "SO", 1, "text [N], unique", True),
    Key("units/brain_region", "SO", 1, "text [N]; without it every region is unknown"),
    Key("domain/start", "f", 1, "float64, s; without it: from the first spike"),
    Key("domain/end", "f", 1, "float64, s; without it: to the last spike"),
)
STIMULI = (
    Key("stimuli/start", "fiu", 1, "float64 [P], s", True),
    Key("stimuli/end", "fiu", 1, "float64 [P], s", True),
    Key("stimuli/image_id", "SO", 1, "text [P], content hash or empty", True),
    Key("stimuli/repeat", "iu", 1, "int64 [P], from 0; without it: 0"),
    Key("stimuli/split", "SO", 1, "text [P], train, valid, test or none; without it: train"),
    Key("stimuli/valid", "b", 1, "bool [P]; without it: true"),
)
IMAGES = (
    Key("ids", "SO", 1, "text [I], content hashes", True),
    Key("pixels", "u", 4, "uint8 [I, H, W, 3]", True),
)
ATTRIBUTES = (
    ("session", "id", "text; without it: the file's name"),
    ("session", "signal_kind", "sorted, threshold_crossing, binned_count or mua_envelope; without it: sorted"),
    ("subject", "id", "text; without it: unknown"),
    ("brainset", "id", "text; without it: unknown"),
)


def recognises(path: Path) -> bool:
    """True for a session file, an image set, or a data folder. Never raises."""
    path = Path(path)
    try:
        if path.is_dir():
            return (path / "images.h5").is_file() or any((path / "sessions").glob("*.h5"))
        if not h5py.is_hdf5(path):
            return False
        with open_hdf5(path) as file:
            return _is_recording(file) or _is_image_set(file)
    except Exception:  # recognising is a question; examining a damaged file says what is wrong with it
        return False


def examine(path: Path) -> list[Finding]:
    """Every key of a file of ours: shape, type and what is missing; of a folder, what is wrong in each file."""
    path = Path(path)
    if path.is_dir():
        files = [*sorted((path / "sessions").glob("*.h5")), *path.glob("images.h5")]
        return [finding for file in files for finding in _brief(list(_examine(file)))]
    return list(_examine(path))


def _is_recording(file: h5py.File) -> bool:
    return "nwb_version" not in file.attrs and any(f"{name}" in file for name in ("spikes/timestamps", "units/id"))


def _is_image_set(file: h5py.File) -> bool:
    return "ids" in file and "pixels" in file


def _brief(findings: list[Finding]) -> list[Finding]:
    """What is not ok; if all is, the last line alone."""
    return [finding for finding in findings if not finding.ok] or findings[-1:]


def _examine(path: Path) -> Iterator[Finding]:
    images = False
    try:
        found = []
        with reading(path, "HDF5 file"), open_hdf5(path) as file:
            images = _is_image_set(file)
            keys = IMAGES if images else (*RECORDING, *(STIMULI if "stimuli" in file else ()))
            found += [_examine_key(path, file, key) for key in keys]
            if not images:
                found += [_examine_attribute(path, file, *attribute) for attribute in ATTRIBUTES]
        yield from found
        if images:
            content = f"{len(ImageSet.read(path))} pictures"
        else:
            r = read_recording(path)
            content = f"{r.signal_kind}, {len(r.unit_ids)} units, {len(r.spike_times)} events"
            content += "" if r.stimuli is None else f", {len(r.stimuli)} presentations"
        yield Finding(file=path, key="contents", found=content, expected="what can be read", ok=True)
    except UserError as error:
        yield Finding(
            file=path, key="contents", found="refused", expected="what can be read", ok=False, mend=str(error)
        )


def _examine_key(path: Path, file: h5py.File, key: Key) -> Finding:
    item = file.get(key.name)
    if item is None:
        mend = "import the session again, or write it with write_recording" if key.must else ""
        found, ok = "nothing", not key.must
    elif not isinstance(item, h5py.Dataset):
        found, ok, mend = type(item).__name__.lower(), False, "a data set has to be there: import it again"
    else:
        text = h5py.check_string_dtype(item.dtype) is not None
        found = f"{'text' if text else item.dtype} {list(item.shape or ())}"
        ok = ("S" in key.kinds if text else item.dtype.kind in key.kinds) and item.ndim == key.dimensions
        mend = "" if ok else f"write it as {key.expected.split(',')[0]}, or import it again"
    return Finding(file=path, key=key.name, found=found, expected=key.expected, ok=ok, mend=mend)


def _examine_attribute(path: Path, file: h5py.File, group: str, name: str, expected: str) -> Finding:
    value = file[group].attrs.get(name) if group in file else None
    found = "nothing" if value is None else value.decode() if isinstance(value, bytes) else str(value)
    return Finding(file=path, key=f"{group}.{name}", found=found, expected=expected, ok=True)
