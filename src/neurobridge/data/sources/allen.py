"""Allen Visual Coding Neuropixels (DANDI 000021): sorted units of mice that see natural scenes; one NWB file a session.

What trips a reader: ``units/peak_channel_id`` is a value of ``electrodes/id`` and not a row; the region is a column of
the electrodes; of the tables in ``intervals`` only those named ``*_presentations`` are stimuli; frame -1 of
``natural_scenes`` is the blank. The pictures are not in the NWB files: they come from the Allen cache.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
from rich.progress import Progress

from neurobridge import __version__
from neurobridge.data.doctor import Finding
from neurobridge.data.frames import read_frames
from neurobridge.data.importing import add_images, file_hash, is_there, repeats, signature, write_session
from neurobridge.data.intervals import overlaps
from neurobridge.data.nwb import Nwb, open_nwb, some_file
from neurobridge.data.nwb_doctor import examine_nwb
from neurobridge.data.nwb_observed import observed_by_all, seen_by_unit, split_intervals
from neurobridge.data.quality import QualitySettings, select_units
from neurobridge.data.recording import Recording, Stimuli, TimeSeries
from neurobridge.data.sessions import Identity
from neurobridge.data.sources.allen_file import LAST_FRAME, SCENES, SUFFIX, Found, look_at
from neurobridge.data.sources.allen_movies import Films, add_movies, film_of, film_splits, movie_files
from neurobridge.data.sources.v4 import split_of
from neurobridge.errors import UserError


def import_allen(
    path: Path,
    out: Path = Path("data/allen"),
    *,
    images: Path | None = None,
    movies: Path | None = None,
    tables: tuple[str, ...] = (SCENES,),
    unusable: bool = False,
    quality: QualitySettings = QualitySettings(),
    seed: int = 0,
) -> Path:
    """Import Allen Visual Coding Neuropixels sessions (NWB) into the data folder ``out``; return ``out``.

    Presentations that overlap invalid times are not valid; those without a duration, and spikes without a valid time
    (below 0, as AllenSDK has it), are left out and counted. Natural scenes are split by image content and ``seed`` (by
    frame number without ``images``). Other presentations, blanks among them, are ``train`` where no picture is known,
    and ``none`` in a session with pictures, for there every training window must show one. Sessions already written
    from the same bytes and options are skipped. Raises UserError for input that cannot be used.

    Args:
        path: A session's NWB file, or a folder that holds such files at any depth (LFP files of probes are passed by).
        out: Data folder to write.
        images: Folder of pictures named by frame number (0.png ... 117.png), or a .npy or .tiff stack. Without it the
            frames are known by number only, and an image is called allen_natural_scenes_017.
        movies: Folder with the frames of movies, natural_movie_one.npy (or .tiff, or a folder of that name), of the
            size of ``images``. Their tables are kept too, and every frame is an image: of ten parts of a movie one is
            valid and one is test, and what is within half a second of these is of no split.
        tables: Stimulus tables to keep, without "_presentations"; empty for all of them.
        unusable: Keep units that the release calls noise or whose peak channel it calls invalid.
        quality: Thresholds of unit quality.
        seed: Seed of the splits.
    """
    path, out = Path(path), Path(out)
    options = {"tables": tables, "unusable": unusable, "seed": seed, **asdict(quality)}
    options["pictures"] = signature(_picture_files(images))
    if movies is not None:
        options["movies"] = signature(_picture_files(movies))
    with Progress(transient=True) as progress:
        pending: list[tuple[Identity, Path, str]] = []
        for identity, file in progress.track(_sessions(path).items(), description="files"):
            mark = signature([file], **options)
            if not is_there(out, identity, mark):
                pending.append((identity, file, mark))
        frames: dict[int, str] | None = None
        if images is not None:
            frames = {}
            if pending:
                read = dict(progress.track(read_frames(Path(images)), description="pictures"))
                if max(read, default=0) > LAST_FRAME:
                    raise UserError(
                        f"{images} holds a picture of frame {max(read)}, and natural scenes are 0 to {LAST_FRAME}: is "
                        "it a stack with its frames last? Give [frames, H, W], or name the pictures by frame number"
                    )
                frames = dict(zip(read, add_images(out, read.values()), strict=True))
        films = add_movies(out, movie_files(Path(movies))) if movies is not None and pending else {}
        for identity, file, mark in progress.track(pending, description="sessions"):
            with open_nwb(file) as nwb:
                there = [key.removesuffix(SUFFIX) for key in nwb.members("intervals") if key.endswith(SUFFIX)]
                played = [name for name in there if film_of(name) in films and name not in tables]
                look, found = look_at(nwb, (*tables, *played) if tables else tables)
                look.refuse()
                recording = _recording(nwb, found, identity, frames, films, unusable, seed)
                del found  # its spikes are as large as the recording
            recording = select_units(recording, quality)
            recording.provenance["signature"] = mark
            write_session(recording, out)
    return out


def recognises(path: Path) -> bool:
    """True for an NWB file whose units name a peak channel, and for a folder that holds one."""
    return some_file(path, lambda nwb: nwb.has("units/peak_channel_id"))


def examine(path: Path) -> list[Finding]:
    """What each session file of ``path`` holds beside what :func:`import_allen` needs; never raises."""
    try:
        files = session_files(Path(path))
    except (UserError, OSError) as error:
        return [
            Finding(file=Path(path), key="file", found=str(error), expected="NWB files", ok=False, mend="give them")
        ]
    return [finding for file in files for finding in examine_nwb(file, lambda nwb: look_at(nwb, (SCENES,))[0])]


def session_files(path: Path) -> list[Path]:
    """The NWB files of sessions at ``path``; the LFP files of probes, which hold no units, are passed by."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"nothing at {path}: give the NWB file of a session, or a folder that holds such files")
    files = [file for file in sorted(path.rglob("*.nwb")) if not some_file(file, _is_lfp)]
    if not files:
        raise UserError(f"{path} holds no NWB file of a session (*.nwb): give the folder that was downloaded")
    return files


def _sessions(path: Path) -> dict[Identity, Path]:
    """Session -> file. Raises UserError for a session that is there twice."""
    sessions: dict[Identity, Path] = {}
    for file in session_files(path):
        with open_nwb(file) as nwb:
            told = nwb.word("general/session_id") or nwb.word("identifier")
            subject = nwb.word("general/subject/subject_id", "unknown")
        session = told if re.fullmatch(r"[\w+-][\w.+-]*", told) else file.stem
        identity = Identity("allen_visual_coding", subject, session)
        if identity in sessions:
            raise UserError(f"{sessions[identity]} and {file} are both session {session}: remove one of them")
        sessions[identity] = file
    return sessions


def _is_lfp(nwb: Nwb) -> bool:
    return not nwb.has("units") and any(name.startswith("probe_") for name in nwb.members("acquisition"))


def _picture_files(images: Path | None) -> list[Path]:
    if images is None:
        return []
    images = Path(images)
    return [images] if images.is_file() else [file for file in sorted(images.rglob("*")) if file.is_file()]


def _recording(
    nwb: Nwb, found: Found, identity: Identity, frames: dict[int, str] | None, films: Films, unusable: bool, seed: int
) -> Recording:
    ids, spikes, regions, usable = found.ids, found.spikes, found.regions, found.usable
    assert ids is not None, "refused before"
    assert spikes is not None, "refused before"
    assert regions is not None, "refused before"
    assert usable is not None, "refused before"
    noise = found.columns["quality"] == "noise" if "quality" in found.columns else np.zeros(len(ids), dtype=bool)
    keep = np.ones(len(ids), dtype=bool) if unusable else usable & ~noise
    unit = np.repeat(np.arange(len(ids), dtype=np.int32), spikes.counts)
    timed = spikes.values >= 0
    of_units = None if found.observed is None else split_intervals(found.observed)
    seen = timed if of_units is None else timed & seen_by_unit(spikes.values, unit, of_units)
    of_kept = keep[unit] & seen
    times, unit = spikes.values[of_kept].astype(np.float64, copy=False), unit[of_kept]
    stimuli = _stimuli(found, nwb.path, frames, films, seed)
    running, running_note = _running(found)
    clocks = [times, *([stimuli.start, stimuli.end] if stimuli else []), *([running.timestamps] if running else [])]
    edges = [float(edge) for clock in clocks if len(clock) for edge in (clock.min(), clock.max())]
    duration = (min(edges), max(edges)) if edges else (0.0, 0.0)
    masked = 0 if stimuli is None else int((~stimuli.valid).sum())
    left_out = [
        told
        for count, told in (
            (int((~timed).sum()), f"{int((~timed).sum())} of {len(timed)} spikes without a valid time (below 0 s)"),
            (int((timed & ~seen).sum()), f"{int((timed & ~seen).sum())} outside their unit's observed intervals"),
            (found.timeless, f"{found.timeless} presentations that stop when they start"),
        )
        if count
    ]
    known = "image content" if frames is not None else "frame number (no pictures were given)"
    return Recording(
        **identity._asdict(),
        species=nwb.species("MUS_MUSCULUS"),
        signal_kind="sorted",
        spike_times=times,
        spike_units=(np.cumsum(keep) - 1).astype(np.int32)[unit],
        unit_ids=ids[keep].astype(str),
        regions=regions[keep],
        unit_columns={name: column[keep] for name, column in found.columns.items()},
        duration=duration,
        stimuli=stimuli,
        behaviour={"running": running} if running else {},
        observed=observed_by_all(of_units, found.invalid, duration, nwb.path),
        provenance={
            "source": "Allen Visual Coding Neuropixels, DANDI 000021",
            "origin_version": f"NWB {nwb.version}",
            "file": f"{nwb.path.name} {file_hash(nwb.path)}",
            "reader": f"neurobridge {__version__}, h5py {h5py.__version__}",
            "unusable": f"noise {int(noise.sum())}, on an invalid channel {int((~usable).sum())} of {len(ids)} units; "
            f"{'kept' if unusable else f'dropped {int((~keep).sum())}'}",
            "tables": f"{', '.join(found.tables) or 'none'}; left out {', '.join(found.left_out) or 'none'}",
            "invalid_times": f"{len(found.invalid)} intervals; {masked} presentations overlap them and are not valid",
            "split": f"natural scenes by sha1 of seed {seed} and {known}",
            "running": running_note,
            **({"left_out": f"left out {' and '.join(left_out)}"} if left_out else {}),
        },
    )


def _stimuli(found: Found, path: Path, frames: dict[int, str] | None, films: Films, seed: int) -> Stimuli | None:
    if not found.tables:
        return None
    start, end, condition, frame = (
        np.concatenate([getattr(table, name) for table in found.tables.values()])
        for name in ("start", "stop", "condition", "frame")
    )
    table = np.repeat(list(found.tables), [len(table.start) for table in found.tables.values()])
    order = np.argsort(start, kind="stable")
    start, end, condition, frame, table = start[order], end[order], condition[order], frame[order], table[order]
    scene = np.where(table == SCENES, frame, -1)
    shown = np.unique(scene[scene >= 0]).astype(int).tolist()
    missing = [number for number in shown if frames is not None and number not in frames]
    if missing:
        raise UserError(f"{path} shows natural scene {missing[0]}, and --images holds no picture of it: add one")
    ids = {number: f"allen_{SCENES}_{number:03d}" if frames is None else frames[number] for number in shown}
    played = [name for name in found.tables if film_of(name) in films]
    unseen = "none" if frames is None and played else ""  # of a session with pictures every training window shows one
    splits = {number: unseen or split_of(ids[number], seed=seed) for number in shown}
    other = "none" if (frames is not None and shown) or played else "train"
    image_id = np.array([ids.get(number, "") for number in scene.tolist()], dtype="U64")
    split = np.array([splits.get(number, other) for number in scene.tolist()], dtype="U5")
    for name in played:
        film = films[film_of(name)]
        mine = np.flatnonzero((table == name) & np.isin(frame, list(film)))
        parts = film_splits(film)
        image_id[mine] = [film[int(number)] for number in frame[mine].tolist()]
        split[mine] = [parts[image] for image in image_id[mine].tolist()]
    return Stimuli(
        start=start,
        end=end,
        image_id=image_id,
        repeat=repeats(condition),
        split=split,
        valid=~overlaps(start, end, found.invalid),
        condition=condition,
    )


def _running(found: Found) -> tuple[TimeSeries | None, str]:
    """Speed in cm/s. The ends of its samples are the *timestamps* of another series, running_speed_end_times."""
    series, ends = found.running, found.running_ends
    if series is None or len(series.times) == 0:
        return None, "none that can be used"
    times = series.times if ends is None else (series.times + ends) / 2
    values = series.values * (100.0 if series.unit.lower() == "m/s" else 1.0)
    known = np.isfinite(values) & np.isfinite(times) & (times >= 0)
    where = "start" if ends is None else "middle"
    note = f"cm/s at the {where} of each sample; {int((~known).sum())} samples without a speed left out"
    return TimeSeries(timestamps=times[known], values=values[known]), note
