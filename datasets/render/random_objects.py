"""Draw random objects and materials, for training only: each has another shape and surface.

They share what manufactured objects share: clean outlines, repeated features, even surfaces. A
model trained on many of them learns to detect what breaks this regularity in any object.
"""

import math

import numpy as np

from datasets.render.objects import Body, add, cut_hole, omitted_index
from datasets.render.shapes import box, circle, inside, length, polygon, square
from datasets.render.surface import Look, Plane, Surface, as_colour, background, cells, mix, noise
from datasets.render.textures import rotate, textured, tinted


def any_colour(look: Look, away_from: float | None = None) -> np.ndarray:
    """Draw a mostly muted colour whose brightness differs by 0.2 or more from `away_from`."""
    while True:
        level = look.rng.uniform(0.08, 0.88)
        if away_from is None or abs(level - away_from) > 0.2:
            tint = look.rng.normal(0, look.rng.choice((0.03, 0.12, 0.35)), 3)
            return as_colour(np.clip(level * np.exp(tint - tint.mean()), 0.03, 0.95))


def pattern(look: Look, plane: Plane) -> np.ndarray:
    """Draw a pattern (H, W) in [0, 1]: ribs, checks, dots, grains or clouds."""
    rng = look.rng
    sway = rng.uniform(0, 0.03)
    rotated = rotate(plane, rng.uniform(0, np.pi))
    dense = rng.uniform(4, 16)
    x = (rotated.u + sway * noise(look, plane, 2.5)) * dense
    y = (rotated.v + sway * noise(look, plane, 2.5)) * dense * rng.uniform(0.6, 1.4)
    kind = rng.integers(6)
    if kind == 0:
        return np.abs(np.sin(np.pi * x)) ** rng.uniform(0.4, 2)
    if kind == 1:
        return np.abs(np.sin(np.pi * x) * np.sin(np.pi * y)) ** rng.uniform(0.4, 1.5)
    if kind == 2:
        return np.clip(4 * (length(np.mod(x, 1) - 0.5, np.mod(y, 1) - 0.5) - 0.25), 0, 1)
    if kind == 3:
        return np.clip(rng.uniform(1, 4) * cells(look, plane, dense)[1], 0, 1)
    if kind == 4:
        return cells(look, plane, dense)[2]
    stretch = (rng.uniform(0.03, 1), 1)
    return np.clip(0.5 + 0.25 * noise(look, rotated, 2 * dense, rng.integers(1, 4), stretch), 0, 1)


def finish(look: Look, plane: Plane, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw one material: its colours (3, H, W) and its relief (H, W)."""
    rng = look.rng
    rotated = rotate(plane, rng.uniform(0, np.pi))
    kind = rng.integers(6)
    if kind == 0:  # smooth: paint, glass, plastic
        grain = 0.2 * noise(look, plane, 1.5, 2)
    elif kind == 1:  # brushed or fibrous
        grain = noise(look, rotated, rng.uniform(20, 45), 1, (rng.uniform(0.02, 0.3), 1))
    elif kind == 2:  # cast, sanded
        grain = noise(look, plane, rng.uniform(20, 60), 2)
    elif kind == 3:  # cloudy
        grain = noise(look, plane, rng.uniform(1, 6), 4)
    elif kind == 4:  # grained
        _, margin, number = cells(look, plane, rng.uniform(8, 26))
        grain = rng.uniform(0, 2) * np.clip(2 * margin, 0, 1) + rng.uniform(0.3, 2) * (number - 0.5)
    else:  # printed or woven: strands, dots, checks
        grain = rng.uniform(1, 5) * (pattern(look, plane) - 0.5)
    shade = 1 + rng.uniform(0.01, 0.09) * grain
    return tinted(base, shade), rng.uniform(0, 0.5) * grain


def outline(look: Look, plane: Plane, size: float) -> np.ndarray:
    """Draw a closed shape of about `size`, never a disc; return the signed distance to it."""
    rng = look.rng
    kind = rng.integers(4)
    if kind == 0:
        half = size, size * rng.uniform(0.45, 1.0)
        return box(plane, half, rng.uniform(0.02, 0.7) * half[1])
    if kind == 1:
        return polygon(plane, size * 0.9, int(rng.integers(3, 9)))
    if kind == 2:
        waves = np.cos(int(rng.integers(2, 14)) * np.arctan2(plane.v, plane.u))
        return circle(plane, size * 0.88) - size * rng.uniform(0.03, 0.13) * waves
    arm = rng.uniform(0.25, 0.5) * size  # a cross, a T or an L
    end = size * (0.5 if rng.random() < 0.5 else 0.0)
    across = box(plane, (size, arm), 0.05, (0, rng.choice((-1, 0, 1)) * (size - arm)))
    along = box(plane, (arm, size), 0.05, (rng.choice((-1, 0, 1)) * end, 0))
    return np.minimum(across, along)


def openings(look: Look, plane: Plane) -> np.ndarray:
    """Draw one hole, a ring of holes or a grid of holes; return the signed distance to them."""
    rng = look.rng
    kind = rng.integers(3)
    if kind == 0:
        return outline(look, rotate(plane, rng.uniform(0, 2)), rng.uniform(0.12, 0.3))
    if kind == 1:
        count, reach = int(rng.integers(3, 9)), rng.uniform(0.25, 0.45)
        sector = 2 * math.pi / count
        angle = np.mod(np.arctan2(plane.v, plane.u), sector) - sector / 2
        radius = length(plane.u, plane.v)
        round_ = Plane(radius * np.cos(angle), radius * np.sin(angle))
        return circle(round_, rng.uniform(0.03, 0.09), (reach, 0))
    step = rng.uniform(0.14, 0.3)
    folded = Plane(*(np.abs(np.mod(axis, step) - step / 2) for axis in (plane.u, plane.v)))
    dots = circle(folded, step * rng.uniform(0.15, 0.32))
    return np.maximum(dots, np.maximum(np.abs(plane.u), np.abs(plane.v)) - 2 * step)


def stamped_part(look: Look, plane: Plane) -> Surface:
    """Draw a flat object of random outline, with holes, grooves and inlays."""
    rng = look.rng
    level = rng.uniform(0.1, 0.9)
    base = any_colour(look, away_from=level)
    rough = rng.uniform(0.005, 0.04)
    surface, floor = (background(look, plane, (level,) * 3, rough) for _ in range(2))
    body = outline(look, plane, rng.uniform(0.5, 0.78))
    colour, relief = finish(look, plane, base)
    bevel, gloss = rng.uniform(0.02, 0.12), rng.uniform(0.02, 0.45)
    add(surface, plane, body, Body(colour, rng.uniform(2, 8), bevel, gloss, relief))
    for _ in range(rng.integers(0, 3)):
        line = np.abs(body + rng.uniform(0.06, 0.25)) - rng.uniform(0.006, 0.03)
        groove = inside(line, plane, 3) * surface.foreground
        surface.height = surface.height + rng.uniform(-2.5, 2.5) * groove
    if rng.random() < 0.4:
        inlay = outline(look, plane, rng.uniform(0.15, 0.4))
        surface.paint(
            finish(look, plane, any_colour(look))[0], inside(inlay, plane, 2) * surface.foreground
        )
    if rng.random() < 0.6:
        cut_hole(surface, plane, openings(look, plane), floor)
    return surface


def moulded_part(look: Look, plane: Plane) -> Surface:
    """Draw a body with a rounded surface, of one or two colours."""
    rng = look.rng
    level = rng.uniform(0.1, 0.9)
    surface = background(look, plane, (level,) * 3, rng.uniform(0.005, 0.03))
    colour, relief = finish(look, plane, any_colour(look, away_from=level))
    if rng.random() < 0.5:
        other = any_colour(look, away_from=level)
        where = inside(rotate(plane, rng.uniform(0, np.pi)).u - rng.uniform(-0.3, 0.3), plane, 2)
        colour = mix(colour, other, where)
    body = outline(look, plane, rng.uniform(0.45, 0.75))
    bevel, rise, gloss = rng.uniform(0.1, 0.4), rng.uniform(6, 16), rng.uniform(0.05, 0.5)
    add(surface, plane, body, Body(colour, rise, bevel, gloss, relief))
    for _ in range(rng.integers(0, 3)):
        seam = np.abs(rotate(plane, rng.uniform(0, np.pi)).u - rng.uniform(-0.3, 0.3)) - 0.01
        surface.height = surface.height - inside(seam, plane, 3) * surface.foreground
    return surface


def assembly(look: Look, plane: Plane, omit: float | None = None) -> Surface:
    """Draw components in a ring or in rows on a carrier."""
    rng = look.rng
    level = rng.uniform(0.1, 0.9)
    surface = background(look, plane, (level,) * 3, 0.01)
    carrier = any_colour(look, away_from=level)
    body = circle(plane, 0.8) if rng.random() < 0.5 else box(plane, (0.8, 0.72), 0.08)
    add(
        surface, plane, body, Body(finish(look, plane, carrier)[0], 3, 0.05, rng.uniform(0.02, 0.3))
    )
    if rng.random() < 0.5:
        count = rng.integers(3, 8)
        angles = 2 * np.pi * np.arange(count) / count + rng.uniform(0, 2)
        centres = 0.46 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        size = 0.46 * math.sin(math.pi / count) * rng.uniform(0.55, 0.9)
    else:
        line = np.linspace(-0.45, 0.45, rng.integers(2, 5))
        centres = np.array([(x, y) for x in line for y in line])
        size = float(line[1] - line[0]) / 2 * rng.uniform(0.5, 0.8)
    omitted = omitted_index(omit, len(centres))
    kinds = [(any_colour(look, float(carrier.mean())), rng.random() < 0.5) for _ in range(2)]
    repeat, core = rng.integers(1, 3), rng.uniform(0.3, 0.7) if rng.random() < 0.6 else 0
    rise, gloss = rng.uniform(1, 8), rng.uniform(0.05, 0.4)
    inner, relief = finish(look, plane, any_colour(look))
    for index, centre in enumerate(centres):
        colour, is_round = kinds[index % repeat]
        colour, shape = look.hue(colour), circle if is_round else square
        piece = shape(plane, size, tuple(centre))
        if index == omitted:
            surface.omitted = inside(piece, plane, 3)
            surface.paint(carrier * 0.5, surface.omitted * surface.foreground)
            continue
        add(surface, plane, piece, Body(colour, rise, 0.4 * size, gloss))
        if core:
            piece = shape(plane, core * size, tuple(centre))
            add(surface, plane, piece, Body(inner, 0.5, 0.02, gloss, relief))
    return surface


def sheet_material(look: Look, plane: Plane) -> Surface:
    """Draw a surface of two blended patterns."""
    rng = look.rng
    first, second = pattern(look, plane), pattern(look, plane)
    share = rng.uniform(0, 0.5) if rng.random() < 0.6 else 0.0
    mixed = first * (1 - share) + second * share
    dark, light = any_colour(look), any_colour(look)
    light = dark + (light - dark) * rng.uniform(0.15, 0.8)
    fine = noise(look, plane, rng.uniform(20, 50), 1)
    colour = tinted(mix(dark, light, mixed), 1 + rng.uniform(0, 0.06) * fine)
    relief = rng.uniform(0, 3.5) * mixed + 0.2 * fine
    return textured(colour, relief, rng.uniform(0.02, 0.3))
