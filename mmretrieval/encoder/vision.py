"""Pictures to features: the vision tower and the projector, once for each distinct picture."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmretrieval.batches import Pictures
from mmretrieval.encoder.families import Family


class PictureFeatures(NamedTuple):
    """What the language model reads in the pictures' places.

    Args:
        embeddings: Embeddings of all pictures' image tokens, ``(sum of tokens, D)``.
        deepstack: Further features that the first layers add (Qwen3-VL), each ``(sum of tokens, D)``.
        tokens: How many image tokens each picture has, ``(I,)``.
    """

    embeddings: Tensor
    deepstack: tuple[Tensor, ...]
    tokens: Tensor

    def shown(self, pictures: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return embeddings and deepstack features of the pictures at P places, one after the other."""
        ends = self.tokens.cumsum(0)
        counts = self.tokens[pictures]
        first = (ends - self.tokens)[pictures]
        offsets = torch.arange(int(counts.sum()), device=counts.device)
        offsets = offsets - (counts.cumsum(0) - counts).repeat_interleave(counts)
        rows = first.repeat_interleave(counts) + offsets
        return self.embeddings[rows], tuple(features[rows] for features in self.deepstack)


def picture_features(core: Any, family: Family, pictures: Pictures) -> PictureFeatures | None:  # noqa: ANN401
    """Run vision tower and projector on the distinct pictures of a batch.

    Args:
        core: The model without its language-modelling head.
        family: The model's family.
        pictures: I distinct pictures.

    Returns:
        Their features, or ``None`` if there is no picture: the tower is not run then.
    """
    if pictures.rows.numel() == 0:
        return None
    with _computing_in(compute_dtype(core), pictures.pixels.device):
        return _features(core, family, pictures)


def _features(core: Any, family: Family, pictures: Pictures) -> PictureFeatures:  # noqa: ANN401
    pixels = pictures.pixels.to(compute_dtype(core))
    if family.whole is not None and pictures.shapes.shape[1] == 0:
        return PictureFeatures(family.whole.embed(core, pixels).flatten(0, 1), (), pictures.tokens)
    shapes = {} if family.shape is None else {family.shape: pictures.shapes}
    outputs = core.get_image_features(pixels[None] if family.batched else pixels, return_dict=True, **shapes)
    deepstack = tuple(_flat(features) for features in getattr(outputs, "deepstack_features", None) or ())
    return PictureFeatures(_flat(outputs.pooler_output), deepstack, pictures.tokens)


def compute_dtype(core: Any) -> torch.dtype:  # noqa: ANN401
    """The type that a model was loaded in; what is trained of it has single precision nevertheless."""
    dtype = core.config.dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _computing_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Compute in a model's half precision, where the projector's trained weights are in single precision."""
    if dtype in (torch.bfloat16, torch.float16):
        return torch.autocast(device.type, dtype=dtype)
    return nullcontext()


def _flat(features: Any) -> Tensor:  # noqa: ANN401 - a tensor (I, T, D), or a list of (T_i, D) or (1, T_i, D)
    parts = features if isinstance(features, list | tuple) else [features]
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
