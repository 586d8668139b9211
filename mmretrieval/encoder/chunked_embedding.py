"""Embeds a batch chunk by chunk, and computes again in the backward pass what is not kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmretrieval.batches import EncoderInputs
from mmretrieval.distributed import gather_sizes
from mmretrieval.encoder.chunks import Chunks, aligned, length_sorted, rows_of, split_further
from mmretrieval.encoder.vision import PictureFeatures


def embed_in_chunks(
    embed: Callable[[EncoderInputs, PictureFeatures | None], Tensor],
    inputs: EncoderInputs,
    features: PictureFeatures | None,
    chunks: Chunks,
    *,
    padding: int | None,
    in_step: bool,
) -> Tensor:
    """Embed contents, sorted by length and cut into chunks.

    Args:
        embed: Embeds some contents, with the features that they show.
        inputs: N contents.
        features: Of the batch's pictures; ``None`` without any.
        chunks: How the batch is cut.
        padding: Id of any token that is no image token, to give embeddings without gradients the same bits in
            any batch, see :func:`~mmretrieval.encoder.chunks.aligned`; ``None``: as they come.
        in_step: Whether ranks must embed equally many chunks.

    Returns:
        Embeddings in the order of the contents, ``(N, D)``.
    """
    order = length_sorted(inputs)
    sizes = chunks.sizes(inputs.attention_mask.sum(dim=1)[order])
    if in_step:
        sizes = split_further(sizes, max(gather_sizes(len(sizes), order.device)))
    # A chunk without rows embeds one for nothing: all ranks take part in gathering sharded weights.
    cut = [rows_of(inputs, rows if len(rows) else order[:1]) for rows in torch.split(order, sizes)]
    recomputed = chunks.recomputed(len(cut)) if torch.is_grad_enabled() else 0
    if padding is not None and not torch.is_grad_enabled():
        cut = [aligned(chunk, padding) for chunk in cut]
    parts = []
    for number, (chunk, shown) in enumerate(zip(cut, _shown(cut, features), strict=True)):
        if number < recomputed:
            embedded = checkpoint(embed, chunk, shown, use_reentrant=False)
        else:
            embedded = embed(chunk, shown)
        parts.append(embedded if sizes[number] else embedded[:0])
    return torch.cat(parts)[order.argsort()]


def _shown(
    chunks: Sequence[EncoderInputs], features: PictureFeatures | None
) -> Sequence[PictureFeatures | None]:
    """The features that each chunk shows."""
    if features is None:
        return [None] * len(chunks)
    shown = features.at(torch.cat([chunk.picture_of for chunk in chunks]))
    return shown.split([len(chunk.picture_of) for chunk in chunks])
