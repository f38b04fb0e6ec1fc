"""NeuroBridge: spike trains in, pictures out, with a shared representation in between.

>>> import neurobridge as nb
>>> recordings = nb.open("data/v4")                                # doctest: +SKIP
>>> model = nb.pretrain(recordings[:-1], steps=400, model="tiny")  # doctest: +SKIP
>>> model = nb.adapt(model, recordings[-1:])                       # doctest: +SKIP
>>> z = nb.embed(model, recordings[-1])                            # doctest: +SKIP

What is listed in ``dir(neurobridge)`` is loaded when it is first asked for.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "open": "recordings:open_recordings",
    "recording": "recordings:recording",
    "pretrain": "train:pretrain",
    "adapt": "train:adapt",
    "align": "train:align",
    "embed": "use:embed",
    "rates": "use:rates",
    "to_tsd": "use:to_tsd",
    "identify": "judge:identify",
    "reconstruct": "judge:reconstruct",
    "predict": "twin:predict",
    "exciting": "twin:exciting",
    "movie": "movie:movie",
    "film_scores": "movie:film_scores",
    "score": "judge:score",
    "Live": "live:Live",
    "save": "model:save",
    "load": "model:load",
    "export": "share:export",
    "from_pretrained": "share:from_pretrained",
    "push_to_hub": "share:push_to_hub",
}  # public name -> module of neurobridge.api: its name there

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name == "sklearn":
        return import_module("neurobridge.sklearn")
    if name not in _HOMES:
        raise AttributeError(f"module 'neurobridge' has no attribute '{name}'")
    module, there = _HOMES[name].split(":")
    return getattr(import_module(f"neurobridge.api.{module}"), there)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
