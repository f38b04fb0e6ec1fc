"""The one exception for mistakes that a user can mend: printed as a sentence, exit code 2, never a traceback."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CAUSES = {  # words of a library: what the file is
    "truncated file: eof": "is cut off, an HDF5 file without its end",
    "file signature not found": "is no HDF5 file, but of another kind",
    "mmap length is greater than file size": "is cut off, an array without its end",
    "Failed to read all data for array": "is cut off, an array without its end",
    "EOF: reading": "is cut off, an array without its end",
    "it ends inside an array": "is cut off, a MATLAB file without its end",
    "contains pickled (object) data": "is no .npy array, but of another kind",
}


class UserError(ValueError):
    """Bad input. The message is one sentence: what was found, where, and what to do next."""


def printable(text: str) -> str:
    """``text`` for a terminal: control characters, which may move its cursor or hide a line, as ``\\x1b``."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class Packed(OSError):
    """A part of a file that was compressed in a way that is not known here; the message says which and how."""


class Absent(OSError):
    """A part of a file that a library would make up, silently; the message says which part and what became of it."""


_helps_with: Path | None = None


def help_with(folder: Path) -> None:
    """From now on this process helps another one with the run in ``folder``: it computes, and writes nothing there."""
    global _helps_with
    _helps_with = folder.resolve()


def helping() -> bool:
    """Whether this process helps another one that speaks and writes (``--devices 2``)."""
    return _helps_with is not None


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` on success, delete it on any failure.

    Nothing half-written is ever visible under the final name. A full disk becomes a :class:`UserError`. What a process
    that helps another one writes into their run is thrown away.
    """
    path = Path(path)
    if _helps_with is not None and path.resolve().is_relative_to(_helps_with):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / path.name
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(name, 0o666 & ~mask)
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            raise UserError(
                f"the disk that holds {path.parent} is full: free some space or choose another --out"
            ) from error
        raise


@contextmanager
def reading(path: Path | str, what: str, mend: str = "it may be empty or truncated; fetch it again") -> Iterator[None]:
    """Whatever a parser raises on a broken file becomes one :class:`UserError`: ``path`` is not a readable ``what``.

    Parsers promise little about what a flipped bit makes them raise, so keep nothing but their calls inside. A cause
    that :func:`why` knows has a sentence of its own.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        empty = os.path.isfile(path) and os.path.getsize(path) == 0
        found, other = ("is empty", "") if empty else why(error)
        if found:
            raise UserError(f"{path} {found}: {other or mend.rpartition('; ')[2]}") from error
        raise UserError(f"{path} is not a readable {what} ({lines[0][:200]}): {mend}") from error


def why(error: BaseException) -> tuple[str, str]:
    """What a file "is ..." where an error tells it, and the mend where fetching it again is none; else empty."""
    text = str(error)
    if isinstance(error, BlockingIOError) or "unable to lock file" in text:
        return "is locked by another program that writes it", "wait until that is done, or close the file there"
    if isinstance(error, Absent):
        return f"is not whole: {text}", "write or fetch that part"
    if isinstance(error, Packed):
        return f"is {text}", "write it again with gzip, or without compression"
    if isinstance(error, PermissionError):
        return "is closed to you (permission denied)", "change its permissions"
    if isinstance(error, IsADirectoryError):
        return "is a folder, expected a file", "mend the path"
    if isinstance(error, UnicodeDecodeError):
        found = f"is not {error.encoding.upper()} text (byte {error.object[error.start]:#x})"
        return found, "save it as UTF-8, or mend the path"
    if isinstance(error, MemoryError):
        return "is larger than the memory that is free", "split it or, if it is damaged, fetch it again"
    if "Object arrays cannot be loaded" in text or "Python objects in dtype" in text:
        return "is an array of Python objects (lists of unequal length?)", "save numbers or text, one entry a row"
    return next(((found, "") for words, found in CAUSES.items() if words in text), ("", ""))


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """A library that is not installed becomes a :class:`UserError` that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"this needs the library {error.name}: pip install 'neurobridge[{extra}]'") from error


def is_disk_full(error: BaseException | None) -> bool:
    """True if ``error``, or what caused it, says that the device, the quota or the largest allowed file is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if any(text in str(error) for text in ("No space left on device", "File too large")):
            return True  # some libraries tell it in words alone
        error = error.__cause__ or error.__context__
    return False
