"""One picture, one split over all sessions of a data folder, those that others import meanwhile among them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from neurobridge.data.images import picture_keys
from neurobridge.data.recording import Recording, open_recording, read_stimuli
from neurobridge.data.sessions import Identity, identity_of
from neurobridge.errors import UserError


class Splits:
    """What the sessions of ``out`` say, each read once and again when its file has changed.

    skip: sessions that are made again, and so say nothing until they are.
    """

    def __init__(self, out: Path, *, skip: Iterable[Identity]) -> None:
        self.out, self.skip = out, set(skip)
        self.read: dict[Path, tuple[tuple[int, int], Identity, dict[str, str]]] = {}

    def refuse_other(self, recording: Recording, table: Path) -> None:
        """Raise UserError for a picture of ``recording``, out of the file ``table``, in another session's split."""
        me = Identity(recording.dataset, recording.subject, recording.session)
        self.skip.discard(me)
        stimuli = recording.stimuli
        assert stimuli is not None, "asked of sessions with stimuli"
        keys = picture_keys(stimuli.image_id, recording.dataset)
        known = self._known(me)
        for row, (key, split) in enumerate(zip(keys, stimuli.split.tolist(), strict=True)):
            there, other = known.get(key, (split, ""))
            if there != split:
                raise UserError(
                    f"{table}: presentation {row} of session {me.session} shows a picture in the split {split} that "
                    f"session {other} has in {there}; give one picture one split in all sessions"
                )

    def _known(self, me: Identity) -> dict[str, tuple[str, str]]:
        """Picture -> (split, session) of all sessions but ``me`` and those to skip."""
        known: dict[str, tuple[str, str]] = {}
        for file in sorted((self.out / "sessions").glob("*.h5")):
            try:
                identity, table = self._of(file)
            except UserError as error:
                print(f"warning: its splits are not compared: {error}", file=sys.stderr)
                continue
            if identity not in {me, *self.skip}:
                known |= {key: (split, file.stem) for key, split in table.items()}
        return known

    def _of(self, file: Path) -> tuple[Identity, dict[str, str]]:
        """(whose session, picture -> split) of a file."""
        status = file.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        if file not in self.read or self.read[file][0] != stamp:
            identity = identity_of(file)
            with open_recording(file) as opened:
                stimuli = read_stimuli(opened)
            shown = [] if stimuli is None else picture_keys(stimuli.image_id, identity.dataset)
            splits = [] if stimuli is None else stimuli.split.tolist()
            table = {key: split for key, split in zip(shown, splits, strict=True) if key}
            self.read[file] = stamp, identity, table
        return self.read[file][1:]
