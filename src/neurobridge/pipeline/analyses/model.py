"""The run's own aligned model, asked with some units only: the others are removed from the data, presence included."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from neurobridge.data.datamodule import Batcher
from neurobridge.data.store import Session
from neurobridge.neuro.batch import SpikeBatch
from neurobridge.pipeline.alignment import load_aligned, predict_windows
from neurobridge.pipeline.analyses.questions import two_way
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.joint_encoding import average_by_image
from neurobridge.pipeline.spikes import bin_of


class PartBatcher(Batcher):
    """A batcher of one session that knows the units ``keep`` [N] bool alone."""

    def __init__(
        self,
        session: Session,
        *,
        unit_rows: Sequence[int],
        bin_ms: int,
        keep: np.ndarray,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__([session], rows_of_units={session.name: list(unit_rows)}, bin_ms=bin_ms, device=device)
        self.keep = torch.from_numpy(np.asarray(keep, dtype=bool))[None].to(device)

    def batch_from(self, picks, *, rows=None) -> SpikeBatch:
        return super().batch_from(picks, rows=rows).only_units(self.keep)


class AlignedModel:
    """Two-way identification by the embeddings that the aligned model predicts."""

    def __init__(self, run: RunFolder, embeddings: np.ndarray) -> None:
        self.settings = run.settings
        self.model, bridge = load_aligned(run)
        self.head = bridge.head
        self.targets = bridge.space(torch.from_numpy(embeddings)).numpy()

    def predict(
        self, session: Session, rows: np.ndarray, columns: np.ndarray, *, known_as: Sequence[str] | None = None
    ) -> np.ndarray:
        """Predicted embeddings [len(rows), K] of windows, from the units ``columns`` alone.

        known_as: keys of the vocabulary under which those units are read; by default their own.
        """
        keys = session.recording.unit_keys
        keep = np.zeros(session.units, dtype=bool)
        keep[columns] = True
        named = np.array(self.model.units.rows_of([keys[c] for c in columns] if known_as is None else list(known_as)))
        unit_rows = np.zeros(session.units, dtype=np.int64)
        unit_rows[columns] = named
        options = {"bin_ms": bin_of(session, self.settings), "device": self.model.units.bias.device}
        part = PartBatcher(session, unit_rows=unit_rows.tolist(), keep=keep, **options)
        return predict_windows(self.model, self.head, part, 0, rows)

    def score(
        self,
        session: Session,
        rows: np.ndarray,
        gallery: np.ndarray,
        columns: np.ndarray,
        *,
        known_as: Sequence[str] | None = None,
        average: bool = True,
    ) -> np.ndarray:
        """Scores of the images shown in ``rows`` (sorted, repeats averaged) or, not averaged, of each window."""
        predicted, shown = self.predict(session, rows, columns, known_as=known_as), session.image_row[rows]
        if average:
            shown, predicted = average_by_image(predicted, shown)
        return two_way(predicted, self.targets[gallery], np.searchsorted(gallery, shown))
