"""What the page of ``neurobridge view`` shows: answers of the API to a question about one window, each kept.

Letters: N units, T bins, I images, K components of the embedding space.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from neurobridge.api.judge import Pictures, drawn
from neurobridge.api.model import Model
from neurobridge.api.recordings import Recordings
from neurobridge.api.twin import Twin
from neurobridge.api.use import embed, rates
from neurobridge.data.images import ImageSet
from neurobridge.data.pictures import read_picture
from neurobridge.data.store import Session
from neurobridge.errors import UserError, needs
from neurobridge.pipeline.folder import DONE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEAREST = 6
STRONGEST = 8
KEPT = 256  # answers
EMBEDDINGS = "align/embeddings.npz"
LARGEST = 64 * 2**20  # bytes of a picture's file
DRAWN = (
    "features inverted", "posterior mean", "best of samples", "sketch", "oracle", "nearest training image",
    "mean training image",
)  # fmt: skip
SEEN, REST = "everything seen", "without what is hidden"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One window, by its place in a ``split`` of ``session``; areas and units to hide; path of a picture, or ''."""

    session: str
    split: str
    trial: int
    areas: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    picture: str = ""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture of the page: data URI, what it is, and what stands below it. ``right``: it is what was seen."""

    source: str
    alt: str
    told: str = ""
    right: bool = False


@dataclass(frozen=True, kw_only=True)
class Known:
    """A session of the run: rows of its windows by split, and the id of the image in each, or ''."""

    session: Session
    splits: dict[str, np.ndarray]
    image: np.ndarray


class Viewed:
    """A model and its recordings. Every method gives what the API gives, drawn; equal questions are answered once."""

    def __init__(self, model: Model, recordings: Recordings) -> None:
        self.model = model
        self.recordings = {r.path.stem: r for r in recordings}
        for name in ("known", "twin", "rates", "embedding", "gallery", "predicted"):
            setattr(self, name, lru_cache(KEPT)(getattr(self, name)))

    @cached_property
    def images(self) -> ImageSet | None:
        path = self.model.settings.data / "images.h5"
        return ImageSet.read(path) if path.is_file() else None

    @cached_property
    def pictures(self) -> Pictures | None:
        """What the run has drawn, if anything."""
        there = (self.model.path / "reconstruct" / DONE).is_file() and self.model.stage == "align"
        return drawn(self.model) if there else None

    def known(self, name: str) -> Known:
        """A session by name. Raises UserError for one that is not there."""
        if name not in self.recordings:
            raise UserError(f"there is no session '{name}' that the model knows: {', '.join(self.recordings)}")
        session = self.model.session(self.recordings[name])
        image = np.full(len(session.starts), "", dtype="U64")
        if session.recording.stimuli is not None:
            image = session.image_ids(np.arange(len(session.starts)))
        splits = {split: np.flatnonzero(session.split == split) for split in ("test", "valid", "train", "none")}
        return Known(session=session, splits={k: v for k, v in splits.items() if len(v)}, image=image)

    def window(self, q: Question) -> int:
        """The window that is asked for. Raises UserError for a split or a place that is not there."""
        splits = self.known(q.session).splits
        if q.split not in splits:
            raise UserError(f"session {q.session} has no windows in the split '{q.split}': {', '.join(splits)}")
        rows = splits[q.split]
        if not 0 <= q.trial < len(rows):
            raise UserError(f"trial {q.trial} is not there: the split '{q.split}' has trials 0 to {len(rows) - 1}")
        return int(rows[q.trial])

    def hidden(self, q: Question) -> tuple[str, ...]:
        """Ids of the units to hide. Raises UserError for an area or unit that is not there, and if none is left."""
        recording = self.recordings[q.session]
        ids, regions = recording.unit_ids, recording.regions
        for wanted, there, what in ((q.areas, regions, "area"), (q.units, ids, "unit")):
            missing = sorted(set(wanted) - set(there.tolist()))
            if missing:
                some = ", ".join(dict.fromkeys(there.tolist()[:400]))[:200]
                raise UserError(f"there is no {what} '{missing[0]}' in session {q.session}: {some}")
        gone = np.isin(regions, q.areas) | np.isin(ids, q.units)
        if gone.all():
            raise UserError("every unit is hidden: leave one area or unit for the model to see")
        return tuple(ids[gone].tolist())

    def rates(self, name: str, window: int, hide: tuple[str, ...]) -> np.ndarray:
        """[N, T]: :func:`neurobridge.api.use.rates` of one window."""
        return rates(self.model, self.recordings[name], windows=[window], hide=hide).values[0]

    def embedding(self, name: str, window: int, hide: tuple[str, ...]) -> np.ndarray:
        """[K]: :func:`neurobridge.api.use.embed` of one window, into the space of images."""
        return embed(self.model, self.recordings[name], into="image", windows=[window], hide=hide).values[0]

    def twin(self, name: str) -> Twin:
        return Twin(self.model, self.recordings[name])

    @property
    def retrieves(self) -> bool:
        """Whether the model was aligned to images whose embeddings lie in the run folder."""
        return self.model.bridge is not None and self.images is not None and (self.model.path / EMBEDDINGS).is_file()

    def gallery(self, name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids [I] and embeddings [I, K], unit length, of the images that a split of a session shows."""
        known = self.known(name)
        with np.load(self.model.path / EMBEDDINGS) as kept:
            ids, raw = kept["ids"], kept["embeddings"]
        mine = np.flatnonzero(np.isin(ids, known.image[known.splits[split]]))
        space = self.model.bridge.space  # pyright: ignore
        return ids[mine], F.normalize(space(torch.from_numpy(raw[mine])), dim=-1).numpy()

    def picture_of(self, image: str) -> np.ndarray | None:
        """Pixels [H, W, 3] of an image, where they are at hand."""
        rows = [] if self.images is None else np.flatnonzero(self.images.ids == image)
        return self.images.pixels[rows[0]] if len(rows) else None  # pyright: ignore

    def facts(self, q: Question) -> dict[str, str]:
        known, window = self.known(q.session), self.window(q)
        image = str(known.image[window])
        repeats = int((known.image[known.splits[q.split]] == image).sum())
        told = {
            "window": f"{window} of {len(known.session.starts)}",
            "begins at": f"{known.session.starts[window]:.3f} s",
        }
        if image:
            told |= {"image": image, "presentations in this split": str(repeats)}
        return told

    def seen(self, q: Question) -> Shown | None:
        """The picture that was shown in the window."""
        image = str(self.known(q.session).image[self.window(q)])
        pixels = self.picture_of(image)
        return None if pixels is None else Shown(source=photo(pixels), alt=f"the image {image} that was shown")

    def spikes(self, q: Question) -> tuple[Shown, list[list[object]]]:
        """Spikes beside expected rates, and a table: area, units, mean rate seen and hidden, mean change."""
        from neurobridge.evaluation.recording_figures import trial

        window, hide = self.window(q), self.hidden(q)
        session = self.known(q.session).session
        panels = {SEEN: self.rates(q.session, window, ())}
        if hide:
            panels[REST] = self.rates(q.session, window, hide)
        _, column, tick, _ = session.events(np.array([window]))
        gone = np.flatnonzero(np.isin(session.recording.unit_ids, hide))
        first = panels[SEEN]
        edges = np.linspace(0, session.window_ms, first.shape[1] + 1) + session.offset_ms
        unit = "value" if session.valued else "Hz"
        figure = trial(
            tick + session.offset_ms, column, panels, session.recording.regions, edges=edges, hidden=gone, unit=unit
        )
        rows = []
        for area in dict.fromkeys(np.sort(session.recording.regions).tolist()):
            mine = session.recording.regions == area
            row: list[object] = [area, int(mine.sum()), int(mine[gone].sum()), float(first[mine].mean())]
            if hide:
                row += [float(panels[REST][mine].mean()), float(np.abs(panels[REST] - first)[mine].mean())]
            rows.append(row)
        alt = f"{len(tick)} spikes of {session.units} units in window {window}, beside the rates that the model expects"
        return Shown(source=graph(figure), alt=alt), rows

    def retrieved(self, q: Question) -> dict[str, list[Shown]]:
        """The images of the split that are nearest, all seen and with units hidden, each list with a title."""
        window, hide = self.window(q), self.hidden(q)
        ids, embeddings = self.gallery(q.session, q.split)
        truth = str(self.known(q.session).image[window])
        lists = {}
        for name, gone in {SEEN: (), **({REST: hide} if hide else {})}.items():
            near = embeddings @ self.embedding(q.session, window, gone)
            order = np.argsort(-near, kind="stable")
            place = np.flatnonzero(ids[order] == truth)
            told = f"{name}: the image shown is number {place[0] + 1} of {len(ids)}" if len(place) else name
            lists[told] = [
                Shown(
                    source=photo(self.picture_of(str(ids[i]))),  # pyright: ignore
                    alt=f"image {ids[i]}" + (", the one shown" if ids[i] == truth else ""),
                    told=f"{near[i]:.2f}",
                    right=bool(ids[i] == truth),
                )
                for i in order[:NEAREST]
            ]
        return lists

    def drawings(self, q: Question) -> list[Shown]:
        """Pictures that the run has drawn of the image shown, from all its presentations."""
        image = str(self.known(q.session).image[self.window(q)])
        if self.pictures is None or self.pictures.session != q.session:
            return []
        rows = np.flatnonzero(self.pictures.images == image)
        if not len(rows):
            return []
        names = [name for name in DRAWN if name in self.pictures.arrays]
        return [
            Shown(source=photo((self.pictures[name][rows[0]] * 255).round().astype(np.uint8)), alt=name, told=name)
            for name in names
        ]

    def answer(self, q: Question) -> tuple[Shown, Shown, str, list[list[object]]]:
        """What is expected when the picture at ``q.picture`` is shown: the picture, the response, trust, best units."""
        path = Path(q.picture).expanduser()
        if not path.is_file():
            raise UserError(f"no picture at {path}: type the path of a picture file on this machine")
        state = path.stat()
        if state.st_size > LARGEST:
            raise UserError(
                f"{path} has {state.st_size / 2**20:.0f} MB, more than a picture to be shown: make it smaller"
            )
        return self.predicted(q.session, path, (state.st_mtime_ns, state.st_size))

    def predicted(self, name: str, path: Path, state: tuple[int, int]) -> tuple[Shown, Shown, str, list[list[object]]]:
        """:func:`neurobridge.api.twin.predict` of one picture; ``state`` tells a file that has changed from before."""
        from neurobridge.evaluation.recording_figures import response

        pixels = read_picture(path)
        twin = self.twin(name)
        found = twin.predict([path.name], pixels[None])
        session, values = twin.session, found.values[0]
        usual = np.zeros_like(values)
        if not session.valued:
            bins = twin.batcher.bin_ms
            usual = np.exp(session.start_bias(bins)[:, None] + session.course(bins)) * (1000 / bins)
        edges = np.linspace(0, session.window_ms, values.shape[1] + 1) + session.offset_ms
        figure = response(values, usual, session.recording.regions, edges=edges, unit=found.attrs["units"])
        more = (values - usual).mean(1)
        correlation, ceiling = found["correlation"].values, found["ceiling"].values
        rows: list[list[object]] = [
            [str(session.recording.unit_ids[u]), str(session.recording.regions[u]), float(values[u].mean()),
             float(usual[u].mean()), float(correlation[u]), float(ceiling[u])]
            for u in np.argsort(-np.abs(more), kind="stable")[:STRONGEST]
        ]  # fmt: skip
        trust = "There are no test images to judge these responses by."
        if np.isfinite(correlation).any():
            trust = f"On test images expected and recorded mean responses correlate at {np.nanmean(correlation):.2f}"
            highest = f"; noise allows {np.nanmean(ceiling):.2f}" if np.isfinite(ceiling).any() else ""
            trust += f" (mean over units){highest}."
        asked = Shown(source=photo(pixels), alt=f"the picture {path.name}", told=path.name)
        alt = f"expected response of {len(values)} units to {path.name}, and how it differs from their mean response"
        return asked, Shown(source=graph(figure), alt=alt), trust, rows


def photo(pixels: np.ndarray) -> str:
    """A data URI of pixels [H, W, 3] uint8, at most 256 pixels a side."""
    with needs("data"):
        from PIL import Image
    picture = Image.fromarray(pixels)
    picture.thumbnail((256, 256))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def graph(figure: Figure) -> str:
    """A data URI of a figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, facecolor="white")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
