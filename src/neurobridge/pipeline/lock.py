"""One process a run folder: a second one that would write there is refused. The lock goes with the process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from neurobridge.errors import UserError

NAME = "lock"
_held: dict[Path, IO[str]] = {}  # until this process ends, however it does


def lock(folder: Path) -> None:
    """Take the folder, which is made if need be, for this process. Raises UserError if another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / NAME
    held = _held.get(path)
    if held is not None and path.exists() and os.fstat(held.fileno()).st_ino == path.stat().st_ino:
        return
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise UserError(
            f"{folder} is in use by another run (process {owner}): wait until it is done, or choose another --out"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _held[path] = file
