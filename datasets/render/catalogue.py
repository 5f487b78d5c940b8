"""The products that can be rendered, the defects of each, and their roles; `render` makes one.

"seen" and "unseen" products are the demo benchmark. The demo model is trained on the seen ones and
on those for "training" only; of the unseen ones it never gets a picture or a name.
"""

import copy
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from datasets.render import defects, objects, random_make, textures
from datasets.render.surface import Look, Plane, Surface, make_plane, photograph

SIZE = 288  # pixels of a picture's side
LEAST = 0.003  # share of the picture that a defect covers at least
SURFACE = {
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
class Product:
    """A product: how it is drawn, how it lies, and what can go wrong with it."""

    draw: Callable[..., Surface]
    role: Literal["seen", "unseen", "training"]
    turn: float  # at most so many radians from upright
    defects: tuple[str, ...]
    varied: bool = False  # whether every picture shows another product


FULL_TURN = float(np.pi)
SLIGHT = 0.08
CLOTH = ("hole", "stain", "particle", "bend")
SHEET = ("scratch", "stain", "particle", "dent")
STONE = ("crack", "stain", "glue", "hole")
ALL = ("scratch", "crack", "stain", "hole", "particle", "dent", "glue")

PRODUCTS = {
    "woven_fabric": Product(textures.woven_fabric, "seen", SLIGHT, CLOTH),
    "wood": Product(textures.wood, "seen", SLIGHT, ("scratch", "stain", "hole", "crack")),
    "stone_tile": Product(textures.stone_tile, "seen", FULL_TURN, STONE),
    "hex_nut": Product(
        objects.hex_nut, "seen", FULL_TURN, ("scratch", "stain", "missing_piece", "particle")
    ),
    "bottle_mouth": Product(
        objects.bottle_mouth, "seen", FULL_TURN, ("missing_piece", "particle", "crack", "stain")
    ),
    "circuit_board": Product(
        objects.circuit_board, "seen", SLIGHT, ("missing_part", "scratch", "particle", "glue")
    ),
    "leather": Product(textures.leather, "unseen", FULL_TURN, ("scratch", "stain", "hole", "glue")),
    "wire_mesh": Product(
        textures.wire_mesh, "unseen", SLIGHT, ("hole", "particle", "bend", "glue")
    ),
    "brushed_metal": Product(textures.brushed_metal, "unseen", SLIGHT, SHEET),
    "washer": Product(
        objects.washer, "unseen", FULL_TURN, ("scratch", "stain", "missing_piece", "dent")
    ),
    "capsule": Product(objects.capsule, "unseen", SLIGHT, ("crack", "stain", "dent", "scratch")),
    "cable": Product(
        objects.cable, "unseen", FULL_TURN, ("missing_part", "crack", "particle", "bend")
    ),
    "concrete": Product(textures.concrete, "training", FULL_TURN, STONE),
    "corduroy": Product(textures.corduroy, "training", SLIGHT, CLOTH),
    "mosaic": Product(textures.mosaic, "training", SLIGHT, STONE),
    "perforated_sheet": Product(
        textures.perforated_sheet, "training", SLIGHT, (*SHEET, "bend", "glue")
    ),
    "paperboard": Product(
        textures.paperboard,
        "training",
        FULL_TURN,
        ("hole", "stain", "particle", "scratch", "crack"),
    ),
    "marble": Product(textures.marble, "training", FULL_TURN, (*STONE, "scratch", "particle")),
    "gear": Product(
        objects.gear, "training", FULL_TURN, ("missing_piece", "scratch", "stain", "dent")
    ),
    "coin": Product(objects.coin, "training", FULL_TURN, (*SHEET, "missing_piece", "crack")),
    "pill": Product(
        objects.pill, "training", SLIGHT, ("crack", "stain", "missing_piece", "scratch", "dent")
    ),
    "button": Product(
        objects.button, "training", FULL_TURN, ("missing_piece", "crack", "particle", "hole")
    ),
    "biscuit": Product(
        objects.biscuit, "training", SLIGHT, ("missing_piece", "crack", "stain", "particle", "hole")
    ),
    "stamped_part": Product(
        random_make.stamped_part, "training", FULL_TURN, (*ALL, "missing_piece"), varied=True
    ),
    "moulded_part": Product(
        random_make.moulded_part, "training", FULL_TURN, (*ALL, "missing_piece"), varied=True
    ),
    "assembly": Product(
        random_make.assembly,
        "training",
        FULL_TURN,
        (*ALL, "missing_part", "missing_piece"),
        varied=True,
    ),
    "sheet_material": Product(random_make.sheet_material, "training", FULL_TURN, ALL, varied=True),
}


def generator_of(*what: object) -> np.random.Generator:
    """A generator that depends on nothing but `what`."""
    return np.random.default_rng([zlib.crc32(str(one).encode()) for one in what])


def render(
    product: str, defect: str | None, rng: np.random.Generator, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """One picture (SIZE, SIZE, 3) uint8 RGB and its mask (SIZE, SIZE) bool.

    `defect` is one of the product's, or None for a good piece; `spread` as in `Look`. A defect
    that came out too small to see is thrown away and drawn again.
    """
    look = Look(rng, spread)
    while True:
        surface, mask = draw(PRODUCTS[product], defect, look)
        if defect is None or mask.mean() >= LEAST:
            return photograph(surface, look), mask


def draw(kind: Product, defect: str | None, look: Look) -> tuple[Surface, np.ndarray]:
    """A piece and the mask of its defect."""
    turn, shift = kind.turn * look.rng.uniform(-1, 1), 0.03 * look.rng.uniform(-1, 1, 2)
    plane = make_plane(SIZE, turn, look.vary(1.0, 0.015), tuple(shift))
    if defect == "bend":
        return bent(kind, look, plane)
    if defect == "missing_part":
        lose = look.rng.spawn(1)[0].random()  # its own stream: the piece stays
        surface = kind.draw(look, plane, lose)
        return surface, surface.lost > defects.COVERED
    surface = kind.draw(look, plane)
    covered = SURFACE[defect](look, plane, surface) if defect else np.zeros_like(plane.u)
    return surface, covered > defects.COVERED


def bent(kind: Product, look: Look, plane: Plane) -> tuple[Surface, np.ndarray]:
    """A piece that is bent at one place, and the mask: where the straight piece or it has moved."""
    again = copy.deepcopy(look)  # to draw the same piece
    straight = kind.draw(look, plane)
    plane, moved = defects.bend(look, plane, defects.place(look, straight.part, 0.1))
    surface = kind.draw(again, plane)
    return surface, moved & (np.maximum(straight.part, surface.part) > defects.COVERED)
