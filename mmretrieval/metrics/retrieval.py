"""Retrieval measures over a whole evaluation, on any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from mmretrieval.metrics.functional import hit_rate_at_k, modality_accuracy_at_1, ndcg_at_k, reciprocal_rank


class MeanOverQueries(Metric):
    """The mean of a value that each query has, exact for any split of the queries over batches and ranks.

    A rank that owns no query calls ``update`` with empty tensors, so that all ranks compute together.

    Raises:
        ValueError: From ``compute``, if no rank saw a query.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def _add(self, values: Tensor) -> None:
        self.total += values.sum()
        self.count += values.numel()

    def compute(self) -> Tensor:
        """The mean over all queries seen, a float32 scalar."""
        if int(self.count) == 0:
            raise ValueError(f"{type(self).__name__} saw no query: update it before compute.")
        return self.total / self.count


def _positive_cut_off(k: int) -> int:
    if k < 1:
        raise ValueError(f"The cut-off rank k must be at least 1, found {k}.")
    return k


class HitRate(MeanOverQueries):
    """Share of queries with a relevant item among the first ``k``.

    Args:
        k: Cut-off rank, at least 1.

    Shape:
        - ``update``: relevant ``(Q, K)`` boolean, total_relevant ``(Q,)``.

    Raises:
        ValueError: If ``k`` is not positive.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = _positive_cut_off(k)

    def update(self, relevant: Tensor, total_relevant: Tensor) -> None:
        """Add queries; the totals do not matter for this measure.

        Args:
            relevant: Whether the item at each rank is relevant.
            total_relevant: How many relevant items the pool holds.
        """
        self._add(hit_rate_at_k(relevant, self.k))


class NDCG(MeanOverQueries):
    """Mean normalised discounted cumulative gain at ``k`` with binary gains.

    Args:
        k: Cut-off rank, at least 1.

    Shape:
        - ``update``: relevant ``(Q, K)`` boolean, total_relevant ``(Q,)``.

    Raises:
        ValueError: If ``k`` is not positive; from ``update``, if a query has no relevant item.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = _positive_cut_off(k)

    def update(self, relevant: Tensor, total_relevant: Tensor) -> None:
        """Add queries.

        Args:
            relevant: Whether the item at each rank is relevant.
            total_relevant: How many relevant items the pool holds.
        """
        self._add(ndcg_at_k(relevant, total_relevant, self.k))


class ReciprocalRank(MeanOverQueries):
    """Mean of one over the rank of the first relevant item.

    Args:
        k: Cut-off rank, at least 1; ``None`` looks at the whole list.

    Shape:
        - ``update``: relevant ``(Q, K)`` boolean, total_relevant ``(Q,)``.

    Raises:
        ValueError: If ``k`` is not positive.
    """

    def __init__(self, k: int | None = None) -> None:
        super().__init__()
        self.k = None if k is None else _positive_cut_off(k)

    def update(self, relevant: Tensor, total_relevant: Tensor) -> None:
        """Add queries; the totals do not matter for this measure.

        Args:
            relevant: Whether the item at each rank is relevant.
            total_relevant: How many relevant items the pool holds.
        """
        self._add(reciprocal_rank(relevant, self.k))


class ModalityAccuracy(MeanOverQueries):
    """Share of queries whose top hit has the modality that was asked for.

    Shape:
        - ``update``: top_modality ``(Q,)``, target_modality ``(Q,)``.
    """

    def update(self, top_modality: Tensor, target_modality: Tensor) -> None:
        """Add queries.

        Args:
            top_modality: Modality code of each query's first item, -1 where nothing was retrieved.
            target_modality: Modality code of what was asked for.
        """
        self._add(modality_accuracy_at_1(top_modality, target_modality))


class RetrievalMetrics(MetricCollection):
    """Hit rates, nDCG and reciprocal rank together, as ``hit@1``, ``ndcg@10``, ``mrr``.

    ``update(relevant, total_relevant)`` feeds all of them; ``compute()`` returns one scalar tensor a name.

    Args:
        ks: Cut-off ranks of the hit rates, each at least 1.
        ndcg_k: Cut-off rank of nDCG, at least 1.

    Raises:
        ValueError: If a cut-off is not positive; from ``update``, if a query has no relevant item.
    """

    def __init__(self, ks: Sequence[int] = (1, 5, 10), ndcg_k: int = 10) -> None:
        metrics: dict[str, Any] = {f"hit@{k}": HitRate(k) for k in ks}
        metrics[f"ndcg@{ndcg_k}"] = NDCG(ndcg_k)
        metrics["mrr"] = ReciprocalRank()
        # Compute groups share the state of metrics that agree after the first batch. hit@5 and hit@10 often
        # do.
        super().__init__(metrics, compute_groups=False)
