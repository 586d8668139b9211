"""Whether the embeddings of a source have become one, while it is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from callbacks.training_sources import TrainingSources
from mmretrieval.batches import ContrastiveBatch


class TrainedRetriever(Protocol):
    """What is needed of a module; :class:`~mmretrieval.module.UniversalRetriever` has it.

    Args:
        latest_queries: L2-normalised embeddings of this rank's queries in the last training step, ``(Q, D)``.
    """

    latest_queries: Tensor


class CollapseWatch(Callback):
    """Warns when all queries of a source have nearly the same embedding, so that little can be found by them.

    That happens where a contrastive loss with a low temperature meets a high learning rate and data that the
    model can hardly tell apart. The loss need not show it: in mixed batches the sources are still told from
    each other. Logged as ``train/query_similarity/<source>``: the mean similarity of two
    different queries of the source, over all ranks; sources with fewer than two in the step are left out.

    Args:
        similarity: Queries that are as similar in the mean, or more, are one.
        steps: Warn when they are in so many of the source's steps in a row. Of the embedded text sets, which
            are learnt, queries are that similar for at most some 30 steps.

    Raises:
        ValueError: If an argument is out of range.
        MisconfigurationException: From ``setup``, if the data module blends nothing.
    """

    def __init__(self, similarity: float = 0.95, steps: int = 50) -> None:
        super().__init__()
        if not -1 < similarity <= 1:
            raise ValueError(f"similarity must be above -1 and at most 1, found {similarity}.")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, found {steps}.")
        self.similarity, self.steps = similarity, steps
        self._sources: TrainingSources | None = None
        self._in_row: dict[str, int] = {}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._sources = TrainingSources.of(trainer, self)
            self._in_row = dict.fromkeys(self._sources.names, 0)

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # of the module's step
        batch: ContrastiveBatch,
        batch_idx: int,
    ) -> None:
        assert self._sources is not None
        queries = cast(TrainedRetriever, pl_module).latest_queries
        own = torch.from_numpy(self._sources.source_of[batch.query_rows.cpu().numpy()]).to(queries.device)
        parts = sums_by_group(queries, own, len(self._sources.names))
        totals = trainer.strategy.reduce(parts, reduce_op="sum")
        found = dict(zip(self._sources.names, mean_similarities(totals).tolist(), strict=True))
        found = {name: similarity for name, similarity in found.items() if similarity == similarity}
        self._log(trainer, found)
        for name, similarity in found.items():
            self._in_row[name] = self._in_row[name] + 1 if similarity >= self.similarity else 0
            if self._in_row[name] == self.steps:
                self._warn(name)

    def _log(self, trainer: Trainer, found: Mapping[str, float]) -> None:
        # Not by pl_module.log: of sources that are not in this step, it would log the last value again.
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined] # set by a connector
        if not every or trainer.global_step % every:
            return
        logged = {f"train/query_similarity/{name}": similarity for name, similarity in found.items()}
        for logger in trainer.loggers:
            logger.log_metrics(logged, step=trainer.global_step - 1)  # Lightning's number of this step

    def _warn(self, name: str) -> None:
        rank_zero_warn(
            f"All queries of {name} have nearly the same embedding: their mean similarity was "
            f"{self.similarity:g} or more in {self.steps} steps in a row, so little can be found by them. A "
            "lower learning rate, a higher temperature, and steps of one source each (data.homogeneous) keep "
            "them apart; configs/continual/unfamiliar.yaml has all three."
        )


def sums_by_group(embeddings: Tensor, groups: Tensor, count: int) -> Tensor:
    """Sum the embeddings of each group, and count them.

    Args:
        embeddings: ``(N, D)``.
        groups: Group of each, from 0 to ``count`` - 1, ``(N,)``.
        count: Number of groups, G.

    Returns:
        ``(G, D + 1)`` in single precision: the sums, and in the last column how many there are.
    """
    ones = embeddings.new_ones(len(embeddings), 1)
    rows = torch.cat([embeddings.detach(), ones], dim=1).float()
    return rows.new_zeros(count, rows.shape[1]).index_add_(0, groups, rows)


def mean_similarities(sums: Tensor) -> Tensor:
    """The mean cosine similarity of two different embeddings of a group.

    The squared norm of a sum of n unit vectors is n plus the similarities of all n(n - 1) ordered pairs.

    Args:
        sums: As :func:`sums_by_group` returns them for unit vectors, ``(G, D + 1)``; parts of several
            processes may be added.

    Returns:
        ``(G,)``, NaN for groups with fewer than two.
    """
    total, n = sums[:, :-1], sums[:, -1]
    similarities: Tensor = (total.square().sum(dim=1) - n) / (n * (n - 1))
    return torch.where(n < 2, torch.nan, similarities)
