"""Recordings from wherever they are: a data folder, a session file, a manifest, pynapple, arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from neurobridge.api.scratch import is_scratch, new_folder, place
from neurobridge.data.checks import STIMULUS_FIELDS, SignalKind
from neurobridge.data.images import ImageSet
from neurobridge.data.importing import add_images, repeats
from neurobridge.data.recording import Recording, Stimuli, TimeSeries, read_recording, write_recording
from neurobridge.data.sessions import Identity, file_of, identity_of, session_files
from neurobridge.data.splits import SplitBy, resplit, split_keys
from neurobridge.data.stored import StoredRecording, html_table
from neurobridge.errors import UserError
from neurobridge.terminal import console

IMAGES = "images.h5"


class Recordings(list[StoredRecording]):
    """A list of recordings; a slice of it is one too."""

    def __getitem__(self, which: Any) -> Any:
        found = super().__getitem__(which)
        return Recordings(found) if isinstance(which, slice) else found

    def __add__(self, other: Iterable[StoredRecording]) -> Recordings:
        return Recordings([*self, *other])

    def named(self, *names: str) -> Recordings:
        """Those of these names. Raises UserError for a name that is not there."""
        there = {r.path.stem: r for r in self}
        missing = [name for name in names if name not in there]
        if missing:
            raise UserError(f"session '{missing[0]}' is not among the recordings; there are: {', '.join(there)}")
        return Recordings([there[name] for name in names])

    def split_by(self, rule: SplitBy, **options: Any) -> Recordings:
        """The same recordings, copied, with new splits: by image, concept, trial, time_block, session or subject.

        options: seed, shares ``test`` and ``valid``, ``concepts`` (image id -> concept); of :func:`resplit`. Raises
        UserError for an image without a concept, and for fewer sessions or subjects than there are splits.
        """
        folder = new_folder("recordings")
        for old, made in zip(self, resplit([read_recording(r.path) for r in self], rule, **options), strict=True):
            write_recording(made, file_of(folder, identity_of(old.path)))
        for source in dict.fromkeys(r.path.parent.parent for r in self):
            add_pictures(source / IMAGES, folder)
        return _from_path(folder)

    def _repr_html_(self) -> str:
        return html_table([r.facts() for r in self])


def open_recordings(source: object, **options: Any) -> Recordings:
    """Recordings of ``source``, in alphabetical order of their sessions.

    Args:
        source: A data folder, the file of one session (.h5), a manifest (.yaml) that declares a lab's own files, a file
            or folder of spikes (NWB, phy, MATLAB, CSV, Parquet, NPZ), a pynapple TsGroup, a :class:`Recording`, or a
            sequence of these.
        options: Of :func:`recording_from_tsgroup` (session, subject, regions, ...) for a TsGroup. Of a manifest
            (subject, session_id, time_unit, duration, ...) for a file of spikes: what is not said is taken as
            ``neurobridge data doctor FILE --manifest draft.yaml`` would draft it, and told.

    Raises:
        UserError: There is no recording, or it cannot be used; the sentence says why.
    """
    if hasattr(source, "time_support") and hasattr(source, "metadata_columns"):
        from neurobridge.data.sources.lab import recording_from_tsgroup

        named = {"session": "session", "subject": "subject", "regions": ["unknown"] * len(source)} | options  # pyright: ignore
        return Recordings([_kept(recording_from_tsgroup(source, **named))])  # pyright: ignore
    if isinstance(source, str | Path) and _is_raw(Path(source)):
        return _drafted(Path(source), options)
    if options:
        raise UserError(f"{', '.join(options)} can be said of a TsGroup or a file of spikes, not of {source!r}")
    if isinstance(source, Recording):
        return Recordings([_kept(source)])
    if isinstance(source, StoredRecording):
        return Recordings([source])
    if isinstance(source, str | Path):
        return _from_path(Path(source))
    if isinstance(source, Iterable):
        return Recordings([r for part in source for r in open_recordings(part)])
    raise UserError(
        f"a {type(source).__name__} is no recording: give a data folder, a session file, a manifest, a pynapple "
        "TsGroup, or what nb.recording(...) returns"
    )


def _is_raw(path: Path) -> bool:
    """Whether ``path`` is of a kind that a manifest declares."""
    if path.is_dir():
        return not (path / "sessions").is_dir()
    return path.is_file() and path.suffix.lower() not in (".yaml", ".yml", ".h5", ".hdf5")


def _drafted(path: Path, options: Mapping[str, Any]) -> Recordings:
    """A file of spikes under the manifest that would be drafted for it, with ``options`` in its place."""
    from neurobridge.data.sources.lab.draft import draft_manifest

    draft = new_folder("manifest") / f"{path.stem}.yaml"
    draft_manifest(path.resolve(), draft)
    manifest = {**yaml.safe_load(draft.read_text()), **options}
    unknown = [f"{key}: TODO" for key, value in manifest.items() if "TODO" in str(value)]
    if unknown:
        raise UserError(
            f"{path} does not tell everything ({', '.join(unknown)}): say it, nb.open({path.name!r}, "
            f"{unknown[0].split(':')[0]}=...), or declare the file in a manifest: neurobridge data doctor {path} "
            "--manifest draft.yaml"
        )
    draft.write_text(yaml.safe_dump(manifest, sort_keys=False))
    said = ", ".join(f"{key} {value}" for key, value in manifest.items() if key not in (*options, "spikes"))
    console.print(f"{path.name}: taken as {said}", markup=False, soft_wrap=True)
    return _from_path(draft)


def _from_path(path: Path) -> Recordings:
    if path.is_dir():
        return Recordings([StoredRecording(file) for file in session_files(path).values()])
    if path.suffix in (".yaml", ".yml"):
        from neurobridge.data.sources.lab import import_lab

        return _from_path(import_lab(path, new_folder("recordings")))
    return Recordings([StoredRecording(path)])


def recording(
    times: np.ndarray,
    units: np.ndarray,
    *,
    regions: Mapping[Any, str] | Sequence[str] | str = "unknown",
    session: str = "session",
    subject: str = "subject",
    dataset: str = "mine",
    species: str = "UNKNOWN",
    unit_ids: Sequence[Any] | None = None,
    values: np.ndarray | None = None,
    signal_kind: SignalKind = "sorted",
    duration: tuple[float, float] | None = None,
    observed: np.ndarray | None = None,
    stimuli: Mapping[str, Any] | None = None,
    images: np.ndarray | None = None,
    behaviour: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> StoredRecording:
    """A recording of spikes that are in memory.

    Args:
        times: [S] seconds, in any order.
        units: [S] the unit of each spike: any names or numbers.
        regions: Where units lie: one name for all, one a unit (in the order of ``unit_ids``), or unit -> name.
        session: Name of the session; with subject and dataset it is what tells its units from all others.
        subject: Name of the animal. Units of one name in several of its sessions may be carried over.
        dataset: Name of the data set.
        species: Species of the animal.
        unit_ids: Units in order, silent ones included; empty: those of ``units``, sorted.
        values: [S] a value an event, for the signal kinds binned_count and mua_envelope.
        signal_kind: sorted, threshold_crossing, binned_count or mua_envelope.
        duration: (start, end) in s; empty: from 0, or the first spike if that is earlier, to the last.
        observed: [K, 2] s when spikes were recorded; empty: throughout.
        stimuli: Columns of one entry a presentation: start and end (s); image (rows of ``images``) or image_id (names);
            if you like split (train, valid, test; by image content otherwise), condition, and columns of your own.
        images: [I, H, W, 3] uint8 pictures that were shown.
        behaviour: Name -> (timestamps [T] s, values [T] or [T, D]).

    Raises:
        UserError: Something cannot be right; the sentence says what and where.
    """
    where = f"session {session}"
    times, units = np.asarray(times, dtype=np.float64).ravel(), np.asarray(units).ravel()
    if len(times) != len(units):
        raise UserError(f"{where}: {len(times)} spike times but {len(units)} units: give one unit a spike")
    names = np.unique(units) if unit_ids is None else np.asarray(list(unit_ids))
    row = {name: i for i, name in enumerate(names.tolist())}
    unknown = [name for name in np.unique(units).tolist() if name not in row]
    if unknown:
        raise UserError(f"{where}: spikes of unit {unknown[0]!r}, which is not in unit_ids: add it, or leave them out")
    finite = times[np.isfinite(times)]
    found = Recording(
        dataset=dataset,
        subject=subject,
        session=session,
        species=species,
        signal_kind=signal_kind,
        spike_times=times,
        spike_units=np.array([row[name] for name in units.tolist()], dtype=np.int64),
        spike_values=None if values is None else np.asarray(values, dtype=np.float32).ravel(),
        unit_ids=np.array([str(name) for name in names.tolist()], dtype=str),
        regions=_regions(regions, names.tolist(), where),
        duration=duration or (float(min(0.0, finite.min(initial=0.0))), float(finite.max(initial=0.0)) + 1e-3),
        observed=None if observed is None else np.asarray(observed, dtype=np.float64),
        behaviour={
            name: TimeSeries(timestamps=np.asarray(t, dtype=np.float64), values=np.asarray(v))
            for name, (t, v) in (behaviour or {}).items()
        },
        provenance={"source": "arrays in memory"},
    )
    return _kept(found, stimuli=stimuli, images=images)


def _regions(regions: Mapping[Any, str] | Sequence[str] | str, units: Sequence[Any], where: str) -> np.ndarray:
    if isinstance(regions, str):
        return np.full(len(units), regions)
    if isinstance(regions, Mapping):
        missing = [unit for unit in units if unit not in regions]
        if missing:
            raise UserError(f"{where}: regions do not say where unit {missing[0]!r} lies: add it")
        return np.array([str(regions[unit]) for unit in units])
    return np.array([str(region) for region in regions])


def _kept(
    recording: Recording, *, stimuli: Mapping[str, Any] | None = None, images: np.ndarray | None = None
) -> StoredRecording:
    """``recording`` in a data folder of its own, which is gone with this process; with its stimuli and images."""
    folder = new_folder("recording")
    shown: list[str] = []
    if images is not None:
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(f"images are {images.dtype} {list(images.shape)}, expected uint8 [I, H, W, 3]")
        if stimuli is None or "image" not in stimuli:
            raise UserError("images are given, but stimuli have no 'image': say which row of images each one showed")
        shown = add_images(folder, images, {})
    elif stimuli is not None and "image" in stimuli:
        raise UserError("stimuli name images by row, but no images are given: add images=, or use image_id")
    if stimuli is not None:
        recording.stimuli = _stimuli(stimuli, shown, f"session {recording.session}")
    path = file_of(folder, Identity(recording.dataset, recording.subject, recording.session))
    write_recording(recording, path)
    return StoredRecording(path)


def _stimuli(columns: Mapping[str, Any], shown: Sequence[str], where: str) -> Stimuli:
    table = {str(name): np.asarray(column) for name, column in dict(columns).items()}
    missing = [name for name in ("start", "end") if name not in table]
    if missing:
        raise UserError(f"{where}: stimuli have no '{missing[0]}': give start and end of every presentation in s")
    count = len(table["start"])
    other = [name for name, column in table.items() if len(column) != count]
    if other:
        raise UserError(f"{where}: {count} starts but {len(table[other[0]])} entries of '{other[0]}' in stimuli")
    if "image" in table:
        rows = table.pop("image")
        wrong = [row for row in rows.tolist() if not float(row).is_integer() or not 0 <= row < len(shown)]
        if wrong:
            raise UserError(f"{where}: a stimulus shows image {wrong[0]}, but there are images 0 to {len(shown) - 1}")
        ids = np.array(shown)[rows.astype(np.int64)]
    else:
        ids = table.pop("image_id").astype(str) if "image_id" in table else np.full(count, "")
    condition = table.pop("condition").astype(str) if "condition" in table else None
    return Stimuli(
        start=table.pop("start").astype(np.float64),
        end=table.pop("end").astype(np.float64),
        image_id=ids,
        repeat=table.pop("repeat").astype(np.int64) if "repeat" in table else repeats(ids),
        split=table.pop("split").astype(str) if "split" in table else split_keys(ids.tolist()),
        valid=table.pop("valid").astype(bool) if "valid" in table else np.ones(count, dtype=bool),
        condition=condition,
        columns={name: column for name, column in table.items() if name not in STIMULUS_FIELDS},
    )


def data_folder(recordings: Sequence[StoredRecording], into: Path, *, alone: bool = False) -> Path:
    """One data folder that holds ``recordings``: theirs if they have one that lasts, else ``into``, filled from theirs.

    alone: ``into`` in any case, for what is to be added there. Files have two names then, and one content.
    Raises UserError for two recordings of one session, and for pictures of two sizes.
    """
    folders = list(dict.fromkeys(r.path.parent.parent.resolve() for r in recordings))
    identities = [identity_of(r.path) for r in recordings]
    twice = [str(identity) for i, identity in enumerate(identities) if identity in identities[:i]]
    if twice:
        raise UserError(f"two recordings are of one session, {twice[0]}: give each once, or name their sessions apart")
    if folders == [into.resolve()] or (len(folders) == 1 and not alone and not is_scratch(folders[0])):
        return folders[0]
    for r, identity in zip(recordings, identities, strict=True):
        place(r.path, file_of(into, identity))
    for folder in folders:
        add_pictures(folder / IMAGES, into)
    return into


def add_pictures(path: Path, folder: Path) -> None:
    """The pictures of the image set at ``path``, if there is one, in the data folder ``folder`` too."""
    if path.is_file() and not (folder / IMAGES).is_file():
        place(path, folder / IMAGES)
    elif path.is_file():
        images = ImageSet.read(path)
        add_images(folder, images.pixels, {name: column.tolist() for name, column in images.labels.items()})
