"""Signed distances to shapes on a plane: negative inside, in the units of the plane."""

import math

import numpy as np

from datasets.render.surface import Plane


def inside(distance: np.ndarray, plane: Plane, soft: float = 1.0) -> np.ndarray:
    """Return 1 where a signed distance is negative, else 0, with an edge `soft` pixels wide."""
    return np.clip(0.5 - distance / (soft * plane.pixel), 0, 1)


def length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the length of vectors (x, y): np.hypot without its slow overflow protection."""
    return np.sqrt(x * x + y * y)


def circle(plane: Plane, radius: float, centre: tuple = (0, 0)) -> np.ndarray:
    """Return the signed distance to a circle."""
    return length(plane.u - float(centre[0]), plane.v - float(centre[1])) - float(radius)


def box(plane: Plane, half: tuple, rounding: float = 0, centre: tuple = (0, 0)) -> np.ndarray:
    """Return the signed distance to a box of the given half sides, with round corners."""
    x = np.abs(plane.u - float(centre[0])) - float(half[0] - rounding)
    y = np.abs(plane.v - float(centre[1])) - float(half[1] - rounding)
    outside = length(np.maximum(x, 0), np.maximum(y, 0))
    return outside + np.minimum(np.maximum(x, y), 0) - float(rounding)


def hexagon(plane: Plane, radius: float) -> np.ndarray:
    """Return the signed distance to a regular hexagon of that inner radius."""
    x, y = np.abs(plane.u), np.abs(plane.v)
    return np.maximum(x * np.float32(0.8660254) + y * np.float32(0.5), y) - radius


def polygon(plane: Plane, radius: float, sides: int) -> np.ndarray:
    """Return the signed distance to a regular polygon of that inner radius."""
    sector = 2 * math.pi / sides
    off = np.mod(np.arctan2(plane.v, plane.u), sector) - sector / 2
    return length(plane.u, plane.v) * np.cos(off) - radius


def square(plane: Plane, half: float, centre: tuple) -> np.ndarray:
    """Return the signed distance to a square."""
    return box(plane, (half, half), 0.15 * half, centre)
