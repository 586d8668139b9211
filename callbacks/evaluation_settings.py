"""Settings of an evaluation that cannot be."""

from __future__ import annotations

from collections.abc import Sequence

from mmretrieval.metrics.protocol import Protocol


def check_settings(
    ks: Sequence[int],
    ndcg_k: int,
    depth: int,
    every_n_epochs: int,
    headline: str,
    protocol: Protocol | None,
    instructions: str,
) -> None:
    """Refuse settings of :class:`~callbacks.RetrievalEvaluation` that cannot be.

    Args:
        ks: Cut-off ranks of the hit rates.
        ndcg_k: Cut-off rank of nDCG.
        depth: Length of the ranked lists.
        every_n_epochs: After how many epochs an evaluation comes.
        headline: The measure that summaries show first.
        protocol: The measures of a full evaluation, whose headline is its own.
        instructions: How queries are asked.

    Raises:
        ValueError: If a number is out of range, the headline is none of the measures, or queries are never
            asked so.
    """
    if not ks or min(*ks, ndcg_k, depth, every_n_epochs) < 1:
        raise ValueError(
            "ks, ndcg_k, depth and every_n_epochs must be at least 1, "
            f"found {tuple(ks)}, {ndcg_k}, {depth} and {every_n_epochs}."
        )
    measures = [*(f"hit@{k}" for k in ks), f"ndcg@{ndcg_k}", "mrr"]
    if protocol is None and headline not in measures:
        raise ValueError(f"headline must be one of {', '.join(measures)}, found {headline!r}.")
    if instructions not in ("first", "mean", "uniir"):
        raise ValueError(f"instructions must be first, mean or uniir, found {instructions!r}.")
