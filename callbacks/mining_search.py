"""What a mining round searches: which retriever embeds whose queries, and in which pool."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from callbacks.collaborators import RetrievalData
from callbacks.embedding import Rows, embed
from callbacks.mining_schedule import RoundSubset
from callbacks.rankings import rank
from callbacks.searching import usual_index
from callbacks.teacher import Teacher, TeacherFolder, lent
from data_modules.encoding import EncodingTable
from data_modules.query_set import QuerySet
from mmretrieval.content import Modality
from mmretrieval.index import EmbeddingStore, ExactIndex, VectorIndex
from mmretrieval.mining import Rankings
from mmretrieval.mining.data_sets import fits
from mmretrieval.mining.stamp import Scalar


class MiningSearch:
    """Searches the training pool for the training queries, with the trained retriever or a teacher.

    Args:
        index: An empty index; ``None``: the exact one, on the device of this rank.
        subset: What a round looks at.
        teacher: Folder of another retriever; ``None``: there is none.
        teacher_tasks: Patterns of the tasks that the teacher searches for; ``None``: all.
        embeddings: Where embeddings are kept; ``None``: in the trainer's folder.
        embedding_dtype: How they are kept.

    Raises:
        ValueError: If there are ``teacher_tasks`` without a teacher.
    """

    def __init__(
        self,
        index: VectorIndex | None,
        subset: RoundSubset,
        teacher: Path | TeacherFolder | None,
        teacher_tasks: Sequence[str] | None,
        embeddings: Path | None,
        embedding_dtype: str,
    ) -> None:
        if teacher_tasks is not None and teacher is None:
            raise ValueError(f"teacher_tasks are {list(teacher_tasks)}, but there is no teacher.")
        self.index, self.subset = index, subset
        self.teacher, self.teacher_tasks = teacher, teacher_tasks
        self.embeddings, self.embedding_dtype = embeddings, embedding_dtype
        self._teacher: Teacher | None = None

    def check(self, queries: QuerySet) -> None:
        """Make sure that the teacher can be used, before anything is trained.

        Raises:
            UserError: If the teacher cannot be loaded.
            ValueError: If one of ``teacher_tasks`` fits no task.
        """
        if self.teacher is not None:
            self._loaded_teacher()
            self._taught(queries, np.zeros(0, dtype=np.int64))

    def stamp(self) -> dict[str, Scalar]:
        """Who searches, for the stamps of negatives."""
        teacher = None if self.teacher is None else self._loaded_teacher().embedding_hash()
        tasks = {} if self.teacher_tasks is None else {"teacher_tasks": ", ".join(self.teacher_tasks)}
        method = ExactIndex().method if self.index is None else self.index.method
        return {"index": method, "teacher": teacher, **tasks}

    def rankings(
        self,
        trainer: Trainer,
        module: LightningModule,
        data: RetrievalData,
        number: int,
        rows: Rows,
        depth: int,
    ) -> Rankings:
        """Embed and search; all ranks call it together and get the same.

        Args:
            trainer: Its precision and device placement are used.
            module: The retriever that is trained.
            data: The queries and the pool.
            number: Of the round.
            rows: The queries to search for, in ascending order.
            depth: How many candidates to find.

        Returns:
            The rankings of ``rows``, in their order.

        Raises:
            ValueError: If an embedding is not finite.
        """
        taught = self._taught(data.queries(data.train_split), rows)
        if not taught.any():
            return self._searched(trainer, module, data, number, rows, depth)
        parts = [self._searched(trainer, self._loaded_teacher(), data, number, rows[taught], depth)]
        if not taught.all():
            parts.append(self._searched(trainer, module, data, number, rows[~taught], depth))
        order = np.concatenate([np.flatnonzero(taught), np.flatnonzero(~taught)])
        return Rankings.concatenated(parts).take(np.argsort(order))

    def _taught(self, queries: QuerySet, rows: Rows) -> NDArray[np.bool_]:
        """Which queries the teacher searches for."""
        if self.teacher is None or self.teacher_tasks is None:
            return np.full(len(rows), self.teacher is not None)
        pairs = list(zip(queries.tasks, queries.task_sources, strict=True))
        found = {
            pattern: [task for task, source in pairs if fits(pattern, task, source)]
            for pattern in self.teacher_tasks
        }
        if unknown := [pattern for pattern, tasks in found.items() if not tasks]:
            raise ValueError(
                f"teacher_tasks names {', '.join(unknown)}; the data has {', '.join(queries.tasks)}."
            )
        tasks = {task for own in found.values() for task in own}
        return np.isin(queries.task_of[rows], [n for n, task in enumerate(queries.tasks) if task in tasks])

    def _searched(
        self,
        trainer: Trainer,
        scorer: LightningModule | Teacher,
        data: RetrievalData,
        number: int,
        rows: Rows,
        depth: int,
    ) -> Rankings:
        queries = data.queries(data.train_split)
        positives = np.array([queries.positives(row)[0] for row in rows.tolist()], dtype=np.int64)
        pool = self.subset.candidates_of(number, data.corpus.pools[data.train_pool], positives)
        folder, processor, while_embedding = self.embeddings, None, None
        device = trainer.strategy.root_device
        if isinstance(scorer, Teacher):
            processor = scorer.input_processor
            while_embedding = partial(lent, scorer, device)
            folder = (folder or Path(trainer.default_root_dir, "embeddings")) / "teacher"
            if not scorer.reads_pictures:
                pool = pool[data.corpus.candidate_modalities[pool] == Modality.TEXT.code]

        def embedded(table: EncodingTable, rows: Rows) -> EmbeddingStore:
            return embed(trainer, scorer, table, rows, folder, self.embedding_dtype, while_embedding)

        return rank(
            embedded,
            data.candidate_table(processor),
            data.query_table(data.train_split, processor),
            queries,
            pool,
            rows,
            self.index if self.index is not None else usual_index(device),
            depth,
            device,
        )

    def _loaded_teacher(self) -> Teacher:
        if self._teacher is None:
            assert self.teacher is not None
            self._teacher = Teacher(self.teacher)
        return self._teacher
