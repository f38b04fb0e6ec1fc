"""A simulated ventral stream: procedural scenes, and two animals' V1, V4 and IT that look at them.

>>> from neurobridge.data.simulate import simulate
>>> simulate("data/simulated", quick=True)  # doctest: +SKIP
"""

from neurobridge.data.simulate.scenes import render_scenes
from neurobridge.data.simulate.simulation import simulate
from neurobridge.data.simulate.statistics import noise_statistics, window_counts

__all__ = ["noise_statistics", "render_scenes", "simulate", "window_counts"]
