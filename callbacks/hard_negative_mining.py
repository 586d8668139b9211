"""Between epochs: search the pool with the current weights, mine negatives, and hand them to the data."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from callbacks.embedding import RetrievalData, Rows, data_of, embed, is_last_epoch, retriever_of, search
from data_modules.corpus import PackedCorpus, QuerySet
from data_modules.formats.records import DataError, id_key
from mmretrieval.index import FaissIndex, VectorIndex
from mmretrieval.metrics.evaluation import Positives
from mmretrieval.mining import (
    ExpectedStamp,
    MiningReport,
    MiningSettings,
    NegativeTable,
    Rankings,
    StaleNegativesError,
    Stamp,
    mine_modality_aware,
)
from mmretrieval.mining.negatives import Scalar, file_hash


@dataclass(frozen=True, slots=True)
class MiningRound:
    """One mining.

    Args:
        round: Its number, from 0.
        epoch: How many epochs were finished.
        step: How many optimizer steps were done.
        seconds: How long it took.
        share_of_time: The part of this process' training time that went into mining so far, from 0 to 1.
        report: What was mined.
    """

    round: int
    epoch: int
    step: int
    seconds: float
    share_of_time: float
    report: MiningReport

    def scalars(self) -> dict[str, float]:
        """All figures for a logger, as ``mining/…``."""
        figures = asdict(self.report) | {
            "mean_positive_rank": self.report.mean_positive_rank,
            "top_wrong_modality_share": self.report.top_wrong_modality_share,
            "without": self.report.without,
            "seconds": self.seconds,
            "share_of_time": self.share_of_time,
        }
        return {f"mining/{name}": float(value) for name, value in figures.items()}

    def __str__(self) -> str:
        report = self.report
        return (
            f"Mined round {self.round} at step {self.step}: {report.wrong_modality:,} negatives of the wrong "
            f"modality and {report.unsatisfactory:,} unsatisfactory ones for {report.queries:,} queries; "
            f"{report.incomplete:,} got too few, {report.without:,} none ({report.without_retrieved:,} "
            f"retrieved nothing, {report.without_kind:,} nothing of either kind, {report.without_known:,} "
            f"only known positives); {self.seconds:.1f} s, {self.share_of_time:.0%} of the time."
        )


class HardNegativeMining(Callback):
    """Mines modality-aware hard negatives after an epoch (MM-Embed, https://arxiv.org/abs/2411.02571).

    Embeds the training pool and all training queries with their fixed instruction, searches, mines, writes
    ``round_<n>.npz`` with a stamp of what it was mined from, and hands the table to the data module, which
    uses it from the next epoch on. After the last epoch nothing is mined. A resumed run reads the file of its
    last round again and refuses one that was changed or belongs to other data or settings.

    Args:
        top_k: How many of the best candidates are looked at, at least 1.
        k_prime: Candidates of the asked modality ranked below it are negatives, from 0 to ``top_k``.
        probability_c1: Chance of a negative of the wrong modality where both kinds are there, from 0 to 1.
        negatives_per_query: How many negatives to draw for each query, at least 1.
        seed: Of the draws.
        every_n_epochs: Mine after every n-th epoch, at least 1.
        index: An empty index to search with, :class:`~mmretrieval.index.FaissIndex` by default; each rank
            fills a copy and searches its share of the queries.
        folder: Where the files go, ``negatives`` in the trainer's ``default_root_dir`` by default.

    Raises:
        ValueError: If a value is out of range.
        MisconfigurationException: From ``setup``, if module or data module are none for retrieval, or the
            index is not empty.
    """

    def __init__(
        self,
        top_k: int = 50,
        k_prime: int = 45,
        probability_c1: float = 0.5,
        negatives_per_query: int = 1,
        seed: int = 0,
        every_n_epochs: int = 1,
        index: VectorIndex | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__()
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, found {every_n_epochs}.")
        self.settings = MiningSettings(top_k, k_prime, probability_c1, negatives_per_query, seed)
        self.every_n_epochs = every_n_epochs
        self.index = index if index is not None else FaissIndex()
        self.folder = folder
        self.reports: list[MiningRound] = []
        self._file: tuple[str, str] | None = None  # path and hash of the negatives in use
        self._started, self._spent = time.perf_counter(), 0.0  # of this process, in seconds

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        retriever_of(pl_module)
        data = data_of(trainer)
        data.corpus.pool_digest(data.train_pool)  # an unknown pool is an error now, not after an epoch
        if len(self.index):
            raise MisconfigurationException(f"The index of mining must be empty, it holds {len(self.index)}.")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._spent = time.perf_counter(), 0.0

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0 and not is_last_epoch(trainer):
            self.mine(trainer, pl_module)

    def mine(self, trainer: Trainer, module: LightningModule) -> MiningReport:
        """Mine with the current weights, and hand the negatives to the trainer's data module.

        All ranks call it together.

        Returns:
            Counts of what was mined and what was not; also the last of ``self.reports``.

        Raises:
            DataError: If the data has no such pool or split.
            ValueError: If an embedding is not finite.
        """
        begin = time.perf_counter()
        data = data_of(trainer)
        queries = data.queries(data.train_split)
        rankings = self._rankings(trainer, module, data, queries)
        corpus = data.corpus
        mined, report = mine_modality_aware(
            rankings, corpus.candidate_modalities, corpus.candidate_keys, self.settings
        )
        stamp = Stamp(
            weights_hash=retriever_of(module).weights_hash(),
            step=trainer.global_step,
            pool_hash=corpus.pool_digest(data.train_pool),
            queries_hash=queries_digest(corpus, data.train_split),
            round=len(self.reports),
            settings=self._settings(data),
        )
        path = self._folder(trainer) / f"round_{stamp.round}.npz"
        if trainer.is_global_zero:
            NegativeTable.from_mined(stamp, queries.ids.tolist(), mined, corpus.candidate_id).save(path)
        trainer.strategy.barrier("mined negatives")
        # What training uses is what stands in the file, on every rank.
        data.set_negatives(NegativeTable.load(path, _exactly(stamp)))
        self._file = (str(path), file_hash(path))
        self._report(trainer, stamp, report, begin)
        return report

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # The first hook that knows the checkpoint. In on_train_start, workers already prepare batches.
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if trainer.state.fn == TrainerFn.FITTING and state and state["path"] is not None:
            data_of(trainer).set_negatives(self._restored(trainer, state))

    @override
    def state_dict(self) -> dict[str, Any]:
        path, digest = self._file or (None, None)
        return {"path": path, "hash": digest, "reports": [asdict(mined) for mined in self.reports]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._file = (state_dict["path"], state_dict["hash"]) if state_dict["path"] else None
        self.reports = [
            MiningRound(**{**mined, "report": MiningReport(**mined["report"])})
            for mined in state_dict["reports"]
        ]

    def _rankings(
        self, trainer: Trainer, module: LightningModule, data: RetrievalData, queries: QuerySet
    ) -> Rankings:
        split, device = data.train_split, trainer.strategy.root_device
        pool: Rows = np.sort(data.corpus.pools[data.train_pool])  # so that ties come by candidate row
        pool_vectors = embed(trainer, module, data.candidate_loader, pool, f"pool {data.train_pool}")
        query_vectors = embed(
            trainer,
            module,
            lambda rows: data.query_loader(split, rows),
            np.arange(len(queries), dtype=np.int64),
            f"{split} queries",
        )
        scores, found = search(self.index, pool_vectors, query_vectors, self.settings.top_k, device)
        positives = [queries.positives(row) for row in range(len(queries))]
        known = Positives.of(positives)
        return Rankings(
            rows=np.where(found >= 0, pool[found], -1),
            scores=scores,
            target_modality=queries.target_modality,
            labelled_row=np.array([rows[0] for rows in positives], dtype=np.int64),
            known_rows=known.rows,
            known_offsets=known.offsets,
            query_keys=np.array([id_key(id_) for id_ in queries.ids.tolist()], dtype=np.int64),
        )

    def _restored(self, trainer: Trainer, state: dict[str, Any]) -> NegativeTable:
        """The negatives that the checkpoint's run was using."""
        data, last = data_of(trainer), state["reports"][-1]
        written = Path(state["path"])
        # A run folder that was moved as a whole still has its negatives.
        path = next((p for p in (self._folder(trainer) / written.name, written) if p.is_file()), None)
        if path is None:
            raise DataError(
                f"{written}: the checkpoint was training with these mined negatives, but the file is gone; "
                "bring it back, or start a new run from the weights alone"
            )
        expected = ExpectedStamp(
            pool_hash=data.corpus.pool_digest(data.train_pool),
            queries_hash=queries_digest(data.corpus, data.train_split),
            step=last["step"],
            round=last["round"],
            settings=self._settings(data),
        )
        table = NegativeTable.load(path, expected)
        if file_hash(path) != state["hash"]:
            raise StaleNegativesError(
                f"{path} is not the file that the checkpoint was training with (hash {file_hash(path)}, "
                f"expected {state['hash']}): another run has mined into this folder. Bring the file back, or "
                "start a new run from the weights alone."
            )
        return table

    def _settings(self, data: RetrievalData) -> dict[str, Scalar]:
        names = {"pool": data.train_pool, "split": data.train_split, "index": type(self.index).__name__}
        return {**asdict(self.settings), **names}

    def _folder(self, trainer: Trainer) -> Path:
        return self.folder if self.folder is not None else Path(trainer.default_root_dir) / "negatives"

    def _report(self, trainer: Trainer, stamp: Stamp, report: MiningReport, begin: float) -> None:
        now = time.perf_counter()
        seconds = now - begin
        self._spent += seconds
        share = self._spent / max(now - self._started, self._spent)
        mined = MiningRound(stamp.round, trainer.current_epoch + 1, stamp.step, seconds, share, report)
        self.reports.append(mined)
        for logger in trainer.loggers:
            logger.log_metrics(mined.scalars(), step=trainer.global_step)
        trainer.print(mined)
        if report.without == report.queries:
            rank_zero_warn(f"Mining found no negative for any query. {mined}")


def queries_digest(corpus: PackedCorpus, split: str) -> str:
    """A hex digest of a split's queries with their positives, to recognise files computed from them."""
    arrays, name = corpus.manifest["arrays"], f"queries/{split}"
    parts = [arrays[f"{name}/{array}.npy"]["digest"] for array in ("positives", "positive_starts")]
    parts += [shard["index"] for shard in corpus.manifest["shards"][name]]
    return blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _exactly(stamp: Stamp) -> ExpectedStamp:
    """What a file must say that was just written."""
    return ExpectedStamp(
        stamp.pool_hash, stamp.queries_hash, stamp.weights_hash, stamp.step, stamp.round, stamp.settings
    )
