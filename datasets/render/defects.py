"""Add defects to a drawn surface.

Each defect changes the surface in place and returns its coverage (H, W) in [0, 1]; the mask is
where that exceeds `MASK_THRESHOLD`. `bend` is applied before drawing: it moves the plane.
"""

import math

import cv2
import numpy as np

from datasets.render.shapes import length
from datasets.render.surface import Look, Plane, Surface, as_colour, noise

MASK_THRESHOLD = 0.25  # of the coverage; the camera's blur hides less
SUBPIXEL_BITS = 4  # fractional bits of OpenCV's line coordinates


def random_pixel(look: Look, foreground: np.ndarray, margin: float) -> tuple[float, float]:
    """Draw a foreground pixel (x, y), at least `margin` from the edge if there is such a pixel."""
    size = foreground.shape[0]
    solid = (foreground > 0.5).astype(np.uint8)
    solid[[0, -1]] = solid[:, [0, -1]] = 0
    deep = cv2.distanceTransform(solid, cv2.DIST_L2, 3) * 2 / size
    rows, columns = np.nonzero(deep >= min(margin, 0.9 * deep.max()))
    chosen = look.rng.integers(len(rows))
    return float(columns[chosen]), float(rows[chosen])


def blob(look: Look, plane: Plane, at: tuple, radius: float, rough: float = 0.35) -> np.ndarray:
    """Return the coverage of an irregular spot around pixel `at`."""
    size = plane.u.shape[0]
    y, x = np.mgrid[:size, :size].astype(np.float32)
    turn, flat = look.angle(), look.rng.uniform(0.6, 1.0)
    dx, dy = (x - float(at[0])) * 2 / size, (y - float(at[1])) * 2 / size
    along = dx * math.cos(turn) + dy * math.sin(turn)
    across = (dy * math.cos(turn) - dx * math.sin(turn)) / flat
    edge = 1 + rough * 0.5 * noise(look, plane, 0.6 / radius, 2)
    return np.clip((radius * edge - length(along, across)) * size / 4 + 0.5, 0, 1)


def stroke(path: np.ndarray, width: float, size: int) -> np.ndarray:
    """Return the coverage of a line through pixels (P, 2), `width` pixels wide, with soft edges."""
    large = np.zeros((size * 2, size * 2), np.uint8)
    points = np.rint((path + 0.5) * 2 * 2**SUBPIXEL_BITS).astype(np.int32)
    thick = max(1, round(width * 2))
    cv2.polylines(large, [points], False, 255, thick, cv2.LINE_AA, SUBPIXEL_BITS)
    return cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def random_walk(
    look: Look, centre: tuple, direction: float, distance: float, wobble: float, steps: int
) -> np.ndarray:
    """Draw a wandering path of `distance` pixels around its centre: pixels (steps, 2)."""
    angles = direction + np.cumsum(look.rng.normal(0, wobble, steps))
    ahead = np.stack([np.cos(angles), np.sin(angles)], axis=1) * distance / steps
    return np.asarray(centre) + np.cumsum(ahead, axis=0) - ahead.sum(axis=0) / 2


def contrasting_grey(
    look: Look, surface: Surface, alpha: np.ndarray, least: float = 0.28
) -> np.ndarray:
    """Draw a grey (3, 1, 1) that differs from the mean under `alpha` by at least `least`."""
    mean = float((surface.colour.mean(axis=0) * alpha).sum() / max(alpha.sum(), 1e-6))
    step = least + 0.2 * look.rng.random()
    darker = mean > 0.98 - step or (mean - step > 0.02 and look.rng.random() < 0.6)
    level = float(np.clip(mean - step if darker else mean + step, 0.02, 0.98))
    return as_colour((level,) * 3)


def scratch(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """Scratch one to three fine grooves."""
    size = plane.u.shape[0]
    at, turn = random_pixel(look, surface.foreground, 0.12), look.angle()
    alpha = np.zeros_like(plane.u)
    for _ in range(look.rng.integers(1, 4)):
        start = np.asarray(at) + look.rng.normal(0, 0.025 * size, 2)
        distance = look.rng.uniform(0.22, 0.5) * size
        path = random_walk(look, start, turn + 0.12 * look.rng.normal(), distance, 0.035, 24)
        alpha = np.maximum(alpha, stroke(path, look.rng.uniform(1.6, 3.0), size))
    alpha *= surface.foreground
    surface.paint(contrasting_grey(look, surface, alpha), 0.85 * alpha)
    surface.height = surface.height - 2.2 * alpha
    return alpha


def crack(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """Add a jagged, branching crack."""
    size = plane.u.shape[0]
    at, turn = random_pixel(look, surface.foreground, 0.12), look.angle()
    path = random_walk(look, at, turn, look.rng.uniform(0.35, 0.6) * size, 0.32, 22)
    alpha = stroke(path, look.rng.uniform(1.8, 3.2), size)
    for _ in range(look.rng.integers(1, 4)):
        fork = path[look.rng.integers(5, 18)]
        direction = turn + look.rng.choice((-1, 1)) * look.rng.uniform(0.5, 1.1)
        branch = random_walk(look, fork, direction, look.rng.uniform(0.08, 0.2) * size, 0.3, 9)
        branch += fork - branch[0]
        alpha = np.maximum(alpha, stroke(branch, look.rng.uniform(1.2, 2.0), size))
    alpha *= surface.foreground
    surface.paint(contrasting_grey(look, surface, alpha, 0.35), 0.9 * alpha)
    surface.height = surface.height - 3.0 * alpha
    return alpha


def stain(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """Add a spot of another colour: ink, rust, oil, bleach."""
    at = random_pixel(look, surface.foreground, 0.12)
    alpha = blob(look, plane, at, look.rng.uniform(0.11, 0.24)) * surface.foreground
    inks = ((0.42, 0.18, 0.06), (0.08, 0.10, 0.32), (0.55, 0.08, 0.08), (0.05, 0.05, 0.05))
    inks += ((0.90, 0.88, 0.80), (0.10, 0.34, 0.14), (0.85, 0.66, 0.10))
    mean = (surface.colour * alpha).sum(axis=(1, 2)) / max(float(alpha.sum()), 1e-6)
    distinct = [ink for ink in inks if np.abs(np.asarray(ink) - mean).mean() > 0.18]
    ink = look.hue(distinct[look.rng.integers(len(distinct))])
    uneven = np.clip(0.62 + 0.12 * noise(look, plane, 6, 2), 0.35, 0.9)
    surface.paint(ink, alpha * uneven)
    return alpha


def hole(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """Punch a hole with a raised, torn rim."""
    at = random_pixel(look, surface.foreground, 0.16)
    radius = look.rng.uniform(0.07, 0.14)
    inner = blob(look, plane, at, radius, 0.25) * surface.foreground
    soft = cv2.GaussianBlur(inner, (0, 0), 2.5)
    rim = np.clip(4 * soft * (1 - soft), 0, 1) * surface.foreground
    surface.height = surface.height + 2.5 * rim - 5 * inner
    surface.paint(look.hue((0.06, 0.05, 0.05)), inner)
    surface.shine(0.0, inner)
    return np.maximum(inner, (soft > 0.2) * surface.foreground)


def particle(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """Put a foreign fibre or chip on top."""
    size = plane.u.shape[0]
    at = random_pixel(look, surface.foreground, 0.1)
    if look.rng.random() < 0.5:
        path = random_walk(look, at, look.angle(), look.rng.uniform(0.3, 0.55) * size, 0.28, 30)
        alpha = stroke(path, look.rng.uniform(2.4, 4.0), size) * (surface.foreground > 0.05)
    else:
        count = look.rng.integers(4, 7)
        turns = np.sort(look.rng.uniform(0, 2 * np.pi, count)) + look.angle()
        reach = look.rng.uniform(0.05, 0.12) * size * look.rng.uniform(0.6, 1.2, count)
        corners = np.stack([np.cos(turns), np.sin(turns)], 1) * reach[:, None] + at
        large = np.zeros((size * 2, size * 2), np.uint8)
        points = np.rint(cv2.convexHull(corners.astype(np.float32)) * 2).astype(np.int32)
        cv2.fillPoly(large, [points], 255)
        alpha = cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA) / np.float32(255)
    moved = np.pad(alpha, ((3, 0), (3, 0)))[:size, :size]
    shadow = cv2.GaussianBlur(moved, (0, 0), 1.5) * (1 - alpha)
    surface.colour = surface.colour * (1 - 0.45 * shadow)
    tint = as_colour(1 + 0.25 * look.rng.normal(size=3))
    surface.paint(np.clip(contrasting_grey(look, surface, alpha, 0.32) * tint, 0.02, 0.98), alpha)
    surface.shine(float(look.rng.uniform(0.05, 0.6)), alpha)
    facet = noise(look, plane, 5, 1)
    surface.height = surface.height * (1 - alpha) + alpha * (surface.height + 4 + 0.8 * facet)
    surface.foreground = np.maximum(surface.foreground, alpha)
    return alpha


def dent(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """Press the surface in and darken it."""
    at = random_pixel(look, surface.foreground, 0.14)
    alpha = blob(look, plane, at, look.rng.uniform(0.10, 0.19), 0.2) * surface.foreground
    soft = cv2.GaussianBlur(alpha, (0, 0), 3.5) * surface.foreground
    surface.height = surface.height - look.rng.uniform(13, 20) * soft
    surface.paint(surface.colour * 0.8, 0.6 * alpha)
    return np.clip(2.5 * soft, 0, 1)  # from a tenth of its depth on, where its slope shows


def glue(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """Smear clear, shiny glue over it."""
    size = plane.u.shape[0]
    at = random_pixel(look, surface.foreground, 0.14)
    path = random_walk(look, at, look.angle(), look.rng.uniform(0.15, 0.35) * size, 0.18, 12)
    line = stroke(path, look.rng.uniform(0.08, 0.13) * size, size)
    uneven = cv2.GaussianBlur(line, (0, 0), 3) + 0.10 * noise(look, plane, 5, 2)
    alpha = np.clip((uneven - 0.45) * 5, 0, 1) * surface.foreground
    swell = cv2.GaussianBlur(alpha, (0, 0), 4) * surface.foreground
    surface.height = surface.height * (1 - 0.7 * alpha) + 9 * swell
    surface.paint(surface.colour * 0.55 + as_colour((0.36, 0.35, 0.30)), 0.75 * alpha)
    surface.shine(0.9, alpha)
    return np.clip(2.5 * swell, 0, 1)  # from a tenth of its height on


def missing_piece(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """Break a piece out of the edge, so that the background shows."""
    size = plane.u.shape[0]
    solid = (surface.foreground > 0.5).astype(np.uint8)
    edges, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    edge = max(edges, key=len)[:, 0]
    at = edge[look.rng.integers(len(edge))].astype(float)
    radius = look.rng.uniform(0.14, 0.22)
    inward = edge.mean(axis=0) - at
    at += inward / np.linalg.norm(inward) * 0.35 * radius * size / 2
    bite = blob(look, plane, tuple(at), radius, 0.4)
    alpha = bite * surface.foreground
    background = surface.colour[:, surface.foreground < 0.02]
    surface.paint(np.median(background, axis=1) if background.size else (0.1, 0.1, 0.1), alpha)
    surface.shine(0.02, alpha)
    lip = cv2.GaussianBlur(alpha, (0, 0), 2) * (1 - bite) * surface.foreground
    surface.height = surface.height * (1 - alpha) - 2 * lip
    surface.foreground = surface.foreground * (1 - alpha)
    surface.paint(surface.colour * 0.7, np.clip(1.5 * lip, 0, 0.6))
    return np.maximum(alpha, np.clip(1.5 * lip, 0, 1))


def bend(look: Look, plane: Plane, at: tuple[float, float]) -> tuple[Plane, np.ndarray]:
    """Push the plane aside around pixel `at`; return it and where it moved by a pixel or more."""
    size = plane.u.shape[0]
    y, x = np.mgrid[:size, :size].astype(np.float32)
    reach = look.rng.uniform(0.2, 0.3)
    distance = length(x - at[0], y - at[1]) * np.float32(2 / size / reach)
    push = np.square(np.clip(1 - distance * distance, 0, 1))
    angle, shift = look.angle(), look.rng.uniform(0.10, 0.15)
    u, v = plane.u + shift * math.cos(angle) * push, plane.v + shift * math.sin(angle) * push
    return Plane(u, v), shift * push >= plane.pixel
