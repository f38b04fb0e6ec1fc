"""A lab's session as it lies on a disk: tables in any of the formats, pictures, and the manifest that declares them."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

MANIFEST = {
    "dataset": "lab",
    "subject": "monkeyA",
    "session_id": "day1",
    "session_date": datetime.date(2024, 5, 1),
    "signal_kind": "sorted",
    "time_unit": "s",
    "index_base": 0,
    "duration": [0, 600],
    "areas": ["V1", "V4", "IT"],
    "image_root": "images",
    "split": "column",
}


def example() -> dict[str, dict[str, list]]:
    """Three units at about 2 Hz for 600 s, eight presentations of four pictures."""
    rng = np.random.default_rng(5)
    counts = {"u1": 1200, "u2": 900, "mua 3": 1500}
    times = {unit: np.sort(rng.uniform(0, 600, n)) for unit, n in counts.items()}
    label = np.repeat(list(counts), list(counts.values()))
    time = np.concatenate(list(times.values()))
    order = np.argsort(time, kind="stable")
    onset = 10.0 + 2.0 * np.arange(8)
    image = [0, 1, 2, 3, 0, 1, 2, 3]
    return {
        "spikes": {"time": time[order].tolist(), "unit_id": label[order].tolist()},
        "units": {
            "unit_id": list(counts),
            "electrode_id": ["7", "7", "32"],
            "area": ["V1", "V4", "IT"],
            "snr": [2.5, 3.0, 1.25],
        },
        "stimuli": {
            "trial_id": list(range(8)),
            "onset": onset.tolist(),
            "offset": (onset + 0.25).tolist(),
            "image_id": [f"im{i}" for i in image],
            "image_path": [f"set/{i}.png" for i in image],
            "repeat": [0] * 4 + [1] * 4,
            "split": [("train", "train", "valid", "test")[i] for i in image],
            "valid": ["true"] * 7 + ["false"],
        },
    }


def save_table(path: Path, columns: dict[str, list]) -> None:
    """Columns as CSV, Parquet or NPZ, by the suffix of ``path``."""
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
    elif path.suffix == ".parquet":
        import pandas as pd

        pd.DataFrame(columns).to_parquet(path, index=False)
    else:
        np.savez(path, **{name: np.asarray(column) for name, column in columns.items()})


def save_pictures(folder: Path, count: int = 4, *, size: int = 8) -> None:
    """``folder``/set/<i>.png, coarse noise."""
    (folder / "set").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(11)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / "set" / f"{i}.png")


@pytest.fixture(scope="session")
def write_lab() -> Callable[..., Path]:
    """write_lab(folder, tables, suffix=..., spikes={...}, **manifest): write a session; return its manifest's path.

    ``tables`` as :func:`example` gives them; ``spikes``, ``units``, ``stimuli`` change or (None) drop a section of the
    manifest; other keys replace its keys (None, where it means something, is written as null; ... drops the key).
    """

    def write(folder: Path, tables: dict | None = None, *, suffix: str = ".csv", **changes) -> Path:
        tables = example() if tables is None else tables
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "images").is_dir():
            save_pictures(folder / "images")
        manifest: dict = {**MANIFEST}
        for name in ("spikes", "units", "stimuli"):
            section = {"format": suffix[1:], "path": f"{name}{suffix}"}
            if name in tables:
                save_table(folder / section["path"], tables[name])
            change = changes.pop(name, {})
            if change is not None and (name in tables or change):
                manifest[name] = {**section, **change}
        manifest = {key: value for key, value in {**manifest, **changes}.items() if value is not ...}
        path = folder / f"{manifest.get('session_id', 'day1')}.yaml"
        path.write_text(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return path

    return write


@pytest.fixture
def lab_tables() -> dict[str, dict[str, list]]:
    """Fresh tables of :func:`example`, to be spoilt."""
    return example()
