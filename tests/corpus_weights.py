"""Unusual and broken weight files and model configs for test_corpus.py; some hold code."""

import io
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache, partial

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save

from tests.corpus import Case, broken, of_bytes


class Trap:
    """An object whose pickle creates a folder "canary" when it is loaded."""

    def __init__(self, call=os.mkdir, argument: str = "canary"):
        self.call, self.argument = call, argument

    def __reduce__(self):
        return self.call, (self.argument,)


TRAPS = {
    "mkdir": Trap(),
    "system": Trap(os.system, "touch canary"),
    "eval": Trap(eval, "__import__('os').mkdir('canary')"),
    "exec": Trap(exec, "import os; os.mkdir('canary')"),
    "open": Trap(partial(open, mode="w"), "canary"),
    "torch.load": Trap(torch.load, "canary.pt"),
}


def saved(content: object, **options) -> bytes:
    """Return the bytes that torch.save writes."""
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


@cache
def tiny_clip() -> CLIP:
    """Build a CLIP of a few thousand parameters."""
    vision = CLIPVisionCfg(image_size=32, patch_size=16, layers=1, width=16, head_width=8)
    return CLIP(8, vision, CLIPTextCfg(vocab_size=50, width=16, heads=2, layers=1))


def weight_files() -> list[Case]:
    """Return weight files for `tiny_clip`: a valid one and many others."""
    state = tiny_clip().state_dict()
    part = dict(list(state.items())[:-1])
    shapes = {name: value[..., :1] if value.ndim else value for name, value in state.items()}
    contents = {
        "a part": part,
        "other shapes": {name: value.clone() for name, value in shapes.items()},
        "one more": state | {"more": torch.ones(1)},
        "other names": {f"x.{name}": value for name, value in state.items()},
    }
    objects: Sequence = ([1, 2], {}, None, 3, "text", {"state_dict": None}, {"a": 1}, torch.ones(2))
    safe = {label: save(content) for label, content in contents.items()}
    wrong = {f"{label}.safetensors": data for label, data in safe.items()}
    wrong |= {f"{label}.pt": saved(content) for label, content in contents.items()}
    wrong |= {f"object {number}.pt": saved(content) for number, content in enumerate(objects)}
    for label, trap in TRAPS.items():
        wrong[f"{label} pickled.bin"] = pickle.dumps(trap)
        wrong[f"{label} pickled.safetensors"] = pickle.dumps(trap)
        for version, old in (("zip", True), ("old", False)):
            inside = {"state_dict": OrderedDict(part, trap=trap)}
            wrong[f"{label} {version}.pt"] = saved(inside, _use_new_zipfile_serialization=old)
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Identity()), script)
    wrong["script.pt"] = script.getvalue()
    length = (1 << 60).to_bytes(8, "little")
    wrong |= {"nothing.pt": b"", "page.bin": b"<html>", "length.safetensors": length + b"{}"}
    wrong["type error.pt"] = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R."
    cases = [of_bytes(name, name, data, "refused") for name, data in wrong.items()]
    cases.append(of_bytes("sound.safetensors", "sound.safetensors", save(state), "read"))
    cases += broken("w.safetensors", save(state), flips=8, cuts=(0.001, 0.5, 0.9))
    return cases + broken("w.pt", saved(state), flips=8, cuts=(0.001, 0.5, 0.9))


def model_configs() -> list[Case]:
    """Return model configs from which no model can be built."""
    vision = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 64, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    whole = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    wrong = {
        name: json.dumps(json.loads(text))
        for name, text in {
            "list": "[]",
            "number": "5",
            "null": "null",
            "word": '"embed_dim vision_cfg text_cfg"',
        }.items()
    }
    for part in ("vision_cfg", "text_cfg"):
        for value in (None, 3, "x", [], {"foreign": 1}):
            wrong[f"{part} {value!a}"] = json.dumps(whole | {part: value})
    for key in ("image_size", "patch_size", "layers", "width", "head_width"):
        for value in (0, -1, "x", None, 0.5):
            changed = whole | {"vision_cfg": vision | {key: value}}
            wrong[f"{key} {value!a}"] = json.dumps(changed)
    wrong |= {"nothing": "", "cut": json.dumps(whole)[:40], "deep": "[" * 100_000}
    return [
        of_bytes(
            f"config {label}", f"odd-{n}.json", data.encode(), "either" if n > 13 else "refused"
        )
        for n, (label, data) in enumerate(wrong.items())
    ]
