"""Procedural scenes with natural statistics: a labelled object on a 1/f background, lit, textured, partly occluded.

Shapes: H, W the drawing grid (the image for what lies behind, twice as fine for the object), 3 RGB in [0, 1].
Image ``i`` of a seed depends on (seed, i) only.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin

import numpy as np

from neurobridge.data.images import ImageSet, content_id
from neurobridge.data.simulate.shapes import CATEGORIES, DRAWINGS, box, capsule, ellipse, polygon

TEXTURES = ("plain", "stripes", "dots", "checks", "marble")
BACKGROUNDS = ("clouds", "horizon", "grain", "clutter")
OVERSAMPLING = 2


def render_scenes(count: int, *, seed: int, size: int = 64, progress: Callable[[], None] | None = None) -> ImageSet:
    """Draw ``count`` colour scenes [count, size, size, 3] uint8 with the labels of their foreground object.

    Labels: ``category``, ``texture`` and ``background`` (str), ``hue`` in [0, 1), ``x``, ``y`` (centre) and ``size``
    (diameter) in image widths, ``angle`` in rad, ``shape`` [count, 2] in [-1, 1] (the proportions that tell two objects
    of a category apart), ``mirrored``. ``progress`` is called after every scene. Scenes are pairwise different; scene i
    does not depend on ``count``.
    """
    scenes = []
    for index in range(count):
        scenes.append(_scene(np.random.default_rng([seed, index]), size))
        if progress is not None:
            progress()
    pixels = np.stack([pixels for pixels, _ in scenes]) if scenes else np.zeros((0, size, size, 3), np.uint8)
    names = scenes[0][1] if scenes else {}
    labels = {name: np.array([label[name] for _, label in scenes]) for name in names}
    ids = np.array([content_id(image) for image in pixels], dtype="U16")
    assert len(set(ids.tolist())) == len(ids), "two scenes are the same picture"
    return ImageSet(ids=ids, pixels=pixels, labels=labels)


def _scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, dict]:
    """One scene [size, size, 3] uint8 and its labels."""
    label = {
        "category": CATEGORIES[rng.integers(len(CATEGORIES))],
        "hue": rng.random(),
        "x": 0.5 + rng.uniform(-0.17, 0.17),
        "y": 0.5 + rng.uniform(-0.15, 0.15),
        "size": rng.uniform(0.42, 0.66),
        "angle": rng.normal(0, 0.12),
        "texture": TEXTURES[rng.integers(len(TEXTURES))],
        "background": BACKGROUNDS[rng.integers(len(BACKGROUNDS))],
        "shape": rng.uniform(-1, 1, 2),
        "mirrored": bool(rng.random() < 0.5),
    }
    x, y = _grid(size)
    light = rng.uniform(-0.9, 0.9)
    light = (sin(light), -cos(light))

    canvas = _background(rng, label["background"], x, y, label["hue"])
    for _ in range(rng.integers(1, 3)):
        canvas = _bystander(rng, canvas, x, y, light)
    canvas = canvas.repeat(OVERSAMPLING, 0).repeat(OVERSAMPLING, 1)
    x, y = _grid(size * OVERSAMPLING)
    canvas = _object(rng, canvas, x, y, light, label)
    if rng.random() < 0.3:
        canvas = _occluder(rng, canvas, x, y, label)
    canvas = canvas * (1 + 0.12 * ((x - 0.5) * light[0] + (y - 0.5) * light[1]))[..., None]

    small = canvas.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3).mean((1, 3))
    small = small + rng.normal(0, 0.008, small.shape)
    return (np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8), label


def _grid(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres of a unit square: x and y, [points, points] float32."""
    axis = ((np.arange(points) + 0.5) / points).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return x, y


def _background(rng, kind, x, y, object_hue) -> np.ndarray:
    """1/f luminance and weaker 1/f colour around a hue away from the object's: [H, W, 3]."""
    noise = coloured_noise(rng, 3, len(x), slope=1.0, stretch=rng.uniform(3, 6) if kind == "grain" else 1.0)
    hue = object_hue + rng.uniform(0.2, 0.8)
    base = rgb(hue, rng.uniform(0.15, 0.55), rng.uniform(0.35, 0.7))
    if kind == "horizon":
        line = rng.uniform(0.45, 0.7) + 0.03 * noise[0, len(x) // 2]
        ground = rgb(hue + rng.uniform(0.25, 0.5), rng.uniform(0.25, 0.55), rng.uniform(0.3, 0.5))
        sky = base + (0.25 * (0.6 - y))[..., None]
        canvas = sky + _cover(line - y, len(x))[..., None] * (ground - sky)
    elif kind == "clutter":
        canvas = np.broadcast_to(base, (*x.shape, 3)).astype(np.float32)
        for radius in np.geomspace(0.3, 0.05, 14).tolist():
            cx, cy = rng.random(), rng.random()
            leaf = ellipse(x, y, cx, cy, radius * rng.uniform(0.6, 1.2), radius * 0.8, rng.uniform(0, pi))
            paint = rgb(hue + rng.normal(0, 0.1), rng.uniform(0.1, 0.5), rng.uniform(0.25, 0.8))
            canvas = canvas + _cover(leaf, len(x))[..., None] * (paint - canvas)
    else:
        canvas = np.broadcast_to(base, (*x.shape, 3))
    contrast = rng.uniform(0.045, 0.12) * (0.6 if kind == "clutter" else 1.0)
    chroma = 0.35 * contrast * np.stack([noise[1], -0.5 * (noise[1] + noise[2]), noise[2]], -1)
    return (canvas + contrast * noise[0][..., None] + chroma).astype(np.float32)


def _bystander(rng, canvas, x, y, light) -> np.ndarray:
    """A plain thing behind the object: a boulder, a slab or a peak, shaded, partly out of the picture."""
    side, cy, r = rng.uniform(-0.05, 0.25), rng.uniform(0.2, 1.0), rng.uniform(0.1, 0.22)
    cx = side if rng.random() < 0.5 else 1 - side
    kind = rng.integers(3)
    if kind == 0:
        distance = ellipse(x, y, cx, cy, r * rng.uniform(0.9, 1.4), r, rng.uniform(-0.5, 0.5))
    elif kind == 1:
        distance = box(x, y, cx, cy, r * rng.uniform(0.5, 0.9), r * rng.uniform(0.9, 1.5), 0.02)
    else:
        distance = polygon(x, y, [(cx - r, cy + r), (cx + rng.uniform(-0.5, 0.5) * r, cy - 1.2 * r), (cx + r, cy + r)])
    paint = rgb(rng.random(), rng.uniform(0.1, 0.45), rng.uniform(0.3, 0.7))
    shade = 0.9 + 0.35 * ((x - cx) * light[0] + (y - cy) * light[1]) / r
    return canvas + _cover(distance, len(x))[..., None] * (paint * shade[..., None] - canvas)


def _object(rng, canvas, x, y, light, label) -> np.ndarray:
    """The labelled object with its cast shadow, texture and shading; only the window around it is touched."""
    radius, c, s = label["size"] / 2, cos(label["angle"]), sin(label["angle"])
    whole, grid = canvas, len(x)
    rows, columns = (
        slice(max(0, int((label[name] - 1.3 * radius) * grid)), int((label[name] + 1.3 * radius) * grid))
        for name in "yx"
    )
    canvas, x, y = canvas[rows, columns], x[rows, columns], y[rows, columns]
    dx, dy = (x - label["x"]) / radius, (y - label["y"]) / radius
    u, v = (c * dx + s * dy) * (-1.0 if label["mirrored"] else 1.0), c * dy - s * dx
    parts = DRAWINGS[label["category"]](u, v, *label["shape"].tolist())
    silhouette = np.minimum.reduce([distance for distance, _ in parts])

    right, down = (round(-0.05 * grid * direction) for direction in light)
    shadow = np.roll(silhouette, (down, right), (0, 1))
    canvas = canvas * (1 - 0.45 / (1 + np.exp(np.clip(shadow * 14, -30, 30))))[..., None]

    hue, value = label["hue"], rng.uniform(0.75, 0.95)
    paints = {
        "body": rgb(hue, rng.uniform(0.6, 0.9), value),
        "accent": rgb(hue + float(rng.choice([0.12, -0.12, 0.45])), 0.75, value * 0.9),
        "light": rgb(hue + 0.1, 0.08, 0.96),
        "dark": rgb(hue + 0.05, 0.45, 0.16),
        "wood": rgb(0.08, 0.6, 0.45),
    }
    pattern = _texture(rng, label["texture"], u, v)
    shade = 0.97 + 0.24 * (dx * light[0] + dy * light[1]) - 0.4 * np.exp(np.clip(silhouette / 0.09, -20, 0))
    glint = 0.2 * np.exp(-((dx - 0.35 * light[0]) ** 2 + (dy - 0.35 * light[1]) ** 2) / 0.08)
    for distance, slot in parts:
        paint = paints[slot] * (shade * (1 + (pattern if slot == "body" else 0)))[..., None] + glint[..., None]
        canvas = canvas + _cover(distance * radius, grid)[..., None] * (paint - canvas)
    whole[rows, columns] = canvas
    return whole


def _texture(rng, kind, u, v) -> np.ndarray:
    """Relative brightness of the body's surface, about [-0.4, 0.2]: [H, W]."""
    turn, pitch = rng.uniform(0, pi), rng.uniform(8, 13)
    a, b = cos(turn) * u + sin(turn) * v, cos(turn) * v - sin(turn) * u
    if kind == "stripes":
        return 0.25 * np.tanh(3 * np.sin(pitch * a)) - 0.08
    if kind == "dots":
        return -0.45 / (1 + np.exp(np.clip(-6 * (np.sin(pitch * a) * np.sin(pitch * b) - 0.35), -30, 30)))
    if kind == "checks":
        return 0.22 * np.tanh(4 * np.sin(0.8 * pitch * a) * np.sin(0.8 * pitch * b)) - 0.05
    if kind == "marble":
        return 0.13 * coloured_noise(rng, 1, max(u.shape), slope=1.0)[0, : len(u), : u.shape[1]]
    return np.zeros_like(u)


def _occluder(rng, canvas, x, y, label) -> np.ndarray:
    """Blades of grass from below, or a branch from a side, in front of the rim of the object."""
    dark = rgb(rng.random(), rng.uniform(0.3, 0.6), rng.uniform(0.15, 0.4))
    side = int(rng.choice([-1, 1]))
    if rng.random() < 0.5:
        roots = label["x"] + side * rng.uniform(0.0, 0.25, 5)
        top = label["y"] + label["size"] * rng.uniform(0.2, 0.45, 5)
        blades = [
            polygon(x, y, [(r - 0.025, 1.05), (r + rng.normal(0, 0.05), t), (r + 0.025, 1.05)])
            for r, t in zip(roots.tolist(), top.tolist(), strict=True)
        ]
        distance = np.minimum.reduce(blades)
    else:
        edge = label["x"] + side * label["size"] * 0.25
        height = label["y"] + rng.uniform(-0.4, 0.4) * label["size"]
        distance = capsule(x, y, edge, height, edge + side, height + rng.uniform(-0.3, 0.3), 0.025)
    return canvas + _cover(distance, len(x))[..., None] * (dark - canvas)


def _cover(distance: np.ndarray, grid: int) -> np.ndarray:
    """Anti-aliased coverage [H, W] of the inside of a signed distance given in image widths."""
    return np.clip(0.5 - distance * grid, 0, 1)


def coloured_noise(
    rng: np.random.Generator, channels: int, grid: int, *, slope: float, stretch: float = 1.0
) -> np.ndarray:
    """Gaussian noise [channels, grid, grid] of unit variance with amplitude spectrum f^-slope (Field, 1987).

    ``stretch`` > 1 stretches it along a random orientation.
    """
    fy, fx = np.fft.fftfreq(grid)[:, None] * grid, np.fft.rfftfreq(grid)[None] * grid
    turn = rng.uniform(0, pi)
    a, b = cos(turn) * fx + sin(turn) * fy, cos(turn) * fy - sin(turn) * fx
    frequency = np.sqrt((a * stretch) ** 2 + b**2)
    frequency[0, 0] = np.inf
    shape = (channels, *frequency.shape)
    spectrum = rng.standard_normal((*shape, 2), np.float32).view(np.complex64)[..., 0] * (frequency**-slope).astype(
        np.float32
    )
    noise = np.fft.irfft2(spectrum, s=(grid, grid))
    return noise / noise.std((1, 2), keepdims=True)


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """HSV, hue taken modulo 1, as RGB [3] float32."""
    k = (np.array([5.0, 3.0, 1.0]) + hue % 1.0 * 6) % 6
    return (value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)).astype(np.float32)
