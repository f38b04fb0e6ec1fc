"""Macaque V4 of Cowley et al. 2023 (github.com/cowleygroup/V4_compact_models): repeat-averaged counts to images.

Input folder: ``responses_mean/responses_<session>.npy`` [N, P] mean spike counts in 100 ms, and, for some sessions,
``images/images_<session>.zip`` with P pictures whose order is that of their *base names* (the order inside the
archive is arbitrary, and folders inside it mean nothing). Output: ``images.h5`` and ``sessions/<session>.h5``.

Letters: N units, P presentations, H, W pixels.
"""

from __future__ import annotations

import itertools
import re
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
from rich.progress import Progress

from neurobridge.data.doctor import Finding
from neurobridge.data.images import content_id
from neurobridge.data.importing import add_images, is_there, refuse_pointer, signature, write_session
from neurobridge.data.pictures import decode_picture
from neurobridge.data.recording import Recording, Stimuli
from neurobridge.data.sessions import Identity
from neurobridge.data.splits import split_of
from neurobridge.errors import UserError, reading

DATASET = "macaque_v4"
INTERVAL = 0.2
WINDOW = 0.1
TEST_FRACTION = 1 / 6
VALID_FRACTION = 0.07
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def import_v4(path: Path, out: Path = Path("data/v4"), *, seed: int = 0) -> Path:
    """Import the V4 sessions of ``path`` into the data folder ``out``; return ``out``.

    One event per (unit, presentation): presentation i starts at 0.2 i s, the counting window is 100 ms, the event sits
    at its centre and its value is the mean count. The clock is ours, for the release holds no times. Splits go by image
    content and ``seed`` alone (:func:`splits.split_of`), so one image has one split in every session: about 17 % test,
    7 % valid. Near-duplicates split apart: session 210305 shows locally blurred variants of one photograph, so its
    held-out images have twins in training (elsewhere a handful of pairs is that close: see ``data audit``). Sessions
    whose pictures were not released name them by number and have the split train: they serve self-supervision only.
    Sessions already written from the same bytes with the same seed are skipped. Raises UserError for input that cannot
    be used.
    """
    path, out = Path(path), Path(out)
    if not path.is_dir():
        raise UserError(f"no folder at {path}: give the folder that holds responses_mean/ and images/")
    sources = sorted((path / "responses_mean").glob("responses_*.npy"))
    if not sources:
        raise UserError(f"{path} holds no responses_mean/responses_<session>.npy: is it the V4 release's folder?")
    archives = {session_of(file): path / "images" / f"images_{session_of(file)}.zip" for file in sources}
    signatures = {session_of(file): _signature(file, archives[session_of(file)], seed) for file in sources}
    pending = [file for file in sources if not is_there(out, _identity(session_of(file)), signatures[session_of(file)])]
    shown = {session: archive for session, archive in archives.items() if archive.is_file()}
    with Progress(transient=True) as progress:
        ids: dict[str, np.ndarray] = {}
        if any(session_of(file) in shown for file in pending):
            ids = _write_images(shown, out, progress)
        task = progress.add_task("sessions", total=len(pending))
        for file in pending:
            session = session_of(file)
            recording = _recording(file, ids.get(session), archives[session], seed)
            recording.provenance["signature"] = signatures[session]
            write_session(recording, out)
            progress.advance(task)
    return out


def _identity(session: str) -> Identity:
    return Identity(DATASET, subject_of(session), session)


def subject_of(session: str) -> str:
    """Animal of a session, from its date: WE in 2019, PE from October 2020 to March 2021, RA from June 2021."""
    if session < "200000":
        return "WE"
    return "PE" if session < "210600" else "RA"


def session_of(file: Path) -> str:
    """Session name (yymmdd) of ``responses_<session>.npy``. Raises UserError if the name holds no such date."""
    match = re.fullmatch(r"responses_(\d{6})", file.stem)
    if match is None:
        raise UserError(f"{file} is not named after a session date: expected responses_yymmdd.npy")
    return match.group(1)


def read_images(archive: Path) -> np.ndarray:
    """Pictures [P, H, W, 3] uint8 of a zip, in the order of their base names. Raises UserError for a broken archive."""
    try:
        with zipfile.ZipFile(archive) as file:
            names = [name for name in file.namelist() if _is_image_name(name)]
            names.sort(key=lambda name: PurePosixPath(name).name)
            pictures = [decode_picture(file.read(name), f"'{name}' in {archive}") for name in names]
    except UserError:
        raise
    except Exception as error:  # zipfile does not say what a damaged archive makes it raise
        raise UserError(
            f"{archive} is not a whole zip archive ({str(error)[:200]}): it may be truncated; download it again"
        ) from error
    if not names:
        raise UserError(f"{archive} holds no pictures ({', '.join(IMAGE_SUFFIXES)}): download it again")
    bases = [PurePosixPath(name).name for name in names]
    for left, right in itertools.pairwise(bases):
        if left == right:
            raise UserError(f"{archive} holds two pictures named {left}: their order is undefined; rename one of them")
    for name, picture in zip(names, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise UserError(
                f"{archive}: '{name}' measures {picture.shape[1]}x{picture.shape[0]} pixels, the first picture "
                f"{pictures[0].shape[1]}x{pictures[0].shape[0]}; bring all pictures to one size"
            )
    return np.stack(pictures)


def recognises(path: Path) -> bool:
    """True for the folder of the release: it holds responses_mean/responses_<session>.npy. Never raises."""
    try:
        return any((Path(path) / "responses_mean").glob("responses_*.npy"))
    except OSError:
        return False


def examine(path: Path) -> list[Finding]:
    """Responses and pictures of every session: shapes, counts that agree, and what the import would refuse."""
    findings = []
    for file in sorted((Path(path) / "responses_mean").glob("responses_*.npy")):
        archive = Path(path) / "images" / f"images_{file.stem.removeprefix('responses_')}.zip"
        presentations = "as many as responses"
        try:
            session_of(file)
            responses = _read_responses(file)
            presentations = str(responses.shape[1])
            found, ok, mend = f"{responses.dtype} {list(responses.shape)}", True, ""
        except UserError as error:
            found, ok, mend = "refused", False, str(error)
        expected = "mean counts [units, images], finite, not negative"
        findings.append(Finding(file=file, key="responses", found=found, expected=expected, ok=ok, mend=mend))
        found, ok, mend = "nothing: serves pretraining only", True, ""
        if archive.is_file():
            try:
                refuse_pointer(archive)
                count, height, width, _ = read_images(archive).shape
                found = f"{count} pictures of {width} x {height}"
                ok = presentations in (str(count), "as many as responses")
                mend = "" if ok else "they are not of one session, or one is incomplete; download both again"
            except UserError as error:
                found, ok, mend = "refused", False, str(error)
        expected = f"{presentations} pictures, optional"
        findings.append(Finding(file=archive, key="pictures", found=found, expected=expected, ok=ok, mend=mend))
    return findings


def _is_image_name(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and "__MACOSX" not in path.parts


def _write_images(archives: dict[str, Path], out: Path, progress: Progress) -> dict[str, np.ndarray]:
    """Add the pictures of all sessions to the folder's; return the content ids [P] of each session."""
    task = progress.add_task("images", total=len(archives) + 1)
    ids: dict[str, np.ndarray] = {}
    unique: dict[str, np.ndarray] = {}
    shown: dict[str, int] = {}
    for session, archive in archives.items():
        pictures = read_images(archive)
        ids[session] = np.array([content_id(picture) for picture in pictures])
        for key, picture in zip(ids[session].tolist(), pictures, strict=True):
            unique.setdefault(key, picture)
        for key in set(ids[session].tolist()):
            shown[key] = shown.get(key, 0) + 1
        progress.advance(task)
    add_images(out, unique.values(), {"sessions": [shown[key] for key in unique]})
    progress.advance(task)
    return ids


def _recording(file: Path, ids: np.ndarray | None, archive: Path, seed: int) -> Recording:
    responses = _read_responses(file)
    units, presentations = responses.shape
    if ids is not None and len(ids) != presentations:
        raise UserError(
            f"{file} holds responses to {presentations} images but {archive} holds {len(ids)} images: "
            "they are not of one session, or one of them is incomplete; download both again"
        )
    session = session_of(file)
    provenance = {
        "source": "Cowley et al. 2023, github.com/cowleygroup/V4_compact_models",
        "time": "onsets are nominal (0.2 s apart): the release holds no times",
        "values": "spike count in 100 ms, averaged over the repeats of an image",
        "split": f"sha1 of seed {seed} and image content, over all sessions",
    }
    if ids is None:
        provenance["images"] = (
            "not released: an image is called by its number in the session, the split is train; some presentations "
            "may show an image that is a test image of another session, whose picture is not leaked thereby"
        )
        ids = np.array([f"{session}_{number:04d}" for number in range(presentations)])
        split = np.full(presentations, "train")
    else:
        split = np.array([split_of(key, seed=seed, test=TEST_FRACTION, valid=VALID_FRACTION) for key in ids.tolist()])
    start = INTERVAL * np.arange(presentations)
    return Recording(
        dataset=DATASET,
        subject=subject_of(session),
        session=session,
        species="MACACA_MULATTA",
        signal_kind="binned_count",
        spike_times=np.repeat(start + WINDOW / 2, units),
        spike_units=np.tile(np.arange(units), presentations),
        spike_values=responses.T.ravel(),
        unit_ids=np.array([f"{unit:03d}" for unit in range(units)]),
        regions=np.full(units, "V4"),
        duration=(0.0, INTERVAL * presentations),
        stimuli=Stimuli(
            start=start,
            end=start + WINDOW,
            image_id=ids,
            repeat=_repeats(ids),
            split=split,
            valid=np.ones(presentations, dtype=bool),
        ),
        provenance=provenance,
    )


def _read_responses(file: Path) -> np.ndarray:
    """Mean counts [N, P] float32. Raises UserError unless they are finite, non-negative and two-dimensional."""
    with reading(file, ".npy array", "it may be empty or truncated; download it again"):
        responses = np.load(file, allow_pickle=False)
        if not isinstance(responses, np.ndarray) or responses.dtype.kind not in "fiu":
            raise ValueError("it holds no array of numbers")
    if responses.ndim != 2 or 0 in responses.shape:
        raise UserError(f"{file} has shape {responses.shape}, expected (units, images) of averaged counts")
    bad = np.argwhere(~(np.isfinite(responses) & (responses >= 0)))
    if len(bad):
        unit, image = bad[0]
        raise UserError(
            f"{file}: unit {unit} has the response {responses[unit, image]} to image {image} ({len(bad)} such values); "
            "averaged counts are finite and not negative: use responses_mean, or remove the unit"
        )
    return responses.astype(np.float32)


def _repeats(ids: np.ndarray) -> np.ndarray:
    """How often each image was shown before in the session [P]; zeros where the image is unknown."""
    seen: dict[str, int] = {}
    repeats = np.zeros(len(ids), dtype=np.int64)
    for row, key in enumerate(ids.tolist()):
        if key:
            repeats[row] = seen.get(key, 0)
            seen[key] = int(repeats[row]) + 1
    return repeats


def _signature(file: Path, archive: Path, seed: int) -> str:
    files = [file, archive] if archive.is_file() else [file]
    return signature(files, seed=seed, test=TEST_FRACTION, valid=VALID_FRACTION, interval=INTERVAL, window=WINDOW)
