"""Frames drawn along time: a posterior over training frames, in which what comes next is likely what came next.

Letters: F frames of a clip, L library frames (of the train split), H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.special import softmax

from neurobridge.data.recording import Stimuli
from neurobridge.evaluation.images import pixcorr, resize
from neurobridge.pipeline.decoding import Split
from neurobridge.pipeline.identification import Evidence, combine
from neurobridge.pipeline.pictures import cosine

SHARES, REACHES, SHARPNESS, CONTRASTS = (0.0, 0.5, 1.0), (0, 2, 4), (1.0, 2.0, 4.0), (1.0, 2.0, 4.0, 8.0)
SMALL = 16  # pixels a side, at which the choice is made


@dataclass(frozen=True, kw_only=True)
class Filming:
    """How frames are weighed: ``share`` of the likelihood beside decoding; ``reach``: moments before and after that are
    heard too; ``sharpness`` of the weights, which are the softmax of that many standard deviations; ``contrast``: how
    much what differs from the mean frame is enlarged, for a mean of many frames is paler than any of them."""

    share: float
    reach: int = 0
    sharpness: float = 2.0
    contrast: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Library:
    """Training frames: ``rows`` [L] of the image set, ``pixels`` [L, H, W, 3] in [0, 1], and what came after and before
    each in its clip: ``after``, ``before`` [L] (itself at an end)."""

    rows: np.ndarray
    pixels: np.ndarray
    after: np.ndarray
    before: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, pixels: np.ndarray, ids: np.ndarray, stimuli: Stimuli) -> Library:
        """Frames ``rows`` of an image set with these ``pixels`` [L, H, W, 3] uint8 and ``ids`` [L]."""
        place = {key: i for i, key in enumerate(ids.tolist())}
        after, before = np.arange(len(rows)), np.arange(len(rows))
        order = np.argsort(stimuli.start, kind="stable")
        for one, two in zip(order[:-1].tolist(), order[1:].tolist(), strict=True):
            length = stimuli.end[one] - stimuli.start[one]
            a, b = place.get(stimuli.image_id[one]), place.get(stimuli.image_id[two])
            if a is not None and b is not None and stimuli.start[two] - stimuli.end[one] <= length / 2:
                after[a], before[b] = b, a
        return cls(rows=rows, pixels=(pixels / 255).astype(np.float32), after=after, before=before)

    def drawn(self, weights: np.ndarray, contrast: float) -> np.ndarray:
        """[F, H, W, 3]: the mean of the library under ``weights`` [F, L], enlarged about the mean of all."""
        pixels = self.pixels.reshape(len(self.pixels), -1)
        mean = pixels.mean(0)
        flat = mean + contrast * (weights.astype(np.float32) @ pixels - mean)
        return flat.reshape(len(weights), *self.pixels.shape[1:]).clip(0, 1)


def weights(evidence: Evidence, split: Split, at: np.ndarray, library: Library, how: Filming) -> np.ndarray:
    """[F, L]: the posterior of a clip, whose frames are the images ``at`` [F] of ``split``, in time."""
    near = cosine(split.decoded[at], evidence.targets[library.rows])
    likelihood = evidence.encoding.log_likelihood(split.responses[at], library.rows, repeats=split.repeats)
    heard = carried(combine(near, likelihood, how.share), library, how.reach)
    return softmax(how.sharpness * heard, axis=1)


def carried(scores: np.ndarray, library: Library, reach: int) -> np.ndarray:
    """[F, L]: the mean of a moment's scores and of its neighbours', each for what came so much later or earlier."""
    total, heard = scores.copy(), np.ones((len(scores), 1))
    after, before = library.after, library.before
    for step in range(1, min(reach, len(scores) - 1) + 1):
        total[:-step] += scores[step:][:, after]
        total[step:] += scores[:-step][:, before]
        heard[:-step] += 1
        heard[step:] += 1
        after, before = library.after[after], library.before[before]
    return total / heard


def chosen(
    evidence: Evidence, split: Split, clips: Sequence[np.ndarray], target: np.ndarray, library: Library
) -> Filming:
    """What draws the clips of the valid split best, by PixCorr: images ``at`` [F] of each, ``target`` [V, H, W, 3].

    Without clips the share that identifies best, and nothing of the neighbours.
    """
    if not clips:
        return Filming(share=evidence.share)
    small = Library(rows=library.rows, pixels=resize(library.pixels.astype(np.float64), SMALL).astype(np.float32),
                    after=library.after, before=library.before)  # fmt: skip
    true = resize(target, SMALL)

    def score(how: Filming) -> float:
        found = [weights(evidence, split, at, small, how) for at in clips]
        scores = [pixcorr(small.drawn(w, how.contrast), true[at]).mean() for w, at in zip(found, clips, strict=True)]
        return float(np.mean(scores))

    every = product(SHARES, REACHES, SHARPNESS, CONTRASTS)
    return max((Filming(share=s, reach=r, sharpness=x, contrast=c) for s, r, x, c in every), key=score)
