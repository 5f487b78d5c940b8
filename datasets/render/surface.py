"""The building blocks of the renderer: a plane to draw on, noise, shapes, and a camera.

A `Surface` has colour, relief and gloss per pixel. A category draws it as a function of the plane's
coordinates, a defect changes it, and `capture` lights it and returns the image. Moving the
coordinates before drawing moves, rotates or bends the object exactly. The image spans [-1, 1] in
both directions; this is the unit of lengths unless pixels are named.

One colour is (3, 1, 1) and colours per pixel are (3, H, W), so that both broadcast with a shade
(H, W); everything is float32.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

EXTENT = 1.7  # noise is defined on [-EXTENT, EXTENT] squared, for rotated and shifted planes
AMBIENT = 0.42  # share of the light that comes from all directions
LEVELS = 4096  # of brightness, which the camera's curve maps to 256
CURVE = np.rint(255 * np.linspace(0, 1, LEVELS) ** 0.85).astype(np.uint8)

Colour = np.ndarray | tuple[float, float, float]


@dataclass
class Plane:
    """Coordinates of every pixel, (H, W) each; (-1, -1) is the upper left corner."""

    u: np.ndarray
    v: np.ndarray

    @property
    def pixel(self) -> float:
        """Return the size of a pixel in these coordinates."""
        return 2.0 / self.u.shape[0]


@dataclass
class Surface:
    """A surface to capture: arrays (H, W) but for the colours; all but the height in [0, 1]."""

    colour: np.ndarray  # (3, H, W)
    height: np.ndarray  # relief, in pixels
    gloss: np.ndarray  # strength of highlights
    foreground: np.ndarray  # 1 on the object or texture, 0 on its background
    omitted: np.ndarray | None = None  # coverage of the omitted component, if any

    def paint(self, colour: Colour, alpha: np.ndarray) -> None:
        """Blend in a colour, or colours (3, H, W), by alpha (H, W)."""
        self.colour = mix(self.colour, colour, alpha)

    def shine(self, gloss: float, alpha: np.ndarray) -> None:
        """Blend in a gloss by alpha (H, W)."""
        self.gloss = self.gloss * (1 - alpha) + gloss * alpha


def as_colour(colour: Colour) -> np.ndarray:
    """Convert three numbers to a colour (3, 1, 1); leave colours (3, H, W) as they are."""
    colour = np.asarray(colour, np.float32)
    return colour.reshape(3, 1, 1) if colour.ndim == 1 else colour


def mix(first: Colour, second: Colour, share: np.ndarray) -> np.ndarray:
    """Blend two colours to (3, H, W): `share` (H, W) of the second, the rest of the first."""
    first = as_colour(first)
    return first + share * (as_colour(second) - first)


@dataclass
class Look:
    """The random look of one image: a generator, and how much its draws vary."""

    rng: np.random.Generator
    spread: float = 1.0  # 1: objects of one production line; larger: of several factories

    def vary(self, value: float, share: float = 0.05) -> float:
        """Vary a value by about a share of it."""
        return value * float(np.exp(share * self.spread * np.clip(self.rng.normal(), -2, 2)))

    def hue(self, colour: Colour, share: float = 0.04) -> np.ndarray:
        """Draw a colour (3, 1, 1) near the given one."""
        noise = share * self.spread * np.clip(self.rng.normal(size=4), -2, 2)
        shade = 0.4 * noise[:3] + noise[3]  # hue varies less than brightness
        return np.clip(as_colour(colour) * as_colour(np.exp(shade)), 0, 1)

    def angle(self) -> float:
        """Draw a direction in radians."""
        return self.rng.uniform(0, 2 * np.pi)


def make_plane(size: int, turn: float = 0, zoom: float = 1, shift: tuple = (0, 0)) -> Plane:
    """Make a plane of `size` x `size` pixels, rotated by `turn` radians, zoomed and shifted."""
    line = (np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1
    x, y = np.meshgrid(line - float(shift[0]), line - float(shift[1]))
    cosine, sine = math.cos(turn) / zoom, math.sin(turn) / zoom
    return Plane(cosine * x + sine * y, cosine * y - sine * x)


def noise(
    look: Look, plane: Plane, frequency: float, octaves: int = 1, stretch: tuple = (1, 1)
) -> np.ndarray:
    """Draw smooth noise (H, W) of about mean 0 and deviation 1; `frequency` in bumps per unit."""
    total, weight = np.zeros_like(plane.u), 0.0
    for octave in range(octaves):
        dense = frequency * 2**octave
        cells = [max(4, int(2 * EXTENT * dense * along) + 4) for along in stretch]
        grid = look.rng.normal(size=(cells[1], cells[0])).astype(np.float32)
        x = (plane.u + EXTENT) * np.float32(dense * stretch[0]) + 1
        y = (plane.v + EXTENT) * np.float32(dense * stretch[1]) + 1
        layer = cv2.remap(grid, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        total += layer * 0.55**octave
        weight += 0.55 ** (2 * octave)
    return total * np.float32(1.35 / np.sqrt(weight))


def cells(look: Look, plane: Plane, frequency: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw Worley noise: distance to the nearest seed, margin to the second, a value per cell.

    Each (H, W); distances in cells, the value in [0, 1).
    """
    count = int(2 * EXTENT * frequency) + 4
    jitter = look.rng.uniform(0.12, 0.88, (count, count, 2)).astype(np.float32)
    number = look.rng.random((count, count), dtype=np.float32)
    x = np.clip((plane.u + EXTENT) * np.float32(frequency) + 1, 1, count - 2.001)
    y = np.clip((plane.v + EXTENT) * np.float32(frequency) + 1, 1, count - 2.001)
    column, row = x.astype(np.intp), y.astype(np.intp)
    middle = row * count + column
    seed_x, seed_y, number = jitter[..., 0].ravel(), jitter[..., 1].ravel(), number.ravel()
    dx, dy = (column - x).astype(np.float32), (row - y).astype(np.float32)
    first = np.full_like(x, 81.0)
    second, nearest = first.copy(), middle
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            cell = middle + (down * count + right)
            distance = (dx + right + seed_x[cell]) ** 2 + (dy + down + seed_y[cell]) ** 2
            nearest = np.where(distance < first, cell, nearest)
            second = np.minimum(second, np.maximum(first, distance))
            first = np.minimum(first, distance)
    first = np.sqrt(first)
    return first, np.sqrt(second) - first, number[nearest]


def background(look: Look, plane: Plane, colour: tuple, rough: float = 0.02) -> Surface:
    """Draw an empty background for objects: a sheet or belt of one colour."""
    grain = noise(look, plane, 30, 2) * rough + noise(look, plane, 1.5) * rough
    flat = np.zeros_like(plane.u)
    return Surface(look.hue(colour) * (1 + grain), flat, flat + 0.02, flat.copy())


def capture(surface: Surface, look: Look) -> np.ndarray:
    """Light a surface and capture it: (H, W, 3) uint8 RGB."""
    rng, spread = look.rng, min(look.spread, 2.5)
    slope_x = cv2.Sobel(surface.height, cv2.CV_32F, 1, 0, scale=1 / 8)
    slope_y = cv2.Sobel(surface.height, cv2.CV_32F, 0, 1, scale=1 / 8)
    steep = np.sqrt(slope_x**2 + slope_y**2 + 1)
    azimuth = -2.2 + 0.35 * spread * rng.normal()
    elevation = float(np.clip(0.95 + 0.08 * spread * rng.normal(), 0.6, 1.3))
    up = math.sin(elevation)
    light = math.cos(azimuth) * math.cos(elevation), math.sin(azimuth) * math.cos(elevation)
    facing = (up - slope_x * light[0] - slope_y * light[1]) / steep
    half = np.array([*light, up + 1.0]) / math.hypot(*light, up + 1.0)
    half_x, half_y, half_up = half.tolist()
    glint = np.clip((half_up - slope_x * half_x - slope_y * half_y) / steep, 0, 1)
    glint = np.square(np.square(np.square(glint)))  # to the power of 8, and of 24 below
    lit = AMBIENT + (1 - AMBIENT) / up * np.clip(facing, 0, None)
    lit *= cast_shadow(surface.foreground, light)
    image = surface.colour * lit + 0.55 * surface.gloss * (glint * glint * glint)
    image *= illumination(look, len(steep), spread)
    image *= as_colour(np.exp(0.008 * spread * rng.normal(size=3)))
    image = cv2.GaussianBlur(cv2.merge(list(image)), (0, 0), rng.uniform(0.45, 0.75))
    image += rng.uniform(0.006, 0.014) * rng.standard_normal(image.shape, np.float32)
    return CURVE[(np.clip(image, 0, 1) * (LEVELS - 1) + 0.5).astype(np.uint16)]


def illumination(look: Look, size: int, spread: float) -> np.ndarray:
    """Draw the brightness (H, W) of an even plane: brighter to one side, darker at the corners."""
    plane = make_plane(size)
    tilt, slope = look.angle(), 0.06 * spread * look.rng.normal()
    exposure = math.exp(0.05 * spread * look.rng.normal())
    fall = 1 + slope * (math.cos(tilt) * plane.u + math.sin(tilt) * plane.v)
    return exposure * (fall - 0.07 * (plane.u * plane.u + plane.v * plane.v))


def cast_shadow(foreground: np.ndarray, light: tuple[float, float]) -> np.ndarray:
    """Return the share of light that an object's soft shadow leaves: (H, W) in (0, 1]."""
    reach = foreground.shape[0] * 0.03
    move = np.array([[1, 0, -light[0] * 2 * reach], [0, 1, -light[1] * 2 * reach]], np.float32)
    size = foreground.shape[::-1]
    shadow = cv2.warpAffine(foreground, move, size, borderMode=cv2.BORDER_REPLICATE)
    shadow = cv2.GaussianBlur(shadow, (0, 0), reach / 2)
    return 1 - 0.45 * shadow * (1 - foreground)
