"""Small files that a run lives by: JSON that carries its checksum, and texts in two copies, one of which is hidden."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from neurobridge.errors import UserError, atomic_path, helping

SEAL = "sha256"
T = TypeVar("T")


def sealed_json(facts: dict[str, Any]) -> str:
    """``facts`` as JSON, with a checksum under 'sha256'."""
    plain = {name: value for name, value in facts.items() if name != SEAL}
    return json.dumps(plain | {SEAL: checksum(plain)}, indent=1)


def unsealed_json(text: str) -> dict[str, Any]:
    """What :func:`sealed_json` wrote; an earlier version wrote no checksum. Raises ValueError for anything else."""
    facts = json.loads(text)
    if not isinstance(facts, dict):
        raise ValueError("it holds no facts")
    seal = facts.pop(SEAL, None)
    if seal is not None and seal != checksum(facts):
        raise ValueError("its checksum does not fit")
    return facts


def checksum(facts: dict[str, Any]) -> str:
    """SHA-256 of ``facts`` as JSON in one spelling."""
    return sha256(json.dumps(json.loads(json.dumps(facts)), sort_keys=True).encode()).hexdigest()


def write_twice(path: Path, text: str) -> None:
    """Write ``text`` at ``path`` and beside it, hidden, for :func:`read_twice`."""
    for place in (hidden(path), path):
        with atomic_path(place) as temporary:
            temporary.write_text(text, encoding="utf-8")


def read_twice(path: Path, parse: Callable[[str], T]) -> T | None:
    """What ``path`` says, as ``parse`` reads it; if it is gone or spoilt its copy says it, and makes it again.

    None where there is neither. ``parse`` raises ValueError. Raises UserError where no copy is sound.
    """
    reasons = []
    for place in (path, hidden(path)):
        try:
            text = place.read_text(encoding="utf-8")
            if place == path and cut_off(text, hidden(path)):
                raise ValueError("it is cut off")
            found = parse(text)
        except FileNotFoundError:
            reasons.append("it is gone")
            continue
        except ValueError as error:
            reasons.append((str(error).strip().splitlines() or ["it is empty"])[0][:200])
            continue
        if reasons and not helping():
            print(f"neurobridge: {path} is spoilt ({reasons[0]}): it is made again from its copy", file=sys.stderr)
            write_twice(path, text)
        return found
    if reasons == ["it is gone", "it is gone"]:
        return None
    raise UserError(f"{path} is spoilt ({reasons[0]}), and so is its copy: mend it, or choose another --out")


def cut_off(text: str, copy: Path) -> bool:
    """Whether ``text`` is the beginning of what lies at ``copy``, and not all of it."""
    whole = copy.read_bytes() if copy.is_file() else b""
    return whole.startswith(text.encode()) and len(whole) > len(text.encode())


def keep_copy(path: Path) -> None:
    """Keep what ``path`` holds now in its hidden copy, with a checksum, for :func:`mend_from_copy`."""
    if path.is_file():
        content = path.read_bytes()
        with atomic_path(hidden(path)) as temporary:
            temporary.write_bytes(content + sha256(content).digest())


def mend_from_copy(path: Path) -> None:
    """Make a file again that no longer begins with what :func:`keep_copy` kept; it may have grown since."""
    kept = hidden(path).read_bytes() if hidden(path).is_file() else b""
    content, seal = kept[:-32], kept[-32:]
    if sha256(content).digest() != seal or (path.is_file() and path.read_bytes().startswith(content)):
        return
    print(f"neurobridge: {path} is not what the last stage left: it is made again from its copy", file=sys.stderr)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def hidden(path: Path) -> Path:
    """Where the copy of ``path`` lies."""
    return path.with_name(f".{path.name}")
