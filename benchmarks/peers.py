"""Other people's WinCLIP, where it is installed, for the benchmarks to stand beside."""

import importlib.util

import torch
from torch import Tensor, nn

from models.weights import LoadedClip


def anomalib_winclip(clip: LoadedClip, name: str) -> nn.Module | None:
    """anomalib's WinClipModel with the weights of `clip`, in its place; None if not installed.

    `name` is the open_clip model's. Its windows are mended: as it stands it hands them to open_clip
    sequence first, which open_clip has not taken since 2.26, so that each attends to its copies.
    """
    if importlib.util.find_spec("anomalib") is None:
        return None
    from anomalib.models.image.winclip import torch_model

    class Mended(torch_model.WinClipModel):
        def _get_window_embeddings(self, feature_map: Tensor, masks: Tensor) -> Tensor:
            transformer = self.clip.visual.transformer
            plain = transformer.forward
            transformer.forward = lambda x: plain(x.permute(1, 0, 2)).permute(1, 0, 2)
            try:
                return super()._get_window_embeddings(feature_map, masks)
            finally:
                del transformer.forward

    torch_model.BACKBONE, torch_model.PRETRAINED = name, None
    model = Mended(scales=(2, 3))
    model.clip.load_state_dict(clip.model.state_dict())
    return model.eval().to(next(clip.model.parameters()).device)


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Between embeddings (..., E), both brought to length 1."""
    ours, theirs = (nn.functional.normalize(x.float(), dim=-1) for x in (ours, theirs))
    return float(torch.abs(ours - theirs).max())
