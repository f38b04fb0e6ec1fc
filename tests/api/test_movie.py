"""Movies: simulated scenes that drift, clips found in a recording, films beside their floors, and the files written."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import neurobridge as nb
from neurobridge.api.movie import DRAWN, MEAN, NEAREST, SHOWN, SHUFFLED, Film, another_clip, clips_of, every, score_rows
from neurobridge.cli import main
from neurobridge.data.images import ImageSet
from neurobridge.data.recording import Stimuli, read_recording
from neurobridge.data.simulate.drifting import FRAME, OVERLAP, panorama, simulate_movies
from neurobridge.errors import UserError
from neurobridge.pipeline.film import Filming, Library, carried

HOW = Filming(share=0.5)
SIZES = {"clips": 6, "valid_clips": 2, "test_clips": 3, "test_repeats": 2, "frames": 6, "electrodes": 16}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return simulate_movies(tmp_path_factory.mktemp("movies") / "data", seed=1, **SIZES)


@pytest.fixture(scope="module")
def aligned(data):
    tiny = {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8}
    short = {"windows": 16, "groups": 1, "progress": False}
    model = nb.pretrain(nb.open(data), steps=2, model=tiny, window_ms=200, layer="block2", resolution=64, **short)
    return nb.align(model, steps=2, joint_steps=0, queries=2, hidden=16, **short)


def test_a_frame_is_the_one_before_moved_by_a_few_pixels(data):
    frames = ImageSet.read(data / "images.h5").pixels.reshape(11, 6, 64, 64, 3)
    for clip in frames:
        left, right = clip[0][:, 3:], clip[1][:, :-3]
        back = clip[0][:, :-3], clip[1][:, 3:]
        assert (left == right).all() or (back[0] == back[1]).all()
    scenes = np.stack([np.full((4, 64, 3), value, np.uint8) for value in (0, 100)])
    strip = panorama(scenes)
    assert strip.shape == (4, 2 * 64 - OVERLAP, 3)
    assert (np.diff(strip[0, :, 0].astype(int)) >= 0).all()


def test_a_session_shows_every_clip_frame_by_frame_and_answers_it(data, tmp_path):
    recording = read_recording(data / "sessions" / "monkeyM_1.h5")
    stimuli = recording.stimuli
    assert len(stimuli) == 6 * (6 * 2 + 2 * 4 + 3 * 2)
    within = np.diff(stimuli.start)[np.arange(len(stimuli) - 1) % 6 < 5]
    np.testing.assert_allclose(within, FRAME, atol=1e-9)
    assert stimuli.repeat.max() == 3
    splits = {key: set(stimuli.split[stimuli.image_id == key]) for key in set(stimuli.image_id.tolist())}
    assert all(len(found) == 1 for found in splits.values())
    grey = [0.0, stimuli.start[0]]
    shown = (recording.spike_times > stimuli.start[0] + 0.1) & (recording.spike_times < stimuli.end[5])
    rate = shown.sum() / (stimuli.end[5] - stimuli.start[0] - 0.1)
    assert rate > 1.5 * (recording.spike_times < grey[1]).sum() / grey[1]
    again = simulate_movies(tmp_path / "again", seed=1, **SIZES)
    np.testing.assert_array_equal(
        read_recording(again / "sessions" / "monkeyM_1.h5").spike_times, recording.spike_times
    )
    with pytest.raises(UserError, match="--frames is 1: give 2 or more"):
        simulate_movies(tmp_path / "bad", frames=1)
    with pytest.raises(UserError, match="its clips is 6, not 7"):
        simulate_movies(data, seed=1, **SIZES | {"clips": 7})


def test_clips_end_at_pauses_at_repeats_and_at_what_lasts():
    ids = list("abcabcdefg")
    start = np.array([0, 1, 2, 3, 4, 5, 6, 7, 20, 21]) * 0.05
    lasts = np.full(10, 0.05)
    lasts[7] = 0.5
    stimuli = Stimuli(
        start=start, end=start + lasts, image_id=np.array(ids), repeat=np.zeros(10, int),
        split=np.array(["test"] * 10), valid=np.ones(10, bool),
    )  # fmt: skip
    assert [clip.tolist() for clip in clips_of(stimuli, "test")] == [[0, 1, 2], [3, 4, 5, 6]]
    assert clips_of(stimuli, "train") == []
    assert every(np.array([0, 0.0333, 0.0667, 0.1]), 0.05).tolist() == [0, 2]


def test_films_of_the_test_split_with_their_floors_and_files(aligned, tmp_path, capsys):
    films = nb.movie(aligned, aligned.recordings[0], progress=False)
    assert [len(film) for film in films] == [6, 6, 6]
    film = films[0]
    np.testing.assert_allclose(film.times, np.arange(6) * FRAME, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(film.embeddings, axis=1), 1, atol=0.3)
    library = ImageSet.read(aligned.settings.data / "images.h5")
    known = {picture.tobytes() for picture in library.pixels[library.labels["split"] == "train"]}
    nearest = (film.pictures[NEAREST] * 255).round().astype(np.uint8)
    assert all(picture.tobytes() in known for picture in nearest)
    np.testing.assert_array_equal(film.pictures[SHOWN][0], library.pixels[library.rows(film.images[:1])[0]] / 255)
    scores = nb.film_scores(films)
    assert set(scores.role) == {"ours", "floor", "control"}
    assert set(scores.n) == {3}
    assert scores[["value", "low", "high"]].notna().all(axis=None)

    assert main(["movie", str(aligned.path), "--session", "monkeyM_1", "--out", str(tmp_path / "films")]) == 0
    assert "3 clips" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "films").iterdir())
    assert names == [*sorted(f"clip_{n}.{kind}" for n in range(3) for kind in ("png", "webp")), "films.npz"]
    with Image.open(tmp_path / "films" / "clip_0.webp") as moving:
        assert moving.n_frames == 6
        assert moving.width == 4 * (128 + 4) - 4


def test_what_is_drawn_right_scores_above_floors_and_the_control_does_not():
    rng = np.random.default_rng(0)
    films = []
    for _ in range(6):
        shown = rng.random((5, 12, 12, 3))
        pictures = {SHOWN: shown, DRAWN: 0.5 * shown + 0.5 * rng.random(shown.shape)}
        pictures |= {NEAREST: rng.random(shown.shape), MEAN: np.full(shown.shape, 0.5)}
        still = {"times": np.arange(5), "images": np.arange(5), "embeddings": np.ones((5, 2)), "frame_s": 0.05}
        films.append(Film(pictures=pictures, how=HOW, **still))
    found = {(row["method"], row["task"]): row for row in score_rows(films, seed=0)}
    assert found[DRAWN, "frame identification"]["value"] > 0.95
    assert found[SHUFFLED, "frame identification"]["value"] < 0.7
    assert found[MEAN, "frame identification"]["value"] == 0.5
    for task in ("PixCorr", "frame identification"):
        assert found[f"{DRAWN} minus {SHUFFLED}", task]["low"] > 0
    clip = np.repeat(np.arange(6), 5)
    assert (clip[another_clip(clip, 0)] != clip).all()
    assert another_clip(np.zeros(4, int), 0).tolist() == [2, 3, 0, 1]


def test_a_session_without_a_movie_is_told_so(aligned, tmp_path):
    rng = np.random.default_rng(0)
    times, units = np.sort(rng.uniform(0, 60, 600)), rng.integers(0, 3, 600)
    plain = nb.recording(times, units, session="plain")
    with pytest.raises(UserError, match="does not know 3 of 3 units"):
        nb.movie(aligned, plain)


def test_neighbours_are_heard_for_what_came_before_and_after():
    """Three moments see frames 0, 1, 2 of a clip of the library, the second one badly: its neighbours mend it."""
    stimuli = Stimuli(
        start=np.arange(4) * 0.05, end=np.arange(1, 5) * 0.05, image_id=np.array(list("abcd")),
        repeat=np.zeros(4, int), split=np.array(["train"] * 4), valid=np.ones(4, bool),
    )  # fmt: skip
    library = Library.of(np.arange(4), np.zeros((4, 2, 2, 3), np.uint8), np.array(list("abcd")), stimuli)
    assert library.after.tolist() == [1, 2, 3, 3]
    assert library.before.tolist() == [0, 0, 1, 2]
    scores = np.array([[2.0, 0, 0, 0], [0, 0.4, 0, 0.5], [0, 0, 2.0, 0]])
    assert scores.argmax(1).tolist() == [0, 3, 2]
    assert carried(scores, library, 1).argmax(1).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(carried(scores, library, 0), scores)
