"""Draw objects with an outline on a background; some can omit one of their components."""

import copy
import math
from dataclasses import dataclass

import numpy as np

from datasets.render.shapes import box, circle, hexagon, inside, length
from datasets.render.surface import Look, Plane, Surface, background, cells, mix, noise


def metal(look: Look, plane: Plane, base: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Return the colours (3, H, W) and the relief (H, W) of turned or stamped metal."""
    fine = noise(look, plane, 60, 1)
    shade = 1 + 0.025 * fine + 0.05 * noise(look, plane, 1.2, 3)
    return np.clip(look.hue(base, 0.03) * shade, 0, 1), 0.04 * fine


@dataclass(frozen=True)
class Body:
    """The look of a body: its top is flat but for the relief and a bevel along its outline."""

    colour: np.ndarray | tuple
    rise: float  # in pixels above the background
    bevel: float = 0.05
    gloss: float = 0.1
    relief: np.ndarray | float = 0


def add(surface: Surface, plane: Plane, distance: np.ndarray, body: Body) -> None:
    """Add a body whose outline is given by its signed distance (H, W)."""
    alpha = inside(distance, plane)
    surface.paint(body.colour, alpha)
    surface.shine(body.gloss, alpha)
    ramp = np.clip(-distance / body.bevel, 0, 1)
    top = surface.height + body.rise * np.sqrt(np.clip(1 - (1 - ramp) ** 2, 0, 1)) + body.relief
    surface.height = surface.height * (1 - alpha) + top * alpha
    surface.foreground = np.maximum(surface.foreground, alpha)


def cut_hole(surface: Surface, plane: Plane, distance: np.ndarray, floor: Surface) -> None:
    """Cut a hole through the object, so that its background `floor` shows."""
    alpha = inside(distance, plane)
    surface.paint(floor.colour, alpha)
    surface.shine(0.02, alpha)
    surface.height = surface.height * (1 - alpha)
    surface.foreground = surface.foreground * (1 - alpha)


def hex_nut(look: Look, plane: Plane) -> Surface:
    """Draw a steel hexagon nut, seen from above."""
    surface, floor = (
        background(look, plane, (0.22, 0.23, 0.25)),
        background(look, plane, (0.2, 0.2, 0.22)),
    )
    colour, fine = metal(look, plane, (0.62, 0.62, 0.64))
    outer, hole = look.vary(0.64, 0.015), look.vary(0.33, 0.015)
    add(surface, plane, hexagon(plane, outer), Body(colour, 7, 0.07, 0.35, fine))
    ring = np.abs(circle(plane, (outer + hole) / 2 + 0.06)) - 0.008
    surface.height = surface.height - 1.5 * inside(ring, plane, 3)
    far = circle(plane, hole)
    surface.height = surface.height - 6 * np.clip(1 - far / 0.07, 0, 1) * (far > 0)
    cut_hole(surface, plane, far, floor)
    thread = np.abs(far + 0.03) - 0.012
    surface.paint((0.32, 0.32, 0.33), 0.8 * inside(thread, plane, 2))
    return surface


def washer(look: Look, plane: Plane) -> Surface:
    """Draw a flat ring of zinc-plated steel."""
    base = (0.30, 0.31, 0.33)
    surface, floor = background(look, plane, base), background(look, plane, base)
    colour, fine = metal(look, plane, (0.66, 0.66, 0.64))
    add(surface, plane, circle(plane, look.vary(0.70, 0.015)), Body(colour, 4, 0.05, 0.3, fine))
    hole = circle(plane, look.vary(0.36, 0.02))
    surface.height = surface.height - 2 * np.clip(1 - hole / 0.05, 0, 1) * (hole > 0)
    cut_hole(surface, plane, hole, floor)
    return surface


def gear(look: Look, plane: Plane) -> Surface:
    """Draw a spur gear with a bore."""
    base = (0.42, 0.42, 0.44)
    surface, floor = background(look, plane, base), background(look, plane, base)
    colour, fine = metal(look, plane, (0.56, 0.50, 0.36))
    angle = np.arctan2(plane.v, plane.u)
    teeth = np.clip(2.5 * np.cos(16 * angle), -1, 1)
    body = circle(plane, look.vary(0.66, 0.01)) - 0.055 * teeth
    add(surface, plane, body, Body(colour, 6, 0.04, 0.25, fine))
    surface.height = surface.height - 2.5 * inside(np.abs(circle(plane, 0.40)) - 0.11, plane, 6)
    cut_hole(surface, plane, circle(plane, look.vary(0.18, 0.02)), floor)
    return surface


def coin(look: Look, plane: Plane) -> Surface:
    """Draw a coin with a rim, a ring of dots and a star."""
    surface = background(look, plane, (0.16, 0.22, 0.30))
    colour, fine = metal(look, plane, (0.66, 0.50, 0.34))
    add(surface, plane, circle(plane, look.vary(0.72, 0.01)), Body(colour, 4, 0.03, 0.3, fine))
    surface.height = (
        surface.height + 2.5 * inside(-circle(plane, 0.65), plane, 4) * surface.foreground
    )
    angle, radius = np.arctan2(plane.v, plane.u), length(plane.u, plane.v)
    star = radius - 0.32 - 0.09 * np.cos(5 * angle)
    surface.height = surface.height + 2.5 * inside(star, plane, 5)
    dots = length(radius - 0.54, 0.54 * (np.mod(angle, np.pi / 14) - np.pi / 28)) - 0.022
    surface.height = surface.height + 1.8 * inside(dots, plane, 3)
    return surface


def bottle_mouth(look: Look, plane: Plane) -> Surface:
    """Draw a glass bottle from above, lit from below: bright ring, dark walls."""
    surface = background(look, plane, (0.88, 0.88, 0.86), 0.008)
    radius = length(plane.u, plane.v)
    wall = look.hue((0.20, 0.10, 0.05), 0.06)
    add(surface, plane, circle(plane, look.vary(0.80, 0.01)), Body(wall, 2, 0.1, 0.3))
    glow = 1 + 0.25 * noise(look, plane, 2.5, 1)
    for middle, width, share in ((0.66, 0.05, 0.55), (0.52, 0.02, 0.35), (0.735, 0.015, 0.3)):
        ring = np.exp(-(((radius - look.vary(middle, 0.01)) / width) ** 2))
        surface.paint((0.80, 0.52, 0.28), np.clip(share * ring * glow, 0, 1))
    neck = inside(circle(plane, look.vary(0.45, 0.01)), plane, 4)
    surface.paint((0.055, 0.045, 0.04), neck)
    surface.shine(0.02, neck)
    bottom = np.exp(-(((radius - 0.25) / 0.09) ** 2))
    surface.paint((0.17, 0.10, 0.06), 0.6 * bottom)
    return surface


def capsule(look: Look, plane: Plane) -> Surface:
    """Draw a two-coloured hard capsule, lying flat."""
    surface = background(look, plane, (0.86, 0.86, 0.85), 0.008)
    half, long = look.vary(0.27, 0.015), look.vary(0.76, 0.015)
    body = box(plane, (long, half), half)
    left, right = look.hue((0.12, 0.13, 0.14)), look.hue((0.80, 0.36, 0.12))
    seam = inside(plane.u - look.vary(0.10, 0.15) + 0.06, plane, 2)
    add(surface, plane, body, Body(mix(right, left, seam), 16, half, 0.45))
    step = inside(np.abs(plane.u - 0.05) - 0.012, plane, 3) * surface.foreground
    surface.height = surface.height - 0.9 * step
    return surface


def pill(look: Look, plane: Plane) -> Surface:
    """Draw a pressed tablet with a score line and coloured grains."""
    surface = background(look, plane, (0.12, 0.13, 0.14))
    grains = cells(look, plane, look.vary(16, 0.05))
    chalk = noise(look, plane, 30, 2)
    colour = look.hue((0.86, 0.84, 0.79)) * (1 + 0.02 * chalk)
    spots = inside(grains[0] - 0.28 * grains[2], plane, 8) * (grains[2] > 0.6)
    colour = mix(colour, look.hue((0.72, 0.42, 0.34)), 0.55 * spots)
    body = box(plane, (look.vary(0.66, 0.015), look.vary(0.5, 0.015)), 0.48)
    add(surface, plane, body, Body(colour, 8, 0.16, 0.08, 0.2 * chalk))
    surface.height = (
        surface.height - 3 * inside(np.abs(plane.u) - 0.012, plane, 5) * surface.foreground
    )
    return surface


def button(look: Look, plane: Plane) -> Surface:
    """Draw a shirt button with four holes."""
    base = (0.40, 0.20, 0.20)
    surface, floor = background(look, plane, base), background(look, plane, base)
    swirl = noise(look, plane, 2.0, 3, (1, 0.5))
    colour = look.hue((0.76, 0.74, 0.68)) * (1 + 0.05 * swirl)
    disc = circle(plane, look.vary(0.68, 0.015))
    add(surface, plane, disc, Body(np.clip(colour, 0, 1), 6, 0.08, 0.4))
    surface.height = surface.height - 3 * inside(circle(plane, 0.46), plane, 8)
    for x in (-0.14, 0.14):
        for y in (-0.14, 0.14):
            cut_hole(surface, plane, circle(plane, 0.075, (x, y)), floor)
    return surface


def biscuit(look: Look, plane: Plane) -> Surface:
    """Draw a baked biscuit with pricked dots."""
    surface = background(look, plane, (0.70, 0.72, 0.74))
    crumb = noise(look, plane, 14, 4)
    base = look.hue((0.74, 0.52, 0.28))
    brown = np.clip(length(plane.u, plane.v) ** 3 * 0.7 + 0.06 * crumb, 0, 1)
    colour = base * ((1 - 0.45 * brown) * (1 + 0.04 * crumb))
    half = look.vary(0.66, 0.015)
    edge = box(plane, (half, half * 0.8), 0.1) + 0.012 * np.cos(38 * np.maximum(plane.u, plane.v))
    add(surface, plane, edge, Body(np.clip(colour, 0, 1), 6, 0.08, 0.03, 0.5 * crumb))
    for x in np.linspace(-0.42, 0.42, 4):
        for y in np.linspace(-0.3, 0.3, 3):
            dot = inside(circle(plane, 0.028, (x, y)), plane, 3)
            surface.paint((0.36, 0.22, 0.12), 0.8 * dot)
            surface.height = surface.height - 3 * dot
    return surface


def omitted_index(omit: float | None, count: int) -> int:
    """Map `omit` in [0, 1) to the index of one of `count` components; None to -1, for no omission.

    The random numbers of an omitted component are drawn all the same, so that the rest of the
    object does not change.
    """
    return -1 if omit is None else int(omit * count)


def cable(look: Look, plane: Plane, omit: float | None = None) -> Surface:
    """Draw the cut end of a cable: sheath, three insulated cores, copper strands."""
    surface = background(look, plane, (0.52, 0.54, 0.55))
    sheath = circle(plane, look.vary(0.82, 0.01))
    add(surface, plane, sheath, Body(look.hue((0.20, 0.20, 0.21)), 5, 0.06, 0.1))
    filler = inside(circle(plane, 0.70), plane, 3)
    surface.paint(look.hue((0.62, 0.61, 0.58)), filler)
    surface.height = surface.height - 1.5 * filler
    hues = ((0.22, 0.48, 0.28), (0.20, 0.36, 0.62), (0.45, 0.26, 0.16))
    omitted = omitted_index(omit, len(hues))
    for index, hue in enumerate(hues):
        angle = 2 * math.pi * index / 3 - math.pi / 2 + 0.03 * look.rng.normal()
        centre = 0.37 * math.cos(angle), 0.37 * math.sin(angle)
        core, empty = circle(plane, 0.30, centre), copy.copy(surface)
        add(surface, plane, core, Body(look.hue(hue), 3, 0.05, 0.15))
        add(surface, plane, circle(plane, 0.205, centre), Body((0.30, 0.17, 0.09), 0, 0.05, 0.05))
        strands(look, plane, surface, centre)
        if index == omitted:
            surface = empty
            surface.omitted = inside(core, plane, 4)
            surface.paint((0.10, 0.10, 0.10), surface.omitted)
            surface.height = surface.height - 3 * inside(core, plane, 6)
    return surface


def strands(look: Look, plane: Plane, surface: Surface, centre: tuple) -> None:
    """Draw nineteen copper wires in one core of a cable."""
    turn = look.angle()
    nearest, number = np.full_like(plane.u, 9.0), np.zeros(plane.u.shape, np.intp)
    coppers = np.hstack([look.hue((0.80, 0.48, 0.28), 0.03) for _ in range(19)])[..., 0]
    for ring, first, count in ((0, 0, 1), (0.078, 1, 6), (0.150, 7, 12)):
        for index in range(count):
            angle = turn + 2 * math.pi * index / count
            x, y = centre[0] + ring * math.cos(angle), centre[1] + ring * math.sin(angle)
            distance = circle(plane, 0.040, (x, y))
            number[distance < nearest] = first + index
            nearest = np.minimum(nearest, distance)
    add(surface, plane, nearest, Body(coppers[:, number], 2, 0.03, 0.35))


def circuit_board(look: Look, plane: Plane, omit: float | None = None) -> Surface:
    """Draw a small circuit board with traces, chips, resistors and pads."""
    surface = background(look, plane, (0.80, 0.80, 0.79), 0.008)
    green = look.hue((0.07, 0.30, 0.17))
    add(surface, plane, box(plane, (0.84, 0.66), 0.05), Body(green, 3, 0.02, 0.15))
    traces = np.full_like(plane.u, 9.0)
    for y in np.linspace(-0.5, 0.5, 9, dtype=np.float32):
        bend = np.where(plane.u > 0.1, y * 0.7, y) + np.clip(np.abs(plane.u) - 0.3, 0, 0.2) * 0.2
        traces = np.minimum(traces, np.abs(plane.v - bend) - 0.012)
    surface.paint(green * 1.6 + 0.03, 0.8 * inside(traces, plane) * (np.abs(plane.u) < 0.76))
    corners = Plane(np.abs(plane.u), np.abs(plane.v))
    for radius, colour in ((0.06, (0.72, 0.62, 0.36)), (0.03, (0.75, 0.75, 0.74))):
        add(surface, plane, circle(corners, radius, (0.74, 0.56)), Body(colour, 0.5, 0.02, 0.4))
    pads = [pins_of(plane, *component) for component in COMPONENTS]
    bodies = [box(plane, core(half), 0.005, centre) for centre, half in COMPONENTS]
    omitted = omitted_index(omit, len(COMPONENTS))
    if omitted >= 0:
        bare = pads.pop(omitted)
        surface.omitted = inside(np.minimum(bare, bodies.pop(omitted)), plane)
        add(surface, plane, bare, Body((0.70, 0.64, 0.45), 0.5, 0.02, 0.4))
    add(surface, plane, np.minimum.reduce(pads), Body((0.74, 0.74, 0.75), 0.5, 0.02, 0.4))
    add(
        surface, plane, np.minimum.reduce(bodies), Body(look.hue((0.10, 0.10, 0.11)), 3, 0.03, 0.15)
    )
    return surface


# Centre and half sides of the components of the board.
COMPONENTS = [((-0.42, -0.24), (0.2, 0.2)), ((0.38, 0.22), (0.24, 0.15))]
COMPONENTS += [((x, 0.38), (0.045, 0.09)) for x in (-0.62, -0.42, -0.22)]
COMPONENTS += [((x, -0.42), (0.045, 0.09)) for x in (0.1, 0.28, 0.46, 0.64)]
COMPONENTS += [((-0.05, 0.02), (0.09, 0.045)), ((0.62, -0.12), (0.09, 0.045))]


def is_chip(half: tuple) -> bool:
    """Return whether a component is a chip with pins; else it is a resistor with two caps."""
    return min(half) > 0.1


def core(half: tuple) -> tuple:
    """Return the half sides of the dark body: all of a chip, the middle of a resistor."""
    if is_chip(half):
        return half
    return (half[0], half[1] * 0.68) if half[1] > half[0] else (half[0] * 0.68, half[1])


def pins_of(plane: Plane, centre: tuple, half: tuple) -> np.ndarray:
    """Return the signed distance to the soldered pins or caps of a component."""
    if not is_chip(half):
        return box(plane, half, 0.01, centre) - 0.005
    step = 0.32 * half[0]  # six pins on each side
    off = plane.u - centre[0]
    row = np.clip(np.round(off / step - 0.5), -3, 2) + 0.5
    comb = Plane(off - row * step, np.abs(plane.v - centre[1]) - half[1] - 0.015)
    return box(comb, (0.014, 0.03), 0.005)
