"""Command doctor: this machine and this installation, what is wrong with them and what would help."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from rich.markup import escape
from rich.table import Table

from neurobridge import __version__
from neurobridge.errors import UserError
from neurobridge.terminal import console

EXTRAS = ("data", "image", "report")
LEAST_DISK, LEAST_MEMORY = 5e9, 4e9  # bytes


class Found(NamedTuple):
    """One line: what was looked at, what was found, and what to do about it (empty: nothing)."""

    what: str
    found: str
    mend: str = ""
    wrong: bool = False


def doctor() -> None:
    """Look at this machine and this installation: versions, threads, GPU, memory, disk, common mistakes.

    Raises:
        UserError: Something has to be mended before anything can run (exit code 2).
    """
    findings = [*installation(), *hardware(), *habits()]
    table = Table("what", "found", "to do")
    for f in findings:
        style = "red" if f.wrong else "yellow" if f.mend else None
        table.add_row(*map(escape, (f.what, f.found, f.mend or "ok")), style=style)
    console.print(table)
    wrong = [f for f in findings if f.wrong]
    if wrong:
        raise UserError(
            f"{len(wrong)} things have to be mended (first: {wrong[0].what}, {wrong[0].found}): {wrong[0].mend}"
        )


def installation() -> Iterator[Found]:
    """Python, this package, and what it asks for."""
    yield Found("Python", platform.python_version(), wrong=sys.version_info < (3, 11), mend="")
    yield Found("neurobridge", f"{__version__} at {Path(__file__).parents[1]}")
    missing: dict[str, list[str]] = {}
    try:
        asked = [Requirement(line) for line in requires("neurobridge") or []]
    except PackageNotFoundError:
        yield Found("installation", "not installed as a package", "pip install -e . in the checkout")
        return
    for need in asked:
        extra = next((e for e in EXTRAS if need.marker and need.marker.evaluate({"extra": e})), "")
        if need.marker and not extra:
            continue
        try:
            there = version(need.name)
        except PackageNotFoundError:
            missing.setdefault(extra, []).append(need.name)
            continue
        if not need.specifier.contains(there, prereleases=True):
            told = f"{there}, wanted {need.specifier}"
            yield Found(need.name, told, f"pip install '{need.name}{need.specifier}'", wrong=not extra)
    for extra, names in missing.items():
        mend = f"pip install 'neurobridge[{extra}]'" if extra else "pip install neurobridge"
        yield Found(
            f"libraries of extra '{extra}'" if extra else "libraries", f"missing: {', '.join(names)}", mend, not extra
        )


def hardware() -> Iterator[Found]:
    """Cores, threads, GPU, memory, disk."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    many = threads > cores
    yield Found(
        "cores and threads", f"{cores} cores, {threads} threads of torch", f"OMP_NUM_THREADS={cores}" if many else ""
    )
    build = "CUDA " + torch.version.cuda if torch.version.cuda else "CPU alone"
    yield Found("torch", f"{torch.__version__}, built for {build}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            yield Found(f"GPU {index}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB")
    elif shutil.which("nvidia-smi"):
        yield Found("GPU", "there is a driver, and torch does not see it", "install torch's CUDA build")
    else:
        yield Found("GPU", "none: everything runs on the CPU, at small sizes")
    memory = free_memory()
    if memory is not None:
        mend = "close something, or take smaller batches (pretrain.windows)" if memory < LEAST_MEMORY else ""
        yield Found("free memory", f"{memory / 2**30:.1f} GiB", mend)
    for name, folder in (("this folder", Path.cwd()), ("temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free
        writable = os.access(folder, os.W_OK)
        mend = "" if free > LEAST_DISK else "free some space, or give --out on another disk"
        mend = mend if writable else "choose a folder that can be written to"
        told = f"{free / 2**30:.0f} GiB free{'' if writable else ', cannot be written to'}"
        yield Found(name, f"{folder}: {told}", mend)


def free_memory() -> float | None:
    """Bytes that can still be had; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def habits() -> Iterator[Found]:
    """What has cost users an afternoon before."""
    policy = os.environ.get("OMP_WAIT_POLICY", "").lower()
    if policy == "active":
        yield Found("OMP_WAIT_POLICY", "active: waiting threads burn a core", "unset it, or set passive")
    if os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() == "FALSE":
        yield Found("HDF5_USE_FILE_LOCKING", "off: two writers may spoil a file", "unset it where the disk has locks")
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        yield Found("CUDA_VISIBLE_DEVICES", "empty: GPUs are hidden", "unset it")
    elsewhere = [p for p in sys.path if p and (Path(p) / "neurobridge").is_dir()]
    if len({Path(p).resolve() for p in elsewhere}) > 1:
        yield Found("two copies of neurobridge", ", ".join(elsewhere), "remove one from PYTHONPATH")
