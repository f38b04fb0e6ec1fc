"""Images -> responses in closed form: one kernel ridge a spatial window over all layers, windows stacked per unit.

A unit answers to a part of the image. A Gaussian window over the maps is the feature-weighted receptive field of
St-Yves & Naselaris 2018; ridge under a window shrinks the weights outside of it (banded ridge, Nunez-Elizalde et al.
2019), and non-negative stacking of the leave-one-out predictions (Breiman 1996) lets every unit choose. All of it is
linear in the features, so the fitted model is one weight a feature and unit.

Letters: P presentations, I images, N units, K layers, D features of a layer, G side of its grid, W windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import eigh

from neurobridge.baselines.linear_encoding import stacking_weights
from neurobridge.baselines.noise import GaussianNoise

PENALTIES = np.logspace(-3, 3, 13)


@dataclass(frozen=True, kw_only=True)
class Window:
    """A Gaussian of deviation ``width`` at ``row``, ``column`` of an image from -1 to 1; infinite: everywhere."""

    row: float = 0.0
    column: float = 0.0
    width: float = np.inf

    def power(self, grid: int) -> np.ndarray:
        """Weight [G * G] of each position in a kernel (the square of what multiplies a feature); ones without grid."""
        if grid == 0:
            return np.ones(1)
        axis = (np.arange(grid) + 0.5) / grid * 2 - 1
        distance = (axis[:, None] - self.row) ** 2 + (axis - self.column) ** 2
        return np.exp(-distance / (2 * self.width**2)).ravel()


FITTED = ("mean", "stacking", "out_of_fold", "held_out_r2", "residual")  # arrays [..., N]
POSITIONS_AT_ONCE, CELLS_AT_ONCE = 8, 2**20
CENTERS = (-0.6, -0.3, 0.0, 0.3, 0.6)
WINDOWS = (Window(), *(Window(row=r, column=c, width=0.35) for r in CENTERS for c in CENTERS))


class WindowedEncoding:
    """See the module. Attributes after :meth:`fit`: ``weights`` K arrays [D, N], ``center`` K arrays [D], ``intercept``
    [N], ``out_of_fold`` [P, N], ``noise`` of its residuals, ``stacking`` [W, N], ``held_out_r2`` [N].

    ``square_root``: false, it takes responses as they are. ``grids``: side of each layer's map, 0 for a layer without
    positions; a layer is flattened in the order channel, row, column. A feature is divided by the square root of its
    deviation (half of a z-score: what varies more counts more, but not with its square), and every layer has the same
    total variance.
    """

    square_root = False

    def __init__(
        self,
        *,
        grids: Sequence[int],
        windows: Sequence[Window] = WINDOWS,
        penalties: np.ndarray = PENALTIES,
    ) -> None:
        self.grids, self.windows, self.penalties = list(grids), list(windows), np.asarray(penalties)

    def fit(self, features: Sequence[np.ndarray], responses: np.ndarray) -> WindowedEncoding:
        """``features``: K layers [P, D] of the images shown; ``responses`` [P, N]."""
        responses = np.asarray(responses, np.float64)
        assert len(features) == len(self.grids), "one grid a layer"
        scaled, scales = self._standardise(features)
        fits = [_KernelFit.of(kernel, responses, self.penalties) for kernel in self._kernels(scaled)]
        self.mean = responses.mean(axis=0)
        held_out = np.stack([fit.out_of_fold for fit in fits]) - self.mean
        self.stacking = stacking_weights(held_out, responses - self.mean)
        self.out_of_fold = np.einsum("wpn,wn->pn", held_out, self.stacking) + self.mean
        self.residual = responses - self.out_of_fold
        variance = responses.var(axis=0)
        self.held_out_r2 = 1 - (self.residual**2).mean(axis=0) / np.where(variance > 0, variance, 1.0)
        self.weights = self._weights(scaled, scales, fits)
        return self

    def parts(self, sizes: Sequence[int]) -> list[WindowedEncoding]:
        """The model of the first so many units, of the next ones, ...: every unit's fit is its own."""
        state, found, last = self.state(), [], 0
        common = {name: value for name, value in state.items() if name.startswith(("center", "grids"))}
        for size in sizes:
            units, last = slice(last, last + size), last + size
            own = {name: value[..., units] for name, value in state.items() if name not in common}
            found.append(self.of(common | own))
        return found

    def state(self) -> dict[str, np.ndarray]:
        """All that :meth:`fit` found, by name, for :meth:`of`."""
        state = {name: getattr(self, name) for name in FITTED}
        for name in ("center", "weights"):
            state |= {f"{name}{k}": part for k, part in enumerate(getattr(self, name))}
        return state | {"grids": np.array(self.grids)}

    @classmethod
    def of(cls, state: Mapping[str, np.ndarray]) -> WindowedEncoding:
        """A fitted model of its :meth:`state`."""
        model = cls(grids=state["grids"].tolist())
        for name in FITTED:
            setattr(model, name, state[name])
        model.center, model.weights = (
            [state[f"{name}{k}"] for k in range(len(model.grids))] for name in ("center", "weights")
        )
        return model

    @cached_property
    def noise(self) -> GaussianNoise:
        """Of the residuals, when it is asked for: many sessions' units together are too many for a covariance."""
        return GaussianNoise(self.residual)

    def predict(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Expected responses [I, N] to images with K layers of ``features`` [I, D]."""
        out = self.mean
        for layer, center, weights in zip(features, self.center, self.weights, strict=True):
            out = out + (np.asarray(layer, np.float32) - center) @ weights
        return np.asarray(out, np.float64)

    def log_likelihood(self, responses: np.ndarray, features: Sequence[np.ndarray]) -> np.ndarray:
        """[P, I] in nats: each of ``responses`` [P, N] under each image."""
        return self.noise.log_likelihood(np.asarray(responses, np.float64), self.predict(features))

    def _standardise(self, features: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """K arrays [P, D] float32, centred and scaled, and K scales [D]; constant features become zero."""
        self.center, scales, out = [], [], []
        for layer in features:
            x = np.asarray(layer, np.float32)
            center, deviation = x.mean(axis=0), x.std(axis=0)
            varies = deviation > 1e-6
            total = float(deviation[varies].sum()) or 1.0
            scale = np.where(varies, np.sqrt(deviation.clip(min=1e-6) * total), np.inf).astype(np.float32)
            self.center.append(center)
            scales.append(scale)
            out.append((x - center) / scale)
        return out, scales

    def _kernels(self, scaled: list[np.ndarray]) -> np.ndarray:
        """[W, P, P]: the positions' kernels, summed with each window's weights."""
        rows = len(scaled[0])
        kernels = np.zeros((len(self.windows), rows * rows), np.float32)
        for layer, grid in zip(scaled, self.grids, strict=True):
            at = np.ascontiguousarray(layer.reshape(rows, -1, max(grid, 1) ** 2).transpose(2, 0, 1))
            powers = np.stack([window.power(grid) for window in self.windows]).astype(np.float32)
            for first in range(0, len(at), POSITIONS_AT_ONCE):
                some = at[first : first + POSITIONS_AT_ONCE]
                products = (some @ some.transpose(0, 2, 1)).reshape(len(some), -1)
                weights = powers[:, first : first + len(some)]
                for cell in range(0, rows * rows, CELLS_AT_ONCE):
                    kernels[:, cell : cell + CELLS_AT_ONCE] += weights @ products[:, cell : cell + CELLS_AT_ONCE]
        return kernels.reshape(-1, rows, rows)

    def _weights(self, scaled: list[np.ndarray], scales: list[np.ndarray], fits: list[_KernelFit]) -> list[np.ndarray]:
        """K arrays [D, N] of weights for centred raw features."""
        weights = []
        for layer, grid, scale in zip(scaled, self.grids, scales, strict=True):
            side = max(grid, 1) ** 2
            total = np.zeros((layer.shape[1] // side, side, self.mean.size), np.float32)
            for window, fit, share in zip(self.windows, fits, self.stacking, strict=True):
                chosen = share > 0
                if chosen.any():
                    dual = (fit.dual * share)[:, chosen].astype(np.float32)
                    part = (layer.T @ dual).reshape(*total.shape[:2], -1)
                    total[:, :, chosen] += part * window.power(grid)[:, None]
            weights.append((total.reshape(-1, self.mean.size) / scale[:, None]).astype(np.float32))
        return weights


@dataclass(kw_only=True)
class _KernelFit:
    """Ridge under one kernel: ``dual`` [P, N] weights of the training images, ``out_of_fold`` [P, N]."""

    dual: np.ndarray
    out_of_fold: np.ndarray

    @staticmethod
    def of(kernel: np.ndarray, responses: np.ndarray, penalties: np.ndarray) -> _KernelFit:
        """The penalty of each unit, in units of the kernel's mean diagonal, by leave-one-out squared error.

        A fit is linear in the responses: fitted = H y; without row i its residual is (y - H y) / (1 - H_ii), exactly
        (Allen 1974); one eigendecomposition serves all rows, penalties and units.
        """
        rows = len(responses)
        mean = responses.mean(axis=0)
        centred = (responses - mean).astype(kernel.dtype)
        values, vectors = eigh(kernel, driver="evd", check_finite=False)  # twice as fast as NumPy's
        values = values.clip(min=0)
        unit = float(values.mean()) or 1.0
        coefficients, squares = vectors.T @ centred, vectors**2
        best = np.full(responses.shape[1], np.inf)
        held_out, chosen = np.zeros_like(responses), np.full(responses.shape[1], penalties[-1])
        for penalty in penalties.tolist():
            shrink = values / (values + penalty * unit)
            leverage = 1 / rows + squares @ shrink
            residual = (centred - vectors @ (shrink[:, None] * coefficients)) / (1 - leverage)[:, None]
            error = (residual**2).mean(axis=0, dtype=np.float64)
            better = error < best
            best[better], chosen[better] = error[better], penalty
            held_out[:, better] = responses[:, better] - residual[:, better]
        dual = vectors @ (coefficients / (values[:, None] + (chosen * unit).astype(kernel.dtype)))
        return _KernelFit(dual=dual, out_of_fold=held_out)
