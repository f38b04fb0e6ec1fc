"""A lab's own recordings, declared by a manifest (docs/data-format.md): nothing is guessed.

A manifest is a YAML file for one session. It names the tables (CSV, Parquet, NPZ, MATLAB, NWB, a saved pynapple TsGroup
or SpikeInterface sorting) and says what cannot be seen in them: time unit, index base, signal kind, the regions in use,
how the splits are made. What cannot be right ends in a sentence with the file, the row and the mend.
"""

from __future__ import annotations

import itertools
from importlib.metadata import version
from pathlib import Path

from rich.progress import Progress

from neurobridge.data.importing import add_images, file_hash, is_there, signature, write_session
from neurobridge.data.quality import QualitySettings, select_units
from neurobridge.data.sessions import Identity, locked
from neurobridge.data.sources.lab.containers import SORTING_ARCHIVE, SORTING_FILES
from neurobridge.data.sources.lab.examination import examine, recognises
from neurobridge.data.sources.lab.manifest import Manifest, Table, manifests_of, read_manifest, resolve
from neurobridge.data.sources.lab.phy import phy_files
from neurobridge.data.sources.lab.session import Session, build
from neurobridge.data.sources.lab.splits import Splits
from neurobridge.data.sources.lab.tsgroup import recording_from_tsgroup
from neurobridge.errors import UserError

__all__ = ["examine", "import_lab", "recognises", "recording_from_tsgroup"]

LIBRARIES = {"csv": "pandas", "parquet": "pyarrow", "npz": "numpy", "mat": "h5py", "nwb": "h5py"}


def import_lab(path: Path, out: Path = Path("data/lab"), *, quality: QualitySettings = QualitySettings()) -> Path:
    """Import the sessions that manifests declare into a data folder.

    Sessions already written from the same bytes with the same thresholds are skipped.

    Args:
        path: A manifest (.yaml), or a folder of manifests, one a session.
        out: Data folder to write.
        quality: Thresholds of unit quality.

    Raises:
        UserError: The manifest or a file it names cannot be right; the sentence has the file, the row and the mend.
    """
    path, out = Path(path), Path(out)
    manifests = {_identity(m): m for m in (read_manifest(file) for file in reversed(manifests_of(path)))}
    for file in manifests_of(path):
        identity = _identity(read_manifest(file))
        if manifests[identity].file != file:
            raise UserError(f"{manifests[identity].file} and {file} both declare session '{identity}': rename one")
    marks = {identity: signature(_files(m), quality=quality) for identity, m in manifests.items()}
    pending = [identity for identity in manifests if not is_there(out, identity, marks[identity])]
    splits = Splits(out, skip=pending)
    with Progress(transient=True) as progress:
        for identity in progress.track(pending, description="sessions"):
            m = manifests[identity]
            session = build(m)
            _write(m, session, out, quality, marks[identity], splits)
    return out


def _identity(m: Manifest) -> Identity:
    return Identity(m.dataset, m.subject, m.session_id)


def _write(m: Manifest, session: Session, out: Path, quality: QualitySettings, mark: str, splits: Splits) -> None:
    session.recording.provenance |= _provenance(m, mark)
    try:
        recording = select_units(session.recording, quality)
    except UserError as error:
        raise UserError(f"{m.file}: {error}") from error
    with locked(out):  # an import beside this one may give a picture another split
        if m.stimuli is not None:
            splits.refuse_other(recording, resolve(m, m.stimuli.path))
        if session.pictures:
            labels = {name: [of[key] for key in session.pictures] for name, of in session.labels.items()}
            add_images(out, session.pictures.values(), labels)
        write_session(recording, out)


def _provenance(m: Manifest, mark: str) -> dict[str, str]:
    tables = {"spikes": m.spikes, "units": m.units, "stimuli": m.stimuli, **m.behaviour}
    files = {name: _content(m, table)[0] for name, table in tables.items() if table is not None}
    used = sorted({LIBRARIES.get(table.format, "numpy") for table in tables.values() if table is not None})
    rule = {None: "no stimuli", "column": "the stimulus table's own"}
    return {
        "source": f"a lab's own files, declared by {m.file.name}",
        "manifest_hash": file_hash(m.file),
        **{f"{name}_hash": f"{file.name} {file_hash(file)}" for name, file in files.items()},
        "reader": "lab; " + ", ".join(f"{name} {version(name)}" for name in used),
        "session_date": m.session_date.isoformat(),
        "time": f"{m.time_unit}, index base {m.index_base}",
        "split": rule.get(m.split, f"sha1 of seed {m.split_seed} and {m.split}"),
        "signature": mark,
    }


def _content(m: Manifest, table: Table) -> list[Path]:
    """The files that hold a table's bytes: itself, or those of a folder that phy or SpikeInterface saved."""
    path = resolve(m, table.path)
    if not path.exists():
        raise UserError(f"no file at {path}, which a manifest names: mend the path")
    if table.format == "phy":
        return phy_files(path)
    if path.is_file():
        return [path]
    found = [file for file in (path / name for name in (*SORTING_FILES, SORTING_ARCHIVE)) if file.is_file()]
    found = found or sorted(path.rglob("*.parquet"))
    if not found:
        sorting = ", ".join(SORTING_FILES)
        raise UserError(f"{path} is a folder without a saved sorting ({sorting}) or Parquet files: mend the path")
    return found


def _files(m: Manifest) -> list[Path]:
    """Every file that a session is made from, its pictures included."""
    tables = [table for table in (m.spikes, m.units, m.stimuli, *m.behaviour.values()) if table is not None]
    files = [m.file, *itertools.chain.from_iterable(_content(m, table) for table in tables)]
    if m.image_root is not None and resolve(m, m.image_root).is_dir():
        files += sorted(file for file in resolve(m, m.image_root).rglob("*") if file.is_file())
    return files
