"""The warnings about weights and settings to show beside every result."""

from models.clip.features import EXACT
from models.clip.weights import Weights
from utils.experiment.settings import Settings

PATCH_TOKENS_NOTE = (
    "PATCH TOKENS ALONE: few-shot image scores compare patch tokens without windows, which is not "
    "the paper's score"
)


def notes_on_weights(weights: Weights, checkpoint: Weights | None) -> list[str]:
    """Return the warnings about the weights of the model and of the method's checkpoint."""
    notes = []
    if weights.random:
        notes.append("RANDOM WEIGHTS: the numbers only show that the program runs")
    if checkpoint and checkpoint.random:
        notes.append("RANDOM CHECKPOINT: the numbers only show that the program runs")
    if weights.demo:
        notes.append("DEMO MODEL: trained only on rendered images; use it to try out the program")
    return notes


def notes_on_settings(settings: Settings, precision: str) -> list[str]:
    """Return the warnings about settings; `precision` is that of kept features."""
    notes = []
    if settings.method == "winclip" and not settings.maps and settings.few_shot:
        notes.append(PATCH_TOKENS_NOTE)
    if precision != EXACT:
        notes.append(f"FEATURES KEPT IN {precision.upper()}: scores are those of rounded features")
    if settings.multi_crop != "none":
        crops = f'MULTI-CROP "{settings.multi_crop}", averaging {settings.multi_crop_average}'
        notes.append(f"{crops}: a hypothesis, because the paper does not define this step")
    return notes
