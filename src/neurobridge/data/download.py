"""Files over HTTP that may be large and connections that may break: resumed, checked, renamed when whole."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from neurobridge import __version__
from neurobridge.errors import UserError

BLOCK = 2**20
PART = 64 * 2**20  # DANDI's e-tag is the MD5 of the MD5s of parts of this size
MOST_PARTS = 10_000
TIMEOUT = 60.0
AGAIN = (408, 425, 429, 500, 502, 503, 504)
MOST_JSON, MOST_SIZE, MOST_NAME = 64 * 2**20, 2**50, 200
BROKEN = (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException)  # the network, not the disk


@dataclass(frozen=True, kw_only=True)
class Item:
    """One file to fetch: where from, where to (relative, with '/'), size in bytes and checksum, where these are known.

    checksum: 'sha256:HEX', 'md5:HEX', 'dandi-etag:HEX-PARTS' or 'git-blob:HEX'.
    """

    url: str
    path: str
    size: int | None = None
    checksum: str = ""


def fetch(items: Sequence[Item], out: Path, *, list_only: bool = False, retries: int = 8, pause: float = 1.0) -> None:
    """Fetch ``items`` into the folder ``out``: what is there is left, what was begun goes on, what is whole is renamed.

    Says the size before. list_only: says no more than that. retries: failures in a row without a new byte until it
    gives up; pause: seconds after the first one, doubled each time. Raises UserError where a file cannot be had, is not
    what its checksum says, or does not fit on the disk.
    """
    console = Console(highlight=False)
    places = [_place(item, out) for item in items]
    twice = {place for place, count in Counter(places).items() if count > 1}
    twice |= set(places) & {folder for place in places for folder in place.parents}
    if twice:
        raise UserError(f"the server names {min(twice)} more than once, or as a folder too: nothing was fetched")
    missing = [(item, place) for item, place in zip(items, places, strict=True) if not _is_there(item, place)]
    wanted = sum(item.size or 0 for item, _ in missing)
    begun = sum(_part(place).stat().st_size for _, place in missing if _part(place).is_file())
    unknown = sum(item.size is None for item, _ in missing)
    say = f"{len(missing)} of {len(items)} files to fetch into {out}: {decimal(wanted)}"
    say += f", and {unknown} of unknown size" if unknown else ""
    console.print(say + (f"; {decimal(begun)} of it is here" if begun else ""), markup=False, soft_wrap=True)
    if list_only:
        for item in items:
            size = "?" if item.size is None else decimal(item.size)
            console.print(f"{size:>10s}  {item.path}", markup=False, soft_wrap=True)
        return
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    if wanted - begun > free:
        raise UserError(
            f"{out} has {decimal(free)} free, the files need {decimal(wanted - begun)}: choose another --out, or fetch "
            "fewer sessions"
        )
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        for item, place in missing:
            _fetch_one(item, place, progress, retries=retries, pause=pause)


def get_json(url: str, *, retries: int = 8, pause: float = 1.0) -> dict:
    """The object that an API answers. Raises UserError where it does not answer, or not with one of bearable size."""
    failures = 0
    while True:
        try:
            with _open(url) as answer:
                content = answer.read(MOST_JSON + 1)
            if len(content) > MOST_JSON:
                raise UserError(f"{url} answers with more than {decimal(MOST_JSON)}: is the address right?")
            found = json.loads(content)
            if isinstance(found, dict):
                return found
            raise UserError(f"{url} answers with JSON, but not with an object: is the address right?")
        except UserError:
            raise
        except (ValueError, RecursionError) as error:
            raise UserError(f"{url} does not answer with JSON: is the address right?") from error
        except (OSError, http.client.HTTPException) as error:
            failures += 1
            _wait_or_give_up(error, url, failures, retries=retries, pause=pause)


def checksum_of(path: Path, kind: str) -> str:
    """Checksum of a file in the notation of :class:`Item`: sha256, md5, dandi-etag or git-blob."""
    size = path.stat().st_size
    if kind == "dandi-etag":
        part = PART if -(-size // PART) < MOST_PARTS else -(-size // MOST_PARTS)
        with path.open("rb") as file:
            parts = [_digest(hashlib.md5(), _blocks(file, part)).digest() for _ in range(-(-size // part))]
        return f"dandi-etag:{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"
    digest = {"sha256": hashlib.sha256, "md5": hashlib.md5, "git-blob": hashlib.sha1}[kind]()
    if kind == "git-blob":
        digest.update(b"blob %d\0" % size)
    with path.open("rb") as file:
        return f"{kind}:{_digest(digest, _blocks(file, size)).hexdigest()}"


def _blocks(file, most: int) -> Iterable[bytes]:
    """The next ``most`` bytes of ``file``, a block at a time."""
    while most > 0 and (block := file.read(min(BLOCK, most))):
        most -= len(block)
        yield block


def _digest(digest, blocks: Iterable[bytes]):
    for block in blocks:
        digest.update(block)
    return digest


def _place(item: Item, out: Path) -> Path:
    """Where ``item`` goes. Raises UserError for what an index may not say."""
    if not isinstance(item.path, str) or not item.path.isprintable() or len(item.path) > MOST_NAME:
        raise UserError(f"the server names a file {str(item.path)[:80]!r}, which is no path: nothing was fetched")
    if item.size is not None and not (isinstance(item.size, int) and 0 <= item.size < MOST_SIZE):
        raise UserError(f"the server says that {item.path} has {str(item.size)[:80]!r} bytes: nothing was fetched")
    relative = PurePosixPath(item.path)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise UserError(f"the server names a file '{item.path}', which would lie outside {out}: nothing was fetched")
    return out.joinpath(*relative.parts)


def _part(place: Path) -> Path:
    return place.with_name(place.name + ".part")


def _is_there(item: Item, place: Path) -> bool:
    """A file under its final name is whole; of another size it is another version."""
    return place.is_file() and item.size in (None, place.stat().st_size)


def _fetch_one(item: Item, place: Path, progress: Progress, *, retries: int, pause: float) -> None:
    part = _part(place)
    part.parent.mkdir(parents=True, exist_ok=True)
    task = progress.add_task(place.name, total=item.size)
    failures = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            total = _transfer(item, part, lambda done, total: progress.update(task, completed=done, total=total))
            if total is None or part.stat().st_size >= total:
                break
            error: Exception = ConnectionError("the connection was closed early")
        except BROKEN as problem:
            error = problem
        failures = 1 if part.is_file() and part.stat().st_size > before else failures + 1
        _wait_or_give_up(error, item.url, failures, retries=retries, pause=pause)
    size = part.stat().st_size
    if item.size is not None and size != item.size:
        part.unlink()
        raise UserError(f"{item.url} gave {size} bytes instead of {item.size}: what was fetched is deleted; try again")
    if item.checksum and (found := checksum_of(part, item.checksum.split(":")[0])) != item.checksum:
        part.unlink()
        raise UserError(
            f"{place.name} has the checksum {found}, not {item.checksum}: it was damaged on the way and is deleted; "
            "run the same command again"
        )
    part.replace(place)
    progress.remove_task(task)


def _transfer(item: Item, part: Path, report) -> int | None:
    """Append to ``part`` what it lacks, until the connection ends; return the size that the whole should have."""
    have = part.stat().st_size if part.is_file() else 0
    try:
        answer = _open(item.url, {"Range": f"bytes={have}-"} if have else {})
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing is left to send, or less is there than we have
            raise
        whole = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if whole.isdecimal() and int(whole) == have:
            return have
        part.unlink()
        raise ConnectionError("the file on the server has changed") from error
    with answer:
        if have and answer.status != 206:
            have = 0  # the server knows no ranges: from the start
        length = answer.headers.get("Content-Length")
        if length is not None and not length.isdecimal():
            raise UserError(f"{item.url} says that it has {length[:80]!r} bytes: try again later")
        total = item.size if length is None else have + int(length)
        if item.size is not None and total != item.size:
            part.unlink(missing_ok=True)
            raise UserError(f"{item.url} offers {total} bytes, its index says {item.size}: try again later")
        with part.open("ab" if have else "wb") as file:
            while block := _next_block(answer):
                file.write(block)
                have += len(block)
                report(have, total)
                if total is not None and have > total:
                    break  # more than it said
    return total


def _next_block(answer) -> bytes:
    try:
        return answer.read(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(str(error)) from error


def _open(url: str, headers: dict[str, str] | None = None):
    if urlsplit(url).scheme not in ("http", "https") or not url.isprintable() or " " in url:
        raise UserError(f"{url[:200]!r} is no web address: it starts with http:// or https:// and holds no blanks")
    agent = {"User-Agent": f"neurobridge/{__version__}", "Accept-Encoding": "identity"}
    return urllib.request.urlopen(urllib.request.Request(url, headers=agent | (headers or {})), timeout=TIMEOUT)


def _wait_or_give_up(error: Exception, url: str, failures: int, *, retries: int, pause: float) -> None:
    """Sleep before the next attempt, or raise UserError: at once for an answer that will not change."""
    if (
        isinstance(error, OSError)
        and error.errno is not None
        and not isinstance(error, (ConnectionError, TimeoutError))
    ):
        raise error  # the disk, not the network
    if isinstance(error, urllib.error.HTTPError) and error.code not in AGAIN:
        mend = "the address may have moved: see its option" if error.code == 404 else "it may need an account"
        raise UserError(f"{url} cannot be had (HTTP {error.code} {error.reason}): {mend}") from error
    if failures > retries:
        raise UserError(
            f"{url} cannot be reached ({error}): check the connection and run the same command again, it goes on where "
            "it stopped"
        ) from error
    time.sleep(min(60.0, pause * 2 ** (failures - 1)))
