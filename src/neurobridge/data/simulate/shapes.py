"""Silhouettes of the simulated objects: signed distances in the object's own frame, part by part.

Every drawing takes ``u`` (right) and ``v`` (down), arrays [H, W] in units of the object's radius, and two shape
parameters ``p``, ``q`` in [-1, 1] that vary its proportions: they are what tells two objects of a category apart.
It returns its parts from back to front as (distance, paint): negative inside, ``paint`` one of :data:`PAINTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin

import numpy as np

PAINTS = ("body", "accent", "light", "dark", "wood")
Parts = list[tuple[np.ndarray, str]]


def ellipse(u, v, cx, cy, a, b, turn=0.0):
    """Ellipse with half axes ``a``, ``b`` turned by ``turn`` radians (distance exact only for a circle)."""
    c, s = cos(turn), sin(turn)
    x, y = c * (u - cx) + s * (v - cy), c * (v - cy) - s * (u - cx)
    return (np.sqrt((x / a) ** 2 + (y / b) ** 2) - 1) * min(a, b)


def box(u, v, cx, cy, a, b, corner=0.05):
    """Rectangle with half sides ``a``, ``b`` and rounded corners."""
    x, y = np.abs(u - cx) - a + corner, np.abs(v - cy) - b + corner
    return np.sqrt(np.maximum(x, 0) ** 2 + np.maximum(y, 0) ** 2) + np.minimum(np.maximum(x, y), 0) - corner


def polygon(u, v, points):
    """Simple polygon through ``points`` [(u, v), ...]: exact signed distance (even-odd rule)."""
    nearest, sign = np.full(u.shape, np.inf, u.dtype), np.ones(u.shape, u.dtype)
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
        ex, ey, wx, wy = bx - ax, by - ay, u - ax, v - ay
        along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (wx - ex * along) ** 2 + (wy - ey * along) ** 2)
        if ey != 0:
            crosses = ((v >= ay) != (v >= by)) & (u < ax + ex * (v - ay) / ey)
            sign = np.where(crosses, -sign, sign)
    return sign * np.sqrt(nearest)


def capsule(u, v, ax, ay, bx, by, radius):
    """Segment from (ax, ay) to (bx, by) thickened by ``radius``."""
    ex, ey = bx - ax, by - ay
    along = np.clip(((u - ax) * ex + (v - ay) * ey) / (ex * ex + ey * ey), 0, 1)
    return np.hypot(u - ax - ex * along, v - ay - ey * along) - radius


def union(*distances):
    """The nearest of several shapes."""
    return np.minimum.reduce(distances)


def fish(u, v, p, q) -> Parts:
    """Side view, head to the right."""
    h = 0.42 + 0.12 * p
    tail = polygon(u, v, [(-0.35, 0), (-0.98, -0.5 - 0.1 * q), (-0.78, 0), (-0.98, 0.5 + 0.1 * q)])
    fin = polygon(u, v, [(-0.25, -h * 0.7), (0.1, -h - 0.32), (0.35, -h * 0.7)])
    return [
        (union(tail, fin), "accent"),
        (ellipse(u, v, 0.18, 0, 0.78, h), "body"),
        (ellipse(u, v, 0.05, 0.08, 0.2, 0.1, 0.4), "accent"),
        (ellipse(u, v, 0.6, -0.1, 0.13, 0.13), "light"),
        (ellipse(u, v, 0.63, -0.1, 0.07, 0.07), "dark"),
    ]


def bird(u, v, p, q) -> Parts:
    """Perched, beak to the right."""
    tail = polygon(u, v, [(-0.25, 0.05), (-1.0, 0.3 + 0.15 * q), (-0.9, 0.55 + 0.15 * q), (-0.2, 0.45)])
    legs = union(capsule(u, v, 0.0, 0.5, -0.02, 0.95, 0.05), capsule(u, v, 0.2, 0.5, 0.22, 0.95, 0.05))
    return [
        (legs, "dark"),
        (tail, "accent"),
        (polygon(u, v, [(0.7, -0.62), (1.02, -0.42 + 0.05 * p), (0.66, -0.34)]), "wood"),
        (union(ellipse(u, v, 0.05, 0.15, 0.6, 0.42 + 0.07 * p, 0.25), ellipse(u, v, 0.5, -0.48, 0.32, 0.3)), "body"),
        (ellipse(u, v, -0.12, 0.15, 0.4, 0.22, 0.45), "accent"),
        (ellipse(u, v, 0.58, -0.53, 0.08, 0.08), "dark"),
    ]


def tree(u, v, p, q) -> Parts:
    """A trunk under three round crowns."""
    w = 0.46 + 0.08 * p
    crown = union(
        ellipse(u, v, -0.4, -0.1, w, 0.42),
        ellipse(u, v, 0.4, -0.12, w, 0.42),
        ellipse(u, v, 0, -0.5 - 0.06 * q, w, 0.46),
    )
    return [(box(u, v, 0, 0.6, 0.13, 0.4), "wood"), (crown, "body")]


def pine(u, v, p, q) -> Parts:
    """Three stacked triangles."""
    w = 0.62 + 0.12 * p
    rows = [
        polygon(u, v, [(0, t), (w * s, t + 0.75), (-w * s, t + 0.75)]) for t, s in ((-0.1, 1), (-0.5, 0.8), (-1, 0.6))
    ]
    return [(box(u, v, 0, 0.8, 0.12, 0.2), "wood"), *[(row, "body") for row in rows]]


def house(u, v, p, q) -> Parts:
    """Front view: walls, roof, a door, two windows, a chimney."""
    w = 0.68 + 0.1 * p
    return [
        (box(u, v, 0.42, -0.6, 0.1, 0.3, 0.01), "dark"),
        (box(u, v, 0, 0.4, w, 0.5, 0.02), "light"),
        (polygon(u, v, [(-w - 0.2, -0.05), (0, -0.9 - 0.08 * q), (w + 0.2, -0.05)]), "body"),
        (box(u, v, 0, 0.62, 0.15, 0.28, 0.02), "accent"),
        (union(box(u, v, -0.42, 0.28, 0.14, 0.14, 0.02), box(u, v, 0.42, 0.28, 0.14, 0.14, 0.02)), "dark"),
    ]


def car(u, v, p, q) -> Parts:
    """Side view."""
    t = 0.55 + 0.12 * p
    cabin = polygon(u, v, [(-0.6, -0.05), (-0.38, -t), (0.25 + 0.1 * q, -t), (0.6, -0.05)])
    glass = polygon(u, v, [(-0.42, -0.08), (-0.28, -t + 0.12), (0.18 + 0.1 * q, -t + 0.12), (0.4, -0.08)])
    wheels = union(ellipse(u, v, -0.52, 0.42, 0.24, 0.24), ellipse(u, v, 0.52, 0.42, 0.24, 0.24))
    hubs = union(ellipse(u, v, -0.52, 0.42, 0.1, 0.1), ellipse(u, v, 0.52, 0.42, 0.1, 0.1))
    return [
        (union(cabin, box(u, v, 0, 0.16, 0.98, 0.27, 0.16)), "body"),
        (glass, "light"),
        (wheels, "dark"),
        (hubs, "light"),
    ]


def cup(u, v, p, q) -> Parts:
    """A mug with a handle at the right and its opening seen from above."""
    w = 0.56 + 0.06 * p
    handle = np.abs(ellipse(u, v, 0.6, 0.1, 0.34, 0.36)) - 0.09
    wall = polygon(u, v, [(-w, -0.6), (w, -0.6), (w - 0.14 - 0.06 * q, 0.85), (-w + 0.14 + 0.06 * q, 0.85)])
    return [
        (handle, "body"),
        (wall, "body"),
        (ellipse(u, v, 0, -0.6, w, 0.2), "light"),
        (ellipse(u, v, 0, -0.57, w - 0.1, 0.13), "dark"),
    ]


def star(u, v, p, q) -> Parts:
    """Five points."""
    points = [(0.45 + 0.08 * p if i % 2 else 1.0, pi * (i / 5 - 0.5)) for i in range(10)]
    outer = polygon(u, v, [(radius * cos(turn), radius * sin(turn)) for radius, turn in points])
    return [(outer, "body"), (ellipse(u, v, 0, 0, 0.2 + 0.05 * q, 0.2 + 0.05 * q), "accent")]


def mushroom(u, v, p, q) -> Parts:
    """A spotted cap over a stem."""
    cap = np.maximum(ellipse(u, v, 0, 0, 0.95, 0.85 + 0.1 * p), v - 0.02)
    spots = union(*[ellipse(u, v, x, y, 0.14, 0.11) for x, y in ((-0.5, -0.25), (0.05, -0.5), (0.5, -0.2))])
    return [(box(u, v, 0, 0.48, 0.24 + 0.08 * q, 0.5, 0.15), "light"), (cap, "body"), (spots, "light")]


def face(u, v, p, q) -> Parts:
    """Front view with ears, eyes, a nose and a mouth."""
    w = 0.76 + 0.1 * p
    ears = union(ellipse(u, v, -w, -0.55, 0.27, 0.27), ellipse(u, v, w, -0.55, 0.27, 0.27))
    eyes = union(ellipse(u, v, -0.32, -0.18, 0.19, 0.22), ellipse(u, v, 0.32, -0.18, 0.19, 0.22))
    pupils = union(ellipse(u, v, -0.3, -0.15, 0.1, 0.12), ellipse(u, v, 0.34, -0.15, 0.1, 0.12))
    mouth = np.maximum(np.abs(ellipse(u, v, 0, 0.22, 0.4 + 0.06 * q, 0.36)) - 0.07, 0.3 - v)
    return [
        (ears, "accent"),
        (ellipse(u, v, 0, 0, w, 0.88), "body"),
        (eyes, "light"),
        (union(pupils, mouth), "dark"),
        (ellipse(u, v, 0, 0.12, 0.1, 0.13), "accent"),
    ]


def key(u, v, p, q) -> Parts:
    """A ring, a shaft and two teeth."""
    ring = np.abs(ellipse(u, v, -0.58, 0, 0.32, 0.34 + 0.06 * p)) - 0.11
    teeth = union(box(u, v, 0.58, 0.2, 0.09, 0.22, 0.02), box(u, v, 0.86, 0.2, 0.09, 0.26 + 0.05 * q, 0.02))
    return [(union(ring, capsule(u, v, -0.2, 0, 0.9, 0, 0.11), teeth), "body")]


def boat(u, v, p, q) -> Parts:
    """A hull, a mast, two sails."""
    hull = polygon(u, v, [(-0.95, 0.4), (0.95, 0.4), (0.6, 0.85), (-0.6, 0.85)])
    return [
        (capsule(u, v, 0, -0.95, 0, 0.45, 0.045), "wood"),
        (polygon(u, v, [(0.09, -0.9), (0.09, 0.28), (0.72 + 0.1 * p, 0.28)]), "light"),
        (polygon(u, v, [(-0.09, -0.7 + 0.1 * q), (-0.09, 0.28), (-0.6, 0.28)]), "accent"),
        (hull, "body"),
    ]


def flower(u, v, p, q) -> Parts:
    """Six petals, a stem, a leaf."""
    turns = [i * pi / 3 for i in range(6)]
    petals = union(*[ellipse(u, v, 0.4 * cos(t), -0.35 + 0.4 * sin(t), 0.29, 0.19 + 0.04 * p, t) for t in turns])
    return [
        (capsule(u, v, 0, -0.3, 0.05, 0.98, 0.06), "dark"),
        (ellipse(u, v, 0.28, 0.65, 0.3, 0.12, -0.6), "dark"),
        (petals, "body"),
        (ellipse(u, v, 0, -0.35, 0.22 + 0.04 * q, 0.22 + 0.04 * q), "accent"),
    ]


def butterfly(u, v, p, q) -> Parts:
    """Two pairs of wings, mirror symmetric."""
    x = np.abs(u)
    feeler = capsule(x, v, 0.03, -0.5, 0.25, -0.9, 0.035)
    return [
        (ellipse(x, v, 0.45, 0.42, 0.42, 0.28 + 0.06 * q, 0.75), "accent"),
        (ellipse(x, v, 0.54, -0.25, 0.54, 0.32 + 0.06 * p, -0.6), "body"),
        (ellipse(x, v, 0.62, -0.32, 0.18, 0.14, -0.6), "light"),
        (union(ellipse(u, v, 0, 0, 0.1, 0.62), feeler), "dark"),
    ]


def bottle(u, v, p, q) -> Parts:
    """A body, a neck, a cap, a label."""
    w = 0.38 + 0.07 * p
    return [
        (union(box(u, v, 0, 0.35, w, 0.63, 0.2), box(u, v, 0, -0.45, 0.14, 0.4)), "body"),
        (box(u, v, 0, 0.42, w, 0.24, 0.01), "light"),
        (box(u, v, 0, -0.85, 0.17, 0.13 + 0.02 * q, 0.03), "accent"),
    ]


def umbrella(u, v, p, q) -> Parts:
    """A scalloped canopy and a hooked handle."""
    scallops = union(*[ellipse(u, v, x, 0.02, 0.33, 0.24) for x in (-0.64, 0, 0.64)])
    canopy = np.maximum(np.maximum(ellipse(u, v, 0, 0, 0.97, 0.85 + 0.08 * p), v - 0.05), -scallops)
    panel = np.maximum(canopy, np.abs(u) - (0.32 + 0.05 * q) * np.sqrt(np.clip(1 - (v / 0.9) ** 2, 0, 1)))
    hook = np.maximum(np.abs(ellipse(u, v, 0.17, 0.75, 0.17, 0.17)) - 0.06, 0.75 - v)
    return [(union(capsule(u, v, 0, -0.2, 0, 0.75, 0.055), hook), "wood"), (canopy, "body"), (panel, "accent")]


DRAWINGS: dict[str, Callable[..., Parts]] = {
    drawing.__name__: drawing
    for drawing in (
        fish, bird, tree, pine, house, car, cup, star, mushroom, face, key, boat, flower, butterfly, bottle, umbrella,
    )
}  # fmt: skip
CATEGORIES = tuple(DRAWINGS)
