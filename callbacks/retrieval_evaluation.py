"""Retrieval measures of the current weights: in the global pool and in each task's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from callbacks.asking import Asking
from callbacks.collaborators import (
    UNTRAINED,
    RetrievalData,
    data_of,
    is_dry_run,
    is_last_epoch,
    retriever_of,
    trained_steps,
    weights_origin,
)
from callbacks.embedding import same_bits
from callbacks.environment import environment
from callbacks.evaluation_facts import evaluation_facts
from callbacks.evaluation_files import write_json, write_rankings
from callbacks.evaluation_settings import check_settings
from callbacks.evaluation_tables import ShortMeasures, groups_of, tables_of
from callbacks.exclusions import Exclusions
from callbacks.measure_logging import is_average_measure, log_measures, monitor_averages
from callbacks.pool_search import (
    DRY_QUERIES,
    Pool,
    Rankings,
    pools_of,
    positives_of,
    rows_by_task,
)
from callbacks.split_search import SplitSearch
from callbacks.uniir_table import write_uniir_table
from data_modules.atomic import staged_file
from data_modules.formats.records import DataError
from data_modules.query_set import QuerySet
from data_modules.wording import FIRST, Wording
from mmretrieval.index import EmbeddingStore, VectorIndex
from mmretrieval.metrics.evaluation import EvaluationRound, metrics_document
from mmretrieval.metrics.protocol import HEADLINE, Protocol, data_set_of


class RetrievalEvaluation(Callback):
    """Measures retrieval before training and after epochs, and in ``validate`` and ``test``.

    Embeds the queries of a split, each with its fixed instruction, and all candidates of its pools once, and
    searches the global pool ``global_<split>`` and each task's local pool. On rank 0, ``metrics.json``,
    ``runs/<pool>_<task>.trec`` and the ``.qrels`` of each are written after every round, complete or not at
    all. Those of ``validate`` and ``test`` have the command in their name, so that they never replace those
    of a fit; beside them are UniIR's table, ``uniir_<command>.tsv``, and ``environment_<command>.json``, the
    only file with times and what else differs between machines. Measures go to all loggers; averages can also
    be monitored, for instance by ``BestCheckpoint``. Under ``fast_dev_run`` only a few queries and
    candidates are embedded, and no file is written.

    What is chosen by a split's measures, a checkpoint or a setting, must not be reported on it: with a
    ``final_split`` that one is measured only when training starts and when it ends, goes to the loggers as
    ``<final_split>/global/…``, and cannot be monitored. It has ``metrics.json`` and ``runs/`` then, and those
    of the rounds between are ``metrics_<split>.json`` and ``runs_<split>/``; ``test`` evaluates it.

    Attributes: ``label``, empty, or what distinguishes this evaluation from that of the trainer's own data in
    names; ``history``, the rounds of the fit; ``latest``, the last round of any command; ``rankings``,
    its ranked lists by pool and task, those of the first instruction; ``candidates`` and ``asked``, the
    embeddings of all pools and of the queries; ``latest_facts``, what ``validate`` or ``test`` evaluated and
    how; ``final``, the evaluation of the final split, with the same attributes.

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
        protocol: The measures of a full evaluation, in place of ``ks``, ``ndcg_k`` and ``headline``; its
            headline measure is ``headline``.
        instructions: ``first``: each query's first; ``mean``: the mean over all instructions of a task,
            queries with fewer counted round, with its spread; ``uniir``: one drawn for each query, and
            UniIR's text clean-up, see :class:`~data_modules.wording.Wording`.
        instruction_seed: Of the draws of ``uniir``, at least 0.
        exclude_own_image: Data sets whose queries never find candidates that show the query's own picture,
            known positives aside. M-BEIR excludes none.
        final_split: The split to report on, if it is another than the one to choose by.

    Raises:
        ValueError: If a number is out of range, the headline is none of the measures, or the final split is
            ``split``.
        MisconfigurationException: From ``setup``, if module or data module are none for retrieval, or the
            index is not empty.
        DataError: From ``setup``, if a split has no queries.
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
        protocol: Protocol | None = None,
        instructions: Literal["first", "mean", "uniir"] = "first",
        instruction_seed: int = 0,
        exclude_own_image: Sequence[str] = (),
        final_split: str | None = None,
    ) -> None:
        super().__init__()
        self.label = ""
        check_settings(ks, ndcg_k, depth, every_n_epochs, headline, protocol, instructions)
        self.split, self.folder, self.index, self.protocol = split, folder, index, protocol
        self.headline = headline if protocol is None else HEADLINE
        self.ks, self.ndcg_k, self.depth = tuple(ks), ndcg_k, max(depth, ndcg_k, *ks)
        if protocol is not None:
            self.ks, self.ndcg_k = protocol.cut_offs.ks, protocol.ndcg_k
            self.depth = max(depth, protocol.depth)
        self.wording = Wording(0, instruction_seed, cleaned=True) if instructions == "uniir" else FIRST
        self.instructions, self.exclude_own_image = instructions, tuple(exclude_own_image)
        self.every_n_epochs, self.before_training = every_n_epochs, before_training
        self.embeddings, self.embedding_dtype = embeddings, embedding_dtype
        self.history: list[EvaluationRound] = []
        self.latest: EvaluationRound | None = None
        self.rankings: Rankings = {}
        self.candidates: EmbeddingStore | None = None
        self.asked: EmbeddingStore | None = None
        self.latest_facts: dict[str, Any] = {}
        self._further: list[Rankings] = []
        self._pools: list[Pool] = []
        self.is_final = False
        self.final = None if final_split is None else self._finally(final_split)

    def _finally(self, split: str) -> RetrievalEvaluation:
        """An evaluation like this one, of the final split."""
        if split == self.split:
            raise ValueError(
                f"final_split is {split!r}, as split is: leave it out, or choose by another split, as val."
            )
        final = copy(self)
        final.split, final.history, final.is_final, final.final = split, [], True, None
        return final

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict":
            return
        retriever_of(pl_module)
        for evaluation in self.of_stage(stage):
            evaluation.require_split(trainer)  # it is an error now, not after an epoch
        if self.index is not None and len(self.index):
            raise MisconfigurationException(
                f"The index of evaluation must be empty, it holds {len(self.index)}."
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.before_training and trainer.global_step == 0 and not self.history:
            for evaluation in self.of_stage("fit"):
                evaluation._fit_round(trainer, pl_module, epoch=0)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs == 0 or is_last_epoch(trainer):
            done = self._fit_round(trainer, pl_module, epoch)
            monitor_averages(pl_module, done, self._prefix, logger=False)
        if is_last_epoch(trainer):
            self._end(trainer, pl_module, epoch)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(trainer, pl_module, trainer.current_epoch)  # where the last epoch was not known to be it

    def _end(self, trainer: Trainer, module: LightningModule, epoch: int) -> None:
        """Measure the final split, unless that is done."""
        final, step = self.final, trainer.global_step
        if final is not None and not any(done.step == step for done in final.history):
            final._fit_round(trainer, module, epoch)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:  # validation within a fit, sanity check included, is not
            self._single_round(trainer, pl_module, "validate")

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for evaluation in self.of_stage("test"):
            evaluation._single_round(trainer, pl_module, "test")

    @override
    def state_dict(self) -> dict[str, Any]:
        return {name: [asdict(done) for done in one.history] for name, one in self._by_name().items()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, one in self._by_name().items():
            one.history = [EvaluationRound(**done) for done in state_dict.get(name, [])]

    def _by_name(self) -> dict[str, RetrievalEvaluation]:
        return {"history": self} if self.final is None else {"history": self, "final_history": self.final}

    def of_stage(self, stage: str) -> list[RetrievalEvaluation]:
        """What a command evaluates: both splits in ``fit``, the final one in ``test``."""
        if self.final is None or stage == "validate":
            return [self]
        return [self.final] if stage == "test" else [self, self.final]

    def require_split(self, trainer: Trainer) -> None:
        """Make sure that the split has queries.

        Raises:
            DataError: If it has none; says which setting to change.
        """
        try:
            self.data(trainer).queries(self.split)
        except DataError as error:
            key = "final_split" if self.is_final else "split"
            advice = "to null, or to another" if self.is_final else "to the one that choices are made by"
            raise DataError(
                f"{error}; set {key} of callbacks.{type(self).__name__} in the configuration {advice}"
            ) from None

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
        data = self.data(trainer)
        queries = data.queries(self.split)
        rows = np.arange(len(queries), dtype=np.int64)
        positives = positives_of(queries)
        self._pools = self.pools_of(queries)
        if is_dry_run(trainer):
            few = [part[:DRY_QUERIES] for part in rows_by_task(queries, rows).values()]
            rows = np.sort(np.concatenate(few))
            self._pools = [pool.shortened(positives.part(rows).rows) for pool in self._pools]
        exclusions = Exclusions(queries, positives, self._excluding(queries))
        searched = self._search().run(trainer, module, data, rows, self._pools, exclusions)
        found, self.candidates, self.asked = searched
        self.rankings, *self._further = (one.rankings for one in found)
        asked = self.protocol or ShortMeasures(self.ks, self.ndcg_k)
        tables = tables_of(found, self._pools, queries, positives, asked)
        groups = groups_of(queries) if self.protocol else {}
        self.latest = EvaluationRound(
            epoch,
            trained_steps(trainer, module),
            time.perf_counter() - begin,
            metrics=tables.metrics(groups),
            intervals=tables.intervals(groups, self.protocol) if self.protocol else {},
            spread=tables.spread,
            left_out=tables.left_out,
            queries={task: len(part) for task, part in rows_by_task(queries, rows).items()},
        )
        return self.latest

    def _excluding(self, queries: QuerySet) -> tuple[str, ...]:
        there = {data_set_of(task) for task in queries.tasks}
        if absent := sorted(set(self.exclude_own_image) - there):
            rank_zero_warn(
                f"exclude_own_image names data sets that have no {self.split} queries here: "
                f"{', '.join(absent)}; there are {', '.join(sorted(there))}."
            )
        return self.exclude_own_image

    @property
    def asking(self) -> Asking:
        """How queries are asked."""
        return Asking(self.instructions, self.wording)

    def _search(self) -> SplitSearch:
        return SplitSearch(
            self.split, self.asking, self.index, self.depth, self.embeddings, self.embedding_dtype
        )

    def _fit_round(self, trainer: Trainer, module: LightningModule, epoch: int) -> EvaluationRound:
        done = self.evaluate(trainer, module, epoch)
        self.history.append(done)
        prefix = f"{self.shown_split}/" if self.is_final else ""
        log_measures(trainer, done.scalars(), f"{self._prefix}{prefix}")
        suffix = "" if self.final is None else f"_{self.shown_split}"
        self._write(trainer, metrics_document(self.history), suffix)
        return done

    def _single_round(self, trainer: Trainer, module: LightningModule, command: str) -> None:
        origin = weights_origin(trainer, module)
        if origin == UNTRAINED:
            rank_zero_warn(
                "The weights that are evaluated are untrained: give --ckpt_path CHECKPOINT, or the folder of "
                "a run as --model.init_args.init_from RUN. The report says so too."
            )
        with same_bits(module):
            done = self.evaluate(trainer, module, trainer.current_epoch)
        single = {n: value for n, value in done.scalars().items() if not is_average_measure(n)}
        log_measures(trainer, single, self._prefix)
        monitor_averages(module, done, self._prefix, logger=bool(trainer.loggers))
        # All ranks: weights may be shared among them.
        self.latest_facts = evaluation_facts(self, trainer, module)
        self._write(trainer, {**done.document(), "evaluation": self.latest_facts}, f"_{command}")
        if trainer.is_global_zero and not is_dry_run(trainer):
            folder, queries = self.output_folder(trainer), self.data(trainer).queries(self.split)
            if not self.label:
                with staged_file(folder / f"uniir_{command}.tsv") as path:
                    write_uniir_table(path, done, queries)
            machine = {"seconds": round(done.seconds, 3), **dict(environment(trainer))}
            write_json(folder / f"environment{self.file_suffix}_{command}.json", machine)

    def _write(self, trainer: Trainer, document: dict[str, Any], suffix: str) -> None:
        if not trainer.is_global_zero or is_dry_run(trainer):
            return
        folder, suffix = self.output_folder(trainer), self.file_suffix + suffix
        write_json(folder / f"metrics{suffix}.json", document)
        queries = self.data(trainer).queries(self.split)
        origin = weights_origin(trainer, trainer.lightning_module)
        name = "step0" if origin == "unknown" else origin.replace(" ", "")
        write_rankings(folder / f"runs{suffix}", [self.rankings, *self._further], self._pools, queries, name)

    @property
    def _prefix(self) -> str:
        return f"{self.label}/" if self.label else ""

    @property
    def file_suffix(self) -> str:
        """What the names of files have behind ``metrics``, ``runs`` and ``report``."""
        return f"_{self.label}" if self.label else ""

    @property
    def shown_split(self) -> str:
        """What readers know the split as."""
        return self.split

    def data(self, trainer: Trainer) -> RetrievalData:
        """The data that is evaluated.

        Raises:
            MisconfigurationException: If the trainer has no retrieval data.
        """
        return data_of(trainer)

    def pools_of(self, queries: QuerySet) -> list[Pool]:
        """The pools that queries search.

        Raises:
            MisconfigurationException: If there is none.
        """
        return pools_of(queries)

    def output_folder(self, trainer: Trainer) -> Path:
        """Where metrics and run files go."""
        return self.folder if self.folder is not None else Path(trainer.default_root_dir)
