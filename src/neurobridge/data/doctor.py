"""What a raw file holds, beside what its reader expects: the first thing to run on a real file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that a reader needs: where it was looked for, what was found, what was expected, and the mend."""

    file: Path
    key: str
    found: str
    expected: str
    ok: bool
    mend: str = ""
