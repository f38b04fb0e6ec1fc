"""Small real files of a lab for benchmarks/bad_input.py, and the real command line in this process."""

from __future__ import annotations

import contextlib
import io
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from neurobridge.cli import main
from neurobridge.data.images import ImageSet
from neurobridge.data.recording import Recording, read_recording
from neurobridge.errors import UserError

BASE = {
    "dataset": "lab",
    "subject": "ann",
    "session_id": "day1",
    "signal_kind": "sorted",
    "time_unit": "s",
    "index_base": 0,
    "duration": [0, 60],
    "areas": ["V1", "V4"],
    "spikes": {"format": "csv", "path": "spikes.csv"},
    "units": {"format": "csv", "path": "units.csv"},
}
TIMES = {"u0": np.arange(300) / 5 + 0.05, "u1": np.arange(240) / 4 + 0.06}
SHOWN = "onset,offset,image_id,image_path,split\n1,1.5,a,a.png,train\n2,2.5,b,b.png,valid\n3,3.5,c,c.png,test\n"


class Silent(AssertionError):
    """An exit code 0, or a value, that hides what happened."""


class WrongSentence(AssertionError):
    """Refused, but in words that do not fit the cause, or in more than one sentence."""


def tables(d: Path, *, spikes: str | None = None, units: str | None = None, stimuli: str | None = None) -> None:
    """Two units for a minute, and the tables given instead."""
    rows = sorted((t, unit) for unit, times in TIMES.items() for t in times.tolist())
    d.mkdir(parents=True, exist_ok=True)
    (d / "spikes.csv").write_text(spikes or "time,unit_id\n" + "".join(f"{t:.3f},{u}\n" for t, u in rows))
    (d / "units.csv").write_text(units or "unit_id,electrode_id,area\nu0,1,V1\nu1,2,V4\n")
    if stimuli is not None:
        (d / "stimuli.csv").write_text(stimuli)


def pictures(d: Path, names: Sequence[str] = ("a.png", "b.png", "c.png")) -> None:
    rng = np.random.default_rng(0)
    (d / "pics").mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(d / "pics" / name)


def manifest(d: Path, name: str = "day1.yaml", **change: object) -> Path:
    """The manifest of ``tables``, which are written if they are not there, with other keys; None takes one out."""
    if not (d / "spikes.csv").is_file():
        tables(d)
    keys = {key: value for key, value in {**BASE, **change}.items() if value is not None}
    (d / name).write_text(yaml.safe_dump(keys) + "session_date: 2024-05-01\n")
    return d / name


def shown(d: Path, stimuli: str = SHOWN, **change: object) -> Path:
    """A session with three pictures."""
    tables(d, stimuli=stimuli)
    if not (d / "pics").is_dir():
        pictures(d)
    table = {"format": "csv", "path": "stimuli.csv"}
    return manifest(d, **{"stimuli": table, "image_root": "pics", "split": "column", **change})


def run(*arguments: object) -> tuple[int, str, str]:
    """(exit code, output, errors) of the command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def says(words: str, *arguments: object) -> str:
    """The one sentence that refuses a command and has ``words`` in it."""
    code, _, err = run(*arguments)
    if code == 0:
        raise Silent("exit code 0")
    return fits(words, [line for line in err.splitlines() if line.startswith("neurobridge: ")])


def refuses(words: str, call: Callable[[], object], kind: type[Exception] = UserError) -> str:
    """The same of a function in Python."""
    try:
        got = call()
    except kind as error:
        return fits(words, str(error).splitlines())
    raise Silent(f"gave {got!r:.60}")


def fits(words: str, sentences: Sequence[str]) -> str:
    if len(sentences) != 1 or not all(word in sentences[0] for word in words.split("|")):
        raise WrongSentence(" / ".join(sentences)[:200] or "nothing was said")
    return "one sentence"


def bring(file: Path, *options: object, out: Path | None = None) -> Recording:
    """The session of a manifest after 'data import lab'."""
    out = out or file.parent / "out"
    code, _, err = run("data", "import", "lab", file, "--out", out, *options)
    if code:
        raise WrongSentence(err.strip()[:200])
    return read_recording(out / "sessions" / "day1.h5")


def imports(words: str, file: Path) -> str:
    """'data import lab' refuses ``file``, and leaves nothing behind."""
    told = says(words, "data", "import", "lab", file, "--out", file.parent / "out")
    if list((file.parent / "out").glob("*/*.h5")):
        raise Silent("a session was written all the same")
    return told


def pixels(file: Path) -> dict[str, np.ndarray]:
    """Name -> picture, as imported."""
    bring(file)
    images = ImageSet.read(file.parent / "out" / "images.h5")
    return dict(zip(images.labels["name"].tolist(), images.pixels, strict=True))


def equal(got: object, wanted: object) -> str:
    got, wanted = np.asarray(got), np.asarray(wanted)
    numbers = got.dtype.kind in "fiub" and wanted.dtype.kind in "fiub"
    same = got.shape == wanted.shape and (
        np.allclose(got, wanted, atol=1e-6, equal_nan=True) if numbers else (got == wanted).all()
    )
    if not same:
        raise Silent(f"{got.tolist()!r:.80} instead of {wanted.tolist()!r:.80}")
    return "right value"


def outcome(situation: Callable[[Path], str], folder: Path) -> tuple[str, str]:
    """(outcome, what was seen) of a situation that makes its files in ``folder``."""
    folder.mkdir(parents=True)
    try:
        return situation(folder), ""
    except Silent as error:
        return "SILENT", str(error)
    except WrongSentence as error:
        return "WRONG SENTENCE", str(error)
    except Exception as error:  # a traceback, as a user would see it
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "TRACEBACK", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"[:200]
