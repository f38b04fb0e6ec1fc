"""Commands embed and predict: what a model says in one file, for tools that are not Python, or not ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from neurobridge import __version__
from neurobridge.api.model import Model, load
from neurobridge.api.recordings import Recordings, open_recordings
from neurobridge.api.twin import predict as predict_images
from neurobridge.api.use import embed as embed_recording
from neurobridge.api.use import rates
from neurobridge.data.stored import StoredRecording
from neurobridge.errors import UserError, atomic_path, needs
from neurobridge.terminal import console

if TYPE_CHECKING:
    from xarray import Dataset

UNKNOWN_START = datetime(1970, 1, 1, tzinfo=UTC)  # NWB wants one; times are s since the recording's own zero


def embed(
    run: Path,
    *,
    out: Path,
    data: Path | None = None,
    sessions: list[str] | None = None,
    into: Literal["latents", "image"] = "latents",
    split: Literal["train", "valid", "test"] | None = None,
    level: int | None = None,
) -> Path:
    """Write latents (or image embeddings) and expected rates of sessions to a file (.npz, .nwb or .zarr).

    Args:
        run: Folder of a run whose stage pretrain is done.
        out: File to write: NumPy arrays (.npz), one session in NWB (.nwb), or an xarray data set a session (.zarr).
        data: Data folder of the sessions; empty: the run's own.
        sessions: Names of sessions whose units the model knows; empty: all that it knows.
        into: latents, or what they say of the image (unit vectors in the space of image embeddings).
        split: Windows of this split alone; empty: all.
        level: Which latents: 0 those of the chunks, k those behind block k; empty: the last.
    """
    writers: dict[str, Callable[[Path, Mapping[str, Dataset], Model], None]]
    writers = {".npz": write_npz, ".nwb": write_nwb, ".zarr": write_zarr}
    if out.suffix not in writers:
        raise UserError(f"--out is {out}: its ending says what is written, .npz, .nwb or .zarr")
    model = load(run)
    found = model.recordings if data is None else open_recordings(data)
    if sessions:
        found = found.named(*sessions)
    elif data is not None:
        found = Recordings([r for r in found if set(r.unit_keys) <= set(model.net.units.rows)])
    if not found:
        raise UserError(f"no session of {data or model.settings.data} is known to the model of {run}: adapt it first")
    if out.suffix == ".nwb" and len(found) > 1:
        raise UserError(f"an NWB file holds one session, and {len(found)} are asked for: name one with --sessions")
    sets = {r.path.stem: arrays_of(model, r, into=into, split=split, level=level) for r in found}
    writers[out.suffix](out, sets, model)
    for name, arrays in sets.items():
        shape = " x ".join(f"{size} {dim}" for dim, size in arrays["latents"].sizes.items())
        console.print(f"{name}: {shape} -> {out}", markup=False, soft_wrap=True)
    return out


def arrays_of(model: Model, recording: StoredRecording, **options) -> Dataset:
    """Latents and rates of one recording, with the windows they belong to."""
    with needs("data"):
        from xarray import Dataset
    latents = embed_recording(model, recording, **options)
    hz = rates(model, recording, split=options["split"])
    hz = hz.rename(time="bin")
    attributes = latents.attrs | {"neurobridge": __version__, "stage": model.stage}
    return Dataset({"latents": latents.rename("latents"), "rates": hz}, attrs=attributes)


def write_npz(out: Path, sets: Mapping[str, Dataset], model: Model) -> None:
    """session/name -> array: latents, rates and every coordinate."""
    arrays = {f"{name}/{key}": array.values for name, found in sets.items() for key, array in found.variables.items()}
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def write_zarr(out: Path, sets: Mapping[str, Dataset], model: Model) -> None:
    """One group a session, in format 2, for 3 has no text of fixed width. UserError where there is something."""
    with needs("zarr"):
        import zarr  # noqa: F401  # pyright: ignore
    if out.exists():
        raise UserError(f"{out} is there already: remove it, or choose another --out")
    part = out.with_name(f".{out.name}.part")
    for name, found in sets.items():
        found.to_zarr(part, group=name, mode="a", zarr_format=2)
    part.rename(out)


def write_nwb(out: Path, sets: Mapping[str, Dataset], model: Model) -> None:
    """Time series in a processing module 'neurobridge': a row a chunk (latents) or a bin (rates)."""
    with needs("data"):
        from pynwb import NWBHDF5IO, NWBFile, TimeSeries
        from pynwb.file import Subject
    ((name, found),) = sets.items()
    r = next(r for r in model.recordings if r.path.stem == name)
    file = NWBFile(
        session_description=f"what NeuroBridge {__version__} makes of session {name}; start time is not known",
        identifier=f"{r.dataset}/{r.subject}/{r.session}/{model.stage}",
        session_start_time=UNKNOWN_START,
        session_id=r.session,
        subject=Subject(
            subject_id=r.subject,
            species=r.species.replace("_", " ").capitalize(),
            sex="U",
            description=f"of the data set {r.dataset}",
        ),
    )
    module = file.create_processing_module("neurobridge", "latents and expected rates of a spike encoder")
    window = found["start"].values
    for key, inner, unit, rest in (
        ("latents", "time", "a.u.", ("latent", "feature")),
        ("rates", "bin", found["rates"].attrs["units"], ("unit",)),
    ):
        array = found[key]
        times, columns = window, [dim for dim in rest if dim in array.dims]
        if inner in array.dims:
            array = array.transpose("window", inner, *columns)
            times = (window[:, None] + array[inner].values / 1000).ravel()
        values = array.values.reshape(len(times), -1)
        order = np.argsort(times, kind="stable")
        told = ", ".join(found["unit"].values) if key == "rates" else " x ".join(map(str, columns))
        series = TimeSeries(
            name=key, data=values[order], timestamps=times[order], unit=unit, description=f"columns: {told}"
        )
        module.add(series)
    with atomic_path(out) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The file path provided")  # its temporary name
        with NWBHDF5IO(str(temporary), "w") as io:
            io.write(file)


def predict(run: Path, *, images: Path, session: str, out: Path, data: Path | None = None) -> Path:
    """Write what the units of a session are expected to answer to a folder of pictures (.csv, or .npz with time).

    Args:
        run: Folder of a run that was pretrained with images.
        images: A folder of pictures.
        session: The session whose units are asked.
        out: File to write: .csv, a mean rate an image and unit; .npz, every bin.
        data: Data folder of the session; empty: the run's own.
    """
    if out.suffix not in (".csv", ".npz"):
        raise UserError(f"--out is {out}: its ending says what is written, .csv or .npz")
    model = load(run)
    (recording,) = (model.recordings if data is None else open_recordings(data)).named(session)
    found = predict_images(model, recording, images)
    with atomic_path(out) as temporary:
        if out.suffix == ".csv":
            table = found.mean("time").to_series().rename("expected").reset_index()
            for name in ("region", "correlation", "ceiling"):
                table[name] = table["unit"].map(dict(zip(found["unit"].values, found[name].values, strict=True)))
            table.to_csv(temporary, index=False)
        else:
            with temporary.open("wb") as file:
                np.savez_compressed(file, expected=found.values, **{n: c.values for n, c in found.coords.items()})
    trusted = np.nanmean(found["correlation"] / found["ceiling"])
    console.print(
        f"{len(found)} images, {found.sizes['unit']} units -> {out}; on test images the expected responses correlate "
        f"with the recorded ones at {trusted:.2f} of what noise allows",
        markup=False,
        soft_wrap=True,
    )
    return out
