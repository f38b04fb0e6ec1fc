"""Which windows, bins, chunks and steps suit recordings, by how many spikes they hold and how long they are.

What was measured is in docs/own-recordings.md: where few spikes fall into a window of 300 ms, longer ones, with longer
bins and chunks, predict better; where hundreds do, they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurobridge.data.intervals import length_of, merged
from neurobridge.data.sessions import session_files
from neurobridge.data.stored import StoredRecording
from neurobridge.neuro.modes import Mode
from neurobridge.training.settings import MixtureSettings, ModelSettings, PretrainSettings, RunSettings, WindowSettings

LADDER = ((300, 10, 50), (500, 10, 50), (1000, 20, 50), (2000, 20, 100), (4000, 50, 250))  # window, bin, chunk in ms
SPIKES = 60  # in a window, of all units together
WINDOWS = 60  # that a recording has at least
LATENCY_MS, ROUND_MS, MOST_MS = 50, 50, 1000  # of windows that follow presentations
BATCH_MS, FEWEST, MOST = 38_400, 16, 128  # length of all windows of a batch together; windows
HIDDEN = (0.05, 0.3)  # share of the units that are hidden, where there are no onsets: the others tell of them
PASSES, STEPS = 80, (1000, 3000)  # how often a training second is seen; fewest and most steps


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Sizes in ms, windows a batch, steps, masking, whether windows begin anywhere, and why, as a half sentence."""

    window_ms: int
    bin_ms: int
    chunk_ms: int
    windows: int
    steps: int
    modes: list[Mode]
    ratios: dict[str, tuple[float, float]]
    random_starts: bool
    why: str


def advise(recordings: Sequence[StoredRecording]) -> Advice | None:
    """What suits ``recordings``; None for signals with values, whose events are a presentation's."""
    if not recordings or any(r.events.values is not None for r in recordings):
        return None
    seconds = np.array([length_of(merged(r.observed_time)) for r in recordings])
    rate = float(np.median([len(r.events) for r in recordings] / np.maximum(seconds, 1e-3)))
    lasting = [_presentation_ms(r) for r in recordings if r.has_stimuli]
    if lasting:
        longest = int(np.median(lasting)) + LATENCY_MS
        window = int(np.clip(ROUND_MS * round(longest / ROUND_MS), 2 * ROUND_MS, MOST_MS))
        bin_ms, chunk_ms = LADDER[0][1:]
        why = f"presentations of {np.median(lasting):.0f} ms"
    else:
        fitting = [size for size in LADDER if np.median(seconds) * 1000 / size[0] >= WINDOWS] or [LADDER[0]]
        enough = [size for size in fitting if rate * size[0] / 1000 >= SPIKES]
        window, bin_ms, chunk_ms = enough[0] if enough else fitting[-1]
        why = f"{rate:.3g} spikes a second in {np.median(seconds) / 60:.3g} minutes"
    windows = int(np.clip(BATCH_MS // window, FEWEST, MOST))
    passes = PASSES * seconds.sum() * 1000 / (windows * window)
    return Advice(
        window_ms=window, bin_ms=bin_ms, chunk_ms=chunk_ms, windows=windows,
        steps=int(np.clip(100 * round(passes / 100), *STEPS)), random_starts=not lasting, why=why,
        modes=PretrainSettings().modes if lasting else ["neuron"], ratios={} if lasting else {"neuron": HIDDEN},
    )  # fmt: skip


def _presentation_ms(recording: StoredRecording) -> float:
    shown = recording.stimuli
    assert shown is not None, "it was asked whether there are any"
    return float(np.median(shown.end - shown.start)) * 1000 if len(shown) else 0.0


def advice_for(settings: RunSettings) -> Advice | None:
    """What suits the sessions that the settings pretrain on."""
    files = session_files(settings.data)
    names = settings.sessions or [name for name in files if name not in settings.held_out]
    return advise([StoredRecording(files[name]) for name in names if name in files])


def advised(settings: RunSettings) -> tuple[RunSettings, Advice | None]:
    """Settings with the advice in the place of every default that it speaks of; what differs from these stays."""
    advice = advice_for(settings)
    if advice is None:
        return settings, None
    window, model, pretrain = WindowSettings(), ModelSettings(), PretrainSettings()
    return replace(
        settings,
        window=_filled(settings.window, window, advice, ("window_ms", "bin_ms")),
        model=_filled(settings.model, model, advice, ("chunk_ms",)),
        pretrain=_filled(settings.pretrain, pretrain, advice, ("windows", "steps", "modes", "ratios")),
        mixture=_filled(settings.mixture, MixtureSettings(), advice, ("random_starts",)),
    ), advice


def _filled(mine: Any, default: Any, advice: Advice, names: Sequence[str]) -> Any:
    fresh = {name: getattr(advice, name) for name in names if getattr(mine, name) == getattr(default, name)}
    return replace(mine, **fresh)
