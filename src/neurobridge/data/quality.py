"""Which units are good enough: thresholds, what each of them dropped, and why."""

from __future__ import annotations

from dataclasses import dataclass

from neurobridge.data.recording import Recording


@dataclass(kw_only=True)
class QualitySettings:
    """Thresholds of unit quality; None switches one off.

    Args:
        min_rate: Lowest mean firing rate in Hz.
        max_isi_violations: Largest share of inter-spike intervals below 1.5 ms (sorted units only).
        min_presence: Lowest share of the recording's minutes with a spike.
        min_snr: Lowest signal-to-noise ratio, where the source knows one.
    """

    min_rate: float | None = 0.5
    max_isi_violations: float | None = 0.01
    min_presence: float | None = None
    min_snr: float | None = None


def select_units(recording: Recording, settings: QualitySettings) -> Recording:
    """``recording`` without the units that miss a threshold; ``provenance['quality']`` says what each one dropped.

    Raises UserError if no unit is left, with the counts and the mend.
    """
    raise AssertionError("not written yet")
