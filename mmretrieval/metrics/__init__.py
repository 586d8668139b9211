"""Retrieval metrics on ranks: pure functions and torchmetrics classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmretrieval.metrics.retrieval import (
        NDCG,
        HitRate,
        ModalityAccuracy,
        ReciprocalRank,
        RetrievalMetrics,
    )

__all__ = ["NDCG", "HitRate", "ModalityAccuracy", "ReciprocalRank", "RetrievalMetrics"]


def __getattr__(name: str) -> object:
    """Import a public name when it is asked for: torchmetrics takes seconds that others need not wait."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mmretrieval.metrics import retrieval

    return getattr(retrieval, name)
