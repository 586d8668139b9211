"""Keeps embeddings near those of the weights that a training starts from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmretrieval.batches import ContrastiveBatch, EncoderInputs
from mmretrieval.distributed import gather_sizes, world_size
from mmretrieval.encoder.chunks import rows_of
from mmretrieval.errors import UserError


@dataclass(frozen=True)
class Distillation:
    """A second term of the loss, ``weight`` times the mean of ``1 - cos(embedding, starting embedding)``.

    Learning without forgetting (Li and Hoiem, 2016, https://arxiv.org/abs/1606.09282), on embeddings. It is
    of the contents of those samples that the data module calls rehearsed: in stage 2, of the multimodal ones.
    A step embeds them a second time, without gradients.

    Args:
        weight: > 0.

    Raises:
        UserError: If the weight is out of range.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise UserError(f"model.distillation.weight {self.weight}: must be positive and finite")


class StartingPoint:
    """The trained weights of an encoder as they are now, which embed what later weights shall not forget.

    Args:
        encoder: A loaded encoder; only what is trained of it is copied.
    """

    def __init__(self, encoder: nn.Module) -> None:
        trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
        self._weights = {name: p.detach().clone() for name, p in trained.items()}

    def embed(self, encoder: nn.Module, inputs: EncoderInputs) -> Tensor:
        """Embed with these weights, without gradients and in evaluation mode.

        Args:
            encoder: The encoder; its own weights stay as they are.
            inputs: N contents.

        Returns:
            ``(N, D)``.
        """
        now = dict(encoder.named_parameters())
        self._weights = {name: weight.to(now[name]) for name, weight in self._weights.items()}
        with torch.no_grad(), _evaluating(encoder):
            found: Tensor = functional_call(encoder, self._weights, (inputs,))
        return found

    def distance(self, encoder: nn.Module, inputs: EncoderInputs, embeddings: Tensor, rows: Tensor) -> Tensor:
        """Compare embeddings with those of the starting weights.

        Args:
            encoder: The encoder.
            inputs: N contents.
            embeddings: What the encoder made of them, L2-normalised, ``(N, D)``.
            rows: Which of them to compare, ``(n,)``; ranks may have different numbers, or none.

        Returns:
            The sum of ``1 - cos`` times the number of ranks over the number of rows on all of them: its mean
            over ranks is the mean over all rows.
        """
        scale = world_size() / max(sum(gather_sizes(len(rows), embeddings.device)), 1)
        # A rank without such rows embeds one for nothing, as all take part in gathering sharded weights.
        asked = rows if len(rows) else torch.zeros(1, dtype=torch.long, device=embeddings.device)
        start = self.embed(encoder, rows_of(inputs, asked))[: len(rows)].to(embeddings.dtype)
        return (1 - (embeddings[rows] * start).sum(dim=1)).sum() * scale


def rows_of_queries(batch: ContrastiveBatch, chosen: Tensor) -> Tensor:
    """Rows of the contents of some samples: queries, positives, and negatives that were mined for them.

    Args:
        batch: Q queries and C candidates.
        chosen: Whether each query is meant, ``(Q,)``.

    Returns:
        Rows of ``batch.inputs`` in ascending order.
    """
    return torch.cat([chosen, chosen, chosen[batch.negative_of]]).nonzero().squeeze(1)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module has the mode that it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
