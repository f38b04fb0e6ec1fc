"""The TVSD importer on a small release in MATLAB's own formats, and on broken copies of it."""

import re
import runpy
import shutil
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from neurobridge.data.images import ImageSet, content_id
from neurobridge.data.quality import QualitySettings
from neurobridge.data.recording import Recording, read_recording
from neurobridge.data.sources.tvsd import examine, import_tvsd, recognises
from neurobridge.data.sources.tvsd_trials import normalised
from neurobridge.data.store import Session
from neurobridge.errors import UserError

FIXTURE = runpy.run_path(str(Path(__file__).with_name("tvsd_fixture.py")))
TRAIN, TEST, REPEATS = FIXTURE["TRAIN"], FIXTURE["TEST"], FIXTURE["REPEATS"]
TWIN = FIXTURE["TWIN"]
CENTRE = {"V1": 0.075, "V4": 0.1, "IT": 0.125}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict]:
    """The release: both animals, F with its trials; seven columns and three days for F."""
    root = tmp_path_factory.mktemp("tvsd") / "TVSD"
    FIXTURE["write_things"](root / "things")
    arrays = {
        "F": FIXTURE["write_monkey"](root, "F", raw=True, columns=7, days=3),
        "N": FIXTURE["write_monkey"](root, "N"),
    }
    return root, arrays


@pytest.fixture
def release(made, tmp_path) -> Path:
    """A copy of the normalised part, to break."""
    root = tmp_path / "TVSD"
    shutil.copytree(made[0], root, ignore=shutil.ignore_patterns("*trials.mat"))
    return root


def table(recording: Recording) -> np.ndarray:
    """Values [P, C]; NaN where there is no event. The event's time says which presentation it belongs to."""
    values = np.full((len(recording.stimuli), len(recording.unit_ids)), np.nan)
    row = np.floor(recording.spike_times / 0.4 + 1e-9).astype(int)
    np.testing.assert_allclose(
        recording.spike_times - recording.stimuli.start[row],
        [CENTRE[area] for area in recording.regions[recording.spike_units]],
        atol=1e-9,
    )
    values[row, recording.spike_units] = recording.spike_values
    return values


def slashes(paths) -> list[str]:
    return [p.replace("\\", "/") for p in paths]


def test_normalised_values_round_trip(made, tmp_path):
    root, arrays = made
    out = import_tvsd(root, tmp_path / "out", valid_share=0.0)
    for letter, areas in (
        ("F", [("V1", 512), ("IT", 320), ("V4", 192)]),
        ("N", [("V1", 512), ("V4", 256), ("IT", 256)]),
    ):
        r = read_recording(out / "sessions" / f"monkey{letter}_norm.h5")
        assert (r.dataset, r.subject, r.signal_kind) == ("tvsd", f"monkey{letter}", "mua_envelope")
        assert r.unit_ids.tolist() == [f"{i:04d}" for i in range(1, 1025)]
        assert r.regions.tolist() == [area for area, size in areas for _ in range(size)]
        expected = arrays[letter]["train_MUA"].T, *arrays[letter]["test_MUA_reps"].transpose(2, 1, 0)
        np.testing.assert_allclose(table(r), np.concatenate(expected), rtol=1e-6)
        assert (np.diff(r.spike_times) >= 0).all()
        s = r.stimuli
        assert s.columns["things_path"].tolist() == slashes([*TRAIN, *TEST * REPEATS])
        assert s.columns["concept"][:2].tolist() == ["aardvark", "abacus"]
        assert s.repeat.tolist() == [0] * len(TRAIN) + [r for r in range(REPEATS) for _ in TEST]
        assert s.split.tolist() == ["train"] * len(TRAIN) + ["test"] * (REPEATS * len(TEST))
        assert s.valid.all()
        assert s.image_id.tolist() == s.columns["things_path"].tolist(), "an image has a name without its picture"
        np.testing.assert_allclose(r.unit_columns["snr"], arrays[letter]["SNR"].mean(1))
        np.testing.assert_allclose(r.unit_columns["snr_max"], arrays[letter]["SNR_max"][0])
        np.testing.assert_allclose(r.unit_columns["reliab"], arrays[letter]["reliab"].mean(1))
        assert "h5py" in r.provenance["reader"]


def test_trials_with_the_release_s_statistics_give_the_release_s_values(made, tmp_path):
    root, arrays = made
    out = import_tvsd(root, tmp_path / "out", signal="trials", statistics="test")
    r, made_f = read_recording(out / "sessions" / "monkeyF_trials.h5"), arrays["F"]
    assert [p.stem for p in (out / "sessions").glob("*.h5")] == ["monkeyF_trials"]
    allmat = made_f["ALLMAT"]
    values = table(r)
    is_test = allmat[:, 2] > 0
    shown = [TEST[int(row[2]) - 1] if row[2] else TRAIN[int(row[1]) - 1] for row in allmat]
    assert r.stimuli.columns["things_path"].tolist() == slashes(shown)
    assert r.stimuli.columns["day"].tolist() == allmat[:, -1].tolist()
    assert set(r.stimuli.columns["day"].tolist()) == {1, 2, 3}
    np.testing.assert_allclose(values[~is_test], made_f["train_MUA"].T[allmat[~is_test, 1].astype(int) - 1], atol=2e-4)
    image = allmat[is_test, 2].astype(int) - 1
    repeats = made_f["test_MUA_reps"][:, image, r.stimuli.repeat[is_test]].T
    np.testing.assert_allclose(values[is_test], repeats, atol=2e-4)


def test_trials_are_normalised_by_train_statistics_alone(made, tmp_path):
    root, arrays = made
    options = {"signal": "trials", "image_root": root / "things", "side": 16, "valid_share": 0.3}
    r = read_recording(import_tvsd(root, tmp_path / "out", **options) / "sessions" / "monkeyF_trials.h5")
    pool = r.stimuli.split == "train"
    assert {"train", "valid", "test", "none"} == set(r.stimuli.split.tolist())
    expected = FIXTURE["normalised"]("F", arrays["F"]["ALLMUA"], arrays["F"]["ALLMAT"], pool=pool)
    np.testing.assert_allclose(table(r), expected.T, atol=2e-4)
    assert "train trials" in r.provenance["values"]


@pytest.mark.parametrize("slab_bytes", [1, 3_000_000, 2**40])
def test_slabs_do_not_change_a_value(made, slab_bytes):
    root, arrays = made
    allmat = arrays["F"]["ALLMAT"]
    pool = allmat[:, 1] > 0
    reads = []
    with h5py.File(root / "monkeyF" / "THINGS_MUA_trials.mat") as file:
        options = {"tb": file["tb"][()].ravel(), "regions": np.repeat("V1", 1024), "day": allmat[:, -1], "pool": pool}
        values = normalised(file["ALLMUA"], **options, slab_bytes=slab_bytes, advance=reads.append)
    assert sum(reads) == len(allmat)
    assert max(reads) == {1: 4, 3_000_000: 4, 2**40: len(allmat)}[slab_bytes]
    window = arrays["F"]["ALLMUA"][:, :, 126:226].astype(float)
    for day in (1, 2, 3):
        rows = allmat[:, -1] == day
        samples = window[:, rows & pool].reshape(1024, -1)
        mean, deviation = samples.mean(1), samples.std(1, ddof=1)
        np.testing.assert_allclose(values[rows], ((window[:, rows].mean(2).T - mean) / deviation), atol=2e-4)


def test_pictures_splits_and_repeats_go_by_content(made, tmp_path):
    root, _ = made
    out = import_tvsd(root, tmp_path / "out", image_root=root / "things", side=16, valid_share=0.3)
    images = ImageSet.read(out / "images.h5")
    assert images.pixels.shape == (len(TRAIN) + len(TEST) - 1, 16, 16, 3)
    splits = {}
    for letter in "FN":
        s = read_recording(out / "sessions" / f"monkey{letter}_norm.h5").stimuli
        for key, split in zip(s.image_id.tolist(), s.split.tolist(), strict=True):
            splits.setdefault(key, set()).add(split)
        twin = s.columns["things_path"] == slashes(TWIN)[0]
        assert s.split[twin].tolist() == ["none"], "a train picture that is a test picture serves neither"
        assert s.repeat[s.columns["things_path"] == slashes(TWIN)[1]].tolist() == [1, 2, 3]
    found = [split for group in splits.values() for split in group - {"none"}]
    assert len(found) == len(splits), "one image has one split in every session"
    assert 1 <= found.count("valid") <= len(TRAIN) // 2
    with Image.open(root / "things" / slashes(TRAIN)[0]) as picture:
        expected = picture.convert("RGB").crop((4, 0, 36, 32)).resize((16, 16), Image.Resampling.BICUBIC)
    assert images.rows(s.image_id[:1]).tolist() == [0]
    assert s.image_id[0] == content_id(np.asarray(expected))
    session = Session.open(out / "sessions" / "monkeyN_norm.h5", window_ms=200)
    session.attach_images(images)
    assert session.image_row[-1] == images.rows(s.image_id[-1:])[0]
    window, *_ = session.events(np.arange(len(s)))
    assert np.bincount(window).tolist() == [1024] * len(s), "every event lies within 200 ms of its onset"


def test_concepts_of_the_test_images_leave_training(made, tmp_path):
    root, _ = made
    standard = import_tvsd(root, tmp_path / "a", valid_share=0.5)
    concept = import_tvsd(root, tmp_path / "b", split="concept", valid_share=0.5)
    before, after = (read_recording(out / "sessions" / "monkeyN_norm.h5").stimuli for out in (standard, concept))
    assert before.split[after.split == "test"].tolist() == ["test"] * (len(TEST) * REPEATS)
    by_concept: dict[str, set[str]] = {}
    for concept_name, split in zip(after.columns["concept"].tolist(), after.split.tolist(), strict=True):
        by_concept.setdefault(concept_name, set()).add(split)
    assert by_concept["aardvark"] == by_concept["zucchini"] == {"none", "test"}
    assert by_concept["wolf"] == {"test"}
    assert all(len(by_concept[name]) == 1 and by_concept[name] <= {"train", "valid"} for name in ("abacus", "acorn"))
    assert {"train", "valid"} <= set(before.split[before.columns["concept"] == "aardvark"].tolist())


def test_second_import_skips_what_is_written(release, tmp_path):
    out = import_tvsd(release, tmp_path / "out")
    files = sorted((out / "sessions").glob("*.h5"))
    first = [f.stat().st_mtime_ns for f in files]
    import_tvsd(release, out)
    assert [f.stat().st_mtime_ns for f in files] == first
    files[0].write_bytes(b"cut off")
    import_tvsd(release, out)
    assert files[1].stat().st_mtime_ns == first[1]
    assert len(read_recording(files[0]).unit_ids) == 1024
    import_tvsd(release, out, seed=1, valid_share=0.5)
    assert "valid" in read_recording(files[1]).stimuli.split


def test_channels_below_the_snr_threshold_go(made, tmp_path):
    root, arrays = made
    out = import_tvsd(root / "monkeyN", tmp_path / "out", quality=QualitySettings(min_snr=1.5))
    r = read_recording(out / "sessions" / "monkeyN_norm.h5")
    kept = np.flatnonzero(arrays["N"]["SNR"].mean(1) >= 1.5)
    assert r.unit_ids.tolist() == [f"{i + 1:04d}" for i in kept]
    np.testing.assert_allclose(table(r)[: len(TRAIN)], arrays["N"]["train_MUA"].T[:, kept], rtol=1e-6)
    with pytest.raises(UserError, match="no unit is left"):
        import_tvsd(root, tmp_path / "none", quality=QualitySettings(min_snr=1e6))


def test_nan_and_padding_are_left_out_and_said(release, tmp_path):
    with h5py.File(release / "monkeyN" / "THINGS_normMUA.mat", "r+") as file:
        file["train_MUA"][:, 5] = np.nan
        file["test_MUA_reps"][:, :, 5] = np.nan
        file["train_MUA"][3, 700] = np.nan
        file["test_MUA_reps"][2, 1] = 0  # MATLAB pads a missing repeat with zeros
    r = read_recording(import_tvsd(release, tmp_path / "out") / "sessions" / "monkeyN_norm.h5")
    assert "0006" not in r.unit_ids
    assert len(r.unit_ids) == 1023
    assert r.provenance["dropped_channels"].startswith("1 not finite")
    left_out = [3, len(TRAIN) + 2 * len(TEST) + 1]
    assert np.flatnonzero(~r.stimuli.valid).tolist() == left_out
    values = table(r)
    assert np.isnan(values[left_out]).all()
    assert np.isfinite(np.delete(values, left_out, 0)).all()
    assert "1 with a value that is not finite, 1 test repeats all zero" in r.provenance["dropped_presentations"]
    found = {f.key: f.found for f in examine(release / "monkeyN" / "THINGS_normMUA.mat") if not f.ok}
    assert found == {
        "train_MUA values": "16 of 16 presentations with NaN (first: 0)",
        "test_MUA_reps values": "8 of 9 presentations with NaN (first: 0), 1 all zero",
    }


def test_a_day_without_train_trials_is_left_out(made, tmp_path):
    root = tmp_path / "TVSD"
    shutil.copytree(made[0] / "monkeyF", root / "monkeyF")
    with h5py.File(root / "monkeyF" / "THINGS_MUA_trials.mat", "r+") as file:
        allmat = file["ALLMAT"][()]
        alone = int(np.flatnonzero(allmat[2] > 0)[0])
        allmat[-1, alone] = 9
        file["ALLMAT"][...] = allmat
    out = import_tvsd(root, tmp_path / "out", signal="trials")
    r = read_recording(out / "sessions" / "monkeyF_trials.h5")
    assert np.flatnonzero(~r.stimuli.valid).tolist() == [alone]
    assert len(r.unit_ids) == 1024


def test_prefixed_flat_and_single_files_are_found(made, release, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for letter, prefix in (("F", "f_"), ("N", "monkeyN_")):
        for file in (release / f"monkey{letter}").rglob("*.mat"):
            shutil.copy(file, flat / f"{prefix}{file.name}")
    (flat / "f_things_imgs.mat").rename(flat / "things_imgs.mat")
    out = import_tvsd(flat, tmp_path / "out")
    assert sorted(p.stem for p in (out / "sessions").glob("*.h5")) == ["monkeyF_norm", "monkeyN_norm"]
    out = import_tvsd(release / "monkeyN" / "THINGS_normMUA.mat", tmp_path / "single")
    assert [p.stem for p in (out / "sessions").glob("*.h5")] == ["monkeyN_norm"]
    assert all(recognises(p) for p in (made[0], made[0] / "monkeyF", flat, flat / "f_THINGS_normMUA.mat"))
    assert not any(recognises(p) for p in (tmp_path, tmp_path / "nothing", made[0] / "things", Path(__file__)))
    assert all(f.ok for f in examine(flat))
    assert all(f.ok for f in examine(made[0]))
    assert {"ALLMUA", "mapping", "train_MUA", "train_imgs/things_path"} <= {f.key for f in examine(made[0])}


def rewrite(path: Path, key: str, change) -> None:
    """Replace a dataset by what ``change`` makes of its array; None removes it."""
    with h5py.File(path, "r+") as file:
        array = file[key][()]
        del file[key]
        new = change(array)
        if new is not None:
            file.create_dataset(key, data=new)


NORM, TRIALS, IMAGES, MAPPING = (
    "THINGS_normMUA.mat",
    "THINGS_MUA_trials.mat",
    "_logs/things_imgs.mat",
    "_logs/1024chns_mapping_20220105.mat",
)


def put(row: int, column: int, value: float):
    def change(array):
        array[row, column] = value
        return array

    return change


def save_map(change):
    def damage(path):
        scipy.io.savemat(path, change(scipy.io.loadmat(path)["mapping"]))

    return damage


DEFECTS = {
    "transposed": (
        NORM,
        lambda p: rewrite(p, "train_MUA", np.transpose),
        "train_MUA",
        r"\(1024, 16\) \(axes reversed\)",
    ),
    "no repeats": (NORM, lambda p: rewrite(p, "test_MUA_reps", lambda a: None), "test_MUA_reps", "absent"),
    "fewer channels": (NORM, lambda p: rewrite(p, "train_MUA", lambda a: a[:, :1000]), "train_MUA", r"\(16, 1000\)"),
    "strings": (NORM, lambda p: rewrite(p, "train_MUA", lambda a: a.astype("S8")), "train_MUA", r"\|S8"),
    "fewer images": (NORM, lambda p: rewrite(p, "train_MUA", lambda a: a[:15]), "images", "15 train and 3 test images"),
    "empty": (NORM, lambda p: p.write_bytes(b""), "file", "is empty"),
    "truncated": (NORM, lambda p: p.write_bytes(p.read_bytes()[:-4000]), "file", "is cut off, an HDF5"),
    "foreign": (NORM, lambda p: p.write_bytes(b"<html>404</html>" * 999), "file", "is no HDF5 file"),
    "pointer": (NORM, lambda p: p.write_bytes(b"/annex/objects/MD5-s194--0\n"), "file", "git-annex or Git LFS pointer"),
    "v5": (NORM, lambda p: scipy.io.savemat(p, {"train_MUA": np.zeros((3, 2))}), "file", "MATLAB v5 file"),
    "table transposed": (TRIALS, lambda p: rewrite(p, "ALLMAT", np.transpose), "ALLMAT shape", r"\(25, 7\)"),
    "two indices": (
        TRIALS,
        lambda p: rewrite(p, "ALLMAT", lambda a: np.where(a == 0, 1, a)),
        "ALLMAT train_idx, test_idx",
        "trial 0 with",
    ),
    "from 0": (
        TRIALS,
        lambda p: rewrite(p, "ALLMAT", lambda a: np.r_[a[:1], a[1:3] - 1, a[3:]]),
        "ALLMAT train_idx, test_idx",
        "trial",
    ),
    "index too high": (
        TRIALS,
        lambda p: rewrite(p, "ALLMAT", lambda a: np.where(a == 16, 17, a)),
        "ALLMAT index range",
        "up to 17",
    ),
    "day 0": (TRIALS, lambda p: rewrite(p, "ALLMAT", lambda a: np.r_[a[:-1], a[-1:] - 1]), "ALLMAT day", "days 0 to 2"),
    "NaN in table": (TRIALS, lambda p: rewrite(p, "ALLMAT", put(3, 2, np.nan)), "ALLMAT values", "fractions or NaN"),
    "seconds": (TRIALS, lambda p: rewrite(p, "tb", lambda a: a / 1000), "tb values", "-0.1 to 0.199"),
    "late": (TRIALS, lambda p: rewrite(p, "tb", lambda a: a + 150), "tb span", "50 to 349 ms"),
    "no tb": (TRIALS, lambda p: rewrite(p, "tb", lambda a: None), "tb", "absent"),
    "no trials": (TRIALS, lambda p: rewrite(p, "ALLMUA", lambda a: a[:, :, 0]), "ALLMUA", r"\(300, 25\)"),
    "no paths": (
        IMAGES,
        lambda p: rewrite(p, "train_imgs/things_path", lambda a: None),
        "train_imgs/things_path",
        "absent",
    ),
    "no references": (
        IMAGES,
        lambda p: rewrite(p, "test_imgs/things_path", lambda a: np.ones(3)),
        "test_imgs/things_path",
        "not a cell",
    ),
    "no folder": (
        IMAGES,
        lambda p: rewrite(p, "#refs#/train_imgsthings_path2", lambda a: a[:4]),
        "train_imgs/things_path",
        "'zucc' in row 2",
    ),
    "map from 0": (MAPPING, save_map(lambda m: {"mapping": m - 1}), "mapping", "from 0 to 1023.*as if counted from 0"),
    "map not one to one": (
        MAPPING,
        save_map(lambda m: {"mapping": np.where(m == 7, 8, m)}),
        "mapping",
        "1023 of them different",
    ),
    "map elsewhere": (MAPPING, save_map(lambda m: {"map": m}), "mapping", "absent"),
    "map truncated": (MAPPING, lambda p: p.write_bytes(p.read_bytes()[:3000]), "file", "is cut off, a MATLAB file"),
}


@pytest.mark.parametrize("what", DEFECTS)
def test_every_defect_is_named_by_the_doctor_and_refused_by_the_importer(made, tmp_path, what):
    name, damage, key, found = DEFECTS[what]
    signal = "norm" if name == NORM else "trials"
    root = tmp_path / "TVSD"
    ignore = shutil.ignore_patterns("*trials.mat") if signal == "norm" else None
    shutil.copytree(made[0] / "monkeyF", root / "monkeyF", ignore=ignore)
    damage(root / "monkeyF" / name)
    bad = [f for f in examine(root) if not f.ok]
    assert [f.key for f in bad] == [key], bad
    assert bad[0].file == root / "monkeyF" / name
    assert any(word in bad[0].mend for word in ("download", "fetch", "save it"))
    assert re.search(found, bad[0].found), bad[0].found
    with pytest.raises(UserError, match=found) as caught:
        import_tvsd(root, tmp_path / "out", signal=signal)
    assert name.split("/")[-1] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out/**/*.*"))


def test_missing_files_links_and_pictures_end_in_one_sentence(release, tmp_path):
    with pytest.raises(UserError, match=r"no THINGS_normMUA.mat of monkeyF or monkeyN"):
        import_tvsd(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match=r"no THINGS_MUA_trials.mat of monkeyF or monkeyN"):
        import_tvsd(release, tmp_path / "out", signal="trials")
    with pytest.raises(UserError, match=r"valid_share is 1.5"):
        import_tvsd(release, tmp_path / "out", valid_share=1.5)
    with pytest.raises(UserError, match="--side is 0"):
        import_tvsd(release, tmp_path / "out", side=0)
    things = shutil.copytree(release / "things", tmp_path / "things")
    (things / slashes(TRAIN)[2]).unlink()
    with pytest.raises(UserError, match=r"1 of 19 pictures are not under .*first: zucchini/zucchini_01b.jpg"):
        import_tvsd(release, tmp_path / "out", image_root=things)
    (things / slashes(TRAIN)[2]).write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"zucchini_01b.jpg is no picture"):
        import_tvsd(release, tmp_path / "out", image_root=things)
    assert not list(tmp_path.glob("out/**/*.*"))
    norm = release / "monkeyF" / "THINGS_normMUA.mat"
    norm.unlink()
    norm.symlink_to("../.git/annex/objects/xx/MD5E-s194.mat")
    with pytest.raises(UserError, match="is a git-annex link without its content: fetch it"):
        import_tvsd(release, tmp_path / "out")
    assert [f.found for f in examine(release) if not f.ok] == ["is a git-annex link without its content"]
    shutil.rmtree(release / "monkeyF")
    (release / "monkeyN" / "_logs" / "things_imgs.mat").unlink()
    with pytest.raises(UserError, match=r"monkey N has no _logs/things_imgs.mat"):
        import_tvsd(release, tmp_path / "out")
    assert [(f.key, f.found) for f in examine(release) if not f.ok] == [("file", "absent")]
    assert [f.key for f in examine(tmp_path / "nowhere") if not f.ok] == ["monkey"]


def test_damaged_bytes_never_end_in_a_traceback(release, tmp_path):
    rng = np.random.default_rng(0)
    names = [release / "monkeyN" / name for name in (NORM, IMAGES, MAPPING)]
    whole = {name: name.read_bytes() for name in names}
    for _ in range(15):
        name = names[rng.integers(len(names))]
        content = bytearray(whole[name])
        for at in rng.integers(0, min(len(content), 9000), 12):
            content[at] = rng.integers(256)
        name.write_bytes(bytes(content))
        assert examine(release)
        with suppress(UserError):
            import_tvsd(release / "monkeyN", tmp_path / "out")
        name.write_bytes(whole[name])
