"""From a session's units to spikes: presentations in time, gains that wander, Poisson spikes with a dead time.

Letters: U units, P presentations, K bins of a presentation, S spikes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter

from neurobridge.data.simulate.areas import AREAS
from neurobridge.data.simulate.brain import Population

ONSET_EVERY, DURATION = 0.4, 0.25
BIN = 0.005
DEAD_TIME = 0.002
RUNNING_RATE = 25.0


@dataclass(kw_only=True)
class Gains:
    """Log gains at each presentation: ``everywhere`` [P], ``area`` [P, 3], ``unit`` [P, U] (fast), ``slow`` [P, U];

    ``drift`` [P, U] in about [-0.3, 0.3] is how far the tuning has moved; ``speed`` [P] cm/s.
    """

    everywhere: np.ndarray
    area: np.ndarray
    unit: np.ndarray
    slow: np.ndarray
    drift: np.ndarray
    speed: np.ndarray

    def total(self, units: Population) -> np.ndarray:
        """Factor on every rate of every unit, running included: [P, U]."""
        area = self.area[:, [AREAS.index(name) for name in units.area.tolist()]]
        running = units.running * ((self.speed - self.speed.mean()) / 20)[:, None]
        return np.exp(self.everywhere[:, None] + area + self.unit + self.slow + running)


def wander(
    rng: np.random.Generator, steps: int, shape: tuple[int, ...], *, time: float, deviation: float
) -> np.ndarray:
    """Ornstein-Uhlenbeck process sampled at presentations: [steps, *shape]; correlation time in s."""
    keep = np.exp(-ONSET_EVERY / time)
    noise = rng.standard_normal((steps, *shape)) * np.sqrt(1 - keep**2)
    noise[0] /= np.sqrt(1 - keep**2)
    return deviation * np.asarray(lfilter([1.0], [1.0, -keep], noise, axis=0))


def running_speed(rng: np.random.Generator, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Timestamps [T] s at 25 Hz and speed [T] cm/s: bouts of running of some 10 s among rests of some 20 s."""
    timestamps = np.arange(0, seconds, 1 / RUNNING_RATE)
    state, speed, t = False, np.zeros(len(timestamps)), 0.0
    while t < seconds:
        stay = rng.exponential(10.0 if state else 20.0)
        speed[(timestamps >= t) & (timestamps < t + stay)] = rng.gamma(6.0, 3.0) if state else 0.0
        state, t = not state, t + stay
    smooth = gaussian_filter1d(speed, 0.6 * RUNNING_RATE)
    jitter = gaussian_filter1d(rng.standard_normal(len(speed)), 0.15 * RUNNING_RATE) * 2.0
    return timestamps, np.maximum(smooth * (1 + 0.1 * jitter) + 0.1 * jitter, 0).astype(np.float32)


def draw_gains(rng: np.random.Generator, units: Population, presentations: int, speed: np.ndarray) -> Gains:
    """Shared gain (5 s and 1 s), private gain (0.4 s), slow drift of gain and of tuning (10 minutes)."""
    phase = np.linspace(-1, 1, presentations)[:, None]
    return Gains(
        everywhere=wander(rng, presentations, (), time=5.0, deviation=0.12),
        area=wander(rng, presentations, (len(AREAS),), time=1.0, deviation=0.12),
        unit=wander(rng, presentations, (len(units),), time=0.4, deviation=0.25),
        slow=wander(rng, presentations, (len(units),), time=600.0, deviation=0.12),
        drift=phase * rng.uniform(-0.3, 0.3, len(units)),
        speed=speed,
    )


def response_profile(latency: float) -> np.ndarray:
    """Time course of the evoked rate [2, K] over the presentation's own slot and the next one; mean 1 over 250 ms.

    Silent until ``latency``, a transient that decays with 35 ms onto a sustained response, and back to the baseline
    with 15 ms after the offset reaches the area.
    """
    time = (np.arange(round(2 * ONSET_EVERY / BIN)) + 0.5) * BIN - latency
    on = np.clip(time / 0.012, 0, 1) * (0.75 + 1.8 * np.exp(-np.maximum(time, 0) / 0.035))
    off = np.where(time > DURATION, np.exp(-np.maximum(time - DURATION, 0) / 0.015), 1.0)
    profile = on * off
    return (profile * DURATION / (profile.sum() * BIN)).reshape(2, -1)


def draw_spikes(
    rng: np.random.Generator, units: Population, gains: Gains, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Spike times [S] s and unit rows [S] of a session that shows the image rows ``image`` [P], one every 0.4 s."""
    factor, evoked = gains.total(units), units.evoked(image, gains.drift)
    times, rows = [], []
    for u in range(len(units)):
        now, after = response_profile(units.latency[u])
        rate = evoked[:, u, None] * now
        rate[1:] += evoked[:-1, u, None] * after
        rate = (rate + units.spontaneous[u]) * factor[:, u, None]
        spikes = poisson_spikes(rng, rate.ravel())
        times.append(spikes)
        rows.append(np.full(len(spikes), u, np.int64))
    return np.concatenate(times), np.concatenate(rows)


def poisson_spikes(rng: np.random.Generator, rate: np.ndarray) -> np.ndarray:
    """Spike times [S] s of a unit whose rate is ``rate`` [K] Hz in bins of 5 ms.

    An inhomogeneous Poisson process by time rescaling (Brown et al., 2002): unit-rate spikes in operational time are
    mapped through the inverse cumulated rate; spikes within 2 ms of the one before are lost.
    """
    cumulated = np.concatenate([[0.0], np.cumsum(rate * BIN)])
    operational = rng.uniform(0, cumulated[-1], rng.poisson(cumulated[-1]))
    spikes = np.interp(np.sort(operational), cumulated, np.arange(len(cumulated)) * BIN)
    while (close := np.flatnonzero(np.diff(spikes) < DEAD_TIME) + 1).size:
        first = np.concatenate([[True], np.diff(close) > 1])
        spikes = np.delete(spikes, close[first])
    return spikes
