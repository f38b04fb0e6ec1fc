"""Two animals' visual cortex: fixed arrays whose electrodes come and go, tuning that drifts, latencies by area.

Letters: I images, N neurons of an array, U units of a session, P presentations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from neurobridge.data.images import ImageSet
from neurobridge.data.simulate.areas import AREAS, Tuning, it_drives, standardise, v1_drives, v4_drives

LATENCY = {"V1": (0.034, 0.062), "V4": (0.064, 0.098), "IT": (0.09, 0.14)}


@dataclass(kw_only=True)
class Population:
    """The neurons of an array, or the units of one session: U rows.

    ``drive`` and ``drift`` [I, U] standardised drive at mid-session and the direction in which it drifts; ``amplitude``
    and ``spontaneous`` [U] Hz; ``selectivity`` [U] standard deviation of the log rate over images; ``latency`` [U] s;
    ``running`` [U] log gain per 20 cm/s; ``electrode`` and ``neuron`` [U] ints that last over sessions.
    """

    area: np.ndarray
    electrode: np.ndarray
    neuron: np.ndarray
    drive: np.ndarray
    drift: np.ndarray
    amplitude: np.ndarray
    spontaneous: np.ndarray
    selectivity: np.ndarray
    latency: np.ndarray
    running: np.ndarray
    tuning: dict[str, Tuning] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.area)

    def evoked(self, image: np.ndarray | slice, drift: np.ndarray | float = 0.0) -> np.ndarray:
        """Sustained evoked rate [P, U] Hz for images ``image`` [P], with tuning drifted by ``drift`` [P, U]."""
        drive = self.drive[image] + drift * self.drift[image]
        return self.amplitude * np.exp(self.selectivity * drive - 0.5 * self.selectivity**2)


def build_array(images: ImageSet, *, electrodes: int, seed: int, animal: int, selectivity: float) -> Population:
    """The whole array of one animal: ``electrodes`` shared out over V1, V4, IT (31, 27, 42 %), a fifth with 2 neurons.

    ``selectivity`` is the median over units of the log rate's standard deviation over images: it sets the reliability.
    """
    rng, shared = np.random.default_rng([seed, 101, animal]), np.random.default_rng([seed, 100])
    numbers = np.round(np.array([0.31, 0.27, 0.42]) * electrodes).astype(int)
    per_electrode = np.where(rng.random(numbers.sum()) < 0.2, 2, 1)
    electrode = np.repeat(np.arange(numbers.sum()), per_electrode)
    area = np.repeat(AREAS, numbers)[electrode]
    counts = {name: int((area == name).sum()) for name in AREAS}
    v1, v1_tuning = v1_drives(images.pixels, count=counts["V1"], rng=rng)
    v4, v4_tuning = v4_drives(images.pixels, count=counts["V4"], rng=rng)
    it, it_tuning = it_drives(images.labels, count=counts["IT"], rng=rng, shared=shared)
    drive, count = np.concatenate([v1, v4, it], 1), len(electrode)
    low, high = np.array([LATENCY[name] for name in area]).T
    return Population(
        area=area,
        electrode=electrode,
        neuron=np.arange(count),
        drive=drive,
        drift=drive[:, _neighbours(area, rng)],
        amplitude=np.clip(rng.lognormal(np.log(5.0), 0.55, count), 1.0, 35.0),
        spontaneous=np.clip(rng.lognormal(np.log(1.6), 0.5, count), 0.2, 8.0),
        selectivity=np.clip(rng.lognormal(np.log(selectivity), 0.35, count), 0.1, 1.2),
        latency=rng.uniform(low, high),
        running=rng.normal(0.1, 0.1, count) + np.where(area == "V1", 0.1, 0.0),
        tuning={"V1": v1_tuning, "V4": v4_tuning, "IT": it_tuning},
    )


def record_from(array: Population, *, rng: np.random.Generator, kept: tuple[float, float] = (0.7, 0.8)) -> Population:
    """The units of one session: a random ``kept`` share of the electrodes; tuning and gain have moved a little.

    A unit keeps a correlation of about 0.95 with its neuron's drive and its rate to within some 20 %.
    """
    electrodes = np.unique(array.electrode)
    chosen = rng.choice(electrodes, round(rng.uniform(*kept) * len(electrodes)), replace=False)
    rows = np.flatnonzero(np.isin(array.electrode, chosen))
    moved = array.drive + 0.3 * array.drive[:, _neighbours(array.area, rng)]
    return Population(
        area=array.area[rows],
        electrode=array.electrode[rows],
        neuron=array.neuron[rows],
        drive=standardise(moved[:, rows]),
        drift=array.drive[:, _neighbours(array.area, rng)][:, rows],
        amplitude=array.amplitude[rows] * rng.lognormal(0, 0.18, len(rows)),
        spontaneous=array.spontaneous[rows] * rng.lognormal(0, 0.18, len(rows)),
        selectivity=array.selectivity[rows],
        latency=array.latency[rows],
        running=array.running[rows],
    )


def _neighbours(area: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For every neuron another one of its area: where its tuning moves to [N]."""
    other = np.arange(len(area))
    for name in AREAS:
        rows = rng.permutation(np.flatnonzero(area == name))
        other[rows] = np.roll(rows, 1)
    return other
