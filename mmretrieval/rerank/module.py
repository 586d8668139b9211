"""The LightningModule that scores what a retriever found."""

from __future__ import annotations

from typing import NamedTuple

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from mmretrieval.content import Candidate, Query
from mmretrieval.rerank.zero_shot import ZeroShotReranker


class RerankItem(NamedTuple):
    """A query with candidates to score.

    Args:
        task: The dataset-task, which chooses the prompt.
        query_id: The query's id.
        query: The query with its instruction.
        candidate_ids: Ids of the candidates.
        candidates: The candidates.
    """

    task: str
    query_id: str
    query: Query
    candidate_ids: tuple[str, ...]
    candidates: tuple[Candidate, ...]


class Scored(NamedTuple):
    """Scores of a query's candidates.

    Args:
        item: What was scored.
        scores: One a candidate, ``(K,)``, on the CPU.
    """

    item: RerankItem
    scores: Tensor


class Reranking(LightningModule):
    """Scores queries with their candidates in ``lightning predict``; nothing is trained.

    Args:
        reranker: What scores.
    """

    def __init__(self, reranker: ZeroShotReranker) -> None:
        super().__init__()
        self.reranker = reranker

    @override
    def configure_model(self) -> None:
        self.reranker.load()

    @override
    def on_predict_start(self) -> None:
        rank_zero_info(
            f"Reranker: {self.reranker.base} ({self.reranker.family.vision_tower}, answers "
            f"{' and '.join(self.reranker.answers)})"
        )

    @override
    def transfer_batch_to_device(
        self, batch: RerankItem, device: torch.device, dataloader_idx: int
    ) -> RerankItem:
        return batch  # contents are tokenised here, and their pictures looked up before they move

    @override
    def predict_step(self, batch: RerankItem, batch_idx: int) -> Scored:
        return Scored(batch, self.reranker.score(batch.query, batch.candidates, batch.task))

    @property
    def independent(self) -> bool:
        """Whether a candidate's score is the same whatever it is scored with."""
        return self.reranker.independent

    def score_hash(self, task: str) -> str:
        """Return a hex digest of all that decides the scores of a task."""
        return self.reranker.score_hash(task)
