"""Command data movies: an animal that watches scenes drift across the aperture, a frame every 50 ms.

Letters: C clips, F frames of a clip, I images (frames of all clips), U units, K bins of 5 ms.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d

from neurobridge.data.images import ImageSet, content_id
from neurobridge.data.recording import Recording, Stimuli, write_recording
from neurobridge.data.simulate.brain import Population, build_array, record_from
from neurobridge.data.simulate.scenes import render_scenes
from neurobridge.data.simulate.simulation import is_there
from neurobridge.data.simulate.spiking import BIN, ONSET_EVERY, draw_gains, poisson_spikes, running_speed
from neurobridge.errors import UserError, atomic_path

FORMAT = 1
FRAME, PAUSE = 0.05, 0.6  # s: of a frame, and of grey between two clips
OVERLAP = 12  # pixels in which one scene fades into the next
SMOOTH = 2  # bins: width of a neuron's response to a change of frame


def simulate_movies(
    out: Path = Path("data/movies"),
    *,
    seed: int = 0,
    clips: int = 60,
    valid_clips: int = 6,
    test_clips: int = 10,
    test_repeats: int = 8,
    frames: int = 24,
    speed: int = 3,
    sessions: int = 1,
    electrodes: int = 130,
    selectivity: float = 0.36,
) -> Path:
    """Simulate an animal that watches scenes drift by, 20 frames a second; return the data folder ``out``.

    A frame is an image of ``images.h5`` and a presentation of the session, so that whatever is done with images can be
    done with frames. Splits are by clip, and no scene is in two clips. A folder that holds this very simulation is left
    as it is.

    Args:
        out: Folder to write.
        seed: Seed of everything.
        clips: Clips of the train split, each shown twice.
        valid_clips: Clips of the validation split, each shown four times.
        test_clips: Clips of the test split.
        test_repeats: Presentations of each test clip.
        frames: Frames of a clip, of 50 ms each.
        speed: Pixels (of 64) that the scenes move by from one frame to the next, to the left or to the right.
        sessions: Sessions of the animal.
        electrodes: Electrodes of its array, of which a session records 70-80 %.
        selectivity: Median over units of the standard deviation over frames of the log rate.

    Raises:
        UserError: ``out`` holds something else, or a number is too small.
    """
    out = Path(out)
    parameters = {
        "format": FORMAT, "seed": seed, "clips": clips, "valid_clips": valid_clips, "test_clips": test_clips,
        "test_repeats": test_repeats, "frames": frames, "speed": speed, "sessions": sessions, "electrodes": electrodes,
        "selectivity": selectivity,
    }  # fmt: skip
    least = {"seed": 0, "frames": 2, "electrodes": 12}
    for name, value in parameters.items():
        if name != "selectivity" and value < least.get(name, 1):
            raise UserError(f"--{name} is {value}: give {least.get(name, 1)} or more")
    if not selectivity > 0:
        raise UserError(f"--selectivity is {selectivity}: give more than 0")
    if is_there(out, parameters):
        print(f"{out} already holds this simulation")
        return out
    split = np.array(["test"] * test_clips + ["valid"] * valid_clips + ["train"] * clips)
    images, shown = render_clips(len(split), frames=frames, speed=speed, seed=seed)
    images.labels["split"] = np.repeat(split, frames)
    images.write(out / "images.h5")
    array = build_array(images, electrodes=electrodes, seed=seed, animal=0, selectivity=selectivity)
    times = np.select([split == "test", split == "valid"], [test_repeats, 4], 2)
    for number in range(1, sessions + 1):
        rng = np.random.default_rng([seed, 103, number])
        units = record_from(array, rng=rng)
        order = rng.permutation(np.repeat(np.arange(len(split)), times))
        recording = watch(rng, units, images, shown, split, order, f"monkeyM_{number}")
        write_recording(recording, out / "sessions" / f"monkeyM_{number}.h5")
    with atomic_path(out / "simulation.json") as temporary:
        temporary.write_text(json.dumps(parameters, indent=2) + "\n")
    return out


def render_clips(clips: int, *, frames: int, speed: int, seed: int) -> tuple[ImageSet, np.ndarray]:
    """Frames of all clips, and which each clip shows [C, F]. The labels of a frame are its middle scene's."""
    size = 64
    step = size - OVERLAP
    each = 1 + -(-(frames - 1) * speed // step)
    scenes = render_scenes(clips * each, seed=seed, size=size)
    rng = np.random.default_rng([seed, 104])
    pixels, labels = [], {name: [] for name in scenes.labels}
    for clip in range(clips):
        rows = np.arange(clip * each, (clip + 1) * each)
        strip = panorama(scenes.pixels[rows])
        way = np.arange(frames) * speed + rng.integers(0, strip.shape[1] - size - (frames - 1) * speed + 1)
        for left in way if rng.random() < 0.5 else way[::-1]:
            pixels.append(strip[:, left : left + size])
            centre = np.arange(each) * step + size / 2
            nearest = int(np.abs(centre - left - size / 2).argmin())
            for name, values in scenes.labels.items():
                moved = (centre[nearest] - left - size / 2) / size if name == "x" else 0
                labels[name].append(values[rows[nearest]] + moved if moved else values[rows[nearest]])
    ids = np.array([content_id(frame) for frame in pixels])
    assert len(set(ids.tolist())) == len(ids), "two frames are the same picture"
    found = ImageSet(ids=ids, pixels=np.stack(pixels), labels={k: np.array(v) for k, v in labels.items()})
    return found, np.arange(len(ids)).reshape(clips, frames)


def panorama(scenes: np.ndarray) -> np.ndarray:
    """Scenes [n, H, W, 3] uint8 side by side, each fading into the next: [H, n * (W - overlap) + overlap, 3]."""
    ramp = ((np.arange(OVERLAP) + 1) / (OVERLAP + 1))[None, :, None]
    strip = scenes[0].astype(np.float64)
    for scene in scenes[1:].astype(np.float64):
        seam = strip[:, -OVERLAP:] * (1 - ramp) + scene[:, :OVERLAP] * ramp
        strip = np.concatenate([strip[:, :-OVERLAP], seam, scene[:, OVERLAP:]], axis=1)
    return (strip + 0.5).astype(np.uint8)


def watch(
    rng: np.random.Generator, units: Population, images: ImageSet, shown: np.ndarray, split: np.ndarray,
    order: np.ndarray, session: str,
) -> Recording:  # fmt: skip
    """One session that shows the clips ``order``: a frame drives every unit until the next one, after its latency."""
    frames = shown.shape[1]
    every, lead = frames * FRAME + PAUSE, PAUSE
    seconds = lead + len(order) * every
    onset = (lead + np.arange(len(order)) * every)[:, None] + np.arange(frames) * FRAME
    image = shown[order].ravel()
    seen = np.full(round(seconds / BIN), -1)
    first = np.round(onset / BIN).astype(int).ravel()
    for offset in range(round(FRAME / BIN)):
        seen[first + offset] = image
    evoked = np.concatenate([units.evoked(slice(None)), np.zeros((1, len(units)))])  # the last row: grey
    steps = -(-len(seen) // round(ONSET_EVERY / BIN))
    timestamps, running = running_speed(rng, seconds)
    gains = draw_gains(rng, units, steps, np.interp(np.arange(steps) * ONSET_EVERY, timestamps, running))
    factor = gains.total(units)
    times, rows = [], []
    for u in range(len(units)):
        late = round(units.latency[u] / BIN)
        driven = gaussian_filter1d(np.concatenate([np.zeros(late), evoked[seen, u]])[: len(seen)], SMOOTH)
        gain = np.repeat(factor[:, u], round(ONSET_EVERY / BIN))[: len(seen)]
        spikes = poisson_spikes(rng, (driven + units.spontaneous[u]) * gain)
        times.append(spikes)
        rows.append(np.full(len(spikes), u, np.int64))
    repeat = np.array([(order[:i] == clip).sum() for i, clip in enumerate(order)])
    ids = np.array([f"e{e:03d}n{n:03d}" for e, n in zip(units.electrode.tolist(), units.neuron.tolist(), strict=True)])
    return Recording(
        dataset="simulated_movies",
        subject="monkeyM",
        session=session,
        signal_kind="sorted",
        species="MACACA_MULATTA",
        spike_times=np.concatenate(times),
        spike_units=np.concatenate(rows),
        unit_ids=ids,
        regions=units.area,
        unit_columns={"electrode": units.electrode.astype(np.int64)},
        duration=(0.0, seconds),
        stimuli=Stimuli(
            start=onset.ravel(),
            end=onset.ravel() + FRAME,
            image_id=images.ids[image],
            repeat=np.repeat(repeat, frames),
            split=np.repeat(split[order], frames),
            valid=np.ones(len(image), bool),
            condition=np.array([f"clip {c}, frame {f}" for c in order.tolist() for f in range(frames)]),
        ),
        provenance={"source": "simulated ventral stream, drifting scenes"},
    )
