"""Frozen encoder, ridge, behaviour: the probe that two benchmarks share with 'neurobridge probe'."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from _common import last_line
from scipy.ndimage import gaussian_filter1d
from sklearn.metrics import r2_score

from neurobridge.baselines.behaviour import predict_from
from neurobridge.baselines.wiener import REACHES, fit_wiener


def ridge_r2(
    x: np.ndarray | Sequence[np.ndarray], y: np.ndarray, x_test: np.ndarray | Sequence[np.ndarray], y_test: np.ndarray
) -> tuple[float, int]:
    """R2 on the test rows (uniform average over targets), and which of several candidate inputs was taken.

    Candidate and penalty are chosen by blocks of the training rows, which are in order of time.
    """
    candidates = [x] if isinstance(x, np.ndarray) else x
    tests = [x_test] if isinstance(x_test, np.ndarray) else x_test
    both = [np.concatenate(pair) for pair in zip(candidates, tests, strict=True)]
    train, test = np.arange(len(y)), len(y) + np.arange(len(y_test))
    targets, times = np.concatenate([y, y_test])[:, None], np.arange(len(y) + len(y_test), dtype=float)
    prediction, _, chosen = predict_from(both, targets, times, train, test, guard_s=0.0)
    return float(r2_score(y_test, prediction)), chosen


def smoothed_counts_r2(
    counts: np.ndarray, rows: np.ndarray, y: np.ndarray, rows_test: np.ndarray, y_test: np.ndarray, widths: list[float]
) -> tuple[float, float]:
    """A rival: ridge on Gaussian-smoothed square roots of counts [N, T]; its width (bins) chosen like the penalty.

    Returns the R2 on the test rows and the width.
    """
    root = np.sqrt(counts.astype(float))
    smooth = [gaussian_filter1d(root, width, axis=1) if width else root for width in widths]
    r2, chosen = ridge_r2([x[:, rows].T for x in smooth], y, [x[:, rows_test].T for x in smooth], y_test)
    return r2, widths[chosen]


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
