"""The compositional prompt ensemble: states of an object, put into templates (section 4.1).

Every state goes into every template: 7 x 22 normal and 4 x 22 anomalous prompts in the paper.
"""

from collections.abc import Sequence
from typing import Literal

Templates = Literal["paper", "public"]

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ANOMALOUS_STATES = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")

TEMPLATES = (
    "a cropped photo of the {}.",
    "a cropped photo of a {}.",
    "a close-up photo of a {}.",
    "a close-up photo of the {}.",
    "a bright photo of a {}.",
    "a bright photo of the {}.",
    "a dark photo of a {}.",
    "a dark photo of the {}.",
    "a jpeg corrupted photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a blurry photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of a small {}.",
    "a photo of the small {}.",
    "a photo of a large {}.",
    "a photo of the large {}.",
    "a photo of a {} for visual inspection.",
    "a photo of the {} for visual inspection.",
    "a photo of a {} for anomaly detection.",
    "a photo of the {} for anomaly detection.",
)
# The public implementations omit two templates and repeat one: 21 entries, 20 distinct.
PUBLIC_OMITTED = ("a cropped photo of a {}.", "a jpeg corrupted photo of a {}.")
PUBLIC_REPEATED = "a jpeg corrupted photo of the {}."
PUBLIC_TEMPLATES = (
    *(template for template in TEMPLATES if template not in PUBLIC_OMITTED),
    PUBLIC_REPEATED,
)
TEMPLATE_LISTS: dict[Templates, tuple[str, ...]] = {
    "paper": TEMPLATES,
    "public": PUBLIC_TEMPLATES,
}


def spaced_words(class_name: str) -> str:
    """Write a class name as words.

    >>> spaced_words("metal_nut")
    'metal nut'
    """
    return " ".join(class_name.replace("_", " ").split())


def compose(name: str, states: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Put `name` into every state, and every state into every template; templates vary fastest.

    >>> compose("bottle", ["damaged {}"], ["a photo of a {}.", "a photo of the {}."])
    ['a photo of a damaged bottle.', 'a photo of the damaged bottle.']
    """
    return [template.format(state.format(name)) for state in states for template in templates]


def prompt_ensemble(
    name: str,
    templates: Templates = "paper",
    extra_normal: Sequence[str] = (),
    extra_anomalous: Sequence[str] = (),
) -> tuple[list[str], list[str]]:
    """Compose the normal and the anomalous prompts for one class name.

    `extra_normal` and `extra_anomalous` are the paper's task-specific states, with `{}` for the
    name, such as "{} with bad soldering". Their prompts follow those of the standard states.
    """
    template_list = TEMPLATE_LISTS[templates]
    normal = compose(name, (*NORMAL_STATES, *extra_normal), template_list)
    anomalous = compose(name, (*ANOMALOUS_STATES, *extra_anomalous), template_list)
    return normal, anomalous
