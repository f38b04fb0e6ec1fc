"""The scores of pictures in stage evaluate: each set beside its floors and the oracle, judged by other networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from neurobridge.evaluation.controls import bootstrap_interval
from neurobridge.evaluation.distributions import MINIMUM, frechet_distance, kernel_distance
from neurobridge.evaluation.images import Evaluator, sample_diversity, score_pictures
from neurobridge.evaluation.judging import DECOY, HOG, fitness, judge_of
from neurobridge.pipeline.device import image_device
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.judges import load_judges, offline_judges, remembering
from neurobridge.training.settings import RunSettings
from neurobridge.vision.captions import Captioner, SentenceEncoder
from neurobridge.vision.encoders import full_name

SAMPLES = "samples"  # [S, I, H, W, 3]: several pictures of each image, if the run kept them


def score_images(run: RunFolder) -> dict[str, list[dict]]:
    """Rows of scores per image ("pictures"), of whole sets ("picture_sets"), and "captions" if there is a captioner.

    Where the run drew decoys, "judges" says how often each judge was fooled, and the rows of an unfit judge say so.
    The judge is another network than the decoding target. It judges at three depths, as the field does with AlexNet(2),
    AlexNet(5) and Inception: a picture can be right in layout and colour (early layers) and still be unrecognisable as
    an object (the pooled last layer).
    """
    arrays = run.load_arrays("reconstruct/pictures.npz")
    targets = arrays.pop("target")
    samples = arrays.pop(SAMPLES, None)
    pictures = {name: array for name, array in arrays.items() if array.shape == targets.shape}
    target_network = full_name(run.settings.image.encoder)
    nets = load_judges(offline_judges(target_network), device=image_device(run.settings))
    captioner, speaking = caption_judge(run.settings)
    scores = score_pictures(
        pictures, targets, feature_nets={"HOG": HOG, **nets, **speaking}, seed=run.settings.seed,
        decoding_target=target_network,
    )  # fmt: skip
    decoys = {judge_of(s.metric): s.values for s in scores if s.name == DECOY and s.metric.startswith("two-way")}
    judges = fitness(decoys, seed=run.settings.seed)
    rows = [
        {
            "metric": s.metric,
            "name": s.name,
            "value": [s.mean, s.low, s.high],
            "items": s.items,
            "network": s.network,
            "decoding_target": s.decoding_target,
            "p": s.p,
            "unfit": judge_of(s.metric) in judges and judges[judge_of(s.metric)].unfit,
        }
        for s in scores
    ]
    spoken = {"target": targets, **pictures} if captioner else {}
    return {
        "pictures": rows,
        "judges": [{"judge": name, "decoys": [*found.rate], "unfit": found.unfit} for name, found in judges.items()],
        "picture_sets": score_sets(pictures, targets, samples, nets, run.settings.seed),
        "captions": [{"name": name, "captions": captioner(array)} for name, array in spoken.items() if captioner],
    }


def caption_judge(settings: RunSettings) -> tuple[Callable[[np.ndarray], list[str]] | None, dict[str, Evaluator]]:
    """The captioner and, as a judge, what its captions mean to the text encoder; neither unless one is named.

    MindEye2's caption scores: do the captions of the reconstructions mean what those of the targets mean? Captions of
    both are made by the same network; identical captions of two targets tie, and lose.
    """
    options, device = settings.evaluate, image_device(settings)
    if not options.captioner:
        return None, {}
    speak = Captioner(options.captioner, device=device)
    captioner, encode = remembering(speak), SentenceEncoder(options.text_encoder, device=device)
    judge = Evaluator(
        features=lambda pictures: encode(captioner(pictures)),
        network=f"{speak.name}, {encode.name}",
        metrics=("two-way", "cosine"),
    )
    return captioner, {"captions": judge}


def score_sets(
    pictures: Mapping[str, np.ndarray],
    targets: np.ndarray,
    samples: np.ndarray | None,
    nets: Mapping[str, Evaluator],
    seed: int,
) -> list[dict]:
    """How real the pictures look as a set (KID, deepest judge), and how much the samples of one image differ.

    KID's interval is the spread over subsets. FID is there from as many pictures on as it takes (MINIMUM).
    """
    rows = []
    for judge, net in list(nets.items())[-1:] if len(targets) >= MINIMUM["KID"] else ():
        real = net.features(targets)
        for name, array in pictures.items():
            values = kernel_distance(net.features(array), real, seed=seed)
            spread = [float(values.mean()), *np.quantile(values, [0.025, 0.975]).tolist()]
            rows.append(_set_row(f"KID {judge}", name, spread, len(array), net.network))
            if len(targets) >= MINIMUM["FID"]:
                distance = frechet_distance(net.features(array), real)
                rows.append(_set_row(f"FID {judge}", name, [distance] * 3, len(array), net.network))
    if samples is not None and len(samples) > 1:
        judges = {"pixels": Evaluator(features=lambda x: x, network=""), **nets}
        for judge, net in judges.items():
            diversity = sample_diversity(np.stack([net.features(sample) for sample in samples]))
            value = [*bootstrap_interval(diversity, seed=seed, share=False)]
            rows.append(_set_row(f"diversity {judge}", SAMPLES, value, len(diversity), net.network))
    return rows


def _set_row(metric: str, name: str, value: list[float], items: int, network: str) -> dict:
    return {"metric": metric, "name": name, "value": value, "items": items, "network": network}
