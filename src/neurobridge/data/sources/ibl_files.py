"""Where the files of IBL sessions are: ``lab/Subjects/subject/DATE/NNN/alf/probeXX/<sorter>/#revision#/``.

Files are located by path: cache tables can be older than the files, and ids made on a local machine are not the real
ones. ONE's tables, where they lie in the folder, give a session's id.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from neurobridge.data.findings import reading

SESSION = re.compile(r"(?:^|/)([^/]+)/(\d{4}-\d{2}-\d{2})/(\d{1,3})$")
DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]/*"
PATTERNS = ("*/Subjects/*/" + DAY, "Subjects/*/" + DAY, "*/" + DAY, DAY, "*")
UUID = "[0-9a-f]" * 8 + "-*"
SPIKES = ("spikes.times.npy", "spikes.clusters.npy")
CLUSTERS = ("clusters.channels.npy", "clusters.metrics.pqt", "clusters.uuids.csv", "clusters.depths.npy")
LOCATIONS = "channels.brainLocationIds_ccf_2017.npy"
TABLES = ("sessions.pqt", "datasets.pqt")


@dataclass(frozen=True, kw_only=True)
class Session:
    """One session's folder; ``eid``: its id in ONE's tables, or ''."""

    path: Path
    eid: str = ""

    @property
    def parts(self) -> tuple[str, str, str]:
        """Subject, date, number."""
        match = SESSION.search(self.path.as_posix())
        assert match, "only session folders become sessions"
        return match.group(1), match.group(2), match.group(3)

    @property
    def name(self) -> str:
        return "_".join(self.parts)

    @property
    def lab(self) -> str:
        above = self.path.parents
        return above[3].name if len(above) > 3 and above[2].name == "Subjects" else ""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The chosen sorting of one probe; ``files``: name without revision -> path; absent ones are not in it."""

    name: str
    folder: Path
    sorter: str
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def revisions(self) -> str:
        """Revisions of the files, such as '2024-05-06'; 'none' for files without one."""
        found = {revision_of(file) or "none" for file in self.files.values()}
        return " and ".join(sorted(found))


def revision_of(file: Path) -> str:
    """Revision of a file, '' if it has none."""
    return file.parent.name.strip("#") if file.parent.name.startswith("#") else ""


def find_sessions(path: Path) -> list[Session]:
    """The sessions under a folder (ONE's cache, a lab's, a subject's, a session), or the one that holds ``path``.

    Raises UserError for cache tables that cannot be read.
    """
    path = path.absolute()
    inside = [p for p in (path, *path.parents) if SESSION.search(p.as_posix()) and (p / "alf").is_dir()][:1]
    below = {p for pattern in PATTERNS for p in _glob(path, pattern) if SESSION.search(p.as_posix())}
    folders = inside or sorted(p for p in below if (p / "alf").is_dir())
    root = next((p for p in (path, *path.parents) if all((p / name).is_file() for name in TABLES)), None)
    eids = read_eids(root, folders) if root and folders else {}
    return [Session(path=p, eid=eids.get(p, "")) for p in folders]


def holds_sessions(path: Path) -> bool:
    """Is there a session at, above or under ``path``? Looks at folder names only."""
    above = any(
        SESSION.search(p.as_posix()) and (p / "alf").is_dir() for p in (path.absolute(), *path.absolute().parents)
    )
    below = (p for pattern in PATTERNS for p in _glob(path.absolute(), f"{pattern}/alf"))
    return above or any(SESSION.search(p.parent.as_posix()) for p in below)


def read_eids(root: Path, folders: Sequence[Path]) -> dict[Path, str]:
    """Session folder -> id, as far as ONE's cache tables in ``root`` know it. Raises UserError for broken tables."""
    from one.api import One

    with reading_table(root / TABLES[0]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = One(cache_dir=root, mode="local")
        found = {folder: one.path2eid(folder) for folder in folders}
    return {folder: str(eid) for folder, eid in found.items() if eid}


@contextmanager
def reading_table(path: Path) -> Iterator[None]:
    """As :func:`findings.reading`, for what pyarrow raises too."""
    from pyarrow import ArrowException

    with reading(path):
        try:
            yield
        except ArrowException as error:
            raise ValueError(str(error)) from error


def find_probes(session: Session, sorters: Sequence[str], until: str = "") -> list[Probe]:
    """The probes with a sorting: of ``sorters`` the first that has spikes, else the probe's own folder.

    until: newest revision to take; '' is the newest there is. As with ONE, each file comes from the newest revision
    that has it: a revision's folder holds only what has changed.
    """
    found = []
    for folder in sorted((session.path / "alf").glob("probe*")):
        bases = [base for base in (*(folder / sorter for sorter in sorters), folder) if _is_sorting(base, until)]
        whole = [base for base in bases if all(newest(base, name, until) for name in SPIKES)]
        if bases:
            base = (whole or bases)[0]
            files = {name: newest(base, name, until) for name in (*SPIKES, *CLUSTERS, LOCATIONS)}
            files[LOCATIONS] = files[LOCATIONS] or newest(folder, LOCATIONS, until)
            here = {name: file for name, file in files.items() if file}
            sorter = base.name if base != folder else "no sorter named"
            found.append(Probe(name=folder.name, folder=base, sorter=sorter, files=here))
    return found


def newest(folder: Path, name: str, until: str = "") -> Path | None:
    """The file ``name`` of the newest revision that has it (no revision counts as the oldest); None if none has."""
    files = [_file(place, name) for place in _places(folder, until)]
    return next((file for file in reversed(files) if file), None)


def _places(folder: Path, until: str) -> list[Path]:
    """The folder itself and its revisions, oldest first."""
    revisions = [p for p in sorted(folder.glob("#*#")) if p.is_dir()]
    return [folder, *(p for p in revisions if not until or p.name.strip("#") <= until)]


def _is_sorting(base: Path, until: str) -> bool:
    """Is there any file of a sorting, whole or not?"""
    names = (file.name for place in _places(base, until) for file in place.glob("[sc][pl]*.*"))
    return any(name.startswith(("spikes.", "clusters.")) for name in names)


def _file(place: Path, name: str) -> Path | None:
    """``name`` in ``place``, with or without a UUID before its suffix."""
    if (place / name).exists() or (place / name).is_symlink():
        return place / name
    stem, suffix = name.rsplit(".", 1)
    return next(iter(sorted(place.glob(f"{stem}.{UUID}.{suffix}"))), None)


def _glob(path: Path, pattern: str) -> Iterator[Path]:
    return (p for p in path.glob(pattern) if p.is_dir())
