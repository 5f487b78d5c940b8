"""Draw textures: surfaces without an outline that fill the image."""

import math

import numpy as np

from datasets.render.shapes import length
from datasets.render.surface import Look, Plane, Surface, cells, mix, noise


def textured(colour: np.ndarray, height: np.ndarray, gloss: float | np.ndarray) -> Surface:
    """Make a surface that fills the image from its colours (3, H, W) and relief (H, W)."""
    flat = np.zeros_like(height)
    return Surface(colour, height, flat + gloss, flat + 1)


def tinted(base: np.ndarray, shade: np.ndarray) -> np.ndarray:
    """Multiply a colour by a shade (H, W): colours (3, H, W) in [0, 1]."""
    return np.clip(base * shade, 0, 1)


def woven_fabric(look: Look, plane: Plane) -> Surface:
    """Draw a plain weave of threads."""
    dense = look.vary(11.0, 0.04)
    sway = 0.035 * noise(look, plane, 2.5), 0.035 * noise(look, plane, 2.5)
    x, y = plane.u * dense + sway[0] * dense / 6, plane.v * dense + sway[1] * dense / 6
    over = (np.floor(x) + np.floor(y)) % 2  # 1: the vertical thread is on top
    across, along = np.abs(np.sin(np.pi * x)), np.abs(np.sin(np.pi * y))
    warp = across**0.6 * (0.45 + 0.55 * along)
    weft = along**0.6 * (0.45 + 0.55 * across)
    thread = np.where(over > 0.5, warp, weft)
    fuzz = noise(look, plane, 26, 2)
    vertical, horizontal = look.hue((0.42, 0.46, 0.55)), look.hue((0.30, 0.33, 0.42))
    base = np.where(over > 0.5, vertical, horizontal)
    colour = tinted(base, 0.55 + 0.5 * thread + 0.05 * fuzz)
    return textured(colour, 2.2 * thread + 0.25 * fuzz, 0.03)


def wood(look: Look, plane: Plane) -> Surface:
    """Draw a planed board with growth rings cut lengthwise and fine pores."""
    bow = plane.u + 0.10 * noise(look, plane, 0.8, 2, (1, 0.35))
    rings = np.sin(bow * look.vary(34.0, 0.08) + 2.2 * noise(look, plane, 1.2, 1, (1, 0.15)))
    pores = np.clip(noise(look, plane, 36, 1, (1, 0.07)) - 0.9, 0, None)
    grain = noise(look, plane, 22, 2, (1, 0.06))
    light, dark = look.hue((0.72, 0.52, 0.33)), look.hue((0.52, 0.33, 0.18))
    colour = mix(light, dark, np.clip(0.45 + 0.32 * rings + 0.12 * grain, 0, 1))
    return textured(tinted(colour, 1 - 0.25 * pores), 0.25 * grain - 0.8 * pores, 0.06)


def leather(look: Look, plane: Plane) -> Surface:
    """Draw grained leather: small pads between creases."""
    drift = Plane(plane.u + 0.02 * noise(look, plane, 6), plane.v + 0.02 * noise(look, plane, 6))
    _, margin, number = cells(look, drift, look.vary(13.0, 0.05))
    pad = np.clip(margin * 2.6, 0, 1) ** 0.7
    fine = noise(look, plane, 40, 2)
    shade = 0.78 + 0.20 * pad + 0.05 * (number - 0.5) + 0.025 * fine
    shade += 0.04 * noise(look, plane, 1.2)
    return textured(
        tinted(look.hue((0.46, 0.25, 0.15)), shade), 2.0 * pad + 0.2 * fine, 0.16 + 0.1 * pad
    )


def stone_tile(look: Look, plane: Plane) -> Surface:
    """Draw polished granite with grains of three minerals."""
    _, margin, number = cells(look, plane, look.vary(15.0, 0.05))
    _, _, small = cells(look, plane, look.vary(30.0, 0.05))
    minerals = [look.hue((0.62, 0.58, 0.54)), look.hue((0.42, 0.40, 0.40)), look.hue((0.78,) * 3)]
    colour = np.where(number < 0.45, minerals[0], np.where(number < 0.8, *minerals[1:]))
    colour = np.where(small < 0.13, look.hue((0.16, 0.15, 0.16)), colour)
    shade = 1 + 0.05 * noise(look, plane, 20, 2) - np.float32(0.06) * (margin < 0.06)
    return textured(tinted(colour, shade), 0.15 * noise(look, plane, 3), 0.12)


def wire_mesh(look: Look, plane: Plane) -> Surface:
    """Draw a woven wire mesh over a dark background."""
    dense, thick = look.vary(7.0, 0.03), look.vary(0.2, 0.05)
    sway = 0.010 * noise(look, plane, 2), 0.010 * noise(look, plane, 2)
    x, y = (plane.u + sway[0]) * dense, (plane.v + sway[1]) * dense
    profiles = []
    for across, along in ((x, y), (y, x + 1)):
        off = (across - np.floor(across) - 0.5) / thick
        round_ = np.sqrt(np.clip(1 - off**2, 0, 1))
        wave = np.cos(np.pi * (along + np.floor(across)))
        profiles.append(np.where(np.abs(off) < 1, round_ * 3.0 + 1.6 * wave + 2.0, -3.0))
    top = np.maximum(*profiles)
    wire = np.clip((top + 3.0) / 3.0, 0, 1)
    shade = 0.55 + 0.07 * np.clip(top, 0, 6)
    steel = tinted(look.hue((0.62, 0.63, 0.65)), shade)
    floor = tinted(look.hue((0.13, 0.13, 0.14)), 1 + 0.1 * noise(look, plane, 12, 2))
    return textured(mix(floor, steel, wire), np.where(wire > 0.5, top, -1), 0.5 * wire)


def brushed_metal(look: Look, plane: Plane) -> Surface:
    """Draw a brushed sheet with fine parallel lines."""
    lines = noise(look, plane, 52, 1, (0.015, 1)) + 0.6 * noise(look, plane, 24, 1, (0.03, 1))
    broad = noise(look, plane, 1.3, 1, (0.3, 1))
    shade = 1 + 0.055 * lines + 0.03 * broad
    return textured(tinted(look.hue((0.60, 0.61, 0.63)), shade), 0.35 * lines, 0.25)


def concrete(look: Look, plane: Plane) -> Surface:
    """Draw a cast wall: cloudy grey with small pores."""
    clouds = noise(look, plane, 1.4, 5)
    near, _, number = cells(look, plane, look.vary(10.0, 0.05))
    pores = np.clip(1 - near / (0.04 + 0.12 * number), 0, 1) * (number > 0.6)
    shade = 1 + 0.07 * clouds - 0.45 * pores
    sand = noise(look, plane, 45, 1)
    return textured(
        tinted(look.hue((0.60, 0.59, 0.56)), shade), 0.35 * sand - 2.5 * pores + 0.4 * clouds, 0.02
    )


def corduroy(look: Look, plane: Plane) -> Surface:
    """Draw ribbed cloth with soft parallel wales."""
    x = (plane.u + 0.012 * noise(look, plane, 2.5)) * look.vary(9.0, 0.05)
    rib = np.abs(np.sin(np.pi * x)) ** 0.7
    pile = noise(look, plane, 34, 2, (1, 0.4))
    shade = 0.5 + 0.5 * rib + 0.09 * pile
    return textured(tinted(look.hue((0.50, 0.36, 0.22)), shade), 3.2 * rib + 0.4 * pile, 0.02)


def mosaic(look: Look, plane: Plane) -> Surface:
    """Draw square glazed tiles in grout."""
    dense = look.vary(4.0, 0.05)
    x, y = plane.u * dense + 0.3, plane.v * dense + 0.1
    off = np.maximum(np.abs(x - np.floor(x) - 0.5), np.abs(y - np.floor(y) - 0.5))
    tile = np.clip((0.455 - off) / 0.03, 0, 1)
    number = np.sin(np.floor(x) * 12.9898 + np.floor(y) * 78.233 + look.rng.uniform(0, 6)) * 43758.5
    shade = 0.92 + 0.12 * (number - np.floor(number)) + 0.02 * noise(look, plane, 9, 2)
    glaze = tinted(look.hue((0.30, 0.46, 0.56)), shade)
    grout = tinted(look.hue((0.66, 0.64, 0.60)), 1 + 0.06 * noise(look, plane, 40, 1))
    return textured(mix(grout, glaze, tile), 2.0 * tile, 0.04 + 0.4 * tile)


def perforated_sheet(look: Look, plane: Plane) -> Surface:
    """Draw sheet metal with staggered round holes."""
    dense, radius = look.vary(5.0, 0.04), look.vary(0.27, 0.05)
    x, y = plane.u * dense, plane.v * dense * 1.1547
    x = x + 0.5 * (np.floor(y) % 2)
    off = length(x - np.floor(x) - 0.5, (y - np.floor(y) - 0.5) / 1.1547)
    hole = np.clip(0.5 + (radius - off) / (dense * plane.pixel), 0, 1)
    lines = noise(look, plane, 40, 1, (0.03, 1))
    steel = tinted(look.hue((0.58, 0.59, 0.60)), 1 + 0.035 * lines)
    floor = tinted(look.hue((0.10, 0.10, 0.11)), 1 + 0.1 * noise(look, plane, 6, 2))
    edge = np.clip((off - radius) * 12, 0, 1)
    return textured(mix(steel, floor, hole), 1.5 * edge + 0.2 * lines, 0.3 * (1 - hole))


def paperboard(look: Look, plane: Plane) -> Surface:
    """Draw grey board with short fibres in all directions."""
    fibres = sum(
        np.clip(noise(look, rotate(plane, angle), 24, 1, (1, 0.12)) - 1.1, 0, None)
        for angle in (0.2, 1.0, 1.8, 2.6)
    )
    clouds = noise(look, plane, 4, 4)
    shade = 0.97 + 0.03 * clouds - 0.08 * fibres
    return textured(tinted(look.hue((0.68, 0.58, 0.44)), shade), 0.3 * clouds + 0.4 * fibres, 0.02)


def marble(look: Look, plane: Plane) -> Surface:
    """Draw polished marble with soft veins."""
    bend = 0.30 * noise(look, plane, 1.2, 4)
    veins = np.abs(np.sin(4.2 * (plane.u + 0.6 * plane.v) + 4.5 * bend))
    cloud = noise(look, plane, 1.5, 3)
    shade = 0.80 + 0.17 * np.clip(veins * 1.4, 0, 1) ** 0.6 + 0.02 * cloud
    return textured(tinted(look.hue((0.88, 0.87, 0.85)), shade), 0.1 * cloud, 0.2)


def rotate(plane: Plane, angle: float) -> Plane:
    """Rotate a plane by `angle` radians."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return Plane(cosine * plane.u + sine * plane.v, cosine * plane.v - sine * plane.u)
