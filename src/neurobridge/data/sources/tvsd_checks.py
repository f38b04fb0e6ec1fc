"""What TVSD's files hold beside what the importer needs; shapes as h5py shows them, the reverse of MATLAB's.

``things_imgs.mat`` names the pictures, ``1024chns_mapping*.mat`` maps recording order to physical order.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import h5py
import numpy as np

from neurobridge.data.findings import Check, check_dataset, refuse, unreadable
from neurobridge.data.mat73 import refers, strings
from neurobridge.data.matfile import open_mat, read_mat
from neurobridge.data.sources.tvsd_files import CHANNELS, KINDS, NAMES, SOURCE, Monkey, locate, monkey_of
from neurobridge.errors import UserError

FETCH = f"download the file again from {SOURCE}"
UNIT_COLUMNS = {"SNR": "snr", "SNR_max": "snr_max", "oracle": "oracle", "reliab": "reliab"}
PATH_KEYS = ("train_imgs/things_path", "test_imgs/things_path")
SLAB = 4096


def examine(path: Path) -> list[Check]:
    """Every key the importer needs, of every file under ``path`` (or of that one file)."""
    monkeys = locate(path)
    if path.is_file() or path.is_symlink():
        files = [(kind, path) for kind, pattern in KINDS.items() if pattern.search(path.name)]
        checks = [check for kind, file in files for check in _examine(kind, file, monkeys[0] if monkeys else None)]
        if monkey_of(path) is None and files and files[0][0] in ("norm", "trials"):
            checks.append(_no_monkey(path))
        return checks
    checks = []
    for monkey in monkeys:
        for kind in KINDS:
            if kind in monkey.files:
                checks += _examine(kind, monkey.files[kind], monkey)
        for kind in ("images", "mapping"):
            if kind not in monkey.files and (kind == "images" or "trials" in monkey.files):
                file = next(iter(monkey.files.values())).parent / NAMES[kind]
                mend = f"download it from {SOURCE}"
                checks.append(Check(file=file, key="file", found="absent", expected="a file", ok=False, mend=mend))
    return checks or [_no_monkey(path)]


def _no_monkey(path: Path) -> Check:
    mend = "name the folder monkeyF or monkeyN, or give the file that prefix"
    expected = "monkeyF or monkeyN with THINGS_normMUA.mat or THINGS_MUA_trials.mat"
    return Check(file=path, key="monkey", found="no animal", expected=expected, ok=False, mend=mend)


def _examine(kind: str, path: Path, monkey: Monkey | None) -> list[Check]:
    counts = _count_images(monkey.files["images"]) if monkey is not None and "images" in monkey.files else None
    try:
        if kind == "mapping":
            return check_mapping(path)
        with open_mat(path) as file:
            return _checks(kind, path, file, counts)
    except UserError as error:
        return [unreadable(path, error)]


def _count_images(path: Path) -> tuple[int, int] | None:
    """How many train and test images things_imgs.mat names; None if it cannot be read, which is its own finding."""
    try:
        with open_mat(path) as file:
            train, test = (file[key].size for key in PATH_KEYS)
            return train, test
    except UserError:
        return None


def _checks(kind: str, path: Path, file: h5py.File, counts: tuple[int, int] | None) -> list[Check]:
    if kind == "images":
        return check_images(path, file)
    if kind == "trials":
        return check_trials(path, file, counts)
    checks = check_norm(path, file)
    if all(check.ok for check in checks[:2]):
        checks += check_counts(path, file, counts) if counts else []
        checks += check_values(path, file)
    return checks


def check_norm(path: Path, file: h5py.File) -> list[Check]:
    """The keys of THINGS_normMUA.mat."""
    checks = [
        check_dataset(path, file, "train_MUA", ("images", CHANNELS), mend=FETCH),
        check_dataset(path, file, "test_MUA_reps", ("repeats", "images", CHANNELS), mend=FETCH),
    ]
    shapes = {
        "SNR": ("days", CHANNELS),
        "SNR_max": (CHANNELS, 1),
        "oracle": (CHANNELS, 1),
        "reliab": ("pairs", CHANNELS),
    }
    for key, axes in shapes.items():
        found = check_dataset(path, file, key, axes, mend=f"this unit column is left out; {FETCH}", needed=False)
        flat = axes[::-1] if axes[-1] == 1 else axes
        other = check_dataset(path, file, key, flat, mend="", needed=False)
        checks.append(other if other.ok else found)
    return checks


def check_trials(path: Path, file: h5py.File, images: tuple[int, int] | None) -> list[Check]:
    """The keys of THINGS_MUA_trials.mat; ``images``: how many train and test images things_imgs.mat names."""
    checks = [
        check_dataset(path, file, "ALLMUA", ("time", "trials", CHANNELS), mend=FETCH),
        check_dataset(path, file, "ALLMAT", ("6 or 7", "trials"), mend=FETCH),
        check_dataset(path, file, "tb", ("time", 1), mend=FETCH),
    ]
    if not all(check.ok for check in checks):
        return checks
    (samples, trials, _), table = file["ALLMUA"].shape, file["ALLMAT"][()]
    rows, columns = table.shape

    def add(key: str, found: str, expected: str, ok: bool, mend: str = FETCH) -> None:
        checks.append(Check(file=path, key=key, found=found, expected=expected, ok=ok, mend="" if ok else mend))

    tb = file["tb"][()].ravel()
    steps = len(tb) == samples and bool(np.allclose(np.diff(tb), 1))
    add("tb values", f"{len(tb)} samples, {tb[0]:g} to {tb[-1]:g}", f"{samples} samples in ms, 1 ms apart", steps)
    if steps:
        add("tb span", f"{tb[0]:g} to {tb[-1]:g} ms", "at least 25 to 175 ms", bool(tb[0] <= 25 and tb[-1] >= 175))
    add("ALLMAT shape", f"{table.shape}", f"(6 or 7, {trials})", rows in (6, 7) and columns == trials)
    whole = np.isfinite(table).all() and (table == np.round(table)).all()
    add("ALLMAT values", "whole numbers" if whole else "fractions or NaN", "whole numbers", bool(whole))
    if not (whole and rows in (6, 7)):
        return checks
    train, test, day = table[1], table[2], table[-1]
    one = (train > 0) != (test > 0)
    row = int(np.argmin(one))
    text = "one index a trial" if one.all() else f"trial {row} with train_idx {train[row]:g}, test_idx {test[row]:g}"
    add("ALLMAT train_idx, test_idx", text, "one of the two above 0, from 1", bool(one.all()))
    if images is not None:
        ok = train.max() <= images[0] and test.max() <= images[1]
        text = f"indices up to {train.max():g} and {test.max():g}"
        add("ALLMAT index range", text, f"at most {images[0]} and {images[1]}, the images of things_imgs.mat", bool(ok))
    add("ALLMAT day", f"days {day.min():g} to {day.max():g}", "days from 1 (last column)", bool(day.min() >= 1))
    return checks


def check_images(path: Path, file: h5py.File) -> list[Check]:
    """The keys of things_imgs.mat: groups train_imgs and test_imgs with the THINGS paths."""
    return [check for check, _ in _image_paths(path, file)]


def _image_paths(path: Path, file: h5py.File) -> list[tuple[Check, list[PurePosixPath]]]:
    """The check and the paths of the train and of the test images."""
    both = []
    for key in PATH_KEYS:
        found, paths, ok = file.get(key), [], False
        text = "absent" if found is None else "not a cell array of strings"
        if isinstance(found, h5py.Dataset) and refers(found) and found.size:
            paths = [things_path(p) for p in strings(found)]
            bad = next((row for row, p in enumerate(paths) if len(p.parts) < 2), None)
            ok = bad is None
            text = f"{len(paths)} paths ('{paths[0]}')" if bad is None else f"'{paths[bad]}' in row {bad}"
        expected = "object references to strings, concept\\file"
        check = Check(file=path, key=key, found=text, expected=expected, ok=ok, mend="" if ok else FETCH)
        both.append((check, paths))
    return both


def check_mapping(path: Path) -> list[Check]:
    """The key of the channel map: a permutation of 1..1024."""
    expected = f"a permutation of 1..{CHANNELS}"
    found = read_mat(path, ["mapping"])[0].get("mapping")
    if found is None:
        return [Check(file=path, key="mapping", found="absent", expected=expected, ok=False, mend=FETCH)]
    numbers = np.asarray(found).ravel()
    ok = numbers.dtype.kind in "iuf" and np.array_equal(np.sort(numbers), np.arange(1, CHANNELS + 1))
    text = f"{len(numbers)} values"
    if numbers.dtype.kind in "iuf" and len(numbers):
        text += f" from {numbers.min():g} to {numbers.max():g}, {len(np.unique(numbers))} of them different"
        text += ", as if counted from 0" if numbers.min() == 0 else ""
    return [Check(file=path, key="mapping", found=text, expected=expected, ok=ok, mend="" if ok else FETCH)]


def check_values(path: Path, file: h5py.File) -> list[Check]:
    """Values of THINGS_normMUA.mat that the import leaves out: NaN, and all-zero repeats (MATLAB's padding)."""
    checks = []
    for key in ("train_MUA", "test_MUA_reps"):
        data = file[key]
        finite, empty = [], []
        for part in np.ndindex(data.shape[:-2]):
            for at in range(0, data.shape[-2], SLAB):
                values = data[(*part, slice(at, at + SLAB))]
                finite.append(np.isfinite(values).all(1))
                empty.append(~values.any(1))
        rows = ~np.concatenate(finite)
        text = f"{rows.sum()} of {len(rows)} presentations with NaN" + (
            f" (first: {rows.argmax()})" if rows.any() else ""
        )
        zeros = int(np.concatenate(empty).sum())
        text += f", {zeros} all zero" if zeros else ""
        ok = not rows.any() and not zeros
        mend = "" if ok else "the import drops silent channels and leaves out such presentations"
        checks.append(
            Check(file=path, key=f"{key} values", found=text, expected="finite", ok=ok, mend=mend, needed=False)
        )
    return checks


def check_counts(path: Path, file: h5py.File, counts: tuple[int, int]) -> list[Check]:
    """Does things_imgs.mat name as many images as THINGS_normMUA.mat holds?"""
    found = (file["train_MUA"].shape[0], file["test_MUA_reps"].shape[1])
    ok = found == counts
    mend = "" if ok else "the two files are not of one release or animal: download both again"
    text, expected = (f"{a} train and {b} test images" for a, b in (found, counts))
    return [Check(file=path, key="images", found=text, expected=f"{expected} (things_imgs.mat)", ok=ok, mend=mend)]


def things_path(text: str) -> PurePosixPath:
    """``aardvark/aardvark_01b.jpg`` of the stored ``aardvark\\aardvark_01b.jpg``."""
    return PurePosixPath(text.strip().replace("\\", "/"))


def read_image_paths(path: Path) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
    """THINGS paths of the train and of the test images. Raises UserError."""
    with open_mat(path) as file:
        (train_check, train), (test_check, test) = _image_paths(path, file)
        refuse([train_check, test_check])
    return train, test


def read_mapping(path: Path) -> np.ndarray:
    """0-based recorded channel of each physical one [C]: ``physical = recorded[..., mapping]``. Raises UserError."""
    refuse(check_mapping(path))
    return read_mat(path, ["mapping"])[0]["mapping"].ravel().astype(np.int64) - 1


def read_unit_columns(path: Path) -> dict[str, np.ndarray]:
    """SNR (mean over days), SNR_max, oracle, reliab (mean over pairs), each [C], as far as the file holds them."""
    columns = {}
    with open_mat(path) as file:
        for check in check_norm(path, file):
            if check.key in UNIT_COLUMNS and check.ok:
                values = file[check.key][()].astype(np.float64)
                if check.key in ("SNR", "reliab"):
                    known = np.isfinite(values)
                    sums = np.where(known, values, 0).sum(0)
                    values = np.divide(sums, known.sum(0), out=np.full(CHANNELS, np.nan), where=known.any(0))
                columns[UNIT_COLUMNS[check.key]] = values.ravel()
    return columns
