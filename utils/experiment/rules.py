"""The rules for settings: their types and ranges, and which have no effect beside others."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, get_type_hints

from models.clip.weights import IN_CHECKPOINT, RANDOM
from utils.cli import label, spell, words_of
from utils.errors import InputError
from utils.experiment.presets import DEFAULT, FIXED, WITHOUT_MAPS
from utils.experiment.types import describe_type, has_type
from utils.files import is_printable_name

if TYPE_CHECKING:
    from utils.experiment.settings import Settings

MAX_EVAL_SIZE = 8192  # a map of this size takes 268 MB
MINIMA = {"batch_size": 1, "limit": 1, "num_workers": 0, "heatmap_size": 64, "tile": 0}


def check_values(settings: "Settings") -> None:
    """Raise `InputError` for a setting of a wrong type or out of its range."""
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        expect(has_type(value, hint), settings, name, describe_type(hint))
        if isinstance(value, str) and not is_printable_name(value):
            raise InputError(
                f"{label(name)}: {value!a} contains control characters or invalid UTF-8; use "
                "another value"
            )
    for name in ("shots", "seeds"):
        values = getattr(settings, name)
        valid = values and min(values) >= 0 and len(set(values)) == len(values)
        expect(valid, settings, name, "distinct whole numbers >= 0")
    sizes = settings.eval_size
    in_range = all(size == "source" or 1 <= size <= MAX_EVAL_SIZE for size in sizes)
    valid = sizes and len(set(sizes)) == len(sizes) and in_range
    text = f'distinct whole numbers from 1 to {MAX_EVAL_SIZE}, or "source"'
    expect(valid, settings, "eval_size", text)
    for name, minimum in MINIMA.items():
        value = getattr(settings, name)
        valid = not isinstance(value, int) or value >= minimum
        expect(valid, settings, name, f"a whole number >= {minimum}")
    valid = isinstance(settings.heatmaps, str) or settings.heatmaps >= 0
    expect(valid, settings, "heatmaps", '"all", "none" or a whole number >= 0')
    valid = settings.temperature is None or 0 < settings.temperature < float("inf")
    expect(valid, settings, "temperature", "a number > 0")


def expect(valid: object, settings: "Settings", name: str, text: str) -> None:
    """Raise `InputError` that says what values a setting may have, unless its value is valid."""
    if not valid:
        raise InputError(f"{spell(name, getattr(settings, name))}: expected {text}")


def fixed_values(settings: "Settings") -> dict:
    """Return the values that METHOD and MAPS leave no choice of.

    Raises `InputError` that names all settings without effect.
    """
    fixed = FIXED[settings.method]
    winclip = settings.method == "winclip"
    cause = f"with {spell('method', settings.method)}"
    causes = dict.fromkeys(fixed, "without --method anomalyclip or inctrl" if winclip else cause)
    if not fixed.get("maps", settings.maps):
        if "maps" not in fixed:
            cause = f"with {spell('maps', settings.maps)}"
        causes = dict.fromkeys(WITHOUT_MAPS, cause) | causes
        fixed = WITHOUT_MAPS | fixed
    values, unused = {}, {}
    for setting in fields(settings):
        name, value = setting.name, fixed.get(setting.name)
        if name not in fixed:
            continue
        if value is DEFAULT:
            value = setting.default
        if value == IN_CHECKPOINT and settings.checkpoint == RANDOM:
            value = RANDOM  # there is no file with a backbone
        if getattr(settings, name) not in (setting.default, value):
            unused[name] = causes[name]
        values[name] = value
    if not words_of("heatmaps"):  # run_demo.py sets HEATMAPS
        unused.pop("heatmaps", None)
    refuse(settings, unused_options(settings) | unused)
    return values


def unused_options(settings: "Settings") -> dict[str, str]:
    """Return the options that have no effect beside other settings, each with the cause.

    Only the command line counts: the constants of a runner may serve other runs, too. Zero-shot
    runs accept --seeds and --patch-tokens, so that a script can vary --shots alone.
    """
    causes = {}
    if not settings.few_shot:
        causes["references"] = "without reference images"
    if settings.heatmaps in ("none", 0):
        causes["heatmap_size"] = f"with {spell('heatmaps', settings.heatmaps)}"
    if settings.tile:
        causes["batch_size"] = f"with {spell('tile', settings.tile)}"
    if settings.features != "keep":
        causes["features_precision"] = "without --features keep"
    return {name: cause for name, cause in causes.items() if words_of(name)}


def refuse(settings: "Settings", causes: Mapping[str, str]) -> None:
    """Raise `InputError` if there are settings without effect, which `causes` explains."""
    given: dict[str, list[str]] = {}
    for name, cause in causes.items():
        given.setdefault(cause, []).append(spell(name, getattr(settings, name)))
    clauses = []
    for cause, (*others, last) in given.items():
        listed = f"{', '.join(others)} and {last} have" if others else f"{last} has"
        clauses.append(f"{listed} no effect {cause}")
    if clauses:
        raise InputError(f"{'; '.join(clauses)}; remove {'it' if len(causes) == 1 else 'them'}")


def check_combinations(settings: "Settings") -> None:
    """Raise `InputError` for resolved settings that contradict each other."""
    if settings.method != "winclip" and not settings.checkpoint:
        raise InputError(
            f"{spell('method', settings.method)} needs a checkpoint: add --checkpoint with the "
            'file that its authors have released (docs/protocol.md), or "random" for a trial'
        )
    if settings.pretrained == IN_CHECKPOINT and settings.method != "inctrl":
        raise InputError(
            f"{spell('pretrained', settings.pretrained)} is for InCTRL alone; give an open_clip "
            f"tag, a weight file, or a folder (./{IN_CHECKPOINT} for one of that name)"
        )
    if not settings.maps and settings.features == "keep":
        raise InputError(
            f"{spell('features', 'keep')}: without maps, no windows are encoded that could be "
            "kept; keep features in a run with maps, whose features this one can use"
        )
    if settings.tile and settings.resize != "tile":
        images = {"squash": "squashed", "centre_crop": "cropped"}[settings.resize]
        raise InputError(
            f"{spell('tile', settings.tile)}: {images} images have no tiles; add --resize tile"
        )
    if settings.method == "winclip" and settings.maps and settings.resize == "centre_crop":
        raise InputError(
            f"{spell('resize', settings.resize)}: maps must cover the whole image; add --no-maps, "
            "or choose another value"
        )
    if settings.multi_crop == "none" and settings.multi_crop_average != "embeddings":
        average = spell("multi_crop_average", settings.multi_crop_average)
        raise InputError(f"{average} has no effect without crops; add --multi-crop as well")
