"""Which file of a data folder holds which session, and the lock under which a folder is written to.

A session is (dataset, subject, session). Its file is called after the session; where another subject or data set has a
session of that name already, the subject, and then the data set too, come before it. Nothing is written over another's.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

import h5py

from neurobridge.data.hdf5 import read_text
from neurobridge.errors import UserError, reading

LOCK = ".lock"
LONGEST = 200  # of a file's name, which may have 255 bytes
_here = threading.local()


class Identity(NamedTuple):
    """What tells a session from all others."""

    dataset: str
    subject: str
    session: str

    def __str__(self) -> str:
        return "/".join(self)


def session_files(folder: Path | str) -> dict[str, Path]:
    """Name -> file of every session of a data folder, in alphabetical order. Raises UserError if there is none."""
    files = sorted((Path(folder) / "sessions").glob("*.h5"))
    if not files:
        raise UserError(
            f"no sessions under {Path(folder) / 'sessions'}: simulate or import a data set first "
            "('neurobridge data --help')"
        )
    return {file.stem: file for file in files}


def identity_of(path: Path) -> Identity:
    """Whose session a file holds, from its attributes alone. Raises UserError for a file that cannot be read."""
    with reading(path, "HDF5 recording", "import it again"), h5py.File(path, "r") as file:
        return Identity(
            read_text(file, "brainset", "id", "unknown"),
            read_text(file, "subject", "id", "unknown"),
            read_text(file, "session", "id", path.stem),
        )


def file_of(out: Path, identity: Identity) -> Path:
    """Where ``identity`` lies in ``out``, or would be written. A damaged file under its name may be replaced.

    Raises UserError where sessions of others have every name that it could have.
    """
    long = max(identity, key=lambda part: len(part.encode()))
    if len("_".join(identity).encode()) > LONGEST:
        raise UserError(
            f"{identity.session[:40]}... cannot name a file: with data set and subject it has "
            f"{len('_'.join(identity).encode())} bytes, and at most {LONGEST} fit; shorten '{long[:40]}...'"
        )
    free = None
    for parts in (identity[2:], identity[1:], identity):
        name = "_".join(re.sub(r"[^\w.+-]+", "-", part) for part in parts)
        path = Path(out) / "sessions" / f"{name}.h5"
        try:
            there = identity_of(path) if path.is_file() else None
        except UserError:
            there = None
        if there == identity:
            return path
        if there is None and free is None:
            free = path
    if free is None:
        raise UserError(f"{out} holds other sessions under every name for {identity}: import it into another folder")
    return free


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """One writer at a time in the data folder ``out``, over all processes; a second one waits, and says so.

    Readers need no lock: every file is written beside its place and renamed when whole. A thread may lock again what
    it has locked. Raises UserError where the file system has no locks.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    held: set[Path] = _here.__dict__.setdefault("held", set())
    key = out.resolve()
    if key in held:
        yield
        return
    file = _take(out / LOCK)
    held.add(key)
    try:
        yield
    finally:
        held.remove(key)
        (out / LOCK).unlink(
            missing_ok=True
        )  # before it is let go: whoever waited for it sees that it is gone and makes another
        file.close()


def _take(path: Path) -> TextIO:
    """The lock file at ``path``, made and locked."""
    said = False
    try:
        while True:
            file = path.open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not said:
                    print(f"{path.parent}: waiting for another import", file=sys.stderr)
                    said = True
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    return file
            except FileNotFoundError:  # whoever had it has taken it away: make another
                pass
            file.close()
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be locked ({error.strerror}): choose an --out that can be written to, on another "
            "disk, for without a lock two imports at once would lose pictures"
        ) from error
