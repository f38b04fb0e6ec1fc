"""Frozen encoder, ridge, behaviour: the probe that the motor-cortex and hippocampus benchmarks share."""

from __future__ import annotations

import numpy as np
from _common import last_line
from scipy.ndimage import gaussian_filter1d
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold

from neurobridge.baselines.wiener import REACHES, fit_wiener

ALPHAS = np.logspace(0, 6, 13)


def ridge_r2(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> tuple[float, float]:
    """R2 on the test rows (uniform average over targets) and the cross-validated R2 that chose the penalty.

    Inputs are standardised on the training rows; the penalty is chosen by contiguous folds of the training rows.
    """
    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-6)
    x, x_test = (x - mean) / scale, (x_test - mean) / scale
    inner = [
        np.mean([r2_score(y[b], Ridge(alpha).fit(x[a], y[a]).predict(x[b])) for a, b in KFold(5).split(x)])
        for alpha in ALPHAS
    ]
    best = Ridge(ALPHAS[int(np.argmax(inner))]).fit(x, y)
    return float(r2_score(y_test, best.predict(x_test))), float(max(inner))


def smoothed_counts_r2(
    counts: np.ndarray, rows: np.ndarray, y: np.ndarray, rows_test: np.ndarray, y_test: np.ndarray, widths: list[float]
) -> tuple[float, float]:
    """A rival: ridge on Gaussian-smoothed square roots of counts [N, T]; its width (bins) chosen like the penalty.

    Returns the R2 on the test rows and the width.
    """
    tried = []
    for width in widths:
        smooth = gaussian_filter1d(np.sqrt(counts.astype(float)), width, axis=1) if width else np.sqrt(counts)
        r2, inner = ridge_r2(smooth[:, rows].T, y, smooth[:, rows_test].T, y_test)
        tried.append((inner, r2, width))
    _, r2, width = max(tried)
    return r2, width


class Rivals:
    """R2 of what a probe on latents has to beat, fold by fold: plain counts, smoothed counts, a Wiener filter."""

    def __init__(self, widths: list[float], *, step: int = 1) -> None:
        self.widths, self.step = widths, step  # bins; lags are ``step`` bins wide and apart
        self.scores: dict[str, list[float]] = {"plain counts": [], "smoothed counts": [], "Wiener filter": []}
        self.chosen: dict[str, list[str]] = {"smoothed counts": [], "Wiener filter": []}

    def add(
        self, counts: np.ndarray, rows: np.ndarray, y: np.ndarray, rows_test: np.ndarray, y_test: np.ndarray
    ) -> None:
        """Fit on ``rows`` [I] of counts [N, T] with targets ``y``, score on ``rows_test``."""
        r2, width = smoothed_counts_r2(counts, rows, y, rows_test, y_test, self.widths)
        self.scores["smoothed counts"].append(r2)
        self.chosen["smoothed counts"].append(f"{width:g}")
        for name, reaches in (("plain counts", (0,)), ("Wiener filter", REACHES)):
            fitted = fit_wiener(counts, rows, y, reaches=reaches, step=self.step)
            self.scores[name].append(float(r2_score(y_test, fitted.predict(counts, rows_test))))
        self.chosen["Wiener filter"].append(f"+-{fitted.reach * fitted.step}")


def report(name: str, what: str, scores: dict[str, list[float]], rivals: Rivals, bin_ms: int) -> int:
    """Print the table and the last line of a probe benchmark; return its exit code.

    The bar: pretrained is 0.10 above untrained, and no worse than the best of the rivals.
    """
    mean = {key: float(np.mean(values)) for key, values in (scores | rivals.scores).items()}
    labels = {"pretrained": "frozen encoder, pretrained", "untrained": "frozen encoder, untrained"}
    labels |= {key: f"{key} ({'/'.join(chosen)} bins of {bin_ms} ms)" for key, chosen in rivals.chosen.items()}
    print(f"\n{'R2 of ' + what + ', ridge on':52s} {'mean':>6s}  by seed or fold")
    for key, values in (rivals.scores | scores).items():
        print(f"{labels.get(key, key):52s} {mean[key]:6.3f}  " + " ".join(f"{v:.3f}" for v in values))
    best = max(rivals.scores, key=lambda key: mean[key])
    gain = mean["pretrained"] - mean["untrained"]
    ok = gain >= 0.10 and mean["pretrained"] >= mean[best]
    return last_line(
        name,
        round(gain, 4),
        0.10,
        ok,
        pretrained=[round(v, 4) for v in scores["pretrained"]],
        untrained=[round(v, 4) for v in scores["untrained"]],
        best_rival=best,
        rivals={key: round(mean[key], 4) for key in rivals.scores},
    )
