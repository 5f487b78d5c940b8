"""Load another implementation of WinCLIP, if it is installed, to compare with in benchmarks."""

import importlib.util

import torch
from torch import Tensor, nn

from models.clip.weights import LoadedClip


def anomalib_winclip(clip: LoadedClip, name: str) -> nn.Module | None:
    """Return anomalib's WinClipModel with the weights and device of `clip`; None if not installed.

    `name` is the open_clip model's. The token layout is corrected: anomalib passes windows sequence
    first, but open_clip expects them batch first since 2.26, so each would attend to its copies.
    """
    if importlib.util.find_spec("anomalib") is None:
        return None
    from anomalib.models.image.winclip import torch_model

    class Corrected(torch_model.WinClipModel):
        def _get_window_embeddings(self, feature_map: Tensor, masks: Tensor) -> Tensor:
            transformer = self.clip.visual.transformer
            plain = transformer.forward
            transformer.forward = lambda x: plain(x.permute(1, 0, 2)).permute(1, 0, 2)
            try:
                return super()._get_window_embeddings(feature_map, masks)
            finally:
                del transformer.forward

    torch_model.BACKBONE, torch_model.PRETRAINED = name, None
    model = Corrected(scales=(2, 3))
    model.clip.load_state_dict(clip.model.state_dict())
    return model.eval().to(next(clip.model.parameters()).device)


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference between embeddings (..., E), both normalised to length 1."""
    ours, theirs = (nn.functional.normalize(x.float(), dim=-1) for x in (ours, theirs))
    return float(torch.abs(ours - theirs).max())
