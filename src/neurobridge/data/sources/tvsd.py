"""THINGS Ventral Stream Spiking Dataset (Papale et al. 2025, gin.g-node.org/paolo_papale/TVSD, CC BY 4.0).

Two macaques, 1024 channels in V1, V4 and IT, 22,248 train images once and 100 test images 30 times. The signal is the
envelope of multi-unit activity, not spikes: one value a channel and presentation, ``mua_envelope``. Sessions are
``monkeyF_norm`` (THINGS_normMUA.mat) and ``monkeyF_trials`` (THINGS_MUA_trials.mat), the same for N.

Units are channels in physical order, named 0001 to 1024. Their columns ``snr`` (mean over days), ``snr_max``,
``oracle`` and ``reliab`` come from THINGS_normMUA.mat where it is at hand; the last three are computed on the test
images, so that choosing units by them leaks a little.

A session of 25,000 presentations is 26 million events: 0.6 GB on disk, about 2 GB of memory while it is imported.

Letters: P presentations, C channels.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from rich.progress import Progress

from neurobridge.data.findings import refuse, require
from neurobridge.data.importing import add_images, file_hash, is_there, signature, write_session
from neurobridge.data.matfile import open_mat
from neurobridge.data.quality import QualitySettings, select_units
from neurobridge.data.recording import Recording, Stimuli
from neurobridge.data.sessions import Identity
from neurobridge.data.sources.things import ThingsSplits, concept_of, find_pictures, read_picture
from neurobridge.data.sources.tvsd_checks import (
    check_counts,
    check_norm,
    check_trials,
    examine,
    read_image_paths,
    read_mapping,
    read_unit_columns,
)
from neurobridge.data.sources.tvsd_files import CHANNELS, SOURCE, Monkey, locate, recognises
from neurobridge.data.sources.tvsd_trials import WINDOWS, normalised
from neurobridge.errors import UserError

__all__ = ["examine", "import_tvsd", "recognises"]

INTERVAL, SHOWN = 0.4, 0.2  # s: 200 ms on, 200 ms off
MOST_NAN = 0.1


def import_tvsd(
    path: Path,
    out: Path = Path("data/tvsd"),
    *,
    signal: Literal["norm", "trials"] = "norm",
    split: Literal["standard", "concept"] = "standard",
    valid_share: float = 0.05,
    statistics: Literal["train", "test"] = "train",
    image_root: Path | None = None,
    side: int = 128,
    seed: int = 0,
    quality: QualitySettings = QualitySettings(),
) -> Path:
    """Import THINGS_normMUA.mat or THINGS_MUA_trials.mat of one or both monkeys; the pictures if THINGS is at hand.

    Presentation i starts at 0.4 i s on a clock of ours, for the release holds no times; the event of a channel sits at
    the centre of its area's window. Presentations with a value that is not finite are kept as rows that are not valid;
    channels that are silent in more than a tenth of them are dropped. Raises UserError for input that cannot be used.

    Args:
        path: Folder of the release (monkeyF/, monkeyN/), of one monkey, or one of its .mat files.
        out: Data folder to write.
        signal: norm reads THINGS_normMUA.mat, trials averages and normalises THINGS_MUA_trials.mat.
        split: standard is the data set's own; concept takes all images of the test concepts out of training.
        valid_share: Share of the train images (of the concepts with split concept) that becomes valid.
        statistics: Trials whose mean and deviation normalise a day (trials only); the release itself used test.
        image_root: Folder of the THINGS pictures, concept/file.jpg; without it an image is called by its THINGS path.
        side: Side in pixels to which pictures are cut (centre) and resized.
        seed: Seed of the valid share.
        quality: Thresholds for channels; only min_snr says something about an envelope.
    """
    path, out = Path(path), Path(out)
    if side < 1:
        raise UserError(f"--side is {side}: give the side of a picture in pixels, such as 128")
    monkeys = [monkey for monkey in locate(path) if signal in monkey.files]
    if not monkeys:
        name = "THINGS_normMUA.mat" if signal == "norm" else "THINGS_MUA_trials.mat"
        raise UserError(
            f"no {name} of monkeyF or monkeyN under {path}: give the folder that holds monkeyF/ or monkeyN/"
        )
    paths = {monkey.letter: read_image_paths(monkey.need("images")) for monkey in monkeys}
    pictures = None if image_root is None else find_pictures(Path(image_root), paths.values())
    logs = [monkey.need("images") for monkey in monkeys]
    kinds = ("norm",) if signal == "norm" else ("trials", "mapping", "norm")
    marks = {
        monkey.letter: signature(
            [*logs, *(require(monkey.files[kind]) for kind in kinds if kind in monkey.files)],
            signal=signal,
            split=split,
            valid_share=valid_share,
            statistics=statistics,
            pictures=None if pictures is None else [(p, f.stat().st_size) for p, f in pictures.items()],
            side=side,
            seed=seed,
            quality=quality,
        )
        for monkey in monkeys
    }
    pending = [m for m in monkeys if not is_there(out, _identity(m, signal), marks[m.letter])]
    with Progress(transient=True) as progress:
        ids: dict[PurePosixPath, str] = {}
        if pictures and pending:
            shown = progress.track(pictures.values(), description="pictures")
            ids = dict(zip(pictures, add_images(out, (read_picture(file, side) for file in shown)), strict=True))
        splits = ThingsSplits(paths.values(), ids, by_concept=split == "concept", valid_share=valid_share, seed=seed)
        for monkey in pending:
            recording = _recording(monkey, signal, statistics, paths[monkey.letter], ids, splits, progress)
            recording = select_units(recording, quality)
            recording.provenance["signature"] = marks[monkey.letter]
            write_session(recording, out)
    return out


def _identity(monkey: Monkey, signal: str) -> Identity:
    return Identity("tvsd", f"monkey{monkey.letter}", f"monkey{monkey.letter}_{signal}")


def _recording(
    monkey: Monkey,
    signal: str,
    statistics: str,
    paths: tuple[list[PurePosixPath], list[PurePosixPath]],
    ids: dict[PurePosixPath, str],
    splits: ThingsSplits,
    progress: Progress,
) -> Recording:
    train_split = np.array([splits(p) for p in paths[0]])
    if signal == "norm":
        values, test, image, columns = _read_norm(monkey, paths)
        split = np.where(test, "test", train_split[np.where(test, 0, image)])
    else:
        test, image, day, columns = _read_table(monkey, paths)
        split = np.where(test, "test", train_split[np.where(test, 0, image)])
        values = _read_trials(monkey, day, split == statistics, progress)
    every = [*paths[0], *paths[1]]
    row = image + len(paths[0]) * test
    shown, known, concepts = (
        np.array(column)[row]
        for column in ([str(p) for p in every], [ids.get(p, str(p)) for p in every], [concept_of(p) for p in every])
    )
    columns |= {"things_path": shown, "concept": concepts}

    missing = ~np.isfinite(values)
    kept = missing.mean(0) <= MOST_NAN
    if not kept.any():
        raise UserError(
            f"{monkey.files[signal]}: no channel is finite in more than {1 - MOST_NAN:.0%} of the presentations; "
            "download it again" + ("" if signal == "norm" else ", or try --statistics test")
        )
    valid = ~missing[:, kept].any(1)
    padding = valid & test & ~values.any(1)
    valid &= ~padding
    start = INTERVAL * np.arange(len(values))
    times, units, events = _events(values[np.ix_(valid, kept)], start[valid], monkey.regions[kept])
    silent = np.flatnonzero(~kept)
    unknown = len(valid) - int(valid.sum()) - int(padding.sum())
    counts = ((len(silent), "channels, mostly not finite"), (unknown, "presentations with a value that is not finite"))
    left_out = " and ".join(f"{count} {what}" for count, what in counts if count)
    return Recording(
        **_identity(monkey, signal)._asdict(),
        species="MACACA_MULATTA",
        signal_kind="mua_envelope",
        spike_times=times,
        spike_units=units,
        spike_values=events,
        unit_ids=np.array([f"{channel + 1:04d}" for channel in np.flatnonzero(kept)]),
        regions=monkey.regions[kept],
        duration=(0.0, INTERVAL * len(values)),
        unit_columns={name: column[kept] for name, column in _unit_columns(monkey).items()},
        stimuli=Stimuli(
            start=start,
            end=start + SHOWN,
            image_id=known,
            repeat=_repeats(known),
            split=split,
            valid=valid,
            columns=columns,
        ),
        provenance={
            "source": f"Papale et al. 2025, THINGS Ventral Stream Spiking Dataset, {SOURCE}, CC BY 4.0",
            "file": f"{monkey.files[signal].name}, {file_hash(monkey.files[signal])}",
            "reader": f"h5py {version('h5py')}",
            "time": "onsets are nominal (0.4 s apart): the release holds no times; an event sits in the centre of its "
            "window (V1 25-125, V4 50-150, IT 75-175 ms)",
            "values": "normMUA of the release: z-scored a day with statistics of the test trials"
            if signal == "norm"
            else f"mean over the window, z-scored a day with statistics of the {statistics} trials",
            "split": splits.sentence,
            "dropped_channels": f"{len(silent)} not finite in over {MOST_NAN:.0%} of the presentations"
            + (f" (first: {silent[0] + 1:04d})" if len(silent) else ""),
            "dropped_presentations": f"{unknown} with a value that is not finite, "
            f"{padding.sum()} test repeats all zero (padding), {(split == 'none').sum()} of held-out pictures",
            **({"left_out": f"left out {left_out}"} if left_out else {}),
        },
    )


def _read_norm(monkey: Monkey, paths: tuple[list, list]) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
    """Values [P, C], is it a test image [P], image in its list [P], no columns: train images, then every repeat."""
    file = monkey.files["norm"]
    with open_mat(file) as mat:
        refuse(check_norm(file, mat))
        refuse(check_counts(file, mat, (len(paths[0]), len(paths[1]))))
        train, repeats = mat["train_MUA"], mat["test_MUA_reps"]
        count, (shows, tests, _) = len(train), repeats.shape
        values = np.empty((count + shows * tests, CHANNELS), dtype=np.float32)
        train.read_direct(values, dest_sel=np.s_[:count])
        for show in range(shows):
            repeats.read_direct(values, np.s_[show], np.s_[count + show * tests : count + (show + 1) * tests])
    test = np.arange(len(values)) >= count
    return values, test, np.concatenate([np.arange(count), np.tile(np.arange(tests), shows)]), {}


def _read_table(monkey: Monkey, paths: tuple[list, list]) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
    """Of ALLMAT: is it a test image [P], image in its list [P], day [P], and the columns day and count."""
    file = monkey.files["trials"]
    with open_mat(file) as mat:
        refuse(check_trials(file, mat, (len(paths[0]), len(paths[1]))))
        table = mat["ALLMAT"][()].astype(np.int64)
    test = table[2] > 0
    return test, np.where(test, table[2], table[1]) - 1, table[-1], {"day": table[-1], "count": table[4]}


def _read_trials(monkey: Monkey, day: np.ndarray, pool: np.ndarray, progress: Progress) -> np.ndarray:
    """Normalised responses [P, C] in physical order, by slabs of ALLMUA."""
    mapping = read_mapping(monkey.need("mapping"))
    recorded = np.empty(CHANNELS, dtype=monkey.regions.dtype)
    recorded[mapping] = monkey.regions
    task = progress.add_task(f"monkey {monkey.letter}: trials", total=len(day))
    with open_mat(monkey.files["trials"]) as mat:
        responses = normalised(
            mat["ALLMUA"],
            tb=mat["tb"][()].ravel(),
            regions=recorded,
            day=day,
            pool=pool,
            advance=lambda trials: progress.advance(task, trials),
        )
    return responses[:, mapping]


def _unit_columns(monkey: Monkey) -> dict[str, np.ndarray]:
    return read_unit_columns(monkey.files["norm"]) if "norm" in monkey.files else {}


def _events(values: np.ndarray, start: np.ndarray, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, units, values of one event a channel and presentation, in the order of time."""
    centre = np.array([sum(WINDOWS[area]) / 2000 for area in regions.tolist()])
    order = np.argsort(centre, kind="stable")
    times = (start[:, None] + centre[order]).ravel()
    return times, np.tile(order.astype(np.int32), len(start)), values[:, order].ravel()


def _repeats(keys: np.ndarray) -> np.ndarray:
    """How often each picture was shown before [P]."""
    order = np.argsort(keys, kind="stable")
    _, first, counts = np.unique(keys[order], return_index=True, return_counts=True)
    repeats = np.empty(len(keys), dtype=np.int64)
    repeats[order] = np.arange(len(keys)) - np.repeat(first, counts)
    return repeats
