"""From the hidden states of a sequence to one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmretrieval.encoder.latent_attention import LatentAttention, LatentAttentionOptions

POOLINGS = ("last_token", "mean", "latent_attention")
"""Poolings by the name that configurations and saved retrievers use."""


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
    weights = pooling_mask.unsqueeze(-1).to(torch.promote_types(hidden.dtype, torch.float32))
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


class LastToken(nn.Module):
    """:func:`last_token` as a module."""

    def forward(self, hidden: Tensor, pooling_mask: Tensor) -> Tensor:
        """Shape: ``(N, T, D)``, ``(N, T)`` to ``(N, D)``."""
        return last_token(hidden, pooling_mask)


class MaskedMean(nn.Module):
    """:func:`masked_mean` as a module."""

    def forward(self, hidden: Tensor, pooling_mask: Tensor) -> Tensor:
        """Shape: ``(N, T, D)``, ``(N, T)`` to ``(N, D)``."""
        return masked_mean(hidden, pooling_mask)


def make_pooling(name: str, width: int, latent_attention: LatentAttentionOptions) -> nn.Module:
    """Make a pooling, whose ``forward`` takes hidden states and the mask of what it may read.

    Args:
        name: One of :data:`POOLINGS`.
        width: Width of the hidden states.
        latent_attention: Sizes of a latent attention; the other poolings have none.

    Raises:
        ValueError: If there is no such pooling.
    """
    if name == "last_token":
        return LastToken()
    if name == "mean":
        return MaskedMean()
    if name == "latent_attention":
        return LatentAttention(width, latent_attention)
    raise ValueError(f"no pooling {name!r}: choose one of {', '.join(POOLINGS)}")
