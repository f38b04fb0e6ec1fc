"""What the units of V1, V4 and IT are tuned to: image-computable drives of three simulated visual areas.

Each function draws the tuning of ``count`` units and returns their drive for every image, standardised over the images
[I, U], with the tuning parameters [U, ...]. Letters: I images, U units, H, W pixels, F orientation bands, G map side.
"""

from __future__ import annotations

from math import pi

import numpy as np
from scipy.ndimage import gaussian_filter

from neurobridge.data.simulate.scenes import BACKGROUNDS, TEXTURES
from neurobridge.data.simulate.shapes import CATEGORIES

AREAS = ("V1", "V4", "IT")
G = 16
ORIENTATIONS = 8
CYCLES = (11.0, 5.5)
Tuning = dict[str, np.ndarray]


def opponent_channels(pixels: np.ndarray) -> np.ndarray:
    """Luminance, red-green and blue-yellow in about [-1, 1]: uint8 [I, H, W, 3] to float32 [I, H, W, 3]."""
    r, g, b = np.moveaxis(pixels.astype(np.float32) / 255, -1, 0)
    return np.stack([(r + g + b) / 3, r - g, b - (r + g) / 2], -1)


def v1_drives(pixels: np.ndarray, *, count: int, rng: np.random.Generator) -> tuple[np.ndarray, Tuning]:
    """V1: complex cells (Gabor energy), simple cells (half-rectified Gabors) and single-opponent colour blobs.

    Energy model of Adelson and Bergen (1985) with divisive normalisation by the local contrast (Heeger, 1992).
    Receptive fields tile the middle of the picture; wavelengths are 4-16 pixels of 64.
    """
    count_i, size = len(pixels), pixels.shape[1]
    channels = opponent_channels(pixels)
    flat = (channels - channels.mean((1, 2), keepdims=True)).reshape(count_i, size * size, 3)
    tone = (channels - channels.mean((0, 1, 2))).reshape(count_i, size * size, 3)
    kind = rng.choice(["complex", "simple", "blob"], count, p=[0.3, 0.25, 0.45])
    centre = rng.uniform(0.14, 0.86, (count, 2))
    wavelength = rng.choice([4.0, 8.0, 16.0], count, p=[0.25, 0.4, 0.35]) / 64
    orientation, phase = rng.uniform(0, pi, count), rng.choice([0, 0.5, 1, 1.5], count) * pi
    channel = rng.choice(3, count, p=[0.4, 0.3, 0.3])
    axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
    drives = np.empty((count_i, count), np.float32)
    for u in range(count):
        dx, dy = axis[None] - centre[u, 0], axis[:, None] - centre[u, 1]
        if kind[u] == "blob":
            spread = 0.045 + 0.3 * wavelength[u]
            field = np.exp(-(dx**2 + dy**2) / (2 * spread**2)).ravel()
            sign = 1 if phase[u] < pi else -1
            drives[:, u] = sign * (tone[:, :, channel[u]] @ (field / field.sum()))
            continue
        spread = 0.45 * wavelength[u]
        envelope = np.exp(-(dx**2 + dy**2) / (2 * spread**2))
        along = np.cos(orientation[u]) * dx + np.sin(orientation[u]) * dy
        carrier = np.exp(1j * (2 * pi * along / wavelength[u] + phase[u]))
        gabor = envelope * (carrier - (envelope * carrier).sum() / envelope.sum())
        gabor = (gabor / envelope.sum()).astype(np.complex64).ravel()
        luminance = flat[:, :, 0]
        response = luminance @ gabor.real + 1j * (luminance @ gabor.imag)
        surround = np.exp(-(dx**2 + dy**2) / (2 * (2 * spread) ** 2)).ravel()
        contrast = np.sqrt(luminance**2 @ (surround / surround.sum()))
        strength = np.abs(response) if kind[u] == "complex" else np.maximum(response.real, 0)
        drives[:, u] = strength / (0.05 + contrast)
    tuning = {
        "kind": kind, "centre": centre, "wavelength": wavelength, "orientation": orientation, "phase": phase,
        "channel": channel,
    }  # fmt: skip
    return standardise(drives), tuning


def v4_drives(pixels: np.ndarray, *, count: int, rng: np.random.Generator) -> tuple[np.ndarray, Tuning]:
    """V4: curvature, texture and hue cells with receptive fields of about a third of the picture.

    Curvature cells multiply two orientation energies on either side of a point (Pasupathy and Connor, 2001); texture
    cells multiply the energies of two bands at one place (Okazawa et al., 2015); hue cells pool a von Mises of the
    local hue weighted by saturation (Conway et al., 2007).
    """
    energy, hue, saturation = _maps(pixels)
    count_i = len(pixels)
    kind = rng.choice(["curvature", "texture", "hue"], count, p=[0.35, 0.25, 0.4])
    centre, spread = rng.uniform(0.25, 0.75, (count, 2)), rng.uniform(0.1, 0.17, count)
    orientation = rng.integers(0, ORIENTATIONS, count)
    turn, scale = rng.choice([1, 2, 3, -1, -2, -3], count), rng.integers(0, len(CYCLES), count)
    preferred_hue = rng.uniform(-pi, pi, count)
    axis = (np.arange(G) + 0.5) / G
    drives = np.empty((count_i, count), np.float32)
    for u in range(count):
        pool = np.exp(-((axis[None] - centre[u, 0]) ** 2 + (axis[:, None] - centre[u, 1]) ** 2) / (2 * spread[u] ** 2))
        if kind[u] == "hue":
            field = np.exp(2.5 * (np.cos(hue - preferred_hue[u]) - 1)) * saturation
        else:
            first = energy[scale[u] * ORIENTATIONS + orientation[u]]
            other = (orientation[u] + turn[u]) % ORIENTATIONS
            if kind[u] == "curvature":
                angle = pi * orientation[u] / ORIENTATIONS
                step = np.round(1.6 * np.array([-np.sin(angle), np.cos(angle)])).astype(int)
                second = np.roll(energy[scale[u] * ORIENTATIONS + other], (step[1], step[0]), (1, 2))
            else:
                second = energy[(1 - scale[u]) * ORIENTATIONS + other]
            field = np.sqrt(first * second)
        drives[:, u] = np.sqrt(field.reshape(count_i, -1) @ (pool / pool.sum()).ravel().astype(np.float32))
    tuning = {
        "kind": kind, "centre": centre, "spread": spread, "orientation": orientation, "turn": turn,
        "scale": scale, "hue": preferred_hue,
    }  # fmt: skip
    return standardise(drives), tuning


def it_drives(
    labels: dict[str, np.ndarray], *, count: int, rng: np.random.Generator, shared: np.random.Generator
) -> tuple[np.ndarray, Tuning]:
    """IT: tuning to the object's category, identity (hue, proportions, texture) and the kind of scene.

    Categories lie in an 8-dimensional object space common to all animals (drawn from ``shared``) in which every unit
    has a preferred direction (Bao et al., 2020); hue tuning is von Mises; mixing is nonlinear. Position and size only
    scale the response, by at most a third (tolerance).
    """
    space = shared.standard_normal((len(CATEGORIES), 8))
    space /= np.linalg.norm(space, axis=1, keepdims=True)
    category = np.array([CATEGORIES.index(name) for name in labels["category"].tolist()])
    texture = np.array([TEXTURES.index(name) for name in labels["texture"].tolist()])
    background = np.array([BACKGROUNDS.index(name) for name in labels["background"].tolist()])
    hue = 2 * pi * labels["hue"]

    direction = rng.standard_normal((count, 8))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    by_category = np.exp(2.2 * direction @ space.T) + 0.35 * rng.standard_normal((count, len(CATEGORIES)))
    preferred_hue, shape_axis = rng.uniform(0, 2 * pi, count), rng.standard_normal((count, 2))
    by_texture, by_background = (
        rng.standard_normal((count, len(TEXTURES))),
        rng.standard_normal((count, len(BACKGROUNDS))),
    )
    weight = rng.dirichlet([3.0, 1.2, 0.6, 0.5, 0.5], count)
    weight[:, 0] += 0.35
    terms = (
        standardise(by_category.T[category]),
        standardise(np.exp(1.5 * (np.cos(hue[:, None] - preferred_hue) - 1))),
        standardise(labels["shape"] @ shape_axis.T),
        standardise(by_texture.T[texture]),
        standardise(by_background.T[background]),
    )
    mixed = sum(weight[:, i] * term for i, term in enumerate(terms))
    mixed = mixed + 0.25 * terms[0] * terms[1]
    eccentricity = (labels["x"] - 0.5) ** 2 + (labels["y"] - 0.5) ** 2
    gain = np.exp(-eccentricity / 0.3) * (labels["size"] / labels["size"].mean()) ** 0.5
    tuning = {
        "direction": direction, "category": by_category, "hue": preferred_hue, "shape": shape_axis,
        "texture": by_texture, "background": by_background, "weight": weight,
    }  # fmt: skip
    return standardise((mixed + 1.0) * gain[:, None]), tuning


def standardise(drives: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over images, clipped at 3.5 standard deviations: [I, U] float32."""
    drives = (drives - drives.mean(0)) / (drives.std(0) + 1e-6)
    return np.clip(drives, -3.5, 3.5).astype(np.float32)


def _maps(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orientation energies [F, I, G, G] (log-Gabor bands), hue in rad and saturation [I, G, G]."""
    channels = opponent_channels(pixels)
    count, size = channels.shape[:2]
    block = size // G
    blocks = channels.reshape(count, G, block, G, block, 3).mean((2, 4))
    hue, saturation = np.arctan2(blocks[..., 2], blocks[..., 1]), np.hypot(blocks[..., 1], blocks[..., 2])

    half = G  # a 2 G x 2 G map holds up to G cycles
    index = np.r_[0:half, -half:0]
    spectrum = np.fft.fft2(channels[..., 0])[:, index[:, None], index[None]].astype(np.complex64)
    fy, fx = index[:, None].astype(float), index[None].astype(float)
    radius, angle = np.hypot(fx, fy), np.arctan2(fy, fx)
    radius[0, 0] = 1.0
    bands = []
    for cycles in CYCLES:
        ring = np.exp(-(np.log(radius / cycles) ** 2) / (2 * 0.45**2))
        ring[0, 0] = 0
        for k in range(ORIENTATIONS):
            away = np.angle(np.exp(1j * (angle - pi * k / ORIENTATIONS)))
            band = (2 * ring * np.exp(-(away**2) / (2 * 0.3**2))).astype(np.complex64)
            power = np.abs(np.fft.ifft2(spectrum * band)) * (2 * G / size) ** 2
            bands.append(power.reshape(count, G, 2, G, 2).mean((2, 4)))
    energy = np.stack(bands)
    scale = gaussian_filter(np.sqrt((energy**2).mean(0)), (0, 3, 3))
    return energy / (0.01 + scale), hue, saturation
