"""Retrieval measures as pure functions of ranked lists, with trec_eval's definitions.

All functions take ``relevant``, which says for each query whether the item at each rank is relevant, best
rank first. A list shorter than the cut-off counts as if irrelevant items followed, so a pool smaller than
``k`` needs no care. Measures that divide by the number of relevant items refuse queries without any:
trec_eval leaves such queries out, so a silent zero would not be comparable.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hit_rate_at_k(relevant: Tensor, k: int) -> Tensor:
    """1 for each query with a relevant item among its first ``k``, else 0 (M-BEIR calls it Recall@k).

    Args:
        relevant: Whether the item at each rank is relevant, boolean.
        k: Cut-off rank, at least 1.

    Shape:
        - relevant: ``(Q, K)``, output: ``(Q,)`` float32.

    Raises:
        ValueError: If ``relevant`` is no boolean matrix or ``k`` is not positive.
    """
    return _first(relevant, k).any(dim=1).float()


def recall_at_k(relevant: Tensor, total_relevant: Tensor, k: int) -> Tensor:
    """The fraction of a query's relevant items that are among its first ``k`` (trec_eval's ``recall_k``).

    Args:
        relevant: Whether the item at each rank is relevant, boolean.
        total_relevant: How many relevant items the pool holds, at least 1.
        k: Cut-off rank, at least 1.

    Shape:
        - relevant: ``(Q, K)``, total_relevant: ``(Q,)``, output: ``(Q,)`` float32.

    Raises:
        ValueError: If a query has no relevant item, or fewer than its list shows.
    """
    _check_totals(relevant, total_relevant)
    return _first(relevant, k).sum(dim=1) / total_relevant.float()


def ndcg_at_k(relevant: Tensor, total_relevant: Tensor, k: int) -> Tensor:
    """Normalised discounted cumulative gain with binary gains and log2 discount (trec_eval's ``ndcg_cut_k``).

    The ideal list starts with ``min(total_relevant, k)`` relevant items.

    Args:
        relevant: Whether the item at each rank is relevant, boolean.
        total_relevant: How many relevant items the pool holds, at least 1.
        k: Cut-off rank, at least 1.

    Shape:
        - relevant: ``(Q, K)``, total_relevant: ``(Q,)``, output: ``(Q,)`` float32.

    Raises:
        ValueError: If a query has no relevant item, or fewer than its list shows.
    """
    _check_totals(relevant, total_relevant)
    first = _first(relevant, k)
    discounts_k = _discounts(k, relevant)
    gain = first.float() @ discounts_k[: first.shape[1]]
    ideal = discounts_k.cumsum(0)[total_relevant.long().clamp(max=k) - 1]
    return gain / ideal


def graded_ndcg_at_k(grades: Tensor, ideal: Tensor, k: int) -> Tensor:
    """Normalised discounted cumulative gain whose gains are grades (trec_eval's ``ndcg_cut_k``).

    Args:
        grades: How relevant the item at each rank is, 0 if it is not.
        ideal: The grades of the best possible list, falling, 0 behind its end; the first is at least 1.
        k: Cut-off rank, at least 1.

    Shape:
        - grades: ``(Q, K)``, ideal: ``(Q, k)``, output: ``(Q,)`` float32.

    Raises:
        ValueError: If the shapes do not fit, a query has no relevant item, or a list is better than the
            best.
    """
    if grades.ndim != 2 or k < 1 or ideal.shape != (len(grades), k):
        raise ValueError(
            f"Grades of shape {tuple(grades.shape)} need ideal ones of shape (queries, {k}) with k at least "
            f"1, found {tuple(ideal.shape)}."
        )
    discounts_k = _discounts(k, grades)
    first = grades[:, :k].float()
    gain, best = first @ discounts_k[: first.shape[1]], ideal.float() @ discounts_k
    if bool((ideal[:, :1] < 1).any()):
        raise ValueError("A query has no relevant item: leave it out, as trec_eval does, and count it.")
    if bool((gain > best * (1 + 1e-5)).any()):
        raise ValueError("A list has more gain than the ideal one: rank each item once.")
    return gain / best


def reciprocal_rank(relevant: Tensor, k: int | None = None) -> Tensor:
    """One over the rank of the first relevant item, 0 if there is none (trec_eval's ``recip_rank``).

    Args:
        relevant: Whether the item at each rank is relevant, boolean.
        k: Cut-off rank, at least 1; ``None`` looks at the whole list.

    Shape:
        - relevant: ``(Q, K)``, output: ``(Q,)`` float32.

    Raises:
        ValueError: If ``relevant`` is no boolean matrix or ``k`` is not positive.
    """
    _check_relevant(relevant)
    first = relevant if k is None else _first(relevant, k)
    inverse_ranks = 1.0 / torch.arange(1, first.shape[1] + 1, device=relevant.device).float()
    if first.shape[1] == 0:
        return inverse_ranks.new_zeros(first.shape[0])
    return (first.float() * inverse_ranks).amax(dim=1)


def average_precision_at_k(
    relevant: Tensor, total_relevant: Tensor, k: int, *, capped: bool = False
) -> Tensor:
    """The precision at each relevant item among the first ``k``, summed and normalised.

    Args:
        relevant: Whether the item at each rank is relevant, boolean.
        total_relevant: How many relevant items the pool holds, at least 1.
        k: Cut-off rank, at least 1.
        capped: Divide by ``min(total_relevant, k)`` as CIRCO's mAP@k does, not by ``total_relevant`` as
            trec_eval's ``map_cut_k`` does.

    Shape:
        - relevant: ``(Q, K)``, total_relevant: ``(Q,)``, output: ``(Q,)`` float32.

    Raises:
        ValueError: If a query has no relevant item, or fewer than its list shows.
    """
    _check_totals(relevant, total_relevant)
    first = _first(relevant, k).float()
    ranks = torch.arange(1, first.shape[1] + 1, device=relevant.device).float()
    precisions = first.cumsum(dim=1) / ranks
    divisor = total_relevant.clamp(max=k) if capped else total_relevant
    return (precisions * first).sum(dim=1) / divisor.float()


def modality_accuracy_at_1(top_modality: Tensor, target_modality: Tensor) -> Tensor:
    """1 for each query whose top hit has the modality that was asked for, else 0.

    Args:
        top_modality: Modality code of each query's first item; -1 where nothing was retrieved, which counts
            as wrong.
        target_modality: Modality code of what the instruction asks for.

    Shape:
        - top_modality: ``(Q,)``, target_modality: ``(Q,)``, output: ``(Q,)`` float32.

    Raises:
        ValueError: If the shapes differ.
    """
    if top_modality.shape != target_modality.shape or top_modality.ndim != 1:
        found = f"{tuple(top_modality.shape)} and {tuple(target_modality.shape)}"
        raise ValueError(f"Modalities need one code a query on both sides, found shapes {found}.")
    return ((top_modality == target_modality) & (top_modality >= 0)).float()


def _discounts(k: int, like: Tensor) -> Tensor:
    return 1.0 / torch.log2(torch.arange(2, k + 2, device=like.device).float())


def _first(relevant: Tensor, k: int) -> Tensor:
    """The part of the lists above the cut-off."""
    _check_relevant(relevant)
    if k < 1:
        raise ValueError(f"The cut-off rank k must be at least 1, found {k}.")
    return relevant[:, :k]


def _check_relevant(relevant: Tensor) -> None:
    if relevant.ndim != 2 or relevant.dtype != torch.bool:
        raise ValueError(
            f"relevant must be a boolean (queries, ranks) matrix, "
            f"found {relevant.dtype} of shape {tuple(relevant.shape)}."
        )


def _check_totals(relevant: Tensor, total_relevant: Tensor) -> None:
    """Refuse totals for which a fraction of the relevant items has no meaning."""
    _check_relevant(relevant)
    if total_relevant.shape != relevant.shape[:1]:
        raise ValueError(
            f"total_relevant must hold one number for each of {relevant.shape[0]} queries, "
            f"found shape {tuple(total_relevant.shape)}."
        )
    empty = total_relevant < 1
    if bool(empty.any()):
        raise ValueError(
            f"{int(empty.sum())} queries have no relevant item in the pool, the first at position "
            f"{int(empty.int().argmax())} of the batch. Leave them out, as trec_eval does, and count them."
        )
    short = relevant.sum(dim=1) > total_relevant
    if bool(short.any()):
        raise ValueError(
            f"The query at position {int(short.int().argmax())} of the batch shows more relevant items than "
            "total_relevant says exist: count the items of the pool, and rank each item once."
        )
