"""A sample of what evaluation embedded, for TensorBoard's projector: vectors, labels and thumbnails."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from callbacks.collaborators import data_of, is_dry_run, is_last_epoch, listed_before
from callbacks.projector_tiles import stacked, tile
from callbacks.retrieval_evaluation import RetrievalEvaluation
from data_modules.query_set import QuerySet
from mmretrieval.content import MODALITIES, Content
from mmretrieval.metrics.evaluation import GLOBAL
from mmretrieval.metrics.ranked import Rows

TAG = "retrieval"
"""Name of the embeddings in the projector, before their step."""
HEADER = ("id", "what", "task", "modality", "text")
"""Columns of the labels; ``what`` is query or candidate."""
_SPRITE = 8192  # pixels a side that the projector takes at most
_TEXT = 100  # characters of a text among the labels
_DIGITS = 6  # of a number; more would only make the file larger


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows to show.

    Args:
        queries: Rows of the queries, ascending.
        candidates: Rows of the candidates, ascending.
    """

    queries: Rows
    candidates: Rows

    def __len__(self) -> int:
        return len(self.queries) + len(self.candidates)


class EmbeddingProjector(Callback):
    """Shows a sample of queries and candidates in TensorBoard's projector, with a thumbnail of each.

    Of each task some queries with their labelled positives, and of each modality some candidates of the
    global pool (of the tasks' own where there is none), always the same ones. Colour by ``modality`` to see
    whether modalities lie apart, by ``task`` to see whether tasks do. Written on rank 0 after the last round
    of a fit, and after ``validate`` and ``test``, from what :class:`~callbacks.RetrievalEvaluation` has
    embedded; under ``fast_dev_run`` nothing is.

    Args:
        n_queries_per_task: How many queries to show, at least 1, spread over the task's.
        n_candidates_per_modality: How many candidates to show, at least 1, spread over the pool's, besides
            the positives of the queries.
        tile_side: Width and height of a thumbnail in pixels, at least 8.

    Raises:
        ValueError: If a number is out of range.
        MisconfigurationException: From ``setup``, if no :class:`~callbacks.RetrievalEvaluation` is listed
            before this callback.
    """

    def __init__(
        self, n_queries_per_task: int = 6, n_candidates_per_modality: int = 80, tile_side: int = 48
    ) -> None:
        super().__init__()
        if min(n_queries_per_task, n_candidates_per_modality) < 1 or tile_side < 8:
            raise ValueError(
                "n_queries_per_task and n_candidates_per_modality must be at least 1, and tile_side at least "
                f"8, found {n_queries_per_task}, {n_candidates_per_modality} and {tile_side}."
            )
        self.n_queries_per_task, self.tile_side = n_queries_per_task, tile_side
        self.n_candidates_per_modality = n_candidates_per_modality

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict":
            return
        self._evaluation(trainer)
        if not is_dry_run(trainer) and not _loggers(trainer):
            rank_zero_warn("EmbeddingProjector writes nothing: the trainer has no TensorBoardLogger.")

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_last_epoch(trainer):
            self._write(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:  # validation within a fit embeds nothing
            self._write(trainer)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def sample(self, queries: QuerySet) -> Sample:
        """What is shown of a split and its pools; the same whatever the weights."""
        asked = np.concatenate(
            [
                _spread(np.flatnonzero(queries.task_of == number), self.n_queries_per_task)
                for number in range(len(queries.tasks))
            ]
        )
        pool = _pool(queries)
        modalities = queries.corpus.candidate_modalities[pool]
        parts = [
            _spread(pool[modalities == modality.code], self.n_candidates_per_modality)
            for modality in MODALITIES
        ]
        positives = np.array([queries.positives(int(row))[0] for row in asked], dtype=np.int64)
        # A positive that stands under another id in its pool is not embedded.
        shown = np.unique(np.concatenate([*parts, np.intersect1d(positives, pool)]))
        return Sample(np.sort(asked), shown)

    def _evaluation(self, trainer: Trainer) -> RetrievalEvaluation:
        return listed_before(trainer, self, RetrievalEvaluation)

    def _write(self, trainer: Trainer) -> None:
        evaluation = self._evaluation(trainer)
        if not trainer.is_global_zero or evaluation.candidates is None or evaluation.asked is None:
            return
        queries = data_of(trainer).queries(evaluation.split)
        shown = self.sample(queries)
        vectors = np.concatenate(
            [evaluation.asked.vectors_of(shown.queries), evaluation.candidates.vectors_of(shown.candidates)]
        )
        labels, tiles = self._described(queries, shown)
        for logger in _loggers(trainer):
            # What an interrupted run left there; the list of what is complete is written last.
            shutil.rmtree(Path(logger.log_dir, f"{trainer.global_step:05}", TAG), ignore_errors=True)
            logger.experiment.add_embedding(
                vectors.astype(np.float64).round(_DIGITS), labels, tiles, trainer.global_step, TAG, HEADER
            )

    def _described(self, queries: QuerySet, shown: Sample) -> tuple[list[list[str]], Tensor]:
        """Labels and thumbnails, queries first."""
        corpus, task_of = queries.corpus, _tasks_of(queries, shown.candidates)
        side = min(self.tile_side, _SPRITE // math.ceil(math.sqrt(len(shown))))
        labels, tiles = [], []
        for row in shown.queries.tolist():
            content = queries.asked(row, 0).content
            labels.append(
                _label(str(queries.ids[row]), "query", queries.tasks[queries.task_of[row]], content)
            )
            tiles.append(tile(content, side, query=True))
        for row, task in zip(shown.candidates.tolist(), task_of, strict=True):
            content = corpus.candidate(row).content
            labels.append(_label(corpus.candidate_id(row), "candidate", task, content))
            tiles.append(tile(content, side, query=False))
        return labels, stacked(tiles)


def _loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _spread(rows: Rows, shown: int) -> Rows:
    """Some of the rows, evenly."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(shown, len(rows))).round().astype(np.int64))
    return rows[places]


def _pool(queries: QuerySet) -> Rows:
    """The global pool of the split, or all of the tasks' own; ascending."""
    pools = queries.corpus.pools
    name = f"{GLOBAL}_{queries.split}"
    if name in pools:
        return np.unique(pools[name])
    own = {queries.local_pool(task) for task in queries.tasks} - {None}
    return np.unique(np.concatenate([pools[each] for each in sorted(map(str, own))]))


def _tasks_of(queries: QuerySet, rows: Rows) -> list[str]:
    """The first task in whose own pool each candidate is; a dash where there is none."""
    found = np.full(len(rows), "-", dtype=object)
    for task in queries.tasks:
        pool = queries.local_pool(task)
        if pool is not None:
            found[(found == "-") & np.isin(rows, queries.corpus.pools[pool])] = task
    return [str(task) for task in found]


def _label(id_: str, what: str, task: str, content: Content) -> list[str]:
    text = " ".join((content.text or "").split())  # a label is a line, its columns end at tabs
    shown = text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"
    return [id_, what, task, content.modality.value, shown or "-"]
