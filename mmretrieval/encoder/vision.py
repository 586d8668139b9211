"""Pictures to features: the vision tower and the projector, once for each distinct picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

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

    def at(self, pictures: Tensor) -> PictureFeatures:
        """Return the features at P places ``(P,)`` that each show one of the pictures, place after place."""
        ends = self.tokens.cumsum(0)
        counts = self.tokens[pictures]
        first = (ends - self.tokens)[pictures]
        offsets = torch.arange(int(counts.sum()), device=counts.device)
        offsets = offsets - (counts.cumsum(0) - counts).repeat_interleave(counts)
        rows = first.repeat_interleave(counts) + offsets
        deepstack = tuple(features[rows] for features in self.deepstack)
        return PictureFeatures(self.embeddings[rows], deepstack, self.tokens[pictures])

    def split(self, sizes: Sequence[int]) -> list[PictureFeatures]:
        """Cut into parts of so many pictures each.

        Gradients of all parts come together once, where indexing each part would fill one gradient as large
        as everything for each of them.
        """
        tokens = torch.split(self.tokens, list(sizes))
        rows = [int(part.sum()) for part in tokens]
        layers = zip(*(torch.split(features, rows) for features in self.deepstack), strict=True)
        deepstack = list(layers) or [()] * len(rows)
        embeddings = torch.split(self.embeddings, rows)
        return [PictureFeatures(*part) for part in zip(embeddings, deepstack, tokens, strict=True)]


def picture_features(
    core: Any,  # noqa: ANN401 - transformers' models are untyped
    family: Family,
    pictures: Pictures,
    pixel_rows: int | None = None,
    *,
    recomputed: bool = False,
) -> PictureFeatures | None:
    """Run vision tower and projector on the distinct pictures of a batch.

    Args:
        core: The model without its language-modelling head.
        family: The model's family.
        pictures: I distinct pictures.
        pixel_rows: Most rows of pixels at a time, a larger picture alone; ``None``: all at once.
        recomputed: Whether to compute everything again in the backward pass, for a tower that is trained.

    Returns:
        Their features, or ``None`` if there is no picture: the tower is not run then.
    """
    if pictures.rows.numel() == 0:
        return None
    with _computing_in(core, family, pictures.pixels.device):
        again = partial(checkpoint, use_reentrant=False)
        parts = [
            again(_features, core, family, part) if recomputed else _features(core, family, part)
            for part in _split(pictures, pixel_rows)
        ]
    return parts[0] if len(parts) == 1 else _joined(parts)


def _split(pictures: Pictures, pixel_rows: int | None) -> list[Pictures]:
    """Consecutive pictures of at most so many rows of pixels together."""
    if pixel_rows is None:
        return [pictures]
    sizes, filled = [0], 0
    for rows in pictures.rows.tolist():
        if sizes[-1] and filled + rows > pixel_rows:
            sizes.append(0)
            filled = 0
        sizes[-1] += 1
        filled += rows
    of_picture = [torch.split(column, sizes) for column in (pictures.rows, pictures.tokens, pictures.shapes)]
    pixels = torch.split(pictures.pixels, [int(rows.sum()) for rows in of_picture[0]])
    return [Pictures(*part) for part in zip(pixels, *of_picture, strict=True)]


def _joined(parts: Sequence[PictureFeatures]) -> PictureFeatures:
    return PictureFeatures(
        torch.cat([part.embeddings for part in parts]),
        tuple(torch.cat(layer) for layer in zip(*(part.deepstack for part in parts), strict=True)),
        torch.cat([part.tokens for part in parts]),
    )


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


@contextmanager
def _computing_in(core: Any, family: Family, device: torch.device) -> Iterator[None]:  # noqa: ANN401
    """Compute in a model's half precision, where what is trained has weights in single precision.

    A frozen tower needs no automatic casts, which would normalise in single precision at several times the
    price; they are for its projectors alone then.
    """
    dtype = compute_dtype(core)
    if dtype not in (torch.bfloat16, torch.float16):
        yield
        return
    projectors = {part for name in family.projectors for part in _modules(core.get_submodule(name))}
    cast = not _is_all(core.get_submodule(family.vision_tower), dtype, projectors)
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, dtype=dtype, enabled=cast))
        for part in () if cast else projectors:
            for hook in _casting(part, torch.autocast(device.type, dtype=dtype)):
                stack.callback(hook.remove)
        yield


def _casting(part: nn.Module, casts: torch.autocast) -> list[RemovableHandle]:
    """Let automatic casts be on while a module computes."""

    def begin(*_: object) -> None:
        casts.__enter__()  # type: ignore[no-untyped-call]

    def end(*_: object) -> None:
        casts.__exit__(None, None, None)

    return [part.register_forward_pre_hook(begin), part.register_forward_hook(end, always_call=True)]


def _modules(projector: nn.Module) -> list[nn.Module]:
    """What of a projector is called."""
    return list(projector) if isinstance(projector, nn.ModuleList) else [projector]


def _is_all(tower: nn.Module, dtype: torch.dtype, but: Set[nn.Module]) -> bool:
    """Whether all weights of a tower have a type, its projectors aside."""
    apart = {id(parameter) for part in but for parameter in part.parameters()}
    return all(p.dtype == dtype for p in tower.parameters() if p.is_floating_point() and id(p) not in apart)


def _flat(features: Any) -> Tensor:  # noqa: ANN401 - a tensor (I, T, D), or a list of (T_i, D) or (1, T_i, D)
    parts = features if isinstance(features, list | tuple) else [features]
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
