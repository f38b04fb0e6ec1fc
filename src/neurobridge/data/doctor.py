"""What a raw file holds, beside what its reader expects: the first thing to run on a real file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from neurobridge.errors import UserError, reading

READERS = (
    "neurobridge.data.sources.allen",
    "neurobridge.data.sources.nlb",
    "neurobridge.data.sources.tvsd",
    "neurobridge.data.sources.ibl",
    "neurobridge.data.sources.v4",
    "neurobridge.data.sources.retina",
    "neurobridge.data.sources.lab",
    "neurobridge.data.ours",
)  # modules with recognises(path) and examine(path)
SCANNED = 2**30
TABLES = (".csv", ".tsv", ".parquet", ".npz", ".npy", ".mat", ".nwb")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that a reader needs: where it was looked for, what was found, what was expected, and the mend."""

    file: Path
    key: str
    found: str
    expected: str
    ok: bool
    mend: str = ""


def examine_path(path: Path | str, readers: Sequence[str] | None = None) -> list[Finding]:
    """What each reader that recognises ``path`` finds there, every key it needs with its mend; never empty.

    A file that is missing, a pointer, damaged, or that nobody recognises is a finding too, not an error. A reader whose
    library is not installed is named.
    """
    path = Path(path)
    if not path.exists():
        return [_finding(path, "file", "nothing", "a file or folder", "check the path")]
    try:
        if path.is_file():
            _refuse_damaged(path)
    except UserError as error:
        return [_finding(path, "file", "refused", "a whole file", str(error))]
    findings, absent = [], []
    for name in READERS if readers is None else readers:
        try:
            reader = import_module(name)
            if not reader.recognises(path):
                continue
            findings.append(_finding(path, "reader", name.rpartition(".")[2], "one that recognises it"))
            with reading(path, f"input of {name}"):
                findings += reader.examine(path)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("neurobridge"):
                raise
            absent.append(f"{name.rpartition('.')[2]} (needs {error.name})")
        except UserError as error:
            findings.append(_finding(path, "file", "refused", "what the reader can examine", str(error)))
    return findings or [_unrecognised(path, absent)]


def _refuse_damaged(path: Path) -> None:
    """Raise UserError for a pointer, an empty file, and an HDF5 file that cannot be opened or would never be read."""
    import h5py

    from neurobridge.data.guard import refuse_endless_heap
    from neurobridge.data.importing import refuse_pointer

    refuse_pointer(path)
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty: fetch it again")
    with path.open("rb") as file:
        signed = b"\x89HDF\r\n\x1a\n" in file.read(4096)
    if signed:
        with reading(path, "HDF5 file"):
            if path.stat().st_size <= SCANNED:
                refuse_endless_heap(path)
            with h5py.File(path, "r"):
                pass


def _unrecognised(path: Path, absent: Sequence[str]) -> Finding:
    if path.is_dir():
        names = sorted(child.name for child in path.iterdir())
        found = f"a folder of {len(names)}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
    else:
        found = f"a file of {path.stat().st_size} bytes"
    mend = "give the folder that the release's own download makes"
    sorted_folder = path.is_dir() and (path / "spike_times.npy").is_file()  # phy's
    if path.suffix.lower() in TABLES or sorted_folder:
        mend = "for a lab's own files write a manifest (docs/data-format.md; --manifest NEW.yaml drafts one), give that"
    if absent:
        mend += f"; not asked, for want of a library: {', '.join(absent)} (pip install 'neurobridge[data]')"
    return _finding(path, "reader", found, "something that a reader recognises", mend)


def _finding(path: Path, key: str, found: str, expected: str, mend: str = "") -> Finding:
    return Finding(file=path, key=key, found=found, expected=expected, ok=not mend, mend=mend)
