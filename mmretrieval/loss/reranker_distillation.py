"""A reranker's scores as soft targets of a query's own candidates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mmretrieval.distributed import gather_sizes, world_size
from mmretrieval.errors import UserError
from mmretrieval.loss.functional import full_precision


@dataclass(frozen=True)
class RerankerDistillation:
    """A second term of the loss: the KL divergence of the retriever's distribution from a reranker's.

    As U-MARVEL distils a reranker (https://arxiv.org/abs/2507.14902). Both are distributions over the
    labelled positive and the mined negatives of a query; queries without scores, or without negatives, have
    no part.

    Args:
        weight: Of the term, > 0.
        temperature: The retriever's similarities are divided by it, > 0, as in the contrastive loss.
        target_temperature: The reranker's scores, between 0 and 1, are divided by it, > 0.

    Raises:
        UserError: If a value is out of range.
    """

    weight: float = 1.0
    temperature: float = 0.05
    target_temperature: float = 0.2

    def __post_init__(self) -> None:
        for name in ("weight", "temperature", "target_temperature"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise UserError(f"model.reranker_distillation.{name} {value}: must be positive and finite")

    def __call__(self, queries: Tensor, candidates: Tensor, negative_of: Tensor, targets: Tensor) -> Tensor:
        """Compare the distributions.

        Args:
            queries: L2-normalised query embeddings.
            candidates: L2-normalised embeddings: the positives of the Q queries first, then mined negatives.
            negative_of: For each mined negative the query it was mined for.
            targets: The reranker's score of each candidate, NaN where there is none.

        Returns:
            The sum over this rank's scored queries times the number of ranks over the scored queries of all:
            its mean over ranks is the mean over all scored queries.

        Shape:
            - queries: ``(Q, D)``, candidates: ``(C, D)``, negative_of: ``(C - Q,)``, targets: ``(C,)``,
              output: scalar.
        """
        with torch.autocast(queries.device.type, enabled=False):
            queries, candidates = full_precision(queries), full_precision(candidates)
            owner = torch.cat([torch.arange(len(queries), device=queries.device), negative_of])
            similarities = (queries[owner] * candidates).sum(dim=1) / self.temperature
            wanted = targets.to(similarities.dtype) / self.target_temperature
            columns, there = _by_query(owner, len(queries))
            student = _log_softmax(similarities, columns, there)
            teacher = _log_softmax(wanted.nan_to_num(), columns, there)
            terms = torch.where(there, teacher.exp() * (teacher - student), 0).sum(dim=1)
            unknown = torch.where(there, targets.isnan()[columns], False).any(dim=1)
            scored = ~unknown & (there.sum(dim=1) > 1)
            scale = world_size() / max(sum(gather_sizes(int(scored.sum()), queries.device)), 1)
            return torch.where(scored, terms, 0).sum() * scale


def _by_query(owner: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """Columns of each query's candidates, padded with 0, and which of them are there, ``(Q, M)``."""
    order = owner.argsort(stable=True)
    counts = torch.bincount(owner, minlength=queries)
    place = torch.arange(len(owner), device=owner.device)
    place = place - (counts.cumsum(0) - counts).repeat_interleave(counts)
    columns = torch.zeros(queries, int(counts.max()), dtype=torch.long, device=owner.device)
    there = torch.zeros_like(columns, dtype=torch.bool)
    columns[owner[order], place], there[owner[order], place] = order, True
    return columns, there


def _log_softmax(values: Tensor, columns: Tensor, there: Tensor) -> Tensor:
    """Log-probabilities over what is there, 0 elsewhere, ``(Q, M)``."""
    logits = values[columns].masked_fill(~there, torch.finfo(values.dtype).min)
    return functional.log_softmax(logits, dim=1).masked_fill(~there, 0)
