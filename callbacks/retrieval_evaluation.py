"""Retrieval measures of the current weights: in the global pool and in each task's own."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from typing_extensions import override

from callbacks.collaborators import RetrievalData, data_of, is_dry_run, is_last_epoch, retriever_of
from callbacks.embedding import Rows, discard, embed
from callbacks.searching import search
from data_modules.atomic import staged_file
from data_modules.corpus import PackedCorpus, QuerySet
from data_modules.encoding import EncodingTable
from mmretrieval.index import EmbeddingStore, ExactIndex, VectorIndex
from mmretrieval.metrics.evaluation import (
    AVERAGE,
    GLOBAL,
    LOCAL,
    MODALITY_ACCURACY,
    EvaluationRound,
    Positives,
    Ranking,
    TaskTable,
    metrics_document,
    modality_accuracy,
    task_metrics,
    with_average,
)

__all__ = ["GLOBAL", "LOCAL", "EvaluationRound", "RetrievalEvaluation"]
_DRY_QUERIES, _DRY_CANDIDATES = 2, 64  # a task's queries and a pool's candidates under fast_dev_run


@dataclass(frozen=True, slots=True)
class _Pool:
    kind: str
    rows: Rows
    """Candidate rows in ascending order, so that equal scores come by row."""
    tasks: tuple[str, ...]


class RetrievalEvaluation(Callback):
    """Measures retrieval before training and after epochs, and in ``validate`` and ``test``.

    Embeds the queries of a split, each with its fixed instruction, and all candidates of its pools once, and
    searches the global pool ``global_<split>`` and each task's local pool. On rank 0, ``metrics.json`` and
    ``runs/<pool>_<task>.trec`` are written after every round, complete or not at all; those of ``validate``
    and ``test`` have the command in their name, so that they never replace those of a fit. Measures go to all
    loggers; averages can also be monitored, for instance by ``ModelCheckpoint``. Under ``fast_dev_run`` only
    a few queries and candidates are embedded, and no file is written.

    Attributes: ``history``, the rounds of the fit; ``latest``, the last round of any command; ``rankings``,
    its ranked lists by pool and task.

    Args:
        split: Whose queries to evaluate.
        ks: Cut-off ranks of the hit rates, each at least 1.
        ndcg_k: Cut-off rank of nDCG, at least 1.
        depth: Length of the ranked lists, raised to the largest cut-off rank; the reciprocal rank is 0 beyond
            it.
        headline: The measure that summaries show first, "hit@5", "ndcg@10", "mrr", …
        folder: Where files go, the trainer's ``default_root_dir`` by default.
        index: An empty index to search with, :class:`~mmretrieval.index.ExactIndex` by default; each rank
            fills a copy and searches its share of the queries.
        every_n_epochs: Evaluate after every n-th epoch, at least 1, and after the last one.
        before_training: Evaluate before the first optimizer step as well.
        embeddings: Where embeddings are kept, see :func:`~callbacks.embedding.embed`.
        embedding_dtype: How they are kept: ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        ValueError: If a number is out of range or the headline is none of the measures.
        MisconfigurationException: From ``setup``, if module or data module are none for retrieval, or the
            index is not empty.
        DataError: From ``setup``, if the split has no queries.
    """

    def __init__(
        self,
        split: str = "test",
        ks: Sequence[int] = (1, 5, 10),
        ndcg_k: int = 10,
        depth: int = 100,
        headline: str = "hit@5",
        folder: Path | None = None,
        index: VectorIndex | None = None,
        every_n_epochs: int = 1,
        before_training: bool = True,
        embeddings: Path | None = None,
        embedding_dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    ) -> None:
        super().__init__()
        if not ks or min(*ks, ndcg_k, depth, every_n_epochs) < 1:
            raise ValueError(
                "ks, ndcg_k, depth and every_n_epochs must be at least 1, "
                f"found {tuple(ks)}, {ndcg_k}, {depth} and {every_n_epochs}."
            )
        measures = [*(f"hit@{k}" for k in ks), f"ndcg@{ndcg_k}", "mrr"]
        if headline not in measures:
            raise ValueError(f"headline must be one of {', '.join(measures)}, found {headline!r}.")
        self.split, self.headline, self.folder, self.index = split, headline, folder, index
        self.ks, self.ndcg_k, self.depth = tuple(ks), ndcg_k, max(depth, ndcg_k, *ks)
        self.every_n_epochs, self.before_training = every_n_epochs, before_training
        self.embeddings, self.embedding_dtype = embeddings, embedding_dtype
        self.history: list[EvaluationRound] = []
        self.latest: EvaluationRound | None = None
        self.rankings: dict[str, dict[str, Ranking]] = {}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict":
            return
        retriever_of(pl_module)
        data_of(trainer).queries(self.split)  # an unknown split is an error now, not after an epoch
        if self.index is not None and len(self.index):
            raise MisconfigurationException(
                f"The index of evaluation must be empty, it holds {len(self.index)}."
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.before_training and trainer.global_step == 0 and not self.history:
            self._fit_round(trainer, pl_module, epoch=0)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs == 0 or is_last_epoch(trainer):
            self._monitor(pl_module, self._fit_round(trainer, pl_module, epoch), logger=False)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:  # validation within a fit, sanity check included, is not
            self._single_round(trainer, pl_module, "validate")

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._single_round(trainer, pl_module, "test")

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"history": [asdict(done) for done in self.history]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [EvaluationRound(**done) for done in state_dict["history"]]

    def evaluate(self, trainer: Trainer, module: LightningModule, epoch: int = 0) -> EvaluationRound:
        """Measure the current weights, without writing or logging anything.

        All ranks call it together.

        Args:
            trainer: Its data module has the queries and pools.
            module: The retriever.
            epoch: How many epochs are finished.

        Returns:
            The measures; also in ``self.latest``, with the ranked lists in ``self.rankings``.

        Raises:
            DataError: If the split has no queries.
            MisconfigurationException: If there is no pool to search.
            ValueError: If an embedding is not finite.
        """
        begin = time.perf_counter()
        data = data_of(trainer)
        queries, corpus = data.queries(self.split), data.corpus
        rows = np.arange(len(queries), dtype=np.int64)
        dry = is_dry_run(trainer)
        if dry:
            few = [part[:_DRY_QUERIES] for part in _rows_by_task(queries, rows).values()]
            rows = np.sort(np.concatenate(few))
        positives = Positives.of(queries.positives(row) for row in range(len(queries)))
        pools = self._pools(queries)
        if dry:
            known = positives.part(rows).rows
            pools = [_Pool(pool.kind, _shortened(pool.rows, known), pool.tasks) for pool in pools]
        self.rankings = self._search(trainer, module, data, rows, pools)
        metrics = self._metrics(corpus, queries, positives, pools)
        self.latest = EvaluationRound(epoch, trainer.global_step, time.perf_counter() - begin, metrics)
        return self.latest

    def _pools(self, queries: QuerySet) -> list[_Pool]:
        """The pools to search, each with the tasks whose queries search it."""
        available, name = queries.corpus.pools, f"{GLOBAL}_{self.split}"
        named = {name: (GLOBAL, queries.tasks)} if name in available else {}
        missing = [] if named else [name]
        local: dict[str, tuple[str, ...]] = {}
        for task in queries.tasks:
            pool = queries.local_pool(task)
            if pool is None:
                missing.append(f"local_{task}")
            else:
                local[pool] = (*local.get(pool, ()), task)
        if missing:
            rank_zero_warn(
                f"Nothing can be measured in pools that {queries.corpus.root} does not have: "
                f"{', '.join(missing)}. Add their files under cand_pool and pack the data again."
            )
        found = [_Pool(kind, np.sort(available[pool]), tasks) for pool, (kind, tasks) in named.items()]
        found += [_Pool(LOCAL, np.sort(available[pool]), tasks) for pool, tasks in local.items()]
        if not found:
            raise MisconfigurationException(
                f"{queries.corpus.root} has no pool for the queries of {self.split!r}: leave the evaluation "
                "out, or evaluate another split."
            )
        return found

    def _search(
        self,
        trainer: Trainer,
        module: LightningModule,
        data: RetrievalData,
        query_rows: Rows,
        pools: list[_Pool],
    ) -> dict[str, dict[str, Ranking]]:
        device = trainer.strategy.root_device
        index = self.index
        if index is None:
            index = ExactIndex(str(device) if device.type == "cuda" else "cpu")
        every = np.unique(np.concatenate([pool.rows for pool in pools]))
        candidates = self._embed(trainer, module, data.candidate_table(), every)
        asked_of = self._embed(trainer, module, data.query_table(self.split), query_rows)
        by_task = _rows_by_task(data.queries(self.split), query_rows)
        rankings: dict[str, dict[str, Ranking]] = {}
        for pool in pools:
            asked = np.concatenate([by_task[task] for task in pool.tasks])
            vectors = asked_of.vectors_of(asked)
            scores, found = search(index, candidates, pool.rows, vectors, self.depth, device)
            ranking = Ranking(asked, found, scores)
            for task in pool.tasks:
                own = ranking.part(np.isin(asked, by_task[task]))
                rankings.setdefault(pool.kind, {})[task] = own
        if is_dry_run(trainer):
            discard(trainer, candidates, asked_of)
        return rankings

    def _embed(
        self, trainer: Trainer, module: LightningModule, table: EncodingTable, rows: Rows
    ) -> EmbeddingStore:
        return embed(trainer, module, table, rows, self.embeddings, self.embedding_dtype)

    def _metrics(
        self, corpus: PackedCorpus, queries: QuerySet, positives: Positives, pools: list[_Pool]
    ) -> dict[str, TaskTable]:
        tables: dict[str, TaskTable] = {}
        for pool in pools:
            for task in pool.tasks:
                ranking = self.rankings[pool.kind][task]
                known = positives.part(ranking.queries)
                values, left_out = task_metrics(ranking, known, pool.rows, ks=self.ks, ndcg_k=self.ndcg_k)
                if left_out:
                    rank_zero_warn(
                        f"{left_out} of {ranking.queries.size} queries of {task} are left out of the "
                        f"{pool.kind} measures: none of their positives is in the pool."
                    )
                if pool.kind == GLOBAL and values:
                    values[MODALITY_ACCURACY] = modality_accuracy(
                        ranking, queries.target_modality, corpus.candidate_modalities
                    )
                if values:
                    tables.setdefault(pool.kind, {})[task] = values
        return {kind: with_average(table) for kind, table in tables.items()}

    def _fit_round(self, trainer: Trainer, module: LightningModule, epoch: int) -> EvaluationRound:
        done = self.evaluate(trainer, module, epoch)
        self.history.append(done)
        _log(trainer, done.scalars())
        self._write(trainer, metrics_document(self.history), "")
        return done

    def _single_round(self, trainer: Trainer, module: LightningModule, command: str) -> None:
        done = self.evaluate(trainer, module, trainer.current_epoch)
        _log(trainer, {name: value for name, value in done.scalars().items() if not _is_average(name)})
        self._monitor(module, done, logger=bool(trainer.loggers))
        self._write(trainer, metrics_document([done], with_untrained=False), f"_{command}")

    def _write(self, trainer: Trainer, document: dict[str, Any], suffix: str) -> None:
        if not trainer.is_global_zero or is_dry_run(trainer):
            return
        folder = self.output_folder(trainer)
        with staged_file(folder / f"metrics{suffix}.json") as path:
            path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", "utf-8")
        queries = data_of(trainer).queries(self.split)
        for kind, tasks in self.rankings.items():
            for task, ranking in tasks.items():
                with staged_file(folder / f"runs{suffix}" / f"{kind}_{task}.trec") as path:
                    _write_run(path, ranking, queries, f"step{trainer.global_step}")

    def _monitor(self, module: LightningModule, done: EvaluationRound, *, logger: bool) -> None:
        """Hand the averages to Lightning: callbacks monitor them, and ``validate`` returns what is logged."""
        for name, value in done.scalars().items():
            if _is_average(name):
                # All ranks have the same value; sync_dist only says so to Lightning.
                module.log(name, value, on_step=False, on_epoch=True, logger=logger, sync_dist=True)

    def output_folder(self, trainer: Trainer) -> Path:
        """Where metrics and run files go."""
        return self.folder if self.folder is not None else Path(trainer.default_root_dir)


def _is_average(name: str) -> bool:
    return name.split("/")[1] == AVERAGE


def _log(trainer: Trainer, scalars: dict[str, float]) -> None:
    # Not pl_module.log: it logs at the step before, and not at all in some of the hooks.
    for logger in trainer.loggers:
        logger.log_metrics(scalars, step=trainer.global_step)


def _rows_by_task(queries: QuerySet, rows: Rows) -> dict[str, Rows]:
    """The rows of each task, ascending if ``rows`` is."""
    tasks: NDArray[np.int32] = queries.task_of[rows]
    return {task: rows[tasks == number] for number, task in enumerate(queries.tasks)}


def _shortened(pool: Rows, known: Rows) -> Rows:
    """The known positives that are in a pool, and a few more of it."""
    kept: Rows = np.union1d(pool[:_DRY_CANDIDATES], np.intersect1d(pool, known))
    return kept


def _write_run(path: Path, ranking: Ranking, queries: QuerySet, name: str) -> None:
    """Write a TREC run file; missing ranks are left out."""
    ids = queries.corpus.candidate_ids
    with path.open("w", encoding="ascii") as file:
        for query, rows, scores in zip(ranking.queries, ranking.rows, ranking.scores, strict=True):
            found = rows >= 0
            lines = zip(ids[rows[found]].astype(str), scores[found], strict=True)
            qid = queries.ids[query]
            file.writelines(
                f"{qid} Q0 {did} {place} {score:.9g} {name}\n" for place, (did, score) in enumerate(lines, 1)
            )
