"""Situations of benchmarks/bad_input.py: observed time, identity, pictures, parallel writers, and what is said."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pynapple as nap
from _bad_files import (
    SHOWN,
    TIMES,
    Silent,
    bring,
    equal,
    fits,
    imports,
    manifest,
    pictures,
    pixels,
    refuses,
    run,
    says,
    shown,
    tables,
)
from _bad_nwb import nwb
from PIL import Image

from neurobridge.data.datamodule import open_sessions
from neurobridge.data.images import ImageSet
from neurobridge.data.importing import add_images
from neurobridge.data.store import Session

Situation = Callable[[Path], str]
RATE = ("--quality.min_rate",)


def group(d: Path) -> Path:
    """20 s of a minute were not observed, and u1 fires at 0.75 Hz in the rest."""
    seen = nap.IntervalSet([0, 40], [20, 60])
    trains = {0: nap.Ts(TIMES["u0"]), 1: nap.Ts(np.arange(45) / 0.75 + 0.1)}
    nap.TsGroup(trains).restrict(seen).save(str(d / "g.npz"))
    return manifest(d, units=None, areas=["V1"], spikes={"format": "tsgroup", "path": "g.npz"})


def of_nwb(d: Path, **content: object) -> Path:
    nwb(d / "s.nwb", **content)
    return manifest(d, units=None, areas=["V1"], spikes={"format": "nwb", "path": "s.nwb"})


def windows_in_gaps(d: Path) -> str:
    starts = Session(bring(group(d)), window_ms=1000).starts
    return equal(((starts > 19.001) & (starts < 39.999)).sum(), 0)


def ms_of_seconds(d: Path) -> Path:
    shown(d)
    table = {"format": "csv", "path": "stimuli.csv", "time_unit": "ms"}
    return manifest(d, stimuli=table, image_root="pics", split="column")


def counts(d: Path, **keys: object) -> Path:
    np.savez(d / "c.npz", values=np.ones((500, 3), int), bin_edges=np.arange(501) * 0.1)
    spikes = {"format": "npz", "path": "c.npz", "layout": "continuous", **keys}
    return manifest(d, units=None, areas=["V1"], signal_kind="binned_count", spikes=spikes)


OBSERVED: dict[str, Situation] = {
    "time support of a saved TsGroup": lambda d: equal(bring(group(d)).observed, [[0, 20], [40, 60]]),
    "rate of a unit in observed time alone": lambda d: equal(bring(group(d)).unit_columns["rate_hz"], [5.0, 0.75]),
    "no window in a gap": windows_in_gaps,
    "obs_intervals of NWB units": lambda d: equal(
        bring(of_nwb(d, obs=[[0, 20], [30, 60]])).observed, [[0, 20], [30, 60]]
    ),
    "invalid_times of an NWB file": lambda d: equal(bring(of_nwb(d, invalid=[[20, 30]])).observed, [[0, 20], [30, 60]]),
    "'observed' of a manifest": lambda d: equal(bring(manifest(d, observed=[[10, 20], [15, 30]])).observed, [[10, 30]]),
    "'observed' the wrong way round": lambda d: imports("observed|later stop", manifest(d, observed=[[9, 2]])),
    "'observed' in ms": lambda d: imports("observed|within", manifest(d, observed=[[70000, 90000]])),
    "counts that end before the recording": lambda d: equal(bring(counts(d)).observed, [[0, 50]]),
    "stimulus times in s, declared as ms": lambda d: imports("time_unit right", ms_of_seconds(d)),
    "presentations in a gap": lambda d: equal(
        bring(shown(d, observed=[[2.0, 60.0]])).stimuli.valid, [False, True, True]
    ),
}


def two_animals(d: Path) -> str:
    for name in ("ann", "bob"):
        tables(d / name)
        bring(manifest(d / name, subject=name), out=d / "out")
    return equal(sorted(f.stem for f in (d / "out/sessions").iterdir()), ["bob_day1", "day1"])


def one_session_twice(d: Path) -> str:
    tables(d)
    bring(manifest(d))
    shutil.copy(d / "out/sessions/day1.h5", d / "out/sessions/again.h5")
    return refuses("are one session|remove", lambda: open_sessions(d / "out", window_ms=500))


def kept_columns(d: Path) -> str:
    text = "onset,offset,image_id,split,contrast,seen,day,trial_id\n"
    text += "1,1.5,a,train,0.5,true,2024-05-01,007\n2,2.5,b,test,1,false,2024-05-02,8\n"
    c = bring(without_pictures(d, text)).stimuli.columns
    equal(c["contrast"], [0.5, 1.0])
    equal(c["seen"], [True, False])
    equal(c["day"], ["2024-05-01", "2024-05-02"])
    return equal(c["trial_id"], ["007", "8"])


def without_pictures(d: Path, text: str = SHOWN, split: str = "column") -> Path:
    tables(d, stimuli=text)
    file = manifest(d, stimuli={"format": "csv", "path": "stimuli.csv"}, split=split)
    file.write_text(file.read_text() + "image_root: null\n")
    return file


def split_by_id(d: Path) -> str:
    rows = "".join(f"{1 + i},{1.5 + i},im{i % 20},x\n" for i in range(40))
    s = bring(without_pictures(d, "onset,offset,image_id,image_path\n" + rows, "image")).stimuli
    equal(len(set(s.split.tolist())) > 1, True)
    return equal(s.split[:20], s.split[20:])


def two_names(d: Path) -> str:
    rows = "onset,offset,image_id,image_path,split\n1,1.5,a,a.png,train\n2,2.5,z,z.png,train\n3,3.5,a,a.png,train\n"
    pictures(d, ["a.png"])
    shutil.copy(d / "pics/a.png", d / "pics/z.png")
    return equal(bring(shown(d, rows)).stimuli.repeat, [0, 1, 2])


def two_splits(d: Path) -> str:
    rows = "onset,offset,image_id,image_path,split\n1,1.5,a,a.png,train\n2,2.5,z,z.png,test\n"
    pictures(d, ["a.png"])
    shutil.copy(d / "pics/a.png", d / "pics/z.png")
    return imports("same picture|one split", shown(d, rows))


IDENTITY: dict[str, Situation] = {
    "two animals, one session name": two_animals,
    "one session in two files": one_session_twice,
    "image ids without pictures": lambda d: equal(bring(without_pictures(d)).stimuli.image_id, ["a", "b", "c"]),
    "names beyond ASCII": lambda d: equal(
        bring(without_pictures(d, SHOWN.replace("1.5,a,", "1.5,grün,"))).stimuli.image_id[0], "grün"
    ),
    "split: image, by id": split_by_id,
    "contrast, truth, date and 007 of presentations": kept_columns,
    "one picture under two names: repeats": two_names,
    "one picture in two splits": two_splits,
    "a session id of 300 characters": lambda d: imports(
        "cannot name a file|shorten", manifest(d, session_id="n" * 300)
    ),
    "a session id with a slash": lambda d: imports("use letters", manifest(d, session_id="../x")),
    "a trial id twice": lambda d: imports(
        "was there before", without_pictures(d, "onset,offset,image_id,split,trial_id\n1,2,a,train,t\n3,4,b,train,t\n")
    ),
}


def picture(d: Path, made: Image.Image, name: str = "a.png", **options: object) -> Path:
    pictures(d, ("b.png", "c.png"))
    made.save(d / "pics" / name, **options)
    return shown(d, SHOWN.replace("a.png", name))


def plain(mode: str = "RGB") -> Image.Image:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    return Image.fromarray(np.stack([ramp, ramp[::-1], ramp.T], axis=2)).convert(mode)


def turned(d: Path) -> str:
    exif = Image.Exif()
    exif[0x0112] = 3
    upright = np.asarray(plain())
    return equal(pixels(picture(d, Image.fromarray(upright[::-1, ::-1].copy()), exif=exif))["a"], upright)


def spoilt(d: Path, change: Callable[[bytes], bytes]) -> Path:
    file = picture(d, plain(), "a.jpg")
    (d / "pics/a.jpg").write_bytes(change((d / "pics/a.jpg").read_bytes()))
    return file


PICTURES: dict[str, Situation] = {
    "a photo turned by EXIF": turned,
    "16-bit grey PNG": lambda d: imports(
        "8 bits", picture(d, Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)))
    ),
    "float TIFF": lambda d: imports("8 bits", picture(d, Image.fromarray(np.ones((16, 16), np.float32)), "a.tif")),
    "transparent pixels": lambda d: imports("transparent in", picture(d, Image.new("RGBA", (16, 16), (9, 9, 9, 7)))),
    "an alpha channel that hides nothing": lambda d: equal(pixels(picture(d, plain("RGBA")))["a"], np.asarray(plain())),
    "a palette with a transparent colour": lambda d: imports(
        "transparent in", picture(d, plain().quantize(8), transparency=0)
    ),
    "a palette": lambda d: equal(
        pixels(picture(d, plain().quantize(8)))["a"], np.asarray(plain().quantize(8).convert("RGB"))
    ),
    "CMYK": lambda d: equal(pixels(picture(d, plain("CMYK"), "a.tif"))["a"], np.asarray(plain("CMYK").convert("RGB"))),
    "an animation": lambda d: imports(
        "holds 2 pictures", picture(d, plain(), "a.gif", save_all=True, append_images=[plain().rotate(90)])
    ),
    "a JPEG cut off": lambda d: imports("cut off", spoilt(d, lambda b: b[: len(b) // 2])),
    "text called .jpg": lambda d: imports("no picture of a kind", spoilt(d, lambda b: b"not a picture")),
    "an empty picture": lambda d: imports("is empty", spoilt(d, lambda b: b"")),
    "a picture outside of image_root": lambda d: imports("outside of", shown(d, SHOWN.replace("a.png", "../../a.png"))),
    "pictures of two sizes": lambda d: imports("several sizes", picture(d, Image.new("RGB", (9, 9), (1, 2, 3)))),
}


def add_some(out: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(4):
        add_images(out, list(rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)))


def at_once(d: Path) -> str:
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=add_some, args=(d / "out", seed)) for seed in range(3)]
    for job in jobs:
        job.start()
    while any(job.is_alive() for job in jobs):  # a reader beside the writers
        if (d / "out/images.h5").is_file():
            ImageSet.read(d / "out/images.h5")
    return equal([job.exitcode for job in jobs] + [len(ImageSet.read(d / "out/images.h5"))], [0, 0, 0, 48])


def pictures_gone(d: Path) -> str:
    file = shown(d)
    bring(file)
    (d / "out/images.h5").unlink()
    bring(file)
    return equal(len(ImageSet.read(d / "out/images.h5")), 3)


def broken_neighbour(d: Path) -> str:
    tables(d)
    bring(manifest(d))
    (d / "out/sessions/broken.h5").write_bytes(b"nothing")
    code, out, _ = run("data", "list", d / "out")
    return equal([code, "day1" in out, "broken" in out], [0, True, True])


def said(words: str, file: Path, *options: object) -> str:
    code, out, err = run("data", "import", "lab", file, "--out", file.parent / "out", *options)
    if code:
        raise Silent(f"exit code {code}")
    return fits(words, [" ".join((out + err).split())])


WRITERS: dict[str, Situation] = {
    "three imports and a reader at once": at_once,
    "imported again where the pictures are gone": pictures_gone,
    "a broken session beside a sound one": broken_neighbour,
    "the same import again": lambda d: bring(manifest(d)) and said("already imported", d / "day1.yaml"),
    "another seed: not the same import": lambda d: (
        bring(shown(d, split="image", split_seed=1)) and said("kept", shown(d, split="image", split_seed=2))
    ),
    "a session altered on disk": lambda d: altered(d),
}


def altered(d: Path) -> str:
    bring(manifest(d))
    with h5py.File(d / "out/sessions/day1.h5", "r+") as file:
        file["spikes/timestamps"][3] = np.nan
    return says("findings are not ok", "data", "validate", d / "out")


def foreign(d: Path) -> Path:
    tables(d, units="unit_id,electrode_id,area\nu0,1,V1\nu1,2,MT\n")
    return manifest(d)


SAID: dict[str, Situation] = {
    "what was kept, and what keeps the rest": lambda d: said(
        "kept 1 of 2 units|1 below 4.5 Hz|--quality.min_rate null", manifest(d), *RATE, "4.5"
    ),
    "an empty split": lambda d: said("no valid presentation in valid and test", shown(d, SHOWN.split("2,2.5")[0])),
    "all missing keys at once": lambda d: imports(
        "'subject'|'time_unit'|'areas'", manifest(d, subject=None, time_unit=None, areas=None)
    ),
    "a key with a typo": lambda d: imports("do you mean 'time_unit'", manifest(d, time_unt="s")),
    "no unit left": lambda d: says(
        "no unit is left|--quality.min_rate", "data", "import", "lab", manifest(d), "--out", d / "o", *RATE, "99"
    ),
    "a region that is not declared": lambda d: imports("area 'MT'|V1, V4", foreign(d)),
    "control characters in a name": lambda d: escapes(d),
}


def escapes(d: Path) -> str:
    tables(d, units="unit_id,electrode_id,area\nu0,1,V1\nu1,2,\x1b[2JMT\n")
    _, out, err = run("data", "import", "lab", manifest(d), "--out", d / "out")
    if "\x1b" in out + err:
        raise Silent("the terminal obeys a name")
    return fits("printable", err.splitlines())
