"""A recording from a pynapple TsGroup in memory, for those who work in a notebook and need no manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neurobridge.data.checks import SignalKind, check
from neurobridge.data.intervals import merged
from neurobridge.data.quality import QualitySettings, select_units
from neurobridge.data.recording import Recording, Stimuli
from neurobridge.errors import UserError

if TYPE_CHECKING:
    from pynapple import TsGroup


def recording_from_tsgroup(
    tsgroup: TsGroup,
    *,
    subject: str,
    session: str,
    regions: str | Sequence[str],
    signal_kind: SignalKind = "sorted",
    dataset: str = "lab",
    species: str = "UNKNOWN",
    stimuli: Stimuli | None = None,
    quality: QualitySettings = QualitySettings(),
) -> Recording:
    """A :class:`Recording` of the units of ``tsgroup``, whose keys become unit ids and whose metadata unit columns.

    ``regions`` names a metadata column, or gives a region for each unit in the order of the keys. The recording lasts
    from the first to the last moment of the time support (s); in the gaps between, nothing was observed. The values of
    a group of Tsd become ``spike_values``, and need the signal kind ``binned_count`` or ``mua_envelope``. Units that
    miss a threshold of ``quality`` are left out, as they are by an import, and a line says so. Raises UserError for
    what makes no sound recording.
    """
    where = f"TsGroup of session {session}"
    for name, told in (("dataset", dataset), ("subject", subject), ("session", session)):
        if "/" in told or not told.strip():
            raise UserError(f"{where}: the {name} is '{told}', and a unit is dataset/subject/session/unit: rename it")
    keys = list(tsgroup.keys())
    columns: dict[str, np.ndarray] = {
        str(name): np.asarray(tsgroup.metadata[name]) for name in tsgroup.metadata_columns if name != "rate"
    }
    if isinstance(regions, str):
        if regions not in columns:
            raise UserError(f"{where} has no metadata column '{regions}' (there are: {', '.join(columns) or 'none'})")
        regions = columns.pop(regions).tolist()
    trains: list[Any] = [tsgroup[key] for key in keys]
    values = None
    if signal_kind in ("binned_count", "mua_envelope"):
        if any(not hasattr(train, "values") for train in trains):
            raise UserError(f"{where} holds times only, but {signal_kind} needs values: make it of Tsd")
        values = np.concatenate([np.asarray(train.values, dtype=np.float32) for train in trains])
    times = [np.asarray(train.index, dtype=np.float64) for train in trains]
    support = merged(np.asarray(tsgroup.time_support.values, dtype=np.float64))
    recording = Recording(
        dataset=dataset,
        subject=subject,
        session=session,
        species=species,
        signal_kind=signal_kind,
        spike_times=np.concatenate([np.zeros(0), *times]),
        spike_units=np.repeat(np.arange(len(keys)), [len(t) for t in times]).astype(np.int64),
        spike_values=values,
        unit_ids=np.array([str(key) for key in keys], dtype=str),
        regions=np.array([str(region) for region in regions], dtype=str),
        unit_columns={name: c.astype(str) if c.dtype.kind == "O" else c for name, c in columns.items()},
        duration=(float(support[0, 0]), float(support[-1, 1])),
        observed=support if len(support) > 1 else None,
        stimuli=stimuli,
        provenance={"source": "pynapple TsGroup"},
    )
    check(recording, where)
    kept = select_units(recording, quality)
    if len(kept.unit_ids) < len(keys):
        print(f"{session}: {kept.provenance['kept']}")
    return kept
