"""Embeddings that can be cut short after training."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from mmretrieval.loss.contrastive import ContrastiveLoss, ContrastiveOutput
from mmretrieval.loss.functional import full_precision


class Matryoshka(ContrastiveLoss):
    """The mean of a contrastive loss over leading parts of the embeddings.

    Kusupati et al., 2022, https://arxiv.org/abs/2205.13147.

    An index may then keep the first so many dimensions of each embedding, normalised again, at a small cost
    in quality. All but the loss is reported of the widest part.

    Args:
        loss: The loss of each part; its temperature is shared by all parts.
        dims: How many leading dimensions make each part, each >= 1 and at most the width of the embeddings.
            The full width counts only if it is among them.

    Raises:
        ValueError: If ``dims`` is empty, repeats itself, or has a number below 1.
    """

    def __init__(self, loss: ContrastiveLoss, dims: tuple[int, ...]) -> None:
        super().__init__()
        if not dims or min(dims) < 1 or len(set(dims)) != len(dims):
            raise ValueError(f"dims must be different numbers of at least 1, found {list(dims)}.")
        self.loss = loss
        self.dims = tuple(sorted(dims))

    @override
    def forward(
        self,
        queries: Tensor,
        candidates: Tensor,
        positive_columns: Tensor,
        candidate_keys: Tensor,
        positive_keys: Tensor,
        negative_of: Tensor | None = None,
    ) -> ContrastiveOutput:
        """Apply the loss to every part.

        The arguments are those of :meth:`ContrastiveLoss.forward`.

        Raises:
            ValueError: If the embeddings are narrower than the widest part, or the shapes do not fit.
        """
        rest = (positive_columns, candidate_keys, positive_keys, negative_of)
        parts: list[ContrastiveOutput] = [
            self.loss(_leading(queries, dim), _leading(candidates, dim), *rest) for dim in self.dims
        ]
        return replace(parts[-1], loss=torch.stack([part.loss for part in parts]).mean())


def _leading(embeddings: Tensor, dim: int) -> Tensor:
    """The first dimensions, normalised again."""
    if dim > embeddings.shape[-1]:
        raise ValueError(f"dims has {dim}, but the embeddings have {embeddings.shape[-1]} dimensions.")
    return normalize(full_precision(embeddings[:, :dim]), dim=-1)
