"""Contrastive losses as pure functions of scores and keys.

Shape suffixes: ``q`` queries of this rank, ``c`` candidate columns of all ranks, ``p`` known positives of a
query.
"""

from __future__ import annotations

import torch
from torch import Tensor


def info_nce(scores_qc: Tensor, positive_columns: Tensor, valid_qc: Tensor | None = None) -> Tensor:
    """Cross-entropy of the labelled column among the valid ones, https://arxiv.org/abs/1807.03748.

    Half-precision scores are widened first: a log-sum-exp over thousands of columns needs float32.

    Args:
        scores_qc: Similarities already divided by the temperature.
        positive_columns: The column of each query's labelled positive.
        valid_qc: Which columns are in the denominator; the labelled one always is. ``None`` takes all.

    Shape:
        - scores_qc: ``(Q, C)``, positive_columns: ``(Q,)`` int64, valid_qc: ``(Q, C)`` boolean,
          output: ``(Q,)``.
    """
    scores_qc = full_precision(scores_qc)
    positive_q1 = positive_columns[:, None]
    if valid_qc is not None:
        valid_qc = valid_qc.scatter(1, positive_q1, True)
        scores_qc = scores_qc.masked_fill(~valid_qc, -torch.inf)
    return scores_qc.logsumexp(dim=1) - scores_qc.gather(1, positive_q1)[:, 0]


def false_negative_mask(candidate_keys: Tensor, positive_keys: Tensor, positive_columns: Tensor) -> Tensor:
    """Which columns may count against a query: all but repetitions of what is known to answer it.

    Keys are equal exactly when contents are, so this covers the same candidate twice in a batch, another
    known positive of the query, and a positive's copy under another id.

    Args:
        candidate_keys: Content key of each column.
        positive_keys: Content keys of each query's known positives, padded with 0.
        positive_columns: The column of each query's labelled positive, which always stays.

    Shape:
        - candidate_keys: ``(C,)`` int64, positive_keys: ``(Q, P)`` int64, positive_columns: ``(Q,)`` int64,
          output: ``(Q, C)`` boolean, true = keep.
    """
    queries, columns = positive_keys.shape[0], candidate_keys.shape[0]
    known_qc = torch.zeros(queries, columns, dtype=torch.bool, device=candidate_keys.device)
    for keys_q in positive_keys.unbind(
        dim=1
    ):  # one (Q, C) mask at a time: (Q, P, C) would not fit large batches
        known_qc |= (candidate_keys[None, :] == keys_q[:, None]) & (keys_q != 0)[:, None]
    return ~known_qc.scatter(1, positive_columns[:, None], False)


def in_batch_accuracy(scores_qc: Tensor, positive_columns: Tensor, valid_qc: Tensor | None = None) -> Tensor:
    """1 for each query whose labelled column scores highest among the valid ones, else 0.

    A tie with another column counts as a miss, so that collapsed embeddings do not look accurate.

    Args:
        scores_qc: Similarities at any temperature.
        positive_columns: The column of each query's labelled positive.
        valid_qc: Which columns compete; ``None`` takes all.

    Shape:
        - scores_qc: ``(Q, C)``, positive_columns: ``(Q,)`` int64, valid_qc: ``(Q, C)`` boolean,
          output: ``(Q,)`` float32.
    """
    positive_q1 = positive_columns[:, None]
    rivals_qc = scores_qc.scatter(1, positive_q1, -torch.inf)
    if valid_qc is not None:
        rivals_qc = rivals_qc.masked_fill(~valid_qc, -torch.inf)
    return (scores_qc.gather(1, positive_q1)[:, 0] > rivals_qc.amax(dim=1)).float()


def full_precision(values: Tensor) -> Tensor:
    """At least float32: half-precision scores would round away differences between near duplicates."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
