"""500 spoilt files through the doctor and the import: success or one UserError, never a traceback, a crash or a hang.

Everything runs in a process of its own, so that a crash or an endless loop inside a library is a failure with a number.
One case again, with its traceback: ``python tests/data/test_fuzz.py FOLDER ours 17``.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import faulthandler
import io
import json
import random
import shutil
import subprocess
import sys
import traceback
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest

CASES = 100
TARGETS = ("lab_csv", "lab_npz", "lab_nwb", "v4", "ours")
PATIENCE_S = 120
CELLS = ("", "nan", "-1", "1e999", "x", "99", "0.5", "\0", "é", '"', "1,5", "true", "inf", "  ", "../../a.png")
JUNK = (
    "",
    "[",
    "null",
    "-1",
    "nan",
    "{}",
    "1e999",
    "2024-99-99",
    "true",
    "'x'",
    "&a [*a]",
    "!!python/none",
    "mat",
    "\t",
)
FOREIGN_TEXT = (
    b"",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    b"/annex/objects/MD5-s1--0",
    b"\x89HDF",
)


def spoil_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bit flips, a block of zeros or noise, a cut, bytes doubled, or another file altogether."""
    raw, kind = bytearray(data), rng.randrange(7)
    at = rng.randrange(max(len(raw), 1))
    length = rng.choice([1, 8, 64, 512])
    if kind <= 1:
        for _ in range(rng.choice([1, 3, 20])):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        raw[at : at + length] = bytes(len(raw[at : at + length]))
    elif kind == 3:
        raw[at : at + length] = rng.randbytes(len(raw[at : at + length]))
    elif kind == 4:
        del raw[at:]
    elif kind == 5:
        raw[at:at] = raw[at : at + length]
    else:
        return rng.choice([*FOREIGN_TEXT, rng.randbytes(300)])
    return bytes(raw)


def spoil_array(rng: random.Random, array: np.ndarray) -> np.ndarray:
    """Another type, shape or content: NaN, negative, huge, reversed, shorter, text, truth values, 0 or 3 axes."""
    numbers = array.astype(float) if array.dtype.kind in "iufb" else np.arange(array.size, dtype=float)
    return rng.choice(
        [
            lambda: np.full(array.shape, np.nan),
            lambda: -numbers - 1,
            lambda: numbers * 1e12,
            lambda: numbers[::-1] if numbers.ndim else numbers,
            lambda: array[: len(array) // 2] if array.ndim else array,
            lambda: array.astype(str).astype("S"),
            lambda: numbers > 0,
            lambda: np.zeros((2, 3, 4)),
            lambda: np.array(3.0),
            lambda: np.zeros(0),
            lambda: numbers.astype(complex),
            lambda: numbers.astype(np.float16),
            lambda: np.zeros(array.shape, dtype=[("a", "i4"), ("b", "f8")]),
        ]
    )()


def spoil_hdf5(rng: random.Random, path: Path) -> None:
    """Bytes; or, inside a whole file, two data sets swapped, one replaced, one gone, one turned into a group."""
    if rng.random() < 0.55:
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
        return
    if rng.random() < 0.1:
        with h5py.File(path, "w") as file:
            file["foreign/data"] = np.arange(5)
        return
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        one, two = rng.sample(sorted(names), 2)
        kind = rng.randrange(5)
        if kind == 0:
            file.move(one, "swapped")
            file.move(two, one)
            file.move("swapped", two)
        elif kind in (1, 2):
            old = np.asarray(file[one][()])
            old = old.astype(str).astype("S") if old.dtype.kind in "OU" else old
            del file[one]
            file[one] = spoil_array(rng, old)
        elif kind == 3:
            del file[one]
        else:
            del file[one]
            file.create_group(one)


def spoil_csv(rng: random.Random, path: Path) -> None:
    """Bytes; or a cell, a column name, a row repeated, left out, cut short or moved."""
    if rng.random() < 0.3:
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
        return
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    row, column, kind = rng.randrange(len(rows)), rng.randrange(len(rows[0])), rng.randrange(6)
    if kind <= 1:
        rows[row][column] = rng.choice(CELLS)
    elif kind == 2:
        rows[0][column] = rng.choice(["", "time", "x", "session_id"])
    elif kind == 3:
        rows.insert(row, list(rows[rng.randrange(len(rows))]))
    elif kind == 4:
        rows[row] = rows[row][:column]
    else:
        rows = [[*cells[:column], *cells[column + 1 :]] for cells in rows]
    text = "\n".join(",".join(cells) for cells in rows)
    path.write_text(text + rng.choice(["", "\n", "\n\n", ","]), encoding="utf-8")


def spoil_npz(rng: random.Random, path: Path) -> None:
    if rng.random() < 0.5:
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
        return
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = rng.choice(sorted(arrays))
    arrays[name] = spoil_array(rng, arrays[name])
    if rng.random() < 0.2:
        del arrays[name]
    np.savez(path, **arrays)


def spoil_yaml(rng: random.Random, path: Path) -> None:
    if rng.random() < 0.3:
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
        return
    lines = path.read_text().splitlines()
    at = rng.randrange(len(lines))
    lines[at] = f"{lines[at].partition(':')[0]}: {rng.choice(JUNK)}"
    path.write_text("\n".join(lines))


def spoil_zip(rng: random.Random, path: Path) -> None:
    if rng.random() < 0.5:
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    members[rng.choice([name, "z.png"])] = spoil_bytes(rng, members.pop(name))
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def spoil_npy(rng: random.Random, path: Path) -> None:
    if rng.random() < 0.6:
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
    else:
        np.save(path, spoil_array(rng, np.load(path)))


def png(seed: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def make_lab(folder: Path, suffix: str) -> None:
    """Two units, forty spikes, three presentations of two pictures."""
    import yaml

    rng = np.random.default_rng(3)
    time = np.sort(rng.uniform(0, 60, 40))
    unit = np.array(["a", "b"])[rng.integers(0, 2, 40)]
    onset = np.array([5.0, 6.0, 7.0])
    shown = {
        "image_id": ["p", "q", "p"],
        "image_path": ["p.png", "q.png", "p.png"],
        "split": ["train", "test", "train"],
    }
    (folder / "images").mkdir(parents=True)
    for seed, name in enumerate("pq"):
        (folder / "images" / f"{name}.png").write_bytes(png(seed))
    sections: dict = {name: {"format": suffix, "path": f"{name}.{suffix}"} for name in ("spikes", "units", "stimuli")}
    tables = {
        "spikes": {"time": time, "unit_id": unit},
        "units": {"unit_id": ["a", "b"], "electrode_id": ["1", "2"], "area": ["V1", "V4"]},
        "stimuli": {"onset": onset, "offset": onset + 0.5, **shown},
    }
    if suffix == "csv":
        for name, table in tables.items():
            with (folder / f"{name}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(table)
                writer.writerows(zip(*table.values(), strict=True))
    elif suffix == "npz":
        tables["spikes"] = {"spike_times": time, "spike_units": (unit == "b").astype(int)}
        sections["spikes"]["layout"] = "indices"
        for name, table in tables.items():
            np.savez(folder / f"{name}.npz", **{key: np.asarray(column) for key, column in table.items()})
    else:
        sections = write_nwb(folder / "x.nwb", tables)
    manifest = {
        "dataset": "lab",
        "subject": "m",
        "session_id": "day1",
        "session_date": datetime.date(2024, 5, 1),
        "signal_kind": "sorted",
        "time_unit": "s",
        "index_base": 0,
        "duration": [0, 60],
        "areas": ["V1", "V4"],
        "image_root": "images",
        "split": "column",
        **sections,
    }
    (folder / "day1.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))


def write_nwb(path: Path, tables: dict) -> dict:
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.epoch import TimeIntervals

    nwb = NWBFile("a session", "id", datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC))
    group = nwb.create_electrode_group("g", "a shank", "cortex", nwb.create_device("probe"))
    for area in tables["units"]["area"]:
        nwb.add_electrode(location=area, group=group)
    for row, unit in enumerate(tables["units"]["unit_id"]):
        nwb.add_unit(
            spike_times=tables["spikes"]["time"][tables["spikes"]["unit_id"] == unit], electrodes=[row], id=row
        )
    shown = TimeIntervals(name="pictures", description="presentations")
    for name in ("image_id", "image_path", "split"):
        shown.add_column(name, name)
    table = tables["stimuli"]
    for i, onset in enumerate(table["onset"]):
        row = {name: table[name][i] for name in ("image_id", "image_path", "split")}
        shown.add_interval(start_time=onset, stop_time=table["offset"][i], **row)
    nwb.add_time_intervals(shown)
    with NWBHDF5IO(path, "w") as io_:
        io_.write(nwb)
    file = {"format": "nwb", "path": path.name}
    electrode = {"area": "electrodes.location", "electrode_id": "electrodes.id"}
    return {
        "spikes": {**file, "table": "units", "columns": {"time": "spike_times", "unit_id": "id"}},
        "units": {**file, "table": "units", "columns": {"unit_id": "id", **electrode}},
        "stimuli": {**file, "table": "intervals/pictures", "columns": {"onset": "start_time", "offset": "stop_time"}},
    }


def make_v4(folder: Path) -> None:
    (folder / "responses_mean").mkdir(parents=True)
    (folder / "images").mkdir()
    np.save(folder / "responses_mean" / "responses_190925.npy", np.random.default_rng(0).gamma(2.0, 1.0, (3, 4)))
    with zipfile.ZipFile(folder / "images" / "images_190925.zip", "w") as archive:
        for i in range(4):
            archive.writestr(f"image{i}.png", png(i))


def make_ours(folder: Path) -> None:
    from neurobridge.data.sources.lab import QualitySettings, import_lab

    make_lab(folder.parent / "ours_raw", "csv")
    import_lab(folder.parent / "ours_raw", folder, quality=QualitySettings(min_rate=None))


def make(target: str, folder: Path) -> None:
    if target == "v4":
        make_v4(folder)
    elif target == "ours":
        make_ours(folder)
    else:
        make_lab(folder, target.removeprefix("lab_"))


SPOILERS: dict[str, Callable[[random.Random, Path], None]] = {
    ".csv": spoil_csv,
    ".npz": spoil_npz,
    ".yaml": spoil_yaml,
    ".nwb": spoil_hdf5,
    ".h5": spoil_hdf5,
    ".zip": spoil_zip,
    ".npy": spoil_npy,
    ".png": lambda rng, path: path.write_bytes(spoil_bytes(rng, path.read_bytes())) and None,
}


def use(target: str, folder: Path, spoilt: Path, out: Path) -> str:
    """Examine and import; the sentence of the UserError, or 'fine'. Anything else goes through."""
    from neurobridge.data.audit import audit
    from neurobridge.data.doctor import READERS, examine_path
    from neurobridge.data.sources.lab import QualitySettings, import_lab
    from neurobridge.data.sources.v4 import import_v4
    from neurobridge.data.validation import validate_folder
    from neurobridge.errors import UserError

    readers = [name for name in READERS if find_spec(name)]
    for path in (folder, spoilt):
        findings = examine_path(path, readers)
        assert findings, "a doctor who says nothing"
    try:
        if target == "v4":
            import_v4(folder, out)
        elif target == "ours":
            assert validate_folder(folder)
            audit(folder)
        else:
            import_lab(folder, out, quality=QualitySettings(min_rate=None))
    except UserError as error:
        sentence = str(error)
    else:
        return "fine"
    assert "\n" not in sentence, "more than one sentence"
    return sentence


def run_case(target: str, whole: Path, number: int) -> str:
    rng = random.Random(f"{target} {number}")
    folder, out = whole.parent / "case", whole.parent / "out"
    shutil.copytree(whole, folder)
    try:
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix)  # not the lock
        path = rng.choices(paths, [1 if path.suffix == ".png" else 4 for path in paths])[0]
        SPOILERS[path.suffix](rng, path)
        return use(target, folder, path, out)
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(out, ignore_errors=True)


def work(root: Path, targets: list[str], numbers: list[int]) -> None:
    """Run cases; print one line of JSON for each: target, number, what came of it."""
    import warnings

    warnings.simplefilter("ignore")
    for target in targets:
        whole = root / target
        with contextlib.redirect_stdout(io.StringIO()):
            make(target, whole)
            assert use(target, whole, min(whole.rglob("*.*")), root / "out") == "fine", "the whole files are accepted"
        shutil.rmtree(root / "out", ignore_errors=True)
        for number in numbers:
            faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
            print(json.dumps([target, number, "began"]), flush=True)
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    said = run_case(target, whole, number)
            except Exception:
                said = f"traceback: {traceback.format_exc()}"
            print(json.dumps([target, number, said]), flush=True)
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[tuple[str, int], str]:
    command = [sys.executable, __file__, str(tmp_path_factory.mktemp("fuzz"))]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line]
    assert done.returncode == 0, f"crashed or hung in {lines[-1:]}: {done.stderr[-3000:]}"
    return {(target, number): said for target, number, said in lines}


@pytest.mark.parametrize("target", TARGETS)
def test_no_spoilt_file_ends_in_a_traceback(outcomes, target):
    said = {number: outcomes[target, number] for number in range(CASES)}
    failed = {number: text for number, text in said.items() if text.startswith("traceback")}
    assert not failed, f"{len(failed)} of {CASES}, the first, {min(failed)}: {failed[min(failed)]}"
    assert "began" not in said.values()
    refused = sum(text != "fine" for text in said.values())
    assert refused > CASES / 4, f"only {refused} were refused: the files are not spoilt enough"


if __name__ == "__main__":
    work(
        Path(sys.argv[1]),
        sys.argv[2:3] or list(TARGETS),
        [int(number) for number in sys.argv[3:]] or list(range(CASES)),
    )
