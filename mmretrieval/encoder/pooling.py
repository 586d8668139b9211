"""From the hidden states of a sequence to one vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def last_token(hidden: Tensor, pooling_mask: Tensor) -> Tensor:
    """Take the last token that pooling may read: the EOS token of the paper's templates.

    Shape:
        - hidden: ``(N, T, D)``, pooling_mask: ``(N, T)`` with at least one 1 a row, output: ``(N, D)``.
    """
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    last = (positions * pooling_mask).argmax(dim=1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]


def masked_mean(hidden: Tensor, pooling_mask: Tensor) -> Tensor:
    """Average over the tokens that pooling may read, in at least single precision.

    Shape:
        - hidden: ``(N, T, D)``, pooling_mask: ``(N, T)`` with at least one 1 a row, output: ``(N, D)``.
    """
    weights = pooling_mask.unsqueeze(-1).float()
    return (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1)


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"last_token": last_token, "mean": masked_mean}
"""Poolings by the name that configurations and saved retrievers use."""
