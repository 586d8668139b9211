"""Pictures of what was mined: a few fixed queries of each task with their positive and their negatives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.collaborators import data_of, listed_before
from callbacks.gallery_drawing import GREEN, ORANGE, RED, Card, Row, draw_rows, record
from callbacks.hard_negative_mining import HardNegativeMining
from data_modules.query_set import QuerySet
from mmretrieval.mining import MinedNegative, NegativeKind, NegativeTable

_COLORS = {NegativeKind.WRONG_MODALITY: RED, NegativeKind.UNSATISFACTORY: ORANGE, NegativeKind.RANKED: ORANGE}


class NegativesGallery(Callback):
    """Shows mined negatives after each round of :class:`~callbacks.HardNegativeMining`, wherever that is.

    Each task has one picture: a row per query, at the left what is asked, then the labelled positive in green
    and the negatives with their kind, rank and score: wrong modality in red, others in orange. What looks
    like a positive there is a false negative that a filter should keep out. On rank 0, pictures go to
    TensorBoard as ``negatives/<task>`` and replace ``<folder>/<task>.png``.

    Args:
        n_queries_per_task: How many queries to show, at least 1, of those with negatives.
        folder: Where pictures go, ``gallery/negatives`` in the trainer's ``default_root_dir`` by default.

    Raises:
        ValueError: If ``n_queries_per_task`` is less than 1.
        MisconfigurationException: From ``setup``, if no :class:`~callbacks.HardNegativeMining` is listed
            before this callback.
    """

    def __init__(self, n_queries_per_task: int = 2, folder: Path | None = None) -> None:
        super().__init__()
        if n_queries_per_task < 1:
            raise ValueError(f"n_queries_per_task must be at least 1, found {n_queries_per_task}.")
        self.n_queries_per_task, self.folder = n_queries_per_task, folder
        self._shown: NegativeTable | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._mining(trainer)

    # Mining, which is listed before, may have had a round in any of these hooks.

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw_new(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw_new(trainer)

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        self._draw_new(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw_new(trainer)

    def _draw_new(self, trainer: Trainer) -> None:
        """Draw the last round, unless that was done."""
        table = self._mining(trainer).latest
        if table is None or table is self._shown or not trainer.is_global_zero:
            return
        self._shown = table
        data = data_of(trainer)
        folder = self.folder or Path(trainer.default_root_dir, "gallery/negatives")
        for task, rows in self._rows(data.queries(data.train_split), table):
            figure = draw_rows(f"{task} · negatives of step {table.stamp.step}", rows)
            record(trainer, f"negatives/{task}", folder / f"{task}.png", figure)

    def _mining(self, trainer: Trainer) -> HardNegativeMining:
        return listed_before(trainer, self, HardNegativeMining)

    def _rows(self, queries: QuerySet, table: NegativeTable) -> Iterator[tuple[str, list[Row]]]:
        """Some queries with negatives of each task, the same ones as long as they have some."""
        mined = set(table.query_ids[table.counts > 0].tolist())
        has = np.array([id_.encode() in mined for id_ in queries.ids.tolist()], dtype=np.bool_)
        for number, task in enumerate(queries.tasks):
            members = np.flatnonzero((queries.task_of == number) & has)[: self.n_queries_per_task]
            if members.size:
                yield task, [_row(queries, int(query), table) for query in members]


def _row(queries: QuerySet, query: int, table: NegativeTable) -> Row:
    positive = queries.corpus.candidate(int(queries.positives(query)[0])).content
    negatives = [_card(queries, mined) for mined in table.entries_of(str(queries.ids[query]))]
    return Row(queries.asked(query, 0), (Card(positive, "positive", GREEN), *negatives))


def _card(queries: QuerySet, mined: MinedNegative) -> Card:
    content = queries.corpus.candidate(queries.corpus.candidate_row(mined.candidate_id)).content
    kind = mined.kind.name.lower().replace("_", " ")
    return Card(content, f"{kind}\nrank {mined.rank} · {mined.score:.3f}", _COLORS[mined.kind])
