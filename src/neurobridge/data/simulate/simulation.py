"""The embedded default's data folder: scenes, sessions of two animals, and the truth behind them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from neurobridge.data.hdf5 import atomic_hdf5
from neurobridge.data.images import ImageSet
from neurobridge.data.recording import Recording, Stimuli, TimeSeries, write_recording
from neurobridge.data.simulate.areas import AREAS
from neurobridge.data.simulate.brain import Population, build_array, record_from
from neurobridge.data.simulate.scenes import render_scenes
from neurobridge.data.simulate.spiking import DURATION, ONSET_EVERY, Gains, draw_gains, draw_spikes, running_speed
from neurobridge.errors import UserError, atomic_path

FORMAT = 1
ANIMALS = ("monkeyA", "monkeyB")


def simulate(
    out: Path = Path("data/simulated"),
    *,
    seed: int = 0,
    quick: bool = False,
    images: int = 2500,
    test_images: int = 100,
    test_repeats: int = 20,
    valid_images: int = 200,
    valid_repeats: int = 2,
    sessions: int = 3,
    electrodes: int = 130,
    selectivity: float = 0.36,
) -> Path:
    """Simulate two animals that look at procedural scenes; return the data folder ``out``.

    Writes ``images.h5``, ``sessions/<animal>_<k>.h5``, the ground truth ``truth/<animal>_<k>.h5`` and, last,
    ``simulation.json`` with the parameters. A folder that holds this very simulation is left as it is.

    Args:
        out: Folder to write.
        seed: Seed of everything: scenes, tuning, order, noise.
        quick: A small version for a first look: 640 images (40 test x 10 repeats, 40 valid), 2 sessions an animal, 50
            electrodes; the six options below that it sets are then not looked at.
        images: Number of scenes, all splits together.
        test_images: Scenes of the test split.
        test_repeats: Presentations of each test scene in every session.
        valid_images: Scenes of the validation split.
        valid_repeats: Presentations of each validation scene in every session.
        sessions: Sessions of each animal.
        electrodes: Electrodes of an animal's array, of which a session records 70-80 %.
        selectivity: Median over units of the standard deviation over images of the log rate: the signal's strength.

    Raises:
        UserError: ``out`` holds something else, or the numbers do not fit together.
    """
    out = Path(out)
    if quick:
        images, test_images, test_repeats, valid_images, valid_repeats = 640, 40, 10, 40, 2
        sessions, electrodes = 2, 50
    parameters = {
        "format": FORMAT, "seed": seed, "images": images, "test_images": test_images, "test_repeats": test_repeats,
        "valid_images": valid_images, "valid_repeats": valid_repeats, "sessions": sessions, "electrodes": electrodes,
        "selectivity": selectivity,
    }  # fmt: skip
    _check(parameters)
    if is_there(out, parameters):
        print(f"{out} already holds this simulation")
        return out
    with Progress(*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("scenes", total=images)
        scenes = render_scenes(images, seed=seed, progress=lambda: progress.advance(task))
        split = np.array(["train"] * images, dtype="U5")
        split[: test_images + valid_images] = ["test"] * test_images + ["valid"] * valid_images
        scenes.labels["split"] = split
        scenes.write(out / "images.h5")
        task = progress.add_task("sessions", total=len(ANIMALS) * sessions)
        for animal, subject in enumerate(ANIMALS):
            array = build_array(scenes, electrodes=electrodes, seed=seed, animal=animal, selectivity=selectivity)
            for number in range(1, sessions + 1):
                rng = np.random.default_rng([seed, 102, animal, number])
                units = record_from(array, rng=rng)
                image, repeat = _order(rng, split, {"train": 1, "valid": valid_repeats, "test": test_repeats})
                session = f"{subject}_{number}"
                recording, gains = _record(rng, units, scenes, image, repeat, subject, session)
                recording.provenance = {"source": "simulated ventral stream", "seed": str(seed)}
                write_recording(recording, out / "sessions" / f"{session}.h5")
                _write_truth(out / "truth" / f"{session}.h5", array, units, gains, image, recording)
                progress.advance(task)
    with atomic_path(out / "simulation.json") as temporary:
        temporary.write_text(json.dumps(parameters, indent=2) + "\n")
    return out


def _check(parameters: dict) -> None:
    """Raise UserError for numbers that no simulation can have."""
    small = [
        name for name in parameters if name not in ("seed", "selectivity", "valid_images") and parameters[name] < 1
    ]
    if small:
        raise UserError(f"--{small[0]} is {parameters[small[0]]}: give 1 or more")
    if not parameters["selectivity"] > 0:
        raise UserError(f"--selectivity is {parameters['selectivity']}: give more than 0")
    if parameters["valid_images"] < 0:
        raise UserError(f"--valid_images is {parameters['valid_images']}: give 0 or more")
    if parameters["seed"] < 0:
        raise UserError(f"--seed is {parameters['seed']}: give 0 or more")
    held_out = parameters["test_images"] + parameters["valid_images"]
    if parameters["images"] <= held_out:
        raise UserError(
            f"--images is {parameters['images']}, but test and valid images are {held_out}: none is left for training; "
            "raise --images"
        )
    if parameters["electrodes"] < 12:
        raise UserError(f"--electrodes is {parameters['electrodes']}: three areas need 12 or more")


def is_there(out: Path, parameters: dict) -> bool:
    """True for a finished simulation of the same parameters; UserError for a folder that holds anything else."""
    record = out / "simulation.json"
    if record.is_file():
        try:
            found = json.loads(record.read_text())
        except ValueError:
            found = {}
        if found == parameters:
            return True
        different = next((name for name in parameters if found.get(name) != parameters[name]), "contents")
        raise UserError(
            f"{out} holds another simulation (its {different} is {found.get(different)}, not "
            f"{parameters.get(different)}): choose another --out or delete the folder"
        )
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose a folder as --out")
    ours = ("images.h5", "sessions", "truth", ".images.h5.", ".simulation.json.")  # an interrupted run is done again
    foreign = [path.name for path in out.iterdir() if not path.name.startswith(ours)] if out.is_dir() else []
    if foreign:
        raise UserError(f"{out} holds other things ('{min(foreign)}'): choose an empty or new folder as --out")
    return False


def _order(rng: np.random.Generator, split: np.ndarray, repeats: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Image row and repeat of every presentation [P], all splits interleaved at random."""
    times = np.array([repeats[name] for name in split.tolist()])
    image = rng.permutation(np.repeat(np.arange(len(split)), times))
    order = np.argsort(image, kind="stable")
    repeat = np.empty(len(image), np.int64)
    repeat[order] = np.concatenate([np.arange(n) for n in times])
    return image, repeat


def _record(
    rng: np.random.Generator,
    units: Population,
    scenes: ImageSet,
    image: np.ndarray,
    repeat: np.ndarray,
    subject: str,
    session: str,
) -> tuple[Recording, Gains]:
    """Run one session: presentations ``image`` [P] from 0.4 s on, one every 0.4 s."""
    lead, seconds = ONSET_EVERY, (len(image) + 2) * ONSET_EVERY
    timestamps, speed = running_speed(rng, seconds)
    onset = lead + np.arange(len(image)) * ONSET_EVERY
    gains = draw_gains(rng, units, len(image), np.interp(onset, timestamps, speed))
    times, rows = draw_spikes(rng, units, gains, image)
    second = np.concatenate([[False], np.diff(units.electrode) == 0]).astype(int)
    stimuli = Stimuli(
        start=onset,
        end=onset + DURATION,
        image_id=scenes.ids[image],
        repeat=repeat,
        split=scenes.labels["split"][image],
        valid=np.ones(len(image), bool),
    )
    recording = Recording(
        dataset="simulated",
        subject=subject,
        session=session,
        signal_kind="sorted",
        species="MACACA_MULATTA",
        spike_times=times + lead,
        spike_units=rows,
        unit_ids=np.array([f"e{e:03d}u{k}" for e, k in zip(units.electrode.tolist(), second.tolist(), strict=True)]),
        regions=units.area,
        unit_columns={"electrode": units.electrode.astype(np.int64)},
        duration=(0.0, seconds),
        stimuli=stimuli,
        behaviour={"running_speed": TimeSeries(timestamps=timestamps, values=speed)},
    )
    return recording, gains


def _write_truth(
    path: Path, array: Population, units: Population, gains: Gains, image: np.ndarray, recording: Recording
) -> None:
    """What no experiment knows: tuning, noiseless rates [I, U] Hz at mid-session, latencies, gains and drift.

    Traces are given at every 25th presentation (10 s), rows ``presentation``. Arrays over units follow the session's
    unit table; ``tuning/<area>/*`` follows the neurons of that area of the whole array (``neuron`` names the row of the
    array, ``array_area`` its areas).
    """
    every = slice(None, None, 25)
    arrays = {
        "image_row": image,
        "unit_id": recording.unit_ids.astype("S"),
        "area": units.area.astype("S"),
        "array_area": array.area.astype("S"),
        "neuron": units.neuron,
        "electrode": units.electrode,
        "latency": units.latency,
        "amplitude": units.amplitude,
        "spontaneous": units.spontaneous,
        "selectivity": units.selectivity,
        "running": units.running,
        "expected_rate": (units.spontaneous + units.evoked(slice(None))).astype(np.float32),
        "presentation": np.arange(len(image))[every],
        "gain/everywhere": gains.everywhere[every],
        "gain/area": gains.area[every],
        "gain/unit_slow": gains.slow[every].astype(np.float32),
        "drift": gains.drift[every].astype(np.float32),
    }
    for area in AREAS:
        for name, values in array.tuning[area].items():
            arrays[f"tuning/{area}/{name}"] = values.astype("S") if values.dtype.kind == "U" else values
    with atomic_hdf5(path) as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip" if np.size(values) > 10_000 else None)
