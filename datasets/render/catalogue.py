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
    """A category: the function that draws it, its rotation, and the defects it can have."""

    draw: Callable[..., Surface]
    role: Literal["seen", "unseen", "training"]
    max_rotation: float  # in radians, either way
    defects: tuple[str, ...]

    @property
    def varied(self) -> bool:
        """Return whether every image shows a different kind of object."""
        return self.draw.__module__ == random_objects.__name__


FULL_TURN, SLIGHT = float(np.pi), 0.08  # radians
CLOTH, SHEET = "hole stain particle bend", "scratch stain particle dent"
STONE, ALL = "crack stain glue hole", "scratch crack stain hole particle dent glue"
ROWS = (
    (textures.woven_fabric, "seen", SLIGHT, CLOTH),
    (textures.wood, "seen", SLIGHT, "scratch stain hole crack"),
    (textures.stone_tile, "seen", FULL_TURN, STONE),
    (objects.hex_nut, "seen", FULL_TURN, "scratch stain missing_piece particle"),
    (objects.bottle_mouth, "seen", FULL_TURN, "missing_piece particle crack stain"),
    (objects.circuit_board, "seen", SLIGHT, "missing_part scratch particle glue"),
    (textures.leather, "unseen", FULL_TURN, "scratch stain hole glue"),
    (textures.wire_mesh, "unseen", SLIGHT, "hole particle bend glue"),
    (textures.brushed_metal, "unseen", SLIGHT, SHEET),
    (objects.washer, "unseen", FULL_TURN, "scratch stain missing_piece dent"),
    (objects.capsule, "unseen", SLIGHT, "crack stain dent scratch"),
    (objects.cable, "unseen", FULL_TURN, "missing_part crack particle bend"),
    (textures.concrete, "training", FULL_TURN, STONE),
    (textures.corduroy, "training", SLIGHT, CLOTH),
    (textures.mosaic, "training", SLIGHT, STONE),
    (textures.perforated_sheet, "training", SLIGHT, f"{SHEET} bend glue"),
    (textures.paperboard, "training", FULL_TURN, "hole stain particle scratch crack"),
    (textures.marble, "training", FULL_TURN, f"{STONE} scratch particle"),
    (objects.gear, "training", FULL_TURN, "missing_piece scratch stain dent"),
    (objects.coin, "training", FULL_TURN, f"{SHEET} missing_piece crack"),
    (objects.pill, "training", SLIGHT, "crack stain missing_piece scratch dent"),
    (objects.button, "training", FULL_TURN, "missing_piece crack particle hole"),
    (objects.biscuit, "training", SLIGHT, "missing_piece crack stain particle hole"),
    (random_objects.stamped_part, "training", FULL_TURN, f"{ALL} missing_piece"),
    (random_objects.moulded_part, "training", FULL_TURN, f"{ALL} missing_piece"),
    (random_objects.assembly, "training", FULL_TURN, f"{ALL} missing_part missing_piece"),
    (random_objects.sheet_material, "training", FULL_TURN, ALL),
)
CATEGORIES = {
    draw.__name__: Category(draw, role, rotation, tuple(kinds.split()))
    for draw, role, rotation, kinds in ROWS
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
