"""What the queries of a split find: both sides embedded, and the pools searched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from callbacks.asking import Asking
from callbacks.collaborators import RetrievalData, is_dry_run
from callbacks.embedding import discard, embed
from callbacks.exclusions import Exclusions
from callbacks.group_search import group_members, search_groups
from callbacks.pool_search import Found, Pool, search_pools
from callbacks.searching import usual_index
from data_modules.encoding import EncodingTable
from mmretrieval.index import EmbeddingStore, VectorIndex
from mmretrieval.metrics.ranked import Rows


class Searched(NamedTuple):
    """What a search found and with which embeddings.

    Args:
        rounds: Ranked lists for each wording.
        candidates: Embeddings of all pools; ``None`` in a dry run, which keeps none.
        asked: Embeddings of the queries, in the first wording; ``None`` in a dry run.
    """

    rounds: list[Found]
    candidates: EmbeddingStore | None
    asked: EmbeddingStore | None


@dataclass(frozen=True, slots=True)
class SplitSearch:
    """How a split is searched.

    Args:
        split: Whose queries are asked.
        asking: How.
        index: An empty index to search with; ``None``: the exact one.
        depth: Length of the ranked lists.
        embeddings: Where embeddings are kept, see :func:`~callbacks.embedding.embed`.
        embedding_dtype: How they are kept.
    """

    split: str
    asking: Asking
    index: VectorIndex | None
    depth: int
    embeddings: Path | None
    embedding_dtype: Literal["float32", "float16", "bfloat16"]

    def run(
        self,
        trainer: Trainer,
        module: LightningModule,
        data: RetrievalData,
        query_rows: Rows,
        pools: list[Pool],
        exclusions: Exclusions,
    ) -> Searched:
        """Embed and search; all ranks call it together.

        Args:
            trainer: Of the run.
            module: The retriever.
            data: What has the queries and candidates.
            query_rows: The queries that are asked.
            pools: Where to search.
            exclusions: What is taken out of the ranked lists.

        Raises:
            ValueError: If an embedding is not finite.
        """
        device = trainer.strategy.root_device
        index = self.index if self.index is not None else usual_index(device)
        queries = data.queries(self.split)
        every = np.unique(np.concatenate([pool.rows for pool in pools]))
        if not is_dry_run(trainer):
            every = np.union1d(every, group_members(queries, query_rows))
        candidates = self._embed(trainer, module, self.asking.candidate_table(data), every)
        stores, rounds = [candidates], []
        for wording, by_task in self.asking.wordings(queries, query_rows):
            table = self.asking.query_table(data, self.split, wording)
            stores.append(self._embed(trainer, module, table, np.sort(np.concatenate([*by_task.values()]))))
            place = (candidates, stores[-1], by_task, pools, self.depth, exclusions, device)
            groups = search_groups(candidates, stores[-1], by_task, queries)
            rounds.append(Found(search_pools(index, *place), groups))
        if is_dry_run(trainer):
            discard(trainer, *stores)
            return Searched(rounds, None, None)
        return Searched(rounds, candidates, stores[1])

    def _embed(
        self, trainer: Trainer, module: LightningModule, table: EncodingTable, rows: Rows
    ) -> EmbeddingStore:
        return embed(trainer, module, table, rows, self.embeddings, self.embedding_dtype)
