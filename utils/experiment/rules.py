"""The rules for settings: their types and ranges, and those without effect in combination."""

from collections.abc import Mapping
from dataclasses import fields
from typing import get_type_hints

from models.clip.weights import IN_CHECKPOINT, RANDOM
from utils.cli import GIVEN, label, spell
from utils.errors import InputError
from utils.experiment.options import RunOptions
from utils.experiment.presets import DEFAULT, FIXED, WITHOUT_MAPS
from utils.files import is_printable_name
from utils.option_types import describe_type, has_type

MAX_EVAL_SIZE = 8192  # a map of this size takes 268 MB
MINIMA = {"batch_size": 1, "limit": 1, "num_workers": 0, "heatmap_size": 64, "tile": 0}


def check_values(options: RunOptions) -> None:
    """Raise `InputError` for a setting of a wrong type or out of its range."""
    for name, hint in get_type_hints(type(options)).items():
        value = getattr(options, name)
        expect(has_type(value, hint), options, name, describe_type(hint))
        if isinstance(value, str) and not is_printable_name(value):
            raise InputError(
                f"{label(name)}: {value!a} contains control characters or invalid UTF-8; use "
                "another value"
            )
    for name in ("shots", "seeds"):
        values = getattr(options, name)
        valid = values and min(values) >= 0 and len(set(values)) == len(values)
        expect(valid, options, name, "distinct whole numbers >= 0")
    sizes = options.eval_size
    in_range = all(size == "source" or 1 <= size <= MAX_EVAL_SIZE for size in sizes)
    valid = sizes and len(set(sizes)) == len(sizes) and in_range
    text = f'distinct whole numbers from 1 to {MAX_EVAL_SIZE}, or "source"'
    expect(valid, options, "eval_size", text)
    for name, minimum in MINIMA.items():
        value = getattr(options, name)
        valid = not isinstance(value, int) or value >= minimum
        expect(valid, options, name, f"a whole number >= {minimum}")
    valid = isinstance(options.heatmaps, str) or options.heatmaps >= 0
    expect(valid, options, "heatmaps", '"all", "none" or a whole number >= 0')
    valid = options.temperature is None or 0 < options.temperature < float("inf")
    expect(valid, options, "temperature", "a number > 0")


def expect(valid: object, options: RunOptions, name: str, text: str) -> None:
    """Raise `InputError` with `text`, the values that a setting may have, unless it is valid."""
    if not valid:
        raise InputError(f"{spell(name, getattr(options, name))}: expected {text}")


def fixed_values(options: RunOptions) -> dict:
    """Return the settings that METHOD and MAPS determine."""
    values = FIXED[options.method]
    if not values.get("maps", options.maps):
        values = WITHOUT_MAPS | values
    defaults = {field.name: field.default for field in fields(options)}
    values = {
        name: defaults[name] if value is DEFAULT else value
        for name, value in values.items()
        if name in defaults
    }
    if values.get("pretrained") == IN_CHECKPOINT and options.checkpoint == RANDOM:
        values["pretrained"] = RANDOM  # there is no file with a backbone
    return values


def check_effects(options: RunOptions) -> None:
    """Raise `InputError` that names all settings without effect.

    Two kinds are accepted: those with their default value, and constants of the runner that an
    option makes ineffective, because they may serve other runs.
    """
    causes, fixed = unused_options(options), fixed_values(options)
    by_method = FIXED[options.method]
    for field in fields(options):
        name = field.name
        if name not in fixed or getattr(options, name) in (field.default, fixed[name]):
            continue
        cause = "method" if name in by_method or "maps" in by_method else "maps"
        if cause in GIVEN and name not in GIVEN:
            continue
        causes[name] = f"with {spell(cause, getattr(options, cause))}"
        if cause == "method" and options.method == "winclip":
            causes[name] = "without --method anomalyclip or inctrl"
    refuse(options, causes)


def unused_options(options: RunOptions) -> dict[str, str]:
    """Return the options that have no effect with the other settings, each with the cause.

    Zero-shot runs accept --seeds and --patch-tokens, so that a script can vary --shots alone.
    """
    causes = {}
    if not options.few_shot:
        causes["references"] = f"with {spell('shots', options.shots)}"
    if options.heatmaps in ("none", 0):
        causes["heatmap_size"] = f"with {spell('heatmaps', options.heatmaps)}"
    if options.features != "keep":
        causes["features_precision"] = "without --features keep"
    return {name: cause for name, cause in causes.items() if given_option(options, name)}


def given_option(options: RunOptions, name: str) -> bool:
    """Return whether the command line gives an option a value other than its default."""
    return name in GIVEN and getattr(options, name) != getattr(type(options), name)


def refuse(options: RunOptions, causes: Mapping[str, str]) -> None:
    """Raise `InputError` if there are settings without effect, which `causes` explains."""
    given: dict[str, list[str]] = {}
    for name, cause in causes.items():
        given.setdefault(cause, []).append(spell(name, getattr(options, name)))
    clauses = []
    for cause, (*others, last) in given.items():
        listed = f"{', '.join(others)} and {last} have" if others else f"{last} has"
        clauses.append(f"{listed} no effect {cause}")
    if clauses:
        raise InputError(f"{'; '.join(clauses)}; remove {'it' if len(causes) == 1 else 'them'}")


def check_combinations(options: RunOptions) -> None:
    """Raise `InputError` for resolved settings that contradict each other."""
    if options.method != "winclip" and not options.checkpoint:
        raise InputError(
            f"{spell('method', options.method)} needs a checkpoint: add --checkpoint with the "
            'file that its authors have released (docs/protocol.md), or "random" for a trial'
        )
    if options.pretrained == IN_CHECKPOINT and options.method != "inctrl":
        raise InputError(
            f"{spell('pretrained', options.pretrained)} is for InCTRL alone; give an open_clip "
            f"tag, a weight file, or a folder (./{IN_CHECKPOINT} for one of that name)"
        )
    if not options.maps and options.features == "keep":
        raise InputError(
            f"{spell('features', 'keep')}: a run without maps encodes no windows, so it has no "
            "features to keep; keep them in a run with maps, and this run can use them"
        )
    if options.tile and options.resize != "tile":
        images = {"squash": "squashed", "centre_crop": "cropped"}[options.resize]
        raise InputError(
            f"{spell('tile', options.tile)}: {images} images have no tiles; add --resize tile"
        )
    if options.method == "winclip" and options.maps and options.resize == "centre_crop":
        raise InputError(
            f"{spell('resize', options.resize)}: maps must cover the whole image; add --no-maps, "
            "or choose another value"
        )
    if options.multi_crop == "none" and options.multi_crop_average != "embeddings":
        average = spell("multi_crop_average", options.multi_crop_average)
        raise InputError(f"{average} has no effect without crops; add --multi-crop five or another")
