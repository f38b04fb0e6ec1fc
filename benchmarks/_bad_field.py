"""Situations of benchmarks/bad_input.py as they come from the field: what a lab's own tables and files really hold."""

from __future__ import annotations

import shutil
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.io
from _bad_files import SHOWN, TIMES, bring, equal, imports, manifest, pictures, pixels, run, shown, tables
from _bad_readers import counts, npz, of_nwb, phy
from _bad_recordings import picture, plain, said, without_pictures
from PIL import Image

Situation = Callable[[Path], str]
T0, T1 = TIMES["u0"], TIMES["u1"]
ONE_REGION = {"units": None, "areas": ["V1"]}
NFC, NFD = (unicodedata.normalize(form, "grün") for form in ("NFC", "NFD"))


def edited(d: Path, old: str, new: str) -> Path:
    """A manifest with other words in it."""
    file = manifest(d)
    assert old in file.read_text(), f"the manifest has no '{old}'"
    file.write_text(file.read_text().replace(old, new))
    return file


def spikes(d: Path, rows: str, **keys: object) -> Path:
    tables(d, spikes="time,unit_id\n" + rows)
    return manifest(d, **keys)


def blanks(d: Path) -> str:
    rows = "".join(f"{t:.3f},{'u0' if i % 2 else 'u0 '}\n" for i, t in enumerate(T0))
    return equal(bring(spikes(d, rows, **ONE_REGION)).unit_ids, ["u0"])


def ids(d: Path, one: str, other: str) -> Path:
    text = f"onset,offset,image_id,split\n1,1.5,{one},train\n2,2.5,{other},test\n3,3.5,dog,valid\n"
    return without_pictures(d, text)


def spelled(d: Path) -> str:
    pictures(d, [f"{NFD}.png", "b.png", "c.png"])
    return equal(len(bring(shown(d, SHOWN.replace("a.png", f"{NFC}.png"))).stimuli.start), 3)


def in_folder(d: Path) -> Path:
    pictures(d)
    (d / "pics/sub").mkdir()
    (d / "pics/a.png").rename(d / "pics/sub/a.png")
    return shown(d, SHOWN.replace("a.png", "sub\\a.png"))


def twice(d: Path, kind: str) -> Path:
    return spikes(d, "".join(f"{t:.3f},u0\n" * 2 for t in T0), **ONE_REGION, signal_kind=kind)


IDENTITY: dict[str, Situation] = {
    "unit ids with blanks behind": blanks,
    "image ids with blanks behind, two splits": lambda d: imports("'cat'|one split", ids(d, "cat", "cat ")),
    "one accent in two spellings, two splits": lambda d: imports("one split", ids(d, NFC, NFD)),
    "a picture's name in the other spelling": spelled,
    "a Windows path": lambda d: imports("write / between folders", in_folder(d)),
    "a picture's name in capitals": lambda d: (
        pictures(d) or imports("there is 'a.png'", shown(d, SHOWN.replace("a.png", "A.PNG")))
    ),
    "one image id, two pictures": lambda d: imports(
        "is 'b.png' here but 'a.png' above", shown(d, SHOWN.replace("2,2.5,b", "2,2.5,a"))
    ),
    "a presentation written twice": lambda d: imports(
        "was there before; remove one of the rows", shown(d, SHOWN + "3,3.5,c,c.png,test\n")
    ),
    "presentations of two splits at once": lambda d: said(
        "1 presentations that overlap one of another split", shown(d, SHOWN.replace("2,2.5", "1.2,2.5"))
    ),
    "the same unit ids in NWB": lambda d: imports(
        "unit_id '5' was there before", alone(d, lambda f: f["units/id"].write_direct(np.array([5, 5])))
    ),
}


def alone(d: Path, edit: Callable[[h5py.File], object]) -> Path:
    """An NWB file that brings its own units."""
    of_nwb(d, edit)
    return manifest(d, **ONE_REGION, spikes={"format": "nwb", "path": "s.nwb"})


def mat(d: Path, *, unit: str = "s", layout: str = "labels", **content: object) -> Path:
    d.mkdir(exist_ok=True)
    scipy.io.savemat(d / "s.mat", content)
    table = {"format": "mat", "path": "s.mat", "layout": layout}
    rate = {"sampling_rate": 30000, "duration": [0, 100_001]} if unit == "samples" else {}
    return manifest(d, **ONE_REGION, spikes=table, time_unit=unit, **rate)


def trains(*each: np.ndarray) -> np.ndarray:
    cells = np.empty((1, len(each)), object)
    for number, train in enumerate(each):
        cells[0, number] = train
    return cells


def behaviour(d: Path, times: np.ndarray, values: np.ndarray) -> Path:
    d.mkdir(exist_ok=True)
    pd.DataFrame({"time": times, "value": values}).to_csv(d / "b.csv", index=False)
    return manifest(d, behaviour={"speed": {"format": "csv", "path": "b.csv"}})


def narrow(d: Path) -> Path:
    spikes_table = {"format": "npz", "path": "narrow.npz", "layout": "continuous", "bin_width": 1e-4}
    file = manifest(d, **ONE_REGION, signal_kind="binned_count", spikes=spikes_table)
    np.savez(d / "narrow.npz", values=np.ones((500, 3), int))
    return file


def late() -> str:
    return "".join(f"{t:.3f},u0\n" for t in T0 if t > 40)


def drafted(d: Path) -> str:
    spikes(d, late())
    run("data", "doctor", d / "spikes.csv", "--manifest", d / "draft.yaml")
    return equal("duration: [40, 60] " in (d / "draft.yaml").read_text(), True)


TIME = np.arange(100) * 0.5
CLOCKS: dict[str, Situation] = {
    "1:00 in a manifest, which YAML takes for 60": lambda d: imports("base 60|line 7", edited(d, "- 60\n", "- 1:00\n")),
    "0100 in a manifest, which YAML takes for 64": lambda d: imports("base 8", edited(d, "- 60\n", "- 0100\n")),
    "one unit of several in ms": lambda d: imports(
        "unit '1' has 300 spikes|time_unit right", mat(d, layout="trains", spike_times=trains(T0 / 1000, T1))
    ),
    "float16 times": lambda d: imports("knows steps of 0.031 s", npz(d, time=T0.astype("f2"), unit_id=["u0"] * 300)),
    "float32 samples of 100 000 s": lambda d: imports(
        "float32|float64 or whole numbers",
        mat(d, unit="samples", time=np.float32(np.arange(300) * 1e7), unit_id=np.ones(300)),
    ),
    "int32 samples that ran over": lambda d: imports(
        "before the first moment",
        mat(d, unit="samples", time=(np.arange(300) * 10**7).astype("i4"), unit_id=np.ones(300)),
    ),
    "a time in h:min:s": lambda d: imports("'00:00:00.060'|a number", spikes(d, "0.050,u0\n00:00:00.060,u1\n")),
    "dates for times in Parquet": lambda d: imports("datetime64|expected numbers", dated(d)),
    "a presentation off the end": lambda d: imports(
        "after the end of the recording", shown(d, SHOWN.replace("3,3.5", "59.8,60.3"))
    ),
    "a clock that ran long before the recording": lambda d: said(
        "no unit fired in 0 to 40.05 s, 67% of the duration", spikes(d, late(), **ONE_REGION)
    ),
    "a draft for such a file": drafted,
    "NaN in a table of trials": lambda d: imports("'onset' is nan", shown(d, SHOWN.replace("3,3.5", "nan,nan"))),
    "obs_intervals the wrong way round": lambda d: imports("a start and a later stop", reversed_intervals(d)),
    "a recording of no length": lambda d: imports("first and last second", manifest(d, duration=[0, 0])),
    "behaviour on the clock of samples": lambda d: imports(
        "one of its 100 samples|time_unit right", behaviour(d, TIME * 2000, TIME)
    ),
    "behaviour with a sentinel": lambda d: said(
        "from -9999 to", behaviour(d, TIME, np.where(np.arange(100) % 7, TIME, -9999))
    ),
    "behaviour with times twice": lambda d: said(
        "50 at the very time of the one before", behaviour(d, TIME // 1, np.arange(100))
    ),
    "behaviour that ends early": lambda d: said("over 4.95 of 60 s", behaviour(d, TIME / 10, TIME)),
}


def dated(d: Path) -> Path:
    tables(d)
    when = pd.Timestamp("2024-05-01") + pd.to_timedelta(T0, unit="s")
    pd.DataFrame({"time": when, "unit_id": ["u0"] * 300}).to_parquet(d / "s.pq")
    return manifest(d, spikes={"format": "parquet", "path": "s.pq"})


def reversed_intervals(d: Path) -> Path:
    from _bad_nwb import nwb

    nwb(d / "s.nwb", obs=[[20, 0], [30, 60]])
    return manifest(d, **ONE_REGION, spikes={"format": "nwb", "path": "s.nwb"})


def unlike_parts(d: Path) -> Path:
    tables(d)
    (d / "s.pq").mkdir()
    for name, column, part in (("a", "time", T0[:150]), ("b", "t", T0[150:])):
        pd.DataFrame({column: part, "unit_id": ["u0"] * 150}).to_parquet(d / f"s.pq/{name}.parquet")
    return manifest(d, spikes={"format": "parquet", "path": "s.pq"})


def packed(file: h5py.File, key: str = "units/spike_times") -> None:
    """The data set as a writer with a filter leaves it that is not installed here."""
    values, told = file[key][:], dict(file[key].attrs)
    del file[key]
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk(values.shape)
    made.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple(values.shape)
    written = h5py.h5d.create(file.id, key.encode(), h5py.h5t.py_create(values.dtype), space, made)
    written.write_direct_chunk((0,) * values.ndim, zlib.compress(values.tobytes()), 0)
    file[key].attrs.update(told)


def linked(file: h5py.File) -> None:
    del file["units/spike_times"]
    file["units/spike_times"] = h5py.ExternalLink("gone.h5", "/x")


def in_other_file(d: Path) -> str:
    def edit(file: h5py.File) -> None:
        with h5py.File(d / "other.h5", "w") as other:
            other["x"] = file["units/spike_times"][:]
        del file["units/spike_times"]
        file["units/spike_times"] = h5py.ExternalLink("other.h5", "/x")

    return equal(len(bring(alone(d, edit)).spike_times), 599)


def turned_bytes(d: Path) -> str:
    return equal(len(bring(npz(d, time=T0.astype(">f8"), unit_id=["u0"] * 300)).spike_times), 300)


def fortran(d: Path) -> str:
    values = np.asfortranarray(np.arange(1500).reshape(500, 3) % 4)
    return equal(np.bincount(bring(counts(d, values)).spike_units), values.sum(0))


def tagged(d: Path, group: str, info: str = "") -> Path:
    file = phy(d)
    (d / "sorted/cluster_group.tsv").write_text("cluster_id\tgroup\n" + group)
    if info:
        (d / "sorted/cluster_info.tsv").write_text("cluster_id\tgroup\tch\n" + info)
    return file


READERS: dict[str, Situation] = {
    "a filter of HDF5 that is not installed": lambda d: imports("filter 32015|without compression", alone(d, packed)),
    "a link to a file that is not there": lambda d: imports("link to '/x' of gone.h5", alone(d, linked)),
    "a link to a file beside": in_other_file,
    "parts of a Parquet folder with other columns": lambda d: imports("other columns|'t'", unlike_parts(d)),
    "big-endian times": turned_bytes,
    "counts in Fortran order": fortran,
    "bytes for unit ids": lambda d: equal(bring(npz(d, time=T0, unit_id=[b"u0"] * 300)).unit_ids, ["u0"]),
    "counts of uint8 that are full": lambda d: imports("255, the most", counts(d, np.full((500, 3), 255, np.uint8))),
    "counts that add up": lambda d: imports("more than 1000 a second", counts(d, np.cumsum(np.ones((500, 3), int), 0))),
    "counts in bins a thousand times too short": lambda d: imports("more than 1000 a second", narrow(d)),
    "truth values packed to bits": lambda d: imports(
        "501 bin_edges for values of shape (63, 3)", counts(d, np.packbits(np.ones((500, 3), bool), axis=0))
    ),
    "a tensor of conditions and repeats": lambda d: imports(
        "a row a presentation", counts(d, np.ones((2, 5, 50, 3), int))
    ),
    "trains in rows and in columns": lambda d: equal(
        np.bincount(bring(mat(d, layout="trains", spike_times=trains(T0[None], T1[:, None]))).spike_units), [300, 240]
    ),
    "complex times": lambda d: imports("complex128", npz(d, time=T0 + 0j, unit_id=["u0"] * 300)),
    "thousands separators": lambda d: imports("'5,905.0'", spikes(d, '0.05,u0\n"5,905.0",u1\n')),
    "a comment in the middle": lambda d: imports("line 3 has 1 values", spikes(d, "0.05,u0\n# two\n0.06,u1\n")),
    "a tab in a manifest": lambda d: imports("line 21|'\\t'", tabbed(d)),
    "phy: two tables disagree": lambda d: said(
        "the group of 1 clusters is that of cluster_group.tsv", tagged(d, "0\tgood\n1\tmua\n2\tnoise\n", "1\tgood\t4\n")
    ),
    "phy: the table of groups lacks a cluster": lambda d: equal(
        bring(tagged(d, "0\tgood\n", "0\tgood\t1\n1\tgood\t2\n2\tnoise\t3\n")).unit_ids, ["0", "1"]
    ),
    "phy: groups in words of one's own": lambda d: said(
        "clusters called SUA, artefact are units too", tagged(d, "0\tSUA\n1\tartefact\n2\tnoise\n")
    ),
    "phy: seconds for samples": lambda d: imports("no whole number", in_seconds(d)),
    "spikes written twice": lambda d: imports("300 spikes at the very time of another", twice(d, "sorted")),
    "crossings written twice": lambda d: said("300 spikes at the very time of another", twice(d, "threshold_crossing")),
}


def tabbed(d: Path) -> Path:
    file = manifest(d)
    file.write_text(file.read_text() + "species: X\n\tmore: 1\n")
    return file


def in_seconds(d: Path) -> Path:
    file = phy(d)
    np.save(d / "sorted/spike_times.npy", T0)
    return file


def float_tiff(d: Path) -> Path:
    """A TIFF of float RGB, as ImageJ or MATLAB write it."""
    pictures(d)
    data, count = np.random.default_rng(0).random((16, 16, 3)).astype("<f4").tobytes(), 11
    place = 8 + len(data)
    after = place + 2 + 12 * count + 4
    short = {256: 16, 257: 16, 259: 1, 262: 2, 277: 3, 278: 16, 284: 1}
    entries = {tag: (3, 1, value) for tag, value in short.items()}
    entries |= {258: (3, 3, after), 273: (4, 1, 8), 279: (4, 1, len(data)), 339: (3, 3, after + 6)}
    table = b"".join(struct.pack("<HHII", tag, *entries[tag]) for tag in sorted(entries))
    tail = struct.pack("<I6H", 0, 32, 32, 32, 3, 3, 3)
    content = b"II*\0" + struct.pack("<I", place) + data + struct.pack("<H", count) + table + tail
    (d / "pics/a.tif").write_bytes(content)
    return shown(d, SHOWN.replace("a.png", "a.tif"))


def turned_as(name: str) -> Situation:
    def situation(d: Path) -> str:
        exif = Image.Exif()
        exif[0x0112] = 3
        upright = np.asarray(plain())
        file = picture(d, Image.fromarray(upright[::-1, ::-1].copy()), name, exif=exif, **options)
        return equal(pixels(file)["a"], upright)

    options = {"lossless": True} if name.endswith(".webp") else {}
    return situation


def one_bit(d: Path) -> str:
    made = plain().convert("1")
    return equal(pixels(picture(d, made, "a.tif", compression="group4"))["a"], np.asarray(made.convert("RGB")))


PICTURES: dict[str, Situation] = {
    "float RGB TIFF": lambda d: imports("floats?|8 bits", float_tiff(d)),
    "a TIFF turned by its tag": turned_as("a.tif"),
    "a WebP turned by EXIF": turned_as("a.webp"),
    "1-bit fax TIFF": one_bit,
    "an animated PNG": lambda d: imports(
        "holds 2 pictures", picture(d, plain(), save_all=True, append_images=[plain().rotate(90)])
    ),
    "a TIFF in CIE Lab": lambda d: imports("of the kind 'LAB'", picture(d, Image.new("LAB", (16, 16)), "a.tif")),
    "900 million pixels": lambda d: imports("million pixels", picture(d, Image.new("1", (30_000, 30_000)))),
    "HEIC called .png": lambda d: (
        pictures(d)
        or (d / "pics/a.png").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99)) * 0
        or imports("no picture of a kind", shown(d))
    ),
}


def lost_picture(d: Path) -> str:
    from neurobridge.data.images import ImageSet

    file = shown(d)
    bring(file)
    images = ImageSet.read(d / "out/images.h5")
    ImageSet(ids=images.ids[:2], pixels=images.pixels[:2]).write(d / "out/images.h5")
    bring(file)
    return equal(len(ImageSet.read(d / "out/images.h5")), 3)


def one_bad_of_two(d: Path) -> str:
    tables(d / "m")
    manifest(d / "m", "a.yaml", session_id="one")
    bad = manifest(d / "m", "b.yaml", session_id="two", duration=[0, 30])
    shutil.move(bad, d / "m" / "z.yaml")
    return imports("outside the duration of 0 to 30 s", d / "m")


WRITERS: dict[str, Situation] = {
    "a session cut off on disk": lambda d: cut_session(d),
    "a picture lost from the set": lost_picture,
    "one bad manifest of two": one_bad_of_two,
}


def cut_session(d: Path) -> str:
    file = manifest(d)
    bring(file)
    stored = d / "out/sessions/day1.h5"
    stored.write_bytes(stored.read_bytes()[:5000])
    return equal(len(bring(file).spike_times), 540)
