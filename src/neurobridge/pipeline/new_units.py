"""Where the vectors of new units start: carried over from an earlier session, or at the prior; and whether they hold.

Letters: N units of the new session, E width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from neurobridge.data.datamodule import Batcher
from neurobridge.data.store import Session
from neurobridge.neuro.losses import cell_loss
from neurobridge.neuro.masking import Masker
from neurobridge.neuro.model import NeuroBridge
from neurobridge.neuro.prior import UnitPrior

CHECKED_WINDOWS = 384
DEVIATIONS = 2.0


def known_regions(model: NeuroBridge, sessions: Sequence[Session]) -> list[str]:
    """Region of every unit of the vocabulary, in its order; 'unknown' where no session tells."""
    of = {k: r for s in sessions for k, r in zip(s.recording.unit_keys, s.recording.regions.tolist(), strict=True)}
    return [of.get(key, "unknown") for key in model.units.keys]


def carried_vectors(model: NeuroBridge, session: Session) -> tuple[Tensor, np.ndarray]:
    """Vectors [N, E] of the same subject's units of the same name in earlier sessions (their mean), and which have one.

    Electrodes keep their names from day to day, and often their neurons.
    """
    earlier: dict[tuple[str, str, str], list[int]] = {}
    for row, key in enumerate(model.units.keys):
        dataset, subject, _, unit = key.split("/", 3)
        earlier.setdefault((dataset, subject, unit), []).append(row)
    vectors = torch.zeros(session.units, model.units.embedding.shape[1])
    found = np.zeros(session.units, dtype=bool)
    for n, key in enumerate(session.recording.unit_keys):
        dataset, subject, _, unit = key.split("/", 3)
        rows = earlier.get((dataset, subject, unit), [])
        if rows:
            vectors[n] = model.units(torch.tensor(rows)).detach().mean(0)
            found[n] = True
    return vectors, found


@torch.no_grad()
def still_the_same(
    model: NeuroBridge, batcher: Batcher, index: int, carried: Tensor, prior: Tensor, masker: Masker, *, seed: int
) -> np.ndarray:
    """[N] bool: units whose hidden spikes the carried vector does not foretell worse than the prior's; no label.

    Every unit is read under its carried vector; what is hidden is foretold once under that and once under the prior.
    Worse is what lies ``DEVIATIONS`` standard errors below 0 over windows: co-activity says little of a single unit, so
    that by the sign of the difference half of the neurons that stayed would be given up.
    """
    session = batcher.sessions[index]
    rows = session.rows("train")
    rows = np.sort(np.random.default_rng([seed, 5]).permutation(rows)[:CHECKED_WINDOWS])
    gains = []
    carried, prior = carried.to(batcher.device), prior.to(batcher.device)
    model.eval()
    for number, batch in enumerate(batcher.sequence(index, rows, 128)):
        plan = masker.draw(batch, np.random.default_rng([seed, number, 6]), "neuron")
        latent = model.encode(batch, plan, unit=carried[None])
        time = model.encoder.latent_times(batch.window_ms, latent.device)
        losses = []
        for unit in (carried, prior):
            drive = model.decoder(latent, time, unit[None], batch.target.shape[-1], batch.bin_ms)
            losses.append(cell_loss(drive + model.baseline(batch), batch.target, poisson=batch.event_value is None))
        gains.append(((losses[1] - losses[0]) * plan.scored(batch)).sum(2))  # [B, N], 0 where a unit is not hidden
    gain = torch.cat(gains)
    error = (gain - gain.mean(0)).square().sum(0).sqrt()  # of the sum over windows
    return (gain.sum(0) >= -DEVIATIONS * error).cpu().numpy()


def starts(
    model: NeuroBridge,
    prior: UnitPrior,
    batcher: Batcher,
    index: int,
    masker: Masker,
    *,
    carried: tuple[Tensor, np.ndarray],
    how: str,
    seed: int,
) -> tuple[Tensor, np.ndarray, dict[str, int]]:
    """Vectors [N, E] to start from, which of them are carried [N], how many units were carried, are others, or are new.

    carried: what :func:`carried_vectors` found before the session's units were added. how: "carried" (where a unit has
    an earlier session's vector that holds), "prior" (none is carried over).
    """
    session = batcher.sessions[index]
    base = prior.means(session.recording.regions.tolist())
    if how == "prior":
        return base, np.zeros(session.units, dtype=bool), {"carried": 0, "others": 0, "new": session.units}
    vectors, found = carried
    mixed = torch.where(torch.from_numpy(found)[:, None], vectors, base)
    same = still_the_same(model, batcher, index, mixed, base, masker, seed=seed) & found
    facts = {"carried": int(same.sum()), "others": int((found & ~same).sum()), "new": int((~found).sum())}
    return torch.where(torch.from_numpy(same)[:, None], mixed, base), same, facts


def reach_of(carried: np.ndarray, share: float) -> Tensor:
    """[N]: how far the units of a session may move; ``share``: of its training images those that count as labelled.

    A carried vector rests on all the images of earlier days, and few labels, or spikes without any, make it worse; a
    unit that starts at the prior has nothing to lose. As standard errors go, by the root of the number.
    """
    return torch.from_numpy(np.where(carried, np.sqrt(share), 1.0)).float()
