"""A decoder for the FALCON challenge (Karpowicz et al. 2024): binned counts in, behaviour out, a step at a time.

>>> FalconDecoder(config, model, sessions={"Run1_20201019": recording}, behaviour="finger_vel")  # doctest: +SKIP

Letters: B sessions that are served side by side, C channels, D dimensions of the behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from neurobridge.api.live import Live
from neurobridge.api.model import Model
from neurobridge.data.stored import StoredRecording
from neurobridge.errors import UserError, needs

with needs("peers"):
    from falcon_challenge.interface import BCIDecoder  # pyright: ignore

PENALTIES = np.logspace(-2, 5, 8)


class FalconDecoder(BCIDecoder):
    """Behaviour from the streamed latents of a model, by a ridge of each session's own calibration recording.

    The encoder sees the window that has just ended, and nothing after it. Between two of its chunks (50 ms) the last
    prediction stands; before the first whole window it is the mean of the calibration recording.

    Args:
        task_config: FALCON's configuration of the task.
        model: A model that knows the units of all ``sessions``.
        sessions: What FALCON calls a session (its hash) -> the calibration recording; its units are the channels, in
            their order.
        behaviour: Name of the series in these recordings that is to be predicted.
        batch_size: Sessions that are served side by side.

    Raises:
        UserError: The model does not know the units, or a recording has no such behaviour of as many dimensions.
    """

    def __init__(
        self,
        task_config: Any,
        model: Model,
        *,
        sessions: Mapping[str, StoredRecording],
        behaviour: str,
        batch_size: int = 1,
    ) -> None:
        super().__init__(task_config, batch_size)
        self.model, self.sessions = model, dict(sessions)
        self.bin_s = task_config.bin_size_ms / 1000
        self.readouts = {tag: self._calibrated(recording, behaviour) for tag, recording in sessions.items()}
        self.reset(list(sessions)[:1] * batch_size)

    def reset(self, dataset_tags: list[str] = [""]) -> None:  # noqa: B006  # the interface has it so
        """Begin anew with the sessions ``dataset_tags`` [B]: hashes, or names of files that have them."""
        hashes = [
            str(tag) if str(tag) in self.sessions else self._task_config.hash_dataset(tag) for tag in dataset_tags
        ]
        unknown = [tag for tag in hashes if tag not in self.sessions]
        if unknown:
            raise UserError(f"session '{unknown[0]}' was not calibrated: give its recording in sessions=")
        self.readout = [self.readouts[tag] for tag in hashes]
        self.live = [Live(self.model, self.sessions[tag]) for tag in hashes]
        self.last = np.stack([mean for _, mean in self.readout])
        self.step = 0

    def predict(self, neural_observations: np.ndarray) -> np.ndarray:
        """Behaviour [B, D] after one more bin of counts [B, C]; rows beyond the sessions at hand are filled up."""
        start = self.step * self.bin_s
        self.step += 1
        for row, live in enumerate(self.live):
            counts = np.asarray(neural_observations[row]).astype(int)
            if len(counts) != len(live.units):
                raise UserError(f"{len(counts)} channels came, but the session was calibrated on {len(live.units)}")
            channels = np.repeat(np.arange(len(counts)), counts)
            within = (np.concatenate([np.arange(n) for n in counts]) + 0.5) / np.maximum(counts[channels], 1)
            units = [live.units[channel] for channel in channels]
            for moment in live.feed(start + within * self.bin_s, units, until=start + self.bin_s):
                self.last[row] = self.readout[row][0].predict(moment.latents.reshape(1, -1))[0]
        predicted = np.zeros((len(neural_observations), self.last.shape[1]))
        predicted[: len(self.last)] = self.last
        return predicted

    def on_done(self, dones: np.ndarray) -> None:
        """A trial's end changes nothing: what was heard before it still counts."""

    def _calibrated(self, recording: StoredRecording, behaviour: str) -> tuple[Pipeline, np.ndarray]:
        """The ridge from latents to ``behaviour``, and the mean of that."""
        series = recording.behaviour.get(behaviour)
        if series is None:
            there = ", ".join(recording.behaviour) or "none"
            raise UserError(f"{recording.path} has no behaviour '{behaviour}', but {there}: name one of them")
        values = series.values.reshape(len(series.timestamps), -1)
        if values.shape[1] != self._task_config.out_dim:
            raise UserError(
                f"the task wants {self._task_config.out_dim} dimensions, '{behaviour}' has {values.shape[1]}"
            )
        live = Live(self.model, recording)
        units = recording.unit_ids[recording.spike_units].tolist()
        moments = list(live.feed(recording.spike_times, units, until=recording.duration[1]))
        times = np.array([moment.time for moment in moments])
        latents = np.stack([moment.latents.ravel() for moment in moments])
        target = np.stack([np.interp(times, series.timestamps, column) for column in values.T], axis=1)
        known = np.isfinite(target).all(1)
        ridge = make_pipeline(StandardScaler(), RidgeCV(alphas=PENALTIES)).fit(latents[known], target[known])
        return ridge, target[known].mean(0)
