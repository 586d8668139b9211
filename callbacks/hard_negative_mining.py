"""While training: search the pool with the current weights, mine negatives, and hand them to the data."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from callbacks.collaborators import RetrievalData, data_of, is_dry_run, is_last_epoch, retriever_of
from callbacks.mining_round import MiningRound, log_histograms
from callbacks.mining_schedule import MiningSchedule, RoundSubset
from callbacks.mining_search import MiningSearch
from callbacks.teacher import TeacherFolder
from data_modules.encoding import queries_digest
from data_modules.formats.records import DataError
from mmretrieval.index import VectorIndex
from mmretrieval.mining import (
    DataSets,
    ExpectedStamp,
    FilteredMiningReport,
    MinedNegatives,
    MiningHistograms,
    MiningPlan,
    NegativeTable,
    StaleNegativesError,
    Stamp,
    merge_rounds,
    mine,
)
from mmretrieval.mining.negatives import file_hash
from mmretrieval.mining.stamp import Scalar


class HardNegativeMining(Callback):
    """Mines modality-aware hard negatives during training (MM-Embed, https://arxiv.org/abs/2411.02571).

    Embeds the training pool and the training queries with their fixed instruction, searches, mines, writes
    ``round_<n>.npz`` with a stamp of what it was mined from, and hands the negatives to the data module,
    which uses them from the next batch on. A resumed run reads the files of the rounds in use again and
    refuses one that was changed or belongs to other data or settings.

    Args:
        plan: How negatives are chosen; the paper's way by default.
        schedule: When to mine; after each epoch but the last by default.
        subset: What a round looks at; everything by default.
        rounds_kept: Train with the negatives of so many rounds, at least 1, the newest first; a sample draws
            from all of them. With a ``subset`` of the queries, the others keep those of their last turn.
            ``start`` counts as the round before the first.
        index: An empty index to search with, :class:`~mmretrieval.index.ExactIndex` by default, on the rank's
            device and with the pool on disk; each rank fills a copy and searches its share of the queries.
        folder: Where the files go, ``negatives`` in the trainer's ``default_root_dir`` by default.
        teacher: Folder of another retriever that is searched with, a run of this project or a
            sentence-transformers text model; what it embeds is kept for all rounds. A
            :class:`~callbacks.TeacherFolder` also says where its base is now. ``None``: the retriever that is
            trained.
        teacher_tasks: Tasks that the teacher mines for, as patterns with ``*`` and ``?``, while the retriever
            that is trained mines for the others: a text model for the text data of a second stage, say,
            which are ``text:*``. A teacher that reads no pictures searches the texts of the pool. ``None``:
            it mines for all.
        start: A file of an earlier run to train with until the first round, as in the paper, which mines
            with a first model and then trains a second one from the backbone. A resumed run refuses another
            file, or none, while it still trains with these negatives.
        embeddings: Where embeddings are kept, see :func:`~callbacks.embedding.embed`.
        embedding_dtype: How they are kept: ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        ValueError: If ``rounds_kept`` is below 1, or there are ``teacher_tasks`` without a teacher.
        MisconfigurationException: From ``setup``, if module or data module are none for retrieval, or the
            index is not empty.
        StaleNegativesError: From ``setup``, if ``start`` was mined from other data.
    """

    def __init__(
        self,
        plan: MiningPlan | None = None,
        schedule: MiningSchedule | None = None,
        subset: RoundSubset | None = None,
        rounds_kept: int = 1,
        index: VectorIndex | None = None,
        folder: Path | None = None,
        teacher: Path | TeacherFolder | None = None,
        teacher_tasks: Sequence[str] | None = None,
        start: Path | None = None,
        embeddings: Path | None = None,
        embedding_dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    ) -> None:
        super().__init__()
        if rounds_kept < 1:
            raise ValueError(f"rounds_kept must be at least 1, found {rounds_kept}.")
        self.plan = plan if plan is not None else MiningPlan()
        self.schedule = schedule if schedule is not None else MiningSchedule()
        self.rounds_kept = rounds_kept
        self.index = index
        self.folder, self.start = folder, start
        subset = subset if subset is not None else RoundSubset()
        self.search = MiningSearch(self.index, subset, teacher, teacher_tasks, embeddings, embedding_dtype)
        self.reports: list[MiningRound] = []
        self.latest: NegativeTable | None = None
        """What the last round of this process mined."""
        self._start: tuple[str, NegativeTable] | None = None  # hash and content of the file to begin with
        self._files: list[tuple[str, str]] = []  # path and hash of the rounds in use, the newest first
        self._started, self._spent = time.perf_counter(), 0.0  # of this process, in seconds
        self._within_epoch = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        retriever_of(pl_module)
        data = data_of(trainer)
        data.corpus.pool_digest(data.train_pool)  # an unknown pool is an error now, not after an epoch
        if self.index is not None and len(self.index):
            raise MisconfigurationException(f"The index of mining must be empty, it holds {len(self.index)}.")
        if self.start is not None:
            self._start = file_hash(self.start), NegativeTable.load(self.start, _of_data(data))
            data.set_negatives(self._start[1])
        self.search.check(data.queries(data.train_split))
        if self.schedule.by_steps:
            data.set_pause(lambda position: self._next_round(trainer, position))

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._spent = time.perf_counter(), 0.0
        # In on_train_start, workers may prepare batches already. A resumed run has files.
        begins = trainer.global_step == 0 and not self._files and not is_dry_run(trainer)
        if self.schedule.begins and begins:
            self.mine(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, last = trainer.current_epoch + 1, is_last_epoch(trainer)
        if self.schedule.is_due(epoch, trainer.global_step, self._mined_at, last=last):
            self.mine(trainer, pl_module)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A checkpoint may have been written at the step of a round, before the round. Where rounds come by
        # steps, nothing is read ahead before the first batch is asked for.
        if trainer.global_step > 0:
            self._mine_within(trainer, pl_module)

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        ends = batch_idx + 1 >= trainer.num_training_batches
        # A listed step is mined at in on_train_epoch_end if it ends an epoch, also the last one.
        over = ends and (is_last_epoch(trainer) or self.schedule.at_steps is not None)
        if not (over or trainer.should_stop or trainer.global_step == trainer.max_steps):
            self._mine_within(trainer, pl_module)

    def _mine_within(self, trainer: Trainer, module: LightningModule) -> None:
        left = self._steps_left(trainer)
        if left is not None and left <= 0:
            self._within_epoch = True
            try:
                self.mine(trainer, module)
            finally:
                self._within_epoch = False

    def _steps_left(self, trainer: Trainer) -> int | None:
        return self.schedule.steps_left(trainer.global_step, self._mined_at)

    @property
    def _mined_at(self) -> int | None:
        return self.reports[-1].step if self.reports else None

    def _next_round(self, trainer: Trainer, position: int) -> int:
        """The first batch of the epoch that may come after the next round, from ``position`` on."""
        every, left = trainer.accumulate_grad_batches, self._steps_left(trainer)
        if left is None:
            return sys.maxsize  # no round is to come
        return position - position % every + max(left, 1) * every

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._spent:
            whole = time.perf_counter() - self._started
            trainer.print(f"Mining took {self._spent:.0f} s, {self._spent / whole:.0%} of the fit.")
        missed = self.schedule.missed(done.step for done in self.reports)
        if missed and not is_dry_run(trainer):
            rank_zero_warn(
                f"Training ended at step {trainer.global_step} without a round of mining at "
                f"{', '.join(map(str, missed))} of schedule.at_steps: list steps that it comes to."
            )

    def mine(self, trainer: Trainer, module: LightningModule) -> FilteredMiningReport:
        """Mine with the current weights, and hand the negatives to the trainer's data module.

        All ranks call it together.

        Returns:
            Counts of what was mined and what was not; also the last of ``self.reports``.

        Raises:
            DataError: If the data has no such pool or split.
            ValueError: If an embedding is not finite, or the plan names a task that the data has not.
        """
        begin = time.perf_counter()
        data = data_of(trainer)
        path, stamp, report, histograms = self.write_round(trainer, module, len(self.reports))
        # What training uses is what stands in the files, on every rank.
        newest = self.latest = NegativeTable.load(path, _exactly(stamp))
        files = [(str(path), file_hash(path)), *self._files][: self.rounds_kept]
        data.set_negatives(self._mixed(newest, {file[1]: self._own(data, file) for file in files[1:]}))
        self._files = files
        self._report(trainer, stamp, report, begin)
        log_histograms(trainer.loggers, histograms, trainer.global_step)
        return report

    def write_round(
        self, trainer: Trainer, module: LightningModule, number: int
    ) -> tuple[Path, Stamp, FilteredMiningReport, MiningHistograms]:
        """Mine with the current weights into the round's file, and nothing more; all ranks call it together.

        Args:
            trainer: Its data module has the queries and the pool.
            module: The retriever.
            number: Of the round.

        Returns:
            The file, its stamp, and what was mined.

        Raises:
            DataError: If the data has no such pool or split.
            ValueError: If an embedding is not finite, or the plan names a task that the data has not.
        """
        data = data_of(trainer)
        queries, corpus = data.queries(data.train_split), data.corpus
        rows = self.search.subset.queries_of(number, len(queries))
        rankings = self.search.rankings(trainer, module, data, number, rows, self.plan.top_k)
        found, report = mine(
            rankings,
            corpus.candidate_modalities,
            corpus.candidate_keys,
            self.plan,
            DataSets(queries.tasks, queries.task_of[rows], queries.task_sources),
            number,
        )
        mined = MinedNegatives.empty(len(queries), self.plan.negatives_per_query)
        mined.put(rows, found)
        stamp = Stamp(
            weights_hash=retriever_of(module).weights_hash(),
            step=trainer.global_step,
            pool_hash=corpus.pool_digest(data.train_pool),
            queries_hash=queries_digest(queries),
            round=number,
            settings=self._settings(data),
        )
        path = self._folder(trainer) / f"round_{number}.npz"
        if trainer.is_global_zero:
            NegativeTable.from_mined(stamp, queries.ids.tolist(), mined, corpus.candidate_id).save(path)
        trainer.strategy.barrier("mined negatives")
        return path, stamp, report, MiningHistograms.of(found, rankings, self.plan.top_k)

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # The first hook that knows the checkpoint. In on_train_start, workers may prepare batches already.
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if trainer.state.fn == TrainerFn.FITTING and state:
            self._check_start(state)
            if state["files"]:
                data_of(trainer).set_negatives(self._restored(trainer, state))

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "files": list(self._files),
            "reports": [asdict(mined) for mined in self.reports],
            "start": None if self._start is None else self._start[0],
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._files = [(path, digest) for path, digest in state_dict["files"]]
        self.reports = [MiningRound.restored(mined) for mined in state_dict["reports"]]

    def _restored(self, trainer: Trainer, state: dict[str, Any]) -> NegativeTable:
        """The negatives that the checkpoint's run was using."""
        data, last = data_of(trainer), state["reports"][-1]
        files = [(str(self._place(trainer, Path(path))), digest) for path, digest in state["files"]]
        newest, *older = (self._own(data, file) for file in files)
        if (newest.stamp.step, newest.stamp.round) != (last["step"], last["round"]):
            raise StaleNegativesError(
                f"{files[0][0]} is round {newest.stamp.round} of step {newest.stamp.step}; the checkpoint "
                f"was training with round {last['round']} of step {last['step']}."
            )
        hashes = [digest for _, digest in files[1:]]
        return self._mixed(newest, dict(zip(hashes, older, strict=True)))

    def _check_start(self, state: dict[str, Any]) -> None:
        """Refuse to go on with other negatives to begin with, where they are still in use."""
        here = None if self._start is None else self._start[0]
        in_use = len(state["files"]) < self.rounds_kept
        if "start" in state and in_use and state["start"] != here:  # earlier versions did not note it
            raise StaleNegativesError(
                f"start is {self.start} (hash {here}), the checkpoint was training with negatives of the "
                f"hash {state['start']} to begin with: bring that file back, or start a new run from the "
                "weights alone."
            )

    def _place(self, trainer: Trainer, written: Path) -> Path:
        """Where a round's file is; a run folder that was moved as a whole still has it."""
        path = next((p for p in (self._folder(trainer) / written.name, written) if p.is_file()), None)
        if path is None:
            raise DataError(
                f"{written}: the checkpoint was training with these mined negatives, but the file is gone; "
                "bring it back, or start a new run from the weights alone"
            )
        return path

    def _own(self, data: RetrievalData, file: tuple[str, str]) -> NegativeTable:
        """A round of this run that was read before, and nothing else."""
        path, digest = Path(file[0]), file[1]
        expected = _of_data(data)
        table = NegativeTable.load(
            path, ExpectedStamp(expected.pool_hash, expected.queries_hash, settings=self._settings(data))
        )
        if file_hash(path) != digest:
            raise StaleNegativesError(
                f"{path} is not the file that the checkpoint was training with (hash {file_hash(path)}, "
                f"expected {digest}): another run has mined into this folder. Bring the file back, or "
                "start a new run from the weights alone."
            )
        return table

    def _mixed(self, newest: NegativeTable, older: dict[str, NegativeTable]) -> NegativeTable:
        """The rounds in use, with what the run began with if there are fewer than may be."""
        if self.rounds_kept == 1:
            return newest
        if self._start is not None:
            digest, table = self._start
            before_first = replace(table.stamp, round=-1)
            older = {**older, digest: table.with_columns(before_first, table.counts, table.columns)}
        return merge_rounds(newest, older, self.rounds_kept)

    def _settings(self, data: RetrievalData) -> dict[str, Scalar]:
        names = {"pool": data.train_pool, "split": data.train_split}
        subset = {f"subset_{name}": value for name, value in asdict(self.search.subset).items()}
        return {**self.plan.stamp(), **subset, **names, **self.search.stamp()}

    def _folder(self, trainer: Trainer) -> Path:
        return self.folder if self.folder is not None else Path(trainer.default_root_dir) / "negatives"

    def _report(self, trainer: Trainer, stamp: Stamp, report: FilteredMiningReport, begin: float) -> None:
        now = time.perf_counter()
        seconds = now - begin
        self._spent += seconds
        share = self._spent / max(now - self._started, self._spent)
        epochs = trainer.current_epoch + (not self._within_epoch)
        mined = MiningRound(stamp.round, epochs, stamp.step, seconds, share, report)
        self.reports.append(mined)
        for logger in trainer.loggers:
            logger.log_metrics(mined.scalars(), step=trainer.global_step)
        trainer.print(mined)
        if report.without == report.queries:
            rank_zero_warn(f"Mining found no negative for any query. {mined}")


def _of_data(data: RetrievalData) -> ExpectedStamp:
    """What a file must say that negatives of this data are in."""
    queries = data.queries(data.train_split)
    return ExpectedStamp(data.corpus.pool_digest(data.train_pool), queries_digest(queries))


def _exactly(stamp: Stamp) -> ExpectedStamp:
    """What a file must say that was just written."""
    return ExpectedStamp(
        stamp.pool_hash, stamp.queries_hash, stamp.weights_hash, stamp.step, stamp.round, stamp.settings
    )
