"""Retrieval metrics on ranks: pure functions and torchmetrics classes."""

from mmretrieval.metrics.retrieval import NDCG, HitRate, ModalityAccuracy, ReciprocalRank, RetrievalMetrics

__all__ = ["NDCG", "HitRate", "ModalityAccuracy", "ReciprocalRank", "RetrievalMetrics"]
