"""What the doctor calls wrong, an importer refuses in the same words: both go through these checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py

from neurobridge.data.doctor import Finding
from neurobridge.data.guard import refuse_made_up
from neurobridge.data.importing import refuse_pointer
from neurobridge.errors import UserError
from neurobridge.errors import reading as guarded


@dataclass(frozen=True, kw_only=True)
class Check(Finding):
    """A finding; ``needed``: False where the importer can do without."""

    needed: bool = True


def refuse(checks: Iterable[Check]) -> None:
    """Raise UserError for the first check that is needed and not ok."""
    for check in checks:
        if check.needed and not check.ok:
            raise UserError(f"{check.file} ({check.key}): {check.found}; expected {check.expected}: {check.mend}")


def require(path: Path) -> Path:
    """``path`` itself. Raises UserError if its content is not there: no file, a pointer, a dangling link."""
    if not path.exists():
        if path.is_symlink():
            raise UserError(
                f"{path} is a git-annex link without its content: fetch it ('git annex get' or 'gin get-content') and "
                "import again"
            )
        raise UserError(f"no file at {path}: check the path, or download it")
    refuse_pointer(path)
    return path


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise UserError for content that is not there (see :func:`require`) and for whatever a damaged file does."""
    require(path)
    with guarded(path, "file", "it may be empty, truncated or of another kind; download it again"):
        yield


def unreadable(path: Path, error: UserError, *, needed: bool = True) -> Check:
    """The check for a file that :func:`reading` refused."""
    found, _, mend = str(error).removeprefix(f"{path} ").rpartition(": ")
    return Check(file=path, key="file", found=found, expected="a whole file", ok=False, mend=mend, needed=needed)


def check_dataset(
    path: Path, group: h5py.Group, key: str, axes: tuple[str | int, ...], *, mend: str, needed: bool = True
) -> Check:
    """Is ``group[key]`` a numeric array with these axes? A name is an axis of any length, a number one of that length.

    Says so where the axes come in reverse order.
    """
    expected = f"numbers ({', '.join(map(str, axes))})"
    found = group.get(key)
    if not isinstance(found, h5py.Dataset):
        what = "absent" if found is None else "a group"
        return Check(file=path, key=key, found=what, expected=expected, ok=False, mend=mend, needed=needed)
    ok = found.dtype.kind in "fiu" and _fits(found.shape, axes)
    text = f"{found.dtype} {found.shape}"
    try:
        refuse_made_up(found)
    except OSError as error:
        return Check(file=path, key=key, found=str(error), expected=expected, ok=False, mend=mend, needed=needed)
    if not ok and _fits(found.shape[::-1], axes):
        text += " (axes reversed)"
    return Check(file=path, key=key, found=text, expected=expected, ok=ok, mend="" if ok else mend, needed=needed)


def _fits(shape: tuple[int, ...], axes: tuple[str | int, ...]) -> bool:
    lengths = len(shape) == len(axes) and 0 not in shape
    return lengths and all(isinstance(axis, str) or axis == size for axis, size in zip(axes, shape, strict=True))
