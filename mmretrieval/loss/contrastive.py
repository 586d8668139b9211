"""The contrastive training objective over the global batch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from mmretrieval.distributed import all_gather, all_gather_with_gradient, gather_sizes, rank, world_size
from mmretrieval.loss.functional import false_negative_mask, full_precision, in_batch_accuracy, info_nce


@dataclass(frozen=True, slots=True)
class ContrastiveOutput:
    """What one step of a contrastive loss yields; only ``loss`` carries a gradient.

    Args:
        loss: Scalar to minimise. Its mean over ranks is the mean over all queries.
        accuracy: Share of this rank's queries whose positive beats all columns that count.
        temperature: The softmax temperature that was used.
        positive_similarity: Mean similarity of this rank's queries to their positives.
        negative_similarity: Mean similarity of mined negatives to the query they were mined for, NaN without
            any; ``None`` when the loss was not told which query that is.
        masked_share: Share of columns that were left out because they repeat a known positive.
    """

    loss: Tensor
    accuracy: Tensor
    temperature: Tensor
    positive_similarity: Tensor
    negative_similarity: Tensor | None
    masked_share: Tensor


class ContrastiveLoss(nn.Module, ABC):
    """What trains a retriever: pulls each query to its positive, and away from the other candidates.

    Shape:
        - queries: ``(Q, D)``, candidates: ``(C, D)`` with C >= Q, positive_columns: ``(Q,)``,
          candidate_keys: ``(C,)``, positive_keys: ``(Q, P)``, negative_of: ``(C - Q,)``.
          Q, C and P may differ between ranks.
    """

    @abstractmethod
    def forward(
        self,
        queries: Tensor,
        candidates: Tensor,
        positive_columns: Tensor,
        candidate_keys: Tensor,
        positive_keys: Tensor,
        negative_of: Tensor | None = None,
    ) -> ContrastiveOutput:
        """Compare this rank's queries with the candidates.

        Args:
            queries: L2-normalised query embeddings.
            candidates: L2-normalised embeddings: the positives of the Q queries first, then mined negatives.
            positive_columns: Each query's labelled positive, as a row of this rank's ``candidates``.
            candidate_keys: Content key of each candidate.
            positive_keys: Content keys of each query's known positives, padded with 0.
            negative_of: For each mined negative the query it was mined for; only reported, never a
                restriction.
        """


class InfoNCE(ContrastiveLoss):
    """Cross-entropy over in-batch and mined negatives.

    Van den Oord et al., 2018, https://arxiv.org/abs/1807.03748.

    The denominator of a query holds every positive and every mined negative of the global batch, except
    repetitions of what is known to answer the query. Each rank computes the rows of its own queries against
    the columns of all ranks. The loss is the sum over the rank's queries times world size over global
    queries, which is the rank's mean when ranks have equally many; averaging gradients over ranks then gives
    the single-process gradient exactly.

    Args:
        temperature: Softmax temperature, > 0; its start value when learnable.
        learnable_temperature: Train the logarithm of the temperature with the model.
        min_temperature: Lower bound of a learnable temperature, > 0 and at most ``temperature``.
        gather: Whether candidates of all ranks serve as negatives.
        rows: Queries whose similarities to all columns are in memory at a time, >= 1. With more queries
            than that on a rank, similarities are computed again in the backward pass.

    Raises:
        ValueError: If ``temperature``, ``min_temperature`` or ``rows`` is out of range.
    """

    log_temperature: Tensor

    def __init__(
        self,
        temperature: float = 0.05,
        learnable_temperature: bool = False,
        min_temperature: float = 0.01,
        gather: bool = True,
        rows: int = 1024,
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, found {temperature}.")
        if learnable_temperature and not 0 < min_temperature <= temperature:
            raise ValueError(
                f"min_temperature must be positive and at most temperature={temperature}, "
                f"found {min_temperature}."
            )
        if rows < 1:
            raise ValueError(f"rows must be at least 1, found {rows}.")
        self.rows = rows
        self.learnable_temperature = learnable_temperature
        self.min_temperature = min_temperature
        self.gather = gather
        log_temperature = torch.tensor(math.log(temperature))
        if learnable_temperature:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self.register_buffer("log_temperature", log_temperature, persistent=False)

    @property
    def temperature(self) -> Tensor:
        """The current softmax temperature, a scalar."""
        return self.log_temperature.exp()

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
        """Compare this rank's queries with the candidates of all ranks.

        The arguments are those of :meth:`ContrastiveLoss.forward`.

        Raises:
            ValueError: If the shapes do not fit each other.
        """
        _check_shapes(queries, candidates, positive_columns, candidate_keys, positive_keys, negative_of)
        self._keep_above_minimum()
        with torch.autocast(queries.device.type, enabled=False):
            queries, candidates = full_precision(queries), full_precision(candidates)
            columns, keys, offset, scale = self._global_columns(queries, candidates, candidate_keys)
            temperature = self.temperature.to(queries.dtype)
            rows = (queries, positive_columns + offset, positive_keys)
            compare = partial(_compare, columns, keys, temperature)
            if len(queries) > self.rows:
                compare = partial(checkpoint, compare, use_reentrant=False)
            parts = [compare(*part) for part in zip(*(torch.split(x, self.rows) for x in rows), strict=True)]
            losses, hits, positives, masked = (torch.cat(part) for part in zip(*parts, strict=True))
            return ContrastiveOutput(
                loss=losses.sum() * scale,
                accuracy=hits.mean(),
                temperature=temperature.detach(),
                positive_similarity=positives.mean(),
                negative_similarity=_negative_similarity(queries.detach(), candidates.detach(), negative_of),
                masked_share=masked.mean(),
            )

    def _global_columns(
        self, queries: Tensor, candidates: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor, int, float]:
        """All ranks' candidates and keys, where the own ones start, and the factor from a sum to the loss."""
        scale = world_size() / max(sum(gather_sizes(queries.shape[0], queries.device)), 1)
        if not self.gather:
            return candidates, keys, 0, scale
        offset = sum(gather_sizes(candidates.shape[0], candidates.device)[: rank()])
        return all_gather_with_gradient(candidates), all_gather(keys), offset, scale

    def _keep_above_minimum(self) -> None:
        """Pull a learnable temperature back to its bound.

        The parameter itself is moved: a bound inside the computation would have gradient zero beyond it, and
        the temperature could never return.
        """
        if self.learnable_temperature and self.training:
            with torch.no_grad():
                self.log_temperature.clamp_(min=math.log(self.min_temperature))


def _compare(
    columns: Tensor,
    keys: Tensor,
    temperature: Tensor,
    queries: Tensor,
    positive_columns: Tensor,
    positive_keys: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, hit, similarity to the positive, and share of masked columns, of each query ``(Q,)``."""
    similarities_qc = queries @ columns.T
    keep_qc = false_negative_mask(keys, positive_keys, positive_columns)
    losses_q = info_nce(similarities_qc / temperature, positive_columns, keep_qc)
    found_qc = similarities_qc.detach()
    hits_q = in_batch_accuracy(found_qc, positive_columns, keep_qc)
    positives_q = found_qc.gather(1, positive_columns[:, None])[:, 0]
    return losses_q, hits_q, positives_q, (~keep_qc).float().mean(dim=1)


def _negative_similarity(queries: Tensor, candidates: Tensor, negative_of: Tensor | None) -> Tensor | None:
    """Mean similarity of mined negatives to their own queries."""
    if negative_of is None:
        return None
    return (queries[negative_of] * candidates[queries.shape[0] :]).sum(dim=1).mean()


def _check_shapes(
    queries: Tensor,
    candidates: Tensor,
    positive_columns: Tensor,
    candidate_keys: Tensor,
    positive_keys: Tensor,
    negative_of: Tensor | None,
) -> None:
    """Refuse inputs that would broadcast into a wrong loss."""
    (n_queries, dim), n_candidates = queries.shape, candidates.shape[0]
    expected = {
        "candidates": (candidates, (n_candidates, dim)),
        "positive_columns": (positive_columns, (n_queries,)),
        "candidate_keys": (candidate_keys, (n_candidates,)),
        "positive_keys": (positive_keys, (n_queries, positive_keys.shape[-1])),
    }
    if negative_of is not None:
        expected["negative_of"] = (negative_of, (n_candidates - n_queries,))
    if n_candidates < n_queries:
        raise ValueError(f"{n_queries} queries need at least as many candidates, found {n_candidates}.")
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, found {tuple(tensor.shape)}.")
