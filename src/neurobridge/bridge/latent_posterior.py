"""The mean of all pictures that a reading allows: a regression trained on readings of responses that are dreamt up.

A model that expects a response of every picture, and the noise about it, give as many pairs as one likes of a library's
picture and what is read from a response to it: latents, or the counts themselves. The regression from the reading back
to the picture then tends to the posterior mean under the library as prior (amortised inference; Papamakarios & Murray
2016, Naselaris et al. 2009 for the library).

Letters: L library images, I readings, V images with known readings, B batch, R numbers of a reading, P numbers of a
target, D components (of all targets, one after the other).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

Dream = Callable[[Tensor, torch.Generator], Tensor]
"""Rows [B] of library images, and what the noise is drawn from -> readings [B, R] of a dreamt response to each."""

PENALTIES = (*np.logspace(-5, 3, 17).tolist(), float("inf"))  # of the mean eigenvalue; infinite: the prior mean
HELD_OUT = 5  # one image in so many chooses the penalty
AT_ONCE = 512
LARGEST_GAIN = 2.0  # a group of components that says nothing has no size that could be mended


class LatentPosterior(nn.Module):
    """Readings -> the posterior means of several targets, each in so many ``components`` of its principal components.

    A linear part in closed form (ridge: the Gaussian posterior mean, shrunk as far as dreams of other images ask), plus
    a net of two hidden layers that starts at zero and learns what is not linear. All targets count with the same total
    variance. ``gain`` [D]: how large the result is to be, see :meth:`calibrate`.
    """

    def __init__(self, *, components: Sequence[int], hidden: int = 512, dropout: float = 0.2) -> None:
        super().__init__()
        self.components, self.hidden, self.dropout = list(components), hidden, dropout

    def fit(
        self,
        dream: Dream,
        targets: Sequence[np.ndarray],
        *,
        dreams: int = 4000,
        steps: int = 3000,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        seed: int = 0,
        progress: bool = True,
    ) -> LatentPosterior:
        """Fit to a library: ``targets``, arrays [L, ...] float32, are what the readings stand for.

        ``dreams``: how many give the linear part; ``steps`` of ``batch_size`` more train the net, 0 leave it at zero.
        """
        assert len(targets) == len(self.components), "as many numbers of components as targets"
        draw = torch.Generator().manual_seed(seed)
        self.shapes = [target.shape[1:] for target in targets]
        scores = self._fit_components(targets, seed)
        self._fit_linear(dream, scores, dreams, draw)

        (inputs, outputs), share = self.linear.shape, self._share()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Linear(inputs, self.hidden), nn.GELU(), nn.Dropout(self.dropout),
                nn.Linear(self.hidden, self.hidden), nn.GELU(), nn.Dropout(self.dropout),
                nn.Linear(self.hidden, outputs),
            )  # fmt: skip
            nn.init.zeros_(self.net[-1].weight)
            nn.init.zeros_(self.net[-1].bias)
            optimizer = torch.optim.AdamW(self.net.parameters(), lr=learning_rate, weight_decay=0.01)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(steps, 2))
            self.train()
            for _ in track(range(steps), "posterior mean", transient=True, disable=not progress):
                rows = torch.randint(len(scores), (batch_size,), generator=draw)
                with torch.no_grad():
                    reading = dream(rows, draw)
                loss = (share * (self(reading) - scores[rows]).square()).mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
        return self.eval()

    def forward(self, readings: Tensor) -> Tensor:
        """Readings [B, R] -> scores [B, D] of the principal components, about the library's mean."""
        standard = (readings - self.reading_mean) / self.reading_scale
        return self.gain * (self.score_mean + standard @ self.linear + self.score_scale * self.net(standard))

    @torch.no_grad()
    def mean(self, readings: np.ndarray) -> list[np.ndarray]:
        """Readings [I, R] -> posterior means [I, ...] float32, one array a target."""
        parts = self(torch.from_numpy(np.asarray(readings, np.float32))).split(self.widths, dim=1)
        return [
            (getattr(self, f"mean{k}") + part @ getattr(self, f"basis{k}")).reshape(-1, *self.shapes[k]).numpy()
            for k, part in enumerate(parts)
        ]

    @torch.no_grad()
    def calibrate(self, readings: np.ndarray, targets: Sequence[np.ndarray]) -> LatentPosterior:
        """Set :attr:`gain` by real ``readings`` [V, R] of images that are known, ``targets`` arrays [V, ...].

        Dreams are only as good as the model that dreams: where real readings say less than dreamt ones, sizes shrink.
        """
        self.gain.fill_(1.0)
        found = self(torch.from_numpy(np.asarray(readings, np.float32))).split(self.widths, dim=1)
        gains = []
        for k, target in enumerate(targets):
            true = torch.from_numpy(target.reshape(len(target), -1)) - getattr(self, f"mean{k}")
            gains.append(octave_gain(found[k].numpy(), (true @ getattr(self, f"basis{k}").T).numpy()))
        self.gain.copy_(torch.from_numpy(np.concatenate(gains).clip(0, LARGEST_GAIN)))
        return self

    def _share(self) -> Tensor:
        """[D]: weights of squared errors under which each target's scores have a mean variance of 1 / its width."""
        parts = self.score_scale.square().split(self.widths)
        return torch.cat([torch.full_like(part, 1.0 / float(part.sum().clamp(min=1e-12))) for part in parts])

    def _fit_components(self, targets: Sequence[np.ndarray], seed: int) -> Tensor:
        """Principal components of each target; returns the library's scores [L, D]."""
        scores = []
        for k, (target, components) in enumerate(zip(targets, self.components, strict=True)):
            x = torch.from_numpy(target.reshape(len(target), -1))
            mean = x.mean(0)
            count = min(components, *x.shape)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                _, _, basis = torch.svd_lowrank(x - mean, q=min(count + 20, *x.shape), niter=3)
            self.register_buffer(f"mean{k}", mean)
            self.register_buffer(f"basis{k}", basis[:, :count].T.contiguous())
            scores.append((x - mean) @ basis[:, :count])
        self.widths = [part.shape[1] for part in scores]
        return torch.cat(scores, dim=1)

    @torch.no_grad()
    def _fit_linear(self, dream: Dream, scores: Tensor, dreams: int, draw: torch.Generator) -> None:
        """Ridge from standardised readings to scores; each component has the penalty that suits images held out."""
        count = len(scores)
        rows = torch.cat([torch.randperm(count, generator=draw) for _ in range(-(-dreams // count))])[:dreams]
        held = (torch.randperm(count, generator=draw) % HELD_OUT == 0)[rows]
        x = torch.cat([dream(part, draw) for part in rows.split(AT_ONCE)]).double()
        mean, scale = x.mean(0), x.std(0, correction=0)
        scale = torch.where(scale > 1e-6 * (1 + mean.abs()), scale, torch.inf)  # what never varies says nothing
        x, y = (x - mean) / scale, scores[rows].double()
        middle = y.mean(0)
        y = y - middle

        path = _Ridge(x[~held], y[~held])
        inner, target = x[held] @ path.basis, y[held]
        errors = torch.stack([(inner @ path.shrunk(penalty) - target).square().mean(0) for penalty in PENALTIES])
        chosen = torch.tensor(PENALTIES, dtype=torch.float64)[errors.argmin(0)]
        path = _Ridge(x, y)
        for name, value in {
            "reading_mean": mean,
            "reading_scale": scale,
            "score_mean": middle,
            "score_scale": scores.std(0),
            "linear": path.basis @ path.shrunk(chosen),
            "gain": torch.ones_like(middle),
        }.items():
            self.register_buffer(name, value.float())


class _Ridge:
    """All ridge solutions from ``x`` [B, R] to ``y`` [B, D], by one decomposition of the smaller of its squares.

    Weights [R, D] are ``basis`` @ ``shrunk(penalty)``.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        if len(x) <= x.shape[1]:
            values, vectors = torch.linalg.eigh(x @ x.T)
            self.basis, self.coefficients = x.T @ vectors, vectors.T @ y
        else:
            values, self.basis = torch.linalg.eigh(x.T @ x)
            self.coefficients = self.basis.T @ (x.T @ y)
        self.values = values.clamp(min=0)

    def shrunk(self, penalty: float | Tensor) -> Tensor:
        """Coefficients under a ``penalty``, or one a column [D], in units of the mean eigenvalue."""
        return self.coefficients / (self.values[:, None] + penalty * self.values.mean())


def octave_gain(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """[D]: what ``found`` [V, D] is best multiplied with to be ``true`` [V, D]; 0 at least.

    Components, in order of variance, share a slope with their neighbours (ranks 0-3, 4-7, 8-15, 16-31, ...): the
    leading ones are decoded well and keep their size, the last ones are noise and go to the mean.
    """
    octave = np.log2(np.maximum(np.arange(found.shape[1]), 2) // 2 * 2).astype(int)
    power = np.bincount(octave, weights=(found**2).sum(0))
    product = np.bincount(octave, weights=(found * true).sum(0))
    return np.where(power > 0, np.maximum(product, 0) / np.where(power > 0, power, 1), 0)[octave]
