"""Allen sessions written by pynwb: import against the truth and against pynwb's own reading, old files, defects."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pynwb
import pytest
from PIL import Image

from neurobridge.data.images import ImageSet
from neurobridge.data.nwb import open_nwb
from neurobridge.data.quality import QualitySettings
from neurobridge.data.recording import read_recording
from neurobridge.data.sources.allen import examine, import_allen, recognises
from neurobridge.data.sources.allen_file import look_at
from neurobridge.data.sources.v4 import split_of
from neurobridge.data.store import Session
from neurobridge.errors import UserError

spec = importlib.util.spec_from_file_location("nwb_fixtures", Path(__file__).with_name("nwb_fixtures.py"))
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)

ELECTRODES = "general/extracellular_ephys/electrodes"
SCENES = "intervals/natural_scenes_presentations"
KEPT = np.array([0, 1, 2, 3, 6, 7])  # unit 4 sits on an invalid channel, unit 5 is noise
REGIONS = ["LGd", "VISp", "unknown", "unknown", "unknown", "unknown"]  # peaks 3, 0, 1 '', 2 grey, 4 None, 6 nan
CONDITIONS = ["17", "blank", "3", "17", "99", "3", "blank", "17", "42", "99", "17"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.write_allen(tmp_path_factory.mktemp("allen") / "session_715093703.nwb")


@pytest.fixture
def file(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(written, tmp_path / "raw.nwb"))


def picture(frame: int) -> np.ndarray:
    """A grey picture [6, 10]."""
    return np.random.default_rng(frame).integers(0, 256, (6, 10), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of every frame that is shown, named as the Allen cache names them."""
    images = tmp_path / "pictures"
    images.mkdir()
    for frame in (3, 17, 42, 99):
        Image.fromarray(picture(frame)).save(images / f"natural_scene_{frame}.tiff")
    (images / "readme.txt").write_text("not a picture")
    return images


def imported(path: Path, out: Path, **options):
    return read_recording(import_allen(path, out, **options) / "sessions" / "715093703.h5")


def test_round_trip_of_units_presentations_and_running(file: Path, tmp_path: Path) -> None:
    recording = imported(file, tmp_path / "out")
    assert recording.unit_ids.tolist() == made.UNITS[KEPT].astype(str).tolist()
    assert recording.regions.tolist() == REGIONS
    assert (recording.dataset, recording.subject) == ("allen_visual_coding", "699733573")
    assert (recording.species, recording.signal_kind) == ("MUS_MUSCULUS", "sorted")
    for row, unit in enumerate(KEPT):
        np.testing.assert_array_equal(recording.spike_times[recording.spike_units == row], made.allen_spikes()[unit])
    stimuli = recording.stimuli
    np.testing.assert_array_equal(stimuli.start, 8 + 0.25 * np.arange(11))
    np.testing.assert_array_equal(stimuli.end, stimuli.start + 0.25)
    assert stimuli.condition.tolist() == [f"natural_scenes/{name}" for name in CONDITIONS]
    assert stimuli.repeat.tolist() == [0, 0, 0, 1, 0, 1, 1, 2, 0, 1, 3]
    assert stimuli.valid.tolist() == [True, False, *[True] * 9], "8.30-8.45 s is invalid"
    np.testing.assert_allclose(recording.observed, [[0.5, 8.3], [8.45, 19.45]])
    start, end, speed = made.running()
    known = np.isfinite(speed)
    np.testing.assert_allclose(recording.behaviour["running"].timestamps, ((start + end) / 2)[known])
    np.testing.assert_array_equal(recording.behaviour["running"].values, speed[known])


def test_quality_columns_are_kept_and_what_was_dropped_is_said(file: Path, tmp_path: Path) -> None:
    recording = imported(file, tmp_path / "out")
    assert set(recording.unit_columns["quality"].tolist()) == {"good"}
    np.testing.assert_allclose(recording.unit_columns["snr"], np.linspace(1.1, 4.6, 8)[KEPT])
    assert np.isnan(recording.unit_columns["d_prime"][-1])
    for name in ("firing_rate", "isi_violations", "presence_ratio", "amplitude_cutoff"):
        assert len(recording.unit_columns[name]) == 6
    assert recording.provenance["unusable"] == "noise 1, on an invalid channel 1 of 8 units; dropped 2"
    assert recording.provenance["tables"] == "natural_scenes; left out drifting_gratings, spontaneous"
    assert "1 presentations overlap them" in recording.provenance["invalid_times"]
    every = imported(file, tmp_path / "all", unusable=True)
    assert len(every.unit_ids) == 8
    assert every.regions[[4, 5]].tolist() == ["VISl", "VISp"]
    fast = imported(file, tmp_path / "fast", quality=QualitySettings(min_rate=2.0))
    assert fast.unit_ids.tolist() == made.UNITS[[2, 3, 6, 7]].astype(str).tolist()
    assert "rate in Hz at least 2: dropped 2" in fast.provenance["quality"]


def test_what_is_read_is_what_pynwb_reads(file: Path, tmp_path: Path) -> None:
    recording = imported(file, tmp_path / "out", unusable=True)
    with pynwb.NWBHDF5IO(str(file), "r") as io:
        nwb = io.read()
        units, electrodes = nwb.units.to_dataframe(), nwb.electrodes.to_dataframe()
        scenes = nwb.intervals["natural_scenes_presentations"].to_dataframe()
        located = [electrodes.loc[int(channel), "location"] for channel in units["peak_channel_id"]]
    assert recording.unit_ids.tolist() == units.index.astype(str).tolist()
    no_region = {"", "grey", "None", "nan"}
    assert recording.regions.tolist() == ["unknown" if name in no_region else name for name in located]
    for row, times in enumerate(units["spike_times"]):
        np.testing.assert_array_equal(recording.spike_times[recording.spike_units == row], times)
    np.testing.assert_array_equal(recording.stimuli.start, scenes["start_time"])
    frames = ["blank" if f == -1 else f"{f:g}" for f in scenes["frame"]]
    assert recording.stimuli.condition.tolist() == [f"natural_scenes/{f}" for f in frames]


def test_a_file_of_2019_that_pynwb_refuses_reads_the_same(file: Path, tmp_path: Path) -> None:
    new = imported(file, tmp_path / "new")
    made.age(file)
    verdict = {finding.key: finding.found for finding in examine(file)}
    assert "refuses the file" in verdict["pynwb"]
    assert verdict["file"] == "NWB 2.1.0"
    assert all(finding.ok for finding in examine(file))
    old = imported(file, tmp_path / "old")
    np.testing.assert_array_equal(old.spike_times, new.spike_times)
    np.testing.assert_array_equal(old.stimuli.start, new.stimuli.start)
    assert (old.regions.tolist(), old.unit_keys) == (new.regions.tolist(), new.unit_keys)
    assert (old.subject, old.species) == ("699733573", "MUS_MUSCULUS")


def test_frames_written_as_text(tmp_path: Path) -> None:
    file = made.write_allen(tmp_path / "raw.nwb", frames_as_text=True)
    stimuli = imported(file, tmp_path / "out").stimuli
    names = [*CONDITIONS[:9], "unknown", CONDITIONS[10]]
    assert stimuli.condition.tolist() == [f"natural_scenes/{name}" for name in names]


def test_pictures_become_images_and_split_by_content(file: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recording = imported(file, out, images=folder, seed=3)
    stimuli, images = recording.stimuli, ImageSet.read(out / "images.h5")
    assert images.pixels.shape == (4, 6, 10, 3)
    shown = made.FRAMES >= 0
    assert set(stimuli.image_id[~shown].tolist()) == {""}
    for frame, pixels in zip(made.FRAMES[shown], images.pixels[images.rows(stimuli.image_id[shown])], strict=True):
        np.testing.assert_array_equal(pixels, np.repeat(picture(int(frame))[..., None], 3, axis=-1))
    assert stimuli.split[shown].tolist() == [split_of(key, seed=3) for key in stimuli.image_id[shown].tolist()]
    assert set(stimuli.split[~shown].tolist()) == {"none"}, "a training window of this session always shows a picture"
    session = Session(recording, window_ms=200, offset_ms=30)
    session.attach_images(images)
    assert (session.image_row[session.rows("train")] >= 0).all()


def test_without_pictures_frames_still_have_one_split_each(file: Path, tmp_path: Path) -> None:
    stimuli = imported(file, tmp_path / "out", seed=5).stimuli
    shown = made.FRAMES >= 0
    assert stimuli.image_id[shown].tolist() == [f"allen_natural_scenes_{frame:03.0f}" for frame in made.FRAMES[shown]]
    assert set(stimuli.image_id[~shown].tolist()) == {""}, "a blank is no image"
    splits = {}
    for name, split in zip(stimuli.condition.tolist(), stimuli.split.tolist(), strict=True):
        assert splits.setdefault(name, split) == split
    assert splits["natural_scenes/17"] == split_of("allen_natural_scenes_017", seed=5)
    assert splits["natural_scenes/blank"] == "train"


@pytest.mark.parametrize("kind", ["grey.npy", "rgb.npy", "pages.tiff"])
def test_stacks_of_pictures(file: Path, tmp_path: Path, kind: str) -> None:
    stack = np.stack([picture(frame) for frame in range(118)])
    path = tmp_path / kind
    if kind == "pages.tiff":
        pages = [Image.fromarray(page) for page in stack]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    else:
        np.save(path, stack if kind == "grey.npy" else np.repeat(stack[..., None], 3, axis=-1))
    stimuli = imported(file, tmp_path / "out", images=path).stimuli
    images = ImageSet.read(tmp_path / "out" / "images.h5")
    assert len(images) == 118
    np.testing.assert_array_equal(images.pixels[images.rows(stimuli.image_id[4:5])[0], ..., 2], picture(99))


def test_all_tables_with_their_parameters(file: Path, tmp_path: Path) -> None:
    stimuli = imported(file, tmp_path / "out", tables=()).stimuli
    assert (np.diff(stimuli.start) > 0).all()
    other = [name for name in stimuli.condition.tolist() if not name.startswith("natural")]
    gratings = ["drifting_gratings/contrast=0.8,orientation=45", "drifting_gratings/contrast=0.8,orientation=N/A"]
    assert other == [*gratings, "spontaneous"]
    assert stimuli.valid[:2].all()


def test_spikes_without_a_valid_time_are_left_out_and_counted(file: Path, tmp_path: Path, capsys) -> None:
    with h5py.File(file, "r+") as raw:
        ends = raw["units/spike_times_index"][()].astype(int)
        for unit, count in ((1, 2), (4, 5)):
            raw["units/spike_times"][ends[unit - 1] : ends[unit - 1] + count] = -1.0
        last = slice(ends[5], ends[6])
        raw["units/spike_times"][last] = raw["units/spike_times"][last][::-1]
    assert [f.found for f in examine(file) if "below 0" in f.found] == [
        "7 times below 0, which are not valid: left out"
    ]
    recording = imported(file, tmp_path / "out", quality=QualitySettings(min_rate=None, max_isi_violations=None))
    assert recording.duration[0] >= 0
    assert recording.spike_times.min() >= 0
    truth = made.allen_spikes()
    truth[1], truth[4] = truth[1][2:], truth[4][5:]
    for row, unit in enumerate(recording.unit_ids.tolist()):
        times = np.sort(recording.spike_times[recording.spike_units == row])
        np.testing.assert_allclose(times, truth[made.UNITS.tolist().index(int(unit))])
    assert recording.provenance["left_out"] == "left out 7 of 500 spikes without a valid time (below 0 s)"
    assert "left out 7 of 500 spikes" in capsys.readouterr().out


def test_presentations_that_stop_when_they_start_are_left_out_and_counted(file: Path, tmp_path: Path) -> None:
    with h5py.File(file, "r+") as raw:
        raw[STOPS][10] = raw[STARTS][10]
        spontaneous = raw["intervals/spontaneous_presentations"]
        spontaneous["stop_time"][:] = spontaneous["start_time"][:]
    whole = imported(file, tmp_path / "a")
    assert len(whole.stimuli) == len(made.FRAMES) - 1
    assert "1 presentations that stop when they start" in whole.provenance["left_out"]
    every = imported(file, tmp_path / "b", tables=())
    assert "2 presentations that stop when they start" in every.provenance["left_out"]
    assert not np.char.startswith(every.stimuli.condition, "spontaneous").any()


def test_obs_intervals_of_units_are_heeded(file: Path, tmp_path: Path) -> None:
    count = len(made.UNITS)
    with h5py.File(file, "r+") as raw:
        raw["units/obs_intervals"] = np.tile([[1.0, 12.0], [14.0, 19.0]], (count, 1))
        raw["units/obs_intervals_index"] = 2 * np.arange(1, count + 1)
    recording = imported(file, tmp_path / "out", quality=QualitySettings(min_rate=None, max_isi_violations=None))
    np.testing.assert_allclose(recording.observed, [[1.0, 8.3], [8.45, 12.0], [14.0, 19.0]])
    assert not ((recording.spike_times > 12.001) & (recording.spike_times < 13.999)).any()
    assert "outside their unit's observed intervals" in recording.provenance["left_out"]


def test_a_session_without_natural_scenes_serves_pretraining(tmp_path: Path) -> None:
    file = made.write_allen(tmp_path / "raw.nwb", scenes=False)
    assert all(finding.ok for finding in examine(file))
    recording = imported(file, tmp_path / "out")
    assert recording.stimuli is None
    assert recording.provenance["tables"] == "none; left out drifting_gratings, spontaneous"


def test_a_folder_with_lfp_files_is_imported_once(written: Path, tmp_path: Path) -> None:
    root = tmp_path / "000021"
    first = root / "sub-1" / "sub-1_ses-715093703.nwb"
    first.parent.mkdir(parents=True)
    shutil.copy(written, first)
    made.write_lfp(root / "sub-1" / "sub-1_ses-715093703_probe-1_ecephys.nwb")
    made.write_allen(root / "sub-2" / "sub-2_ses-719161530.nwb", session="719161530")
    assert recognises(root)
    out = import_allen(root, tmp_path / "out")
    sessions = {name: out / "sessions" / f"{name}.h5" for name in ("715093703", "719161530")}
    assert sorted(out.rglob("*.h5")) == sorted(sessions.values())
    before = {name: path.stat().st_mtime_ns for name, path in sessions.items()}
    sessions["719161530"].write_bytes(b"cut off")
    import_allen(root, out)
    changed = {name for name, path in sessions.items() if path.stat().st_mtime_ns != before[name]}
    assert changed == {"719161530"}
    import_allen(root, out, seed=1)
    assert read_recording(sessions["715093703"]).provenance["split"].startswith("natural scenes by sha1 of seed 1")
    shutil.copy(written, root / "again.nwb")
    with pytest.raises(UserError, match="are both session 715093703"):
        import_allen(root, out)


def replaced(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    """A damage: the dataset ``key`` with ``change`` made to it."""

    def damage(file: h5py.File) -> None:
        values, attributes = file[key][()], dict(file[key].attrs)
        del file[key]
        file[key] = change(values)
        file[key].attrs.update(attributes)

    return damage


def removed(key: str) -> Callable[[h5py.File], None]:
    return lambda file: file.pop(key)


def at(row: int, value: object) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[row] = value
        return values

    return change


SPIKES, PEAK, FRAME = "units/spike_times", "units/peak_channel_id", f"{SCENES}/frame"
STARTS, STOPS, LOCATION = f"{SCENES}/start_time", f"{SCENES}/stop_time", f"{ELECTRODES}/location"
DEFECTS = {
    "no units": (removed("units"), "units/id", "absent"),
    "no spike index": (removed("units/spike_times_index"), SPIKES, "units/spike_times_index: absent"),
    "no electrodes": (removed(ELECTRODES), f"{ELECTRODES}/id", "absent"),
    "no location": (removed(LOCATION), LOCATION, "absent"),
    "no scenes": (removed(SCENES), "intervals", "no natural_scenes"),
    "no intervals": (removed("intervals"), "intervals", "0 tables"),
    "no frame": (removed(FRAME), FRAME, "absent"),
    "a group": (lambda file: (file.pop(PEAK), file.create_group(PEAK)), PEAK, "a group, not a column"),
    "spikes as text": (replaced(SPIKES, lambda v: v.astype("S")), SPIKES, "text, not numbers"),
    "starts as text": (replaced(STARTS, lambda v: v.astype("S")), STARTS, "text, not numbers"),
    "frame as words": (replaced(FRAME, lambda v: np.full(len(v), b"cat")), FRAME, "'cat' in row 0"),
    "half a frame": (replaced(FRAME, at(4, 17.5)), FRAME, "row 4 is 17.5"),
    "frames from 1": (replaced(FRAME, at(2, 118)), FRAME, "row 2 is 118"),
    "spikes in ms": (replaced(SPIKES, lambda v: v * 1000), SPIKES, "milliseconds"),
    "stops in ms": (replaced(STOPS, lambda v: v * 1000), SCENES, "milliseconds"),
    "stop before start": (replaced(STOPS, at(3, 1.0)), STOPS, "row 3 stops at 1"),
    "everything late": (replaced(SPIKES, lambda v: v + 1e6), SPIKES, "milliseconds"),
    "nan spike": (replaced(SPIKES, at(5, np.nan)), SPIKES, "value 5 is nan"),
    "nan start": (replaced(STARTS, at(1, np.nan)), STARTS, "value 1 is nan"),
    "row for an id": (replaced(PEAK, at(3, 2)), PEAK, "row 3 is 2, the id of no electrode"),
    "one unit twice": (replaced("units/id", at(1, made.UNITS[0])), "units/id", "950911932 is there 2 times"),
    "short index": (replaced("units/spike_times_index", at(-1, 400)), SPIKES, "its index ends at 400"),
    "rows missing": (replaced(PEAK, lambda v: v[:5]), PEAK, "5 rows in a table of 8"),
    "a row too many": (replaced(LOCATION, lambda v: np.append(v, v[:1])), LOCATION, "8 rows in a table of 7"),
    "two dimensions": (replaced(SPIKES, lambda v: v.reshape(5, -1)), SPIKES, "(5, 100), not of 1 dimension"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_doctor_names_each_defect_and_import_refuses_it(file: Path, tmp_path: Path, name: str) -> None:
    damage, key, told = DEFECTS[name]
    with h5py.File(file, "r+") as raw:
        damage(raw)
    bad = [finding for finding in examine(file) if not finding.ok]
    assert [finding for finding in bad if finding.key == key and told in finding.found and finding.mend], bad
    with pytest.raises(UserError) as caught:
        import_allen(file, tmp_path / "out")
    assert file.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").rglob("*")), "nothing half-written is left"


MINOR = {
    "no running": (removed("processing/running/running_speed"), "processing/running/running_speed", "absent"),
    "metres": (
        lambda file: file["processing/running/running_speed/data"].attrs.__setitem__("unit", "miles"),
        "processing/running/running_speed", "in 'miles'",
    ),
    "running in ms": (
        replaced("processing/running/running_speed/timestamps", lambda v: v * 1000),
        "processing/running/running_speed", "milliseconds",
    ),
    "running transposed": (
        replaced("processing/running/running_speed/data", lambda v: np.stack([v, v])),
        "processing/running/running_speed", "(2, 13) for 13 timestamps (transposed?)",
    ),
    "no snr": (removed("units/snr"), "units/snr", "absent"),
    "no valid_data": (removed(f"{ELECTRODES}/valid_data"), f"{ELECTRODES}/valid_data", "absent"),
}  # fmt: skip


@pytest.mark.parametrize("name", MINOR)
def test_what_can_be_done_without_is_named_and_left_out(file: Path, tmp_path: Path, name: str) -> None:
    damage, key, told = MINOR[name]
    with h5py.File(file, "r+") as raw:
        damage(raw)
    bad = [finding for finding in examine(file) if not finding.ok]
    assert [finding.key for finding in bad] == [key]
    assert told in bad[0].found
    recording = imported(file, tmp_path / "out")
    assert ("running" in recording.behaviour) == ("running" not in key)
    assert ("snr" in recording.unit_columns) == ("snr" not in key)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lambda whole: whole[:-4000], "cut off, an HDF5 file without its end"),
        (lambda whole: whole[:900], "cut off, an HDF5 file without its end"),
        (lambda whole: b"", "empty"),
        (lambda whole: b"../../.git/annex/objects/x/MD5E-s12.nwb\n", "git-annex or Git LFS pointer"),
    ],
)
def test_truncated_files_and_pointers(file: Path, tmp_path: Path, content, told: str) -> None:
    file.write_bytes(content(file.read_bytes()))
    findings = examine(file)
    assert [told in finding.found and not finding.ok for finding in findings] == [True]
    assert not recognises(file)
    with pytest.raises(UserError, match=told):
        import_allen(file, tmp_path / "out")


def test_a_hole_in_the_text_ends_in_a_sentence(file: Path, tmp_path: Path) -> None:
    """The HDF5 library itself would loop for ever."""
    content = bytearray(file.read_bytes())
    heap = content.find(b"GCOL")
    content[heap + 64 : heap + 512] = bytes(448)
    file.write_bytes(content)
    assert "damaged where it keeps its text" in examine(file)[0].found
    assert not recognises(file)
    with pytest.raises(UserError, match="damaged where it keeps its text"):
        import_allen(file, tmp_path / "out")


def test_mutated_files_never_end_in_a_traceback(written: Path, tmp_path: Path) -> None:
    whole, sentences = written.read_bytes(), []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        content = bytearray(whole)
        if seed % 3 == 0:
            start = int(rng.integers(len(content)))
            content[start : start + 256] = bytes(len(content[start : start + 256]))
        else:
            most = 60_000 if seed % 3 == 1 else len(content)
            for at in rng.integers(most, size=20):
                content[at] = rng.integers(256)
        file = tmp_path / f"{seed}.nwb"
        file.write_bytes(content)
        try:  # what the doctor does, but for asking pynwb, which takes a second
            with open_nwb(file) as nwb:
                assert look_at(nwb, ("natural_scenes",))[0].findings
            import_allen(file, tmp_path / f"out{seed}")
        except UserError as error:
            sentences.append(str(error))
    assert sentences
    assert not [sentence for sentence in sentences if "\n" in sentence]


def test_foreign_files_and_absent_ones(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.nwb"
    with h5py.File(foreign, "w") as file:
        file["counts"] = np.zeros((3, 4))
    assert "HDF5 but not NWB 2" in examine(foreign)[0].found
    assert not recognises(foreign)
    with pytest.raises(UserError, match="HDF5 but not NWB 2"):
        import_allen(foreign, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    for path, told in ((tmp_path / "nowhere", "nothing at"), (tmp_path / "empty", "holds no NWB file")):
        assert told in examine(path)[0].found
        assert not recognises(path)
        with pytest.raises(UserError, match=told):
            import_allen(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["3.png", "17.png", "42.png"], "shows natural scene 99, and --images holds no picture"),
        (["3.png", "scene_03.png"], "are both frame 3"),
        (["scene.png"], "does not end in a frame number"),
        ([], "holds no pictures"),
    ],
)
def test_pictures_that_do_not_fit(file: Path, tmp_path: Path, names: list[str], told: str) -> None:
    images = tmp_path / "pictures"
    images.mkdir()
    for frame, name in enumerate(names):
        Image.fromarray(picture(frame)).save(images / name)
    with pytest.raises(UserError, match=told):
        import_allen(file, tmp_path / "out", images=images)
    assert not (tmp_path / "out" / "sessions").exists()


def test_broken_pictures(file: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "natural_scene_3.tiff").write_bytes(b"this is no picture")
    with pytest.raises(UserError, match=r"natural_scene_3\.tiff is no picture"):
        import_allen(file, tmp_path / "out", images=folder)
    Image.fromarray(np.zeros((6, 10), dtype=np.uint16)).save(folder / "natural_scene_3.tiff")
    with pytest.raises(UserError, match="more than 8 bits"):
        import_allen(file, tmp_path / "out", images=folder)
    np.save(tmp_path / "stack.npy", np.zeros((118, 6, 10)))
    with pytest.raises(UserError, match=r"float64 of shape \(118, 6, 10\), expected uint8"):
        import_allen(file, tmp_path / "out", images=tmp_path / "stack.npy")


def test_frames_of_a_movie_are_images_split_by_parts(tmp_path: Path) -> None:
    """A movie of 400 frames, shown twice, beside the scenes; the frames of one part are never near another split."""
    file = made.write_allen(tmp_path / "raw.nwb", movie=400)
    rng = np.random.default_rng(0)
    films = tmp_path / "films"
    films.mkdir()
    np.save(films / "natural_movie_one.npy", rng.integers(0, 256, (400, 6, 10), dtype=np.uint8))
    out = tmp_path / "out"
    recording = imported(file, out, movies=films)
    stimuli, pixels = recording.stimuli, ImageSet.read(out / "images.h5")
    movie = np.char.startswith(stimuli.condition, "natural_movie_one")
    assert movie.sum() == 800
    assert (stimuli.image_id[movie][:400] == stimuli.image_id[movie][400:]).all()
    assert set(stimuli.image_id[movie].tolist()) == set(pixels.ids.tolist())
    assert stimuli.split[movie][:400].tolist() == (
        ["train"] * 145 + ["none"] * 15 + ["valid"] * 40 + ["none"] * 15 + ["train"] * 130 + ["none"] * 15
        + ["test"] * 40
    )  # fmt: skip
    assert stimuli.image_id[~movie].tolist()[0] == "allen_natural_scenes_017"
    assert set(stimuli.split[~movie].tolist()) == {"none"}, "no picture of the scenes was given"
    plain = imported(file, tmp_path / "plain").stimuli
    assert not np.char.startswith(plain.condition, "natural_movie").any()
    every = imported(file, tmp_path / "every", tables=()).stimuli
    assert set(every.image_id[np.char.startswith(every.condition, "natural_movie")].tolist()) == {""}
    with pytest.raises(UserError, match=r"no movie at .*: give a folder with natural_movie_one\.npy"):
        imported(file, tmp_path / "none", movies=tmp_path / "out")
