"""What goes wrong with products. Each function changes a surface and says exactly where.

A defect gets the product as drawn and returns its coverage (H, W) in [0, 1]; the mask is where
that is above `COVERED`. Bends come before drawing: `bend` moves the plane.
"""

import math

import cv2
import numpy as np

from datasets.render.surface import Look, Plane, Surface, as_colour, length, noise

COVERED = 0.25  # coverage of the mask's pixels: less than that the camera's blur hides
SUBPIXEL = 4  # bits of fraction in OpenCV's line coordinates


def place(look: Look, part: np.ndarray, margin: float) -> tuple[float, float]:
    """A pixel (x, y) on the product, `margin` half pictures from its edge where that exists."""
    size = part.shape[0]
    solid = (part > 0.5).astype(np.uint8)
    solid[[0, -1]] = solid[:, [0, -1]] = 0
    deep = cv2.distanceTransform(solid, cv2.DIST_L2, 3) * 2 / size
    rows, columns = np.nonzero(deep >= min(margin, 0.9 * deep.max()))
    chosen = look.rng.integers(len(rows))
    return float(columns[chosen]), float(rows[chosen])


def blob(look: Look, plane: Plane, at: tuple, radius: float, rough: float = 0.35) -> np.ndarray:
    """Coverage of an irregular spot around pixel `at`; the radius in half pictures."""
    size = plane.u.shape[0]
    y, x = np.mgrid[:size, :size].astype(np.float32)
    turn, flat = look.angle(), look.rng.uniform(0.6, 1.0)
    dx, dy = (x - float(at[0])) * 2 / size, (y - float(at[1])) * 2 / size
    along = dx * math.cos(turn) + dy * math.sin(turn)
    across = (dy * math.cos(turn) - dx * math.sin(turn)) / flat
    edge = 1 + rough * 0.5 * noise(look, plane, 0.6 / radius, 2)
    return np.clip((radius * edge - length(along, across)) * size / 4 + 0.5, 0, 1)


def stroke(path: np.ndarray, width: float, size: int) -> np.ndarray:
    """Coverage of a line through pixels (P, 2), `width` pixels wide, with soft edges."""
    large = np.zeros((size * 2, size * 2), np.uint8)
    points = np.rint((path + 0.5) * 2 * 2**SUBPIXEL).astype(np.int32)
    thick = max(1, round(width * 2))
    cv2.polylines(large, [points], False, 255, thick, cv2.LINE_AA, SUBPIXEL)
    return cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def walk(
    look: Look, start: tuple, turn: float, far: float, wobble: float, steps: int
) -> np.ndarray:
    """Pixels (steps, 2) of a path that wanders for `far` pixels."""
    turns = turn + np.cumsum(look.rng.normal(0, wobble, steps))
    ahead = np.stack([np.cos(turns), np.sin(turns)], axis=1) * far / steps
    return np.asarray(start) + np.cumsum(ahead, axis=0) - ahead.sum(axis=0) / 2


def contrast(look: Look, surface: Surface, alpha: np.ndarray, least: float = 0.28) -> np.ndarray:
    """A grey (3, 1, 1) that differs from what it covers by at least `least`."""
    here = float((surface.colour.mean(axis=0) * alpha).sum() / max(alpha.sum(), 1e-6))
    step = least + 0.2 * look.rng.random()
    darker = here > 0.98 - step or (here - step > 0.02 and look.rng.random() < 0.6)
    level = float(np.clip(here - step if darker else here + step, 0.02, 0.98))
    return as_colour((level,) * 3)


def scratch(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """One to three fine grooves."""
    size = plane.u.shape[0]
    at, turn = place(look, surface.part, 0.12), look.angle()
    alpha = np.zeros_like(plane.u)
    for _ in range(look.rng.integers(1, 4)):
        start = np.asarray(at) + look.rng.normal(0, 0.025 * size, 2)
        far = look.rng.uniform(0.22, 0.5) * size
        path = walk(look, start, turn + 0.12 * look.rng.normal(), far, 0.035, 24)
        alpha = np.maximum(alpha, stroke(path, look.rng.uniform(1.6, 3.0), size))
    alpha *= surface.part
    surface.paint(contrast(look, surface, alpha), 0.85 * alpha)
    surface.height = surface.height - 2.2 * alpha
    return alpha


def crack(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """A jagged, branching break."""
    size = plane.u.shape[0]
    at, turn = place(look, surface.part, 0.12), look.angle()
    path = walk(look, at, turn, look.rng.uniform(0.35, 0.6) * size, 0.32, 22)
    alpha = stroke(path, look.rng.uniform(1.8, 3.2), size)
    for _ in range(look.rng.integers(1, 4)):
        fork = path[look.rng.integers(5, 18)]
        way = turn + look.rng.choice((-1, 1)) * look.rng.uniform(0.5, 1.1)
        branch = walk(look, fork, way, look.rng.uniform(0.08, 0.2) * size, 0.3, 9)
        branch += fork - branch[0]
        alpha = np.maximum(alpha, stroke(branch, look.rng.uniform(1.2, 2.0), size))
    alpha *= surface.part
    surface.paint(contrast(look, surface, alpha, 0.35), 0.9 * alpha)
    surface.height = surface.height - 3.0 * alpha
    return alpha


def stain(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """A spot of another colour: ink, rust, oil, bleach."""
    at = place(look, surface.part, 0.12)
    alpha = blob(look, plane, at, look.rng.uniform(0.11, 0.24)) * surface.part
    inks = ((0.42, 0.18, 0.06), (0.08, 0.10, 0.32), (0.55, 0.08, 0.08), (0.05, 0.05, 0.05))
    inks += ((0.90, 0.88, 0.80), (0.10, 0.34, 0.14), (0.85, 0.66, 0.10))
    here = (surface.colour * alpha).sum(axis=(1, 2)) / max(float(alpha.sum()), 1e-6)
    far = [ink for ink in inks if np.abs(np.asarray(ink) - here).mean() > 0.18]
    ink = look.hue(far[look.rng.integers(len(far))])
    uneven = np.clip(0.62 + 0.12 * noise(look, plane, 6, 2), 0.35, 0.9)
    surface.paint(ink, alpha * uneven)
    return alpha


def hole(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """A hole with a raised, torn rim."""
    at = place(look, surface.part, 0.16)
    radius = look.rng.uniform(0.07, 0.14)
    inner = blob(look, plane, at, radius, 0.25) * surface.part
    soft = cv2.GaussianBlur(inner, (0, 0), 2.5)
    rim = np.clip(4 * soft * (1 - soft), 0, 1) * surface.part
    surface.height = surface.height + 2.5 * rim - 5 * inner
    surface.paint(look.hue((0.06, 0.05, 0.05)), inner)
    surface.shine(0.0, inner)
    return np.maximum(inner, (soft > 0.2) * surface.part)


def particle(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """Something foreign on top: a fibre, or a chip."""
    size = plane.u.shape[0]
    at = place(look, surface.part, 0.1)
    if look.rng.random() < 0.5:
        path = walk(look, at, look.angle(), look.rng.uniform(0.3, 0.55) * size, 0.28, 30)
        alpha = stroke(path, look.rng.uniform(2.4, 4.0), size) * (surface.part > 0.05)
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
    surface.paint(np.clip(contrast(look, surface, alpha, 0.32) * tint, 0.02, 0.98), alpha)
    surface.shine(float(look.rng.uniform(0.05, 0.6)), alpha)
    facet = noise(look, plane, 5, 1)
    surface.height = surface.height * (1 - alpha) + alpha * (surface.height + 4 + 0.8 * facet)
    surface.part = np.maximum(surface.part, alpha)
    return alpha


def dent(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """A blow: the surface is pressed in, and marked."""
    at = place(look, surface.part, 0.14)
    alpha = blob(look, plane, at, look.rng.uniform(0.10, 0.19), 0.2) * surface.part
    soft = cv2.GaussianBlur(alpha, (0, 0), 3.5) * surface.part
    surface.height = surface.height - look.rng.uniform(13, 20) * soft
    surface.paint(surface.colour * 0.8, 0.6 * alpha)
    return np.clip(2.5 * soft, 0, 1)  # pressed in by a tenth: seen on its slope


def glue(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """A smear of something clear and shiny."""
    size = plane.u.shape[0]
    at = place(look, surface.part, 0.14)
    path = walk(look, at, look.angle(), look.rng.uniform(0.15, 0.35) * size, 0.18, 12)
    line = stroke(path, look.rng.uniform(0.08, 0.13) * size, size)
    uneven = cv2.GaussianBlur(line, (0, 0), 3) + 0.10 * noise(look, plane, 5, 2)
    alpha = np.clip((uneven - 0.45) * 5, 0, 1) * surface.part
    swell = cv2.GaussianBlur(alpha, (0, 0), 4) * surface.part
    surface.height = surface.height * (1 - 0.7 * alpha) + 9 * swell
    surface.paint(surface.colour * 0.55 + as_colour((0.36, 0.35, 0.30)), 0.75 * alpha)
    surface.shine(0.9, alpha)
    return np.clip(2.5 * swell, 0, 1)  # its foot too, from a tenth of its height


def missing_piece(look: Look, plane: Plane, surface: Surface) -> np.ndarray:
    """A piece broken out of the edge: the ground shows."""
    size = plane.u.shape[0]
    solid = (surface.part > 0.5).astype(np.uint8)
    edges, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    edge = max(edges, key=len)[:, 0]
    at = edge[look.rng.integers(len(edge))].astype(float)
    radius = look.rng.uniform(0.14, 0.22)
    inward = edge.mean(axis=0) - at
    at += inward / np.linalg.norm(inward) * 0.35 * radius * size / 2
    bite = blob(look, plane, tuple(at), radius, 0.4)
    alpha = bite * surface.part
    ground = surface.colour[:, surface.part < 0.02]
    surface.paint(np.median(ground, axis=1) if ground.size else (0.1, 0.1, 0.1), alpha)
    surface.shine(0.02, alpha)
    lip = cv2.GaussianBlur(alpha, (0, 0), 2) * (1 - bite) * surface.part
    surface.height = surface.height * (1 - alpha) - 2 * lip
    surface.part = surface.part * (1 - alpha)
    surface.paint(surface.colour * 0.7, np.clip(1.5 * lip, 0, 0.6))
    return np.maximum(alpha, np.clip(1.5 * lip, 0, 1))


def bend(look: Look, plane: Plane, at: tuple[float, float]) -> tuple[Plane, np.ndarray]:
    """Push the plane aside around pixel `at`; returns it and where it moved by a pixel or more."""
    size = plane.u.shape[0]
    y, x = np.mgrid[:size, :size].astype(np.float32)
    reach = look.rng.uniform(0.2, 0.3)
    distance = length(x - at[0], y - at[1]) * np.float32(2 / size / reach)
    push = np.square(np.clip(1 - distance * distance, 0, 1))
    way, far = look.angle(), look.rng.uniform(0.10, 0.15)
    moved = Plane(plane.u + far * math.cos(way) * push, plane.v + far * math.sin(way) * push)
    return moved, far * push >= plane.pixel
