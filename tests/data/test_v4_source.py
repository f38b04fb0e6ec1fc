"""The V4 importer on a small release made here (real zips of real JPEGs), and on the real one where it is at hand."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neurobridge.data.images import ImageSet, content_id
from neurobridge.data.recording import read_recording
from neurobridge.data.sources.v4 import import_v4, read_images, split_of, subject_of
from neurobridge.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data" / "macaque_v4"


def picture(seed: int, *, size: int = 16) -> bytes:
    """A JPEG of coarse coloured noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((size, size)).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def archive(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """190925 (nested, shuffled, one repeated picture), 201025 (shares two pictures), 210620 (no pictures)."""
    root = tmp_path / "macaque_v4"
    (root / "responses_mean").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for session, units, count in (("190925", 3, 6), ("201025", 4, 5), ("210620", 2, 7)):
        np.save(root / "responses_mean" / f"responses_{session}.npy", rng.gamma(2.0, 1.0, (units, count)))
    pictures = {f"image{i:04d}.jpg": picture(i) for i in range(5)} | {"image0005.jpg": picture(0)}
    shuffled = {f"set{int(name[8]) % 2}/{name}": pictures[name] for name in sorted(pictures, reverse=True)}
    archive(root / "images" / "images_190925.zip", {"__MACOSX/._image0000.jpg": b"x", "notes.txt": b"x"} | shuffled)
    archive(root / "images" / "images_201025.zip", {f"image{i}.jpg": picture(i) for i in (3, 4, 5, 6, 7)})
    return root


def test_import_keeps_values_order_and_content(release: Path, tmp_path: Path) -> None:
    out = import_v4(release, tmp_path / "out")
    images = ImageSet.read(out / "images.h5")
    assert len(images) == 8
    assert sorted(images.labels["sessions"].tolist()) == [1] * 6 + [2] * 2
    recording = read_recording(out / "sessions" / "190925.h5")
    stimuli = recording.stimuli
    assert (recording.dataset, recording.subject, recording.signal_kind) == ("macaque_v4", "WE", "binned_count")
    assert set(recording.regions.tolist()) == {"V4"}
    expected = [content_id(pixels(picture(i))) for i in (0, 1, 2, 3, 4, 0)]
    assert stimuli.image_id.tolist() == expected, "presentations follow the base names, not the archive"
    assert stimuli.repeat.tolist() == [0, 0, 0, 0, 0, 1]
    np.testing.assert_allclose(stimuli.start, 0.2 * np.arange(6))
    np.testing.assert_allclose(stimuli.end - stimuli.start, 0.1)
    presentation = np.round((recording.spike_times - 0.05) / 0.2).astype(int)
    np.testing.assert_allclose(recording.spike_times, stimuli.start[presentation] + 0.05)
    counts = np.full((3, 6), np.nan)
    counts[recording.spike_units, presentation] = recording.spike_values
    np.testing.assert_allclose(counts, np.load(release / "responses_mean" / "responses_190925.npy"), rtol=1e-6)
    np.testing.assert_array_equal(images.pixels[images.rows(stimuli.image_id)[2]], pixels(picture(2)))


def test_one_image_has_one_split_everywhere(release: Path, tmp_path: Path) -> None:
    out = import_v4(release, tmp_path / "out", seed=3)
    first, second = (read_recording(out / "sessions" / f"{name}.h5").stimuli for name in ("190925", "201025"))
    split = dict(zip(first.image_id.tolist(), first.split.tolist(), strict=True))
    shared = [key for key in second.image_id.tolist() if key in split]
    assert len(shared) == 2
    for key, value in zip(second.image_id.tolist(), second.split.tolist(), strict=True):
        assert value == split.get(key, value) == split_of(key, seed=3)


def test_split_shares_and_subjects() -> None:
    splits = np.array([split_of(f"{i:016x}") for i in range(6000)])
    assert abs((splits == "test").mean() - 1 / 6) < 0.02
    assert abs((splits == "valid").mean() - 0.07) < 0.02
    assert [subject_of(day) for day in ("190929", "201016", "210326", "210620")] == ["WE", "PE", "PE", "RA"]


def test_sessions_without_pictures_serve_training_only(release: Path, tmp_path: Path) -> None:
    recording = read_recording(import_v4(release, tmp_path / "out") / "sessions" / "210620.h5")
    assert recording.stimuli.image_id.tolist() == [f"210620_{n:04d}" for n in range(len(recording.stimuli))]
    assert set(recording.stimuli.split.tolist()) == {"train"}
    assert "not released" in recording.provenance["images"]


def test_second_import_skips_what_is_written(release: Path, tmp_path: Path) -> None:
    out = import_v4(release, tmp_path / "out")
    files = {name: out / "sessions" / f"{name}.h5" for name in ("190925", "201025", "210620")}
    written = {name: file.stat().st_mtime_ns for name, file in files.items()}
    files["201025"].write_bytes(b"cut off")
    np.save(release / "responses_mean" / "responses_210620.npy", np.ones((2, 7)))
    import_v4(release, out)
    changed = {name for name, file in files.items() if file.stat().st_mtime_ns != written[name]}
    assert changed == {"201025", "210620"}
    assert len(read_recording(files["201025"]).unit_ids) == 4
    import_v4(release, out, seed=1)
    assert read_recording(files["190925"]).stimuli.split.tolist() == [
        split_of(key, seed=1) for key in read_recording(files["190925"]).stimuli.image_id.tolist()
    ]


def damage(release: Path, what: str) -> None:
    responses = release / "responses_mean" / "responses_201025.npy"
    pictures = release / "images" / "images_201025.zip"
    if what == "truncated zip":
        pictures.write_bytes(pictures.read_bytes()[:-300])
    elif what == "no image":
        archive(pictures, {f"image{i}.jpg": picture(i) for i in range(4)} | {"image4.jpg": b"not a picture"})
    elif what == "cut picture":
        archive(pictures, {f"image{i}.jpg": picture(i) for i in range(4)} | {"image4.jpg": picture(4)[:400]})
    elif what == "too few images":
        archive(pictures, {f"image{i}.jpg": picture(i) for i in range(4)})
    elif what == "two sizes":
        archive(pictures, {f"image{i}.jpg": picture(i, size=16 + 8 * (i == 4)) for i in range(5)})
    elif what == "same name":
        archive(pictures, {f"{folder}/image0.jpg": picture(0) for folder in "abcde"})
    elif what == "empty zip":
        archive(pictures, {"readme.txt": b"nothing here"})
    elif what == "nan":
        array = np.load(responses)
        array[2, 1] = np.nan
        np.save(responses, array)
    elif what == "trials":
        np.save(responses, np.ones((4, 5, 3)))
    elif what == "truncated npy":
        responses.write_bytes(responses.read_bytes()[:150])
    elif what == "name":
        responses.rename(responses.with_name("responses_final.npy"))
    else:
        raise AssertionError(what)


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("truncated zip", "images_201025.zip is not a whole zip"),
        ("no image", r"'image4.jpg' in .*images_201025.zip is no picture of a kind"),
        ("cut picture", r"'image4.jpg' in .*images_201025.zip is a picture, but cut off"),
        ("too few images", r"responses to 5 images but .*images_201025.zip holds 4 images"),
        ("two sizes", "'image4.jpg' measures 24x24 pixels, the first picture 16x16"),
        ("same name", "two pictures named image0.jpg"),
        ("empty zip", "holds no pictures"),
        ("nan", r"unit 2 has the response nan to image 1 \(1 such values\)"),
        ("trials", r"has shape \(4, 5, 3\), expected \(units, images\)"),
        ("truncated npy", r"responses_201025.npy is cut off, an array"),
        ("name", "responses_final.npy is not named after a session date"),
    ],
)
def test_damaged_releases_end_in_one_sentence(release: Path, tmp_path: Path, what: str, sentence: str) -> None:
    damage(release, what)
    with pytest.raises(UserError, match=sentence) as caught:
        import_v4(release, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").rglob("*.part")), "nothing half-written is left"
    assert not (tmp_path / "out" / "sessions" / "201025.h5").exists()


def test_missing_folder_and_missing_responses(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder at"):
        import_v4(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match="holds no responses_mean"):
        import_v4(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="the macaque V4 release is not at ../shared/data/macaque_v4")
def test_real_session_190925_repeats_and_210224_gallery(tmp_path: Path) -> None:
    root = tmp_path / "subset"
    for folder, pattern in (("responses_mean", "responses_{}.npy"), ("images", "images_{}.zip")):
        (root / folder).mkdir(parents=True)
        for session in ("190925", "210224"):
            (root / folder / pattern.format(session)).symlink_to(REAL / folder / pattern.format(session))
    out = import_v4(root, tmp_path / "out")
    repeated = read_recording(out / "sessions" / "190925.h5").stimuli
    assert (len(repeated), len(set(repeated.image_id.tolist())), repeated.repeat.max()) == (1200, 900, 1)
    other = read_recording(out / "sessions" / "210224.h5")
    assert (other.subject, len(other.unit_ids), len(other.stimuli)) == ("PE", 67, 800)
    assert 120 <= len(other.stimuli.rows("test")) <= 200
    assert read_images(REAL / "images" / "images_210224.zip").shape == (800, 112, 112, 3)
