"""What was looked for in an NWB file, one finding a thing: the doctor's list, and the importer's grounds to refuse."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import numpy as np

from neurobridge.data.doctor import Finding
from neurobridge.data.nwb import AGAIN, Nwb, Ragged, Series, Unreadable, kind_of, open_nwb
from neurobridge.errors import UserError

FAR = 100.0  # a time this many times beyond the others is in another unit
LONGEST_S = 7 * 86_400.0
UNIT_MIX_UP = "(milliseconds taken for seconds?)"
OPEN_WITH_PYNWB = "import sys, pynwb; pynwb.NWBHDF5IO(sys.argv[1], 'r').read()"
PYNWB_PATIENCE_S = 120
Value = TypeVar("Value")


class Look:
    """Reads what a source needs out of a file, and keeps one Finding for each thing: the doctor's list."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.findings: list[Finding] = []
        self._fatal: list[Finding] = []

    def note(self, key: str, *, found: str, expected: str, ok: bool = True, mend: str = "", fatal: bool = True) -> None:
        """Add a finding; one that is neither ``ok`` nor harmless (``fatal``) stops an import."""
        finding = Finding(file=self.path, key=key, found=found, expected=expected, ok=ok, mend="" if ok else mend)
        self.findings.append(finding)
        if fatal and not ok:
            self._fatal.append(finding)

    def at(
        self,
        key: str,
        expected: str,
        read: Callable[[], Value],
        *,
        wrong: Callable[[Value], str] = lambda value: "",
        mend: str = AGAIN,
        fatal: bool = True,
    ) -> Value | None:
        """What ``read`` returns, noted; None if it cannot be read, or if ``wrong`` says in words what it is."""
        try:
            value = read()
        except Unreadable as error:
            told = error.reason if error.key == key else f"{error.key}: {error.reason}"
            own = mend if error.mend == AGAIN else error.mend
            self.note(key, found=told, expected=expected, ok=False, mend=own, fatal=fatal)
            return None
        defect = wrong(value)
        found = f"{describe(value)}; {defect}" if defect else describe(value)
        self.note(key, found=found, expected=expected, ok=not defect, mend=mend, fatal=fatal)
        return None if defect else value

    def refuse(self) -> None:
        """Raise UserError for the first finding that stops an import."""
        for finding in self._fatal:
            raise UserError(
                f"{self.path}: '{finding.key}' is {finding.found}, expected {finding.expected}; {finding.mend}"
            )


def wrong_ids(ids: np.ndarray) -> str:
    """What is wrong with the ids of a table."""
    if len(ids) == 0:
        return "the table is empty"
    values, counts = np.unique(ids, return_counts=True)
    return f"{values[counts.argmax()]} is there {counts.max()} times" if counts.max() > 1 else ""


def wrong_times(times: np.ndarray, last: float = float("nan"), until: str = "") -> str:
    """What is wrong with times in s [T], beside another clock of the file that stops at ``last`` s (NaN: unknown)."""
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        return f"value {bad[0]} is {times[bad[0]]}"
    if not len(times):
        return ""
    end = float(times.max())
    if end > FAR * last:
        return f"{until} {last:.6g} s {UNIT_MIX_UP}"
    return f"more than a week from 0 {UNIT_MIX_UP}" if max(end, -float(times.min())) > LONGEST_S else ""


def wrong_spikes(spikes: Ragged, last: float, until: str) -> str:
    """What is wrong with spike times, beside another clock of the file that stops at ``last`` s (NaN: unknown)."""
    if len(spikes.values) == 0:
        return "no spike at all"
    defect = wrong_times(spikes.values, last, until)
    return defect or (f"{until} {last:.6g} s {UNIT_MIX_UP}" if last > FAR * float(spikes.values.max()) else "")


def wrong_intervals(observed: Ragged) -> str:
    """What is wrong with the observed intervals of units."""
    if observed.values.shape[1] != 2:
        return "not a start and a stop an interval"
    bad = np.flatnonzero(~(observed.values[:, 1] > observed.values[:, 0]))
    if len(bad):
        return f"interval {bad[0]} is {observed.values[bad[0]].tolist()}"
    return wrong_times(observed.values.ravel())


def examine_nwb(file: Path, look_at: Callable[[Nwb], Look]) -> list[Finding]:
    """One finding on the file itself, those of ``look_at`` and, where all is well, one on pynwb.

    Never raises UserError.
    """
    whole: dict = {"file": file, "key": "file", "expected": "a whole NWB 2 file"}
    findings = []
    try:
        with open_nwb(file) as nwb:
            findings += [Finding(found=f"NWB {nwb.version}", ok=True, **whole), *look_at(nwb).findings]
        if all(finding.ok for finding in findings):
            findings.append(pynwb_verdict(file))
    except UserError as error:
        if isinstance(error, Unreadable):
            whole["key"] = error.key or "file"
            findings.append(Finding(found=error.reason, ok=False, mend=error.mend, **whole))
        else:
            findings.append(Finding(found=str(error), ok=False, mend="fetch the content of the file", **whole))
    return findings


def describe(value: object) -> str:
    """Shape, type and range of an array, a ragged column or a series."""
    if isinstance(value, Ragged):
        return f"{len(value.ends)} lists of {describe(value.values)}"
    if isinstance(value, Series):
        return f"{describe(value.values)} in '{value.unit}' at {describe(value.times)} s"
    assert isinstance(value, np.ndarray), "only what Nwb reads is described"
    text = f"{kind_of(value)} {value.shape}"
    if value.dtype.kind == "U":
        names = sorted(set(value.tolist()))
        return f"{text}: {', '.join(map(repr, names[:4]))}{', ...' if len(names) > 4 else ''}" if names else text
    form = ".6g" if value.dtype.kind == "f" else "d"
    if value.dtype.kind == "b":
        return f"{text}, {int(value.sum())} true"
    finite = value[np.isfinite(value)]
    if not finite.size:
        return text
    return f"{text} from {finite.min():{form}} to {finite.max():{form}}"


def pynwb_verdict(path: Path) -> Finding:
    """Whether the installed pynwb opens the file: information only, for data are read without it.

    It is asked in a process of its own: on damaged text HDF5 can loop for ever, and pynwb reads all text there is.
    """
    said: dict = {"file": path, "key": "pynwb", "expected": "opens, or is read through h5py alone", "ok": True}
    try:
        release = version("pynwb")
    except PackageNotFoundError:
        return Finding(found="not installed", **said)
    command = [sys.executable, "-W", "ignore", "-c", OPEN_WITH_PYNWB, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PYNWB_PATIENCE_S)
    except subprocess.TimeoutExpired:
        return Finding(found=f"{release} does not come to an end with the file", **said)
    lines = done.stderr.strip().splitlines()
    refusal = f" refuses the file ({lines[-1][:200] if lines else f'exit code {done.returncode}'})"
    return Finding(found=release + (refusal if done.returncode else " opens the file"), **said)
