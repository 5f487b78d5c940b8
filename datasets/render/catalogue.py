"""List the categories that can be rendered, with their defects and roles, and render images.

The demo benchmark has the "seen" and the "unseen" categories. The demo model is trained on the seen
categories and on those with the role "training"; it never gets an image or a name of an unseen one.
"""

import copy
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from datasets.render import defects, objects, random_objects, textures
from datasets.render.surface import Look, Plane, Surface, capture, make_plane

SIZE = 288  # side of an image, in pixels
MIN_DEFECT_AREA = 0.003  # of the image's area; smaller defects are rendered again
SURFACE_DEFECTS = {
    "scratch": defects.scratch,
    "crack": defects.crack,
    "stain": defects.stain,
    "hole": defects.hole,
    "particle": defects.particle,
    "dent": defects.dent,
    "glue": defects.glue,
    "missing_piece": defects.missing_piece,
}


@dataclass(frozen=True)
class Category:
    """How a category is drawn and rotated, and which defects it can have."""

    draw: Callable[..., Surface]
    role: Literal["seen", "unseen", "training"]
    max_rotation: float  # in radians, either way
    defects: tuple[str, ...]
    varied: bool = False  # True: every image shows a different kind of object


FULL_TURN = float(np.pi)
SLIGHT = 0.08
CLOTH = ("hole", "stain", "particle", "bend")
SHEET = ("scratch", "stain", "particle", "dent")
STONE = ("crack", "stain", "glue", "hole")
ALL = ("scratch", "crack", "stain", "hole", "particle", "dent", "glue")

CATEGORIES = {
    "woven_fabric": Category(textures.woven_fabric, "seen", SLIGHT, CLOTH),
    "wood": Category(textures.wood, "seen", SLIGHT, ("scratch", "stain", "hole", "crack")),
    "stone_tile": Category(textures.stone_tile, "seen", FULL_TURN, STONE),
    "hex_nut": Category(
        objects.hex_nut, "seen", FULL_TURN, ("scratch", "stain", "missing_piece", "particle")
    ),
    "bottle_mouth": Category(
        objects.bottle_mouth, "seen", FULL_TURN, ("missing_piece", "particle", "crack", "stain")
    ),
    "circuit_board": Category(
        objects.circuit_board, "seen", SLIGHT, ("missing_part", "scratch", "particle", "glue")
    ),
    "leather": Category(
        textures.leather, "unseen", FULL_TURN, ("scratch", "stain", "hole", "glue")
    ),
    "wire_mesh": Category(
        textures.wire_mesh, "unseen", SLIGHT, ("hole", "particle", "bend", "glue")
    ),
    "brushed_metal": Category(textures.brushed_metal, "unseen", SLIGHT, SHEET),
    "washer": Category(
        objects.washer, "unseen", FULL_TURN, ("scratch", "stain", "missing_piece", "dent")
    ),
    "capsule": Category(objects.capsule, "unseen", SLIGHT, ("crack", "stain", "dent", "scratch")),
    "cable": Category(
        objects.cable, "unseen", FULL_TURN, ("missing_part", "crack", "particle", "bend")
    ),
    "concrete": Category(textures.concrete, "training", FULL_TURN, STONE),
    "corduroy": Category(textures.corduroy, "training", SLIGHT, CLOTH),
    "mosaic": Category(textures.mosaic, "training", SLIGHT, STONE),
    "perforated_sheet": Category(
        textures.perforated_sheet, "training", SLIGHT, (*SHEET, "bend", "glue")
    ),
    "paperboard": Category(
        textures.paperboard,
        "training",
        FULL_TURN,
        ("hole", "stain", "particle", "scratch", "crack"),
    ),
    "marble": Category(textures.marble, "training", FULL_TURN, (*STONE, "scratch", "particle")),
    "gear": Category(
        objects.gear, "training", FULL_TURN, ("missing_piece", "scratch", "stain", "dent")
    ),
    "coin": Category(objects.coin, "training", FULL_TURN, (*SHEET, "missing_piece", "crack")),
    "pill": Category(
        objects.pill, "training", SLIGHT, ("crack", "stain", "missing_piece", "scratch", "dent")
    ),
    "button": Category(
        objects.button, "training", FULL_TURN, ("missing_piece", "crack", "particle", "hole")
    ),
    "biscuit": Category(
        objects.biscuit, "training", SLIGHT, ("missing_piece", "crack", "stain", "particle", "hole")
    ),
    "stamped_part": Category(
        random_objects.stamped_part, "training", FULL_TURN, (*ALL, "missing_piece"), varied=True
    ),
    "moulded_part": Category(
        random_objects.moulded_part, "training", FULL_TURN, (*ALL, "missing_piece"), varied=True
    ),
    "assembly": Category(
        random_objects.assembly,
        "training",
        FULL_TURN,
        (*ALL, "missing_part", "missing_piece"),
        varied=True,
    ),
    "sheet_material": Category(
        random_objects.sheet_material, "training", FULL_TURN, ALL, varied=True
    ),
}


def seeded_generator(*keys: object) -> np.random.Generator:
    """Return a generator that depends on nothing but the keys, by their text."""
    return np.random.default_rng([zlib.crc32(str(key).encode()) for key in keys])


def render(
    category: str, defect: str | None, rng: np.random.Generator, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Render an image (SIZE, SIZE, 3) uint8 RGB and its mask (SIZE, SIZE) bool.

    `defect` is one of the category's, or None for a good image; `spread` as in `Look`. Repeat until
    the defect covers `MIN_DEFECT_AREA`.
    """
    look = Look(rng, spread)
    while True:
        surface, mask = draw(CATEGORIES[category], defect, look)
        if defect is None or mask.mean() >= MIN_DEFECT_AREA:
            return capture(surface, look), mask


def draw(category: Category, defect: str | None, look: Look) -> tuple[Surface, np.ndarray]:
    """Draw an object or texture; return its surface and the mask (SIZE, SIZE) of the defect."""
    rotation, shift = (
        category.max_rotation * look.rng.uniform(-1, 1),
        0.03 * look.rng.uniform(-1, 1, 2),
    )
    plane = make_plane(SIZE, rotation, look.vary(1.0, 0.015), tuple(shift))
    if defect == "bend":
        return draw_bent(category, look, plane)
    if defect == "missing_part":
        omit = look.rng.spawn(1)[0].random()  # a stream of its own leaves the rest unchanged
        surface = category.draw(look, plane, omit)
        return surface, surface.omitted > defects.MASK_THRESHOLD
    surface = category.draw(look, plane)
    coverage = SURFACE_DEFECTS[defect](look, plane, surface) if defect else np.zeros_like(plane.u)
    return surface, coverage > defects.MASK_THRESHOLD


def draw_bent(category: Category, look: Look, plane: Plane) -> tuple[Surface, np.ndarray]:
    """Draw a locally bent object; the mask is where the straight or the bent one has moved."""
    same_look = copy.deepcopy(look)  # so that both draw the same object
    straight = category.draw(look, plane)
    plane, moved = defects.bend(look, plane, defects.random_pixel(look, straight.foreground, 0.1))
    surface = category.draw(same_look, plane)
    return surface, moved & (
        np.maximum(straight.foreground, surface.foreground) > defects.MASK_THRESHOLD
    )
