"""More situations from the field for benchmarks/bad_input.py: files to read, pictures, folders that are written."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from _bad_field import ONE_REGION, T0, T1, alone, mat, narrow, spikes, trains, twice
from _bad_files import SHOWN, bring, equal, imports, manifest, pictures, pixels, shown, tables
from _bad_readers import counts, npz, phy
from _bad_recordings import picture, plain, said
from PIL import Image

Situation = Callable[[Path], str]


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
    "a sorting whose spikes lie in two segments": lambda d: imports("has 2 segments", segmented(d)),
    "phy: seconds for samples": lambda d: imports("no whole number", in_seconds(d)),
    "spikes written twice": lambda d: imports("300 spikes at the very time of another", twice(d, "sorted")),
    "crossings written twice": lambda d: said("300 spikes at the very time of another", twice(d, "threshold_crossing")),
}


def segmented(d: Path) -> Path:
    (d / "sort").mkdir(parents=True)
    made = np.zeros(300, [(name, "i8") for name in ("sample_index", "unit_index", "segment_index")])
    made["sample_index"], made["segment_index"] = T0 * 30_000, np.arange(300) >= 200
    np.save(d / "sort/spikes.npy", made)
    info = {"unit_ids": ["a"], "sampling_frequency": 30_000.0, "num_segments": 1}
    (d / "sort/numpysorting_info.json").write_text(json.dumps(info))
    table = {"format": "spikeinterface", "path": "sort"}
    return manifest(d, **ONE_REGION, time_unit="samples", sampling_rate=30_000, spikes=table)


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
