"""The DataModule of retrieval data: training batches, and contents to embed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from data_modules.cached_packing import pack_once, packed_place
from data_modules.collate import (
    ContentProcessor,
    ContrastiveCollate,
    TrainingDataset,
)
from data_modules.corpus import PackedCorpus
from data_modules.encoding import EncodingTable
from data_modules.encoding_tables import ENCODING_TOKENS, EncodingTables
from data_modules.formats.records import DataError
from data_modules.mixture import MixtureBatchSampler
from data_modules.mixture_settings import MixtureSettings, Positive
from data_modules.query_set import QuerySet
from data_modules.resumable_loader import ResumableDataLoader
from data_modules.trainer_facts import position_of, processor_of, ranks_of
from data_modules.training_items import Targets
from data_modules.training_questions import questions_of
from data_modules.wording import FIRST, Wording
from data_modules.worker_context import worker_context
from mmretrieval.batches import ContrastiveBatch, EncodingBatch
from mmretrieval.encoder.provenance import Asked
from mmretrieval.mining import NegativeTable

Ints = npt.NDArray[np.int64]
S = TypeVar("S")
B = TypeVar("B")


class RetrievalDataModule(LightningDataModule):
    """Streams training batches of a mixture of tasks, and queries and candidates to embed.

    The stream is the same for the same seed whatever the number of workers, and, for an equal global batch,
    of ranks; it resumes exactly in the middle of an epoch.

    Args:
        root: A packed folder, or a folder in the M-BEIR release layout, which is packed under
            ``MMRETRIEVAL_HOME`` on first use, and again when its rows change.
        batch_size: Queries per rank and step, >= 1.
        global_batch_size: Queries per step over all ranks, >= 1 and not fewer than ranks; the stream does not
            depend on the number of ranks then. ``None``: ``batch_size`` times ranks.
        encoding_batch_size: Contents per batch when embedding, >= 1.
        encoding_tokens: Tokens per batch when embedding, about, with padding and pictures, >= 1; no more than
            ``encoding_batch_size`` contents in any case. ``None``: any number.
        num_workers: Processes that read, decode and tokenise; 0 does it in the main process.
        weights: Share of the samples that each task gets; every task is named, 0 skips one. ``None``: in
            proportion to their numbers of queries.
        homogeneous: Whether all queries of a step, over all ranks, are of one task.
        batches_per_epoch: Steps of an epoch; ``None``: as many as the queries fill.
        positive: Which of a query's positives its sample has: the "first", or one "drawn" anew in each
            epoch, as where there are many; none of the others is ever a negative.
        negatives_per_query: How many of a query's negatives a sample uses, drawn anew in each epoch.
        given_negatives: Chance, between 0 and 1, that a sample uses negatives that the data set gives where
            its query has mined ones as well; where it has none, those given are used. ``None``: never.
        seed: Of the stream, >= 0.
        train_split: The split to train on.
        train_pool: The pool that training candidates and mined negatives are from.

    Raises:
        ValueError: If a number is out of range.
    """

    corpus: PackedCorpus

    def __init__(
        self,
        root: Path,
        batch_size: int = 64,
        global_batch_size: int | None = None,
        encoding_batch_size: int = 128,
        encoding_tokens: int | None = ENCODING_TOKENS,
        num_workers: int = 0,
        weights: dict[str, float] | None = None,
        homogeneous: bool = False,
        batches_per_epoch: int | None = None,
        negatives_per_query: int = 1,
        given_negatives: float | None = 0.0,
        positive: Positive = "first",
        seed: int = 0,
        train_split: str = "train",
        train_pool: str = "global_train",
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.mixture = MixtureSettings(
            batch_size,
            global_batch_size,
            seed,
            weights,
            homogeneous,
            batches_per_epoch,
            negatives_per_query,
            given_negatives=given_negatives,
            positive=positive,
        )
        for name, value, lowest in (
            ("encoding_batch_size", encoding_batch_size, 1),
            ("encoding_tokens", encoding_tokens, 1),
            ("num_workers", num_workers, 0),
        ):
            if value is not None and value < lowest:
                raise ValueError(f"{name} must be at least {lowest}, found {value}.")
        self.encoding_batch_size, self.encoding_tokens = encoding_batch_size, encoding_tokens
        self.num_workers = num_workers
        self.train_split = train_split
        self.train_pool = train_pool
        self._sampler: MixtureBatchSampler | None = None
        self._queries: dict[str, QuerySet] = {}

    @property
    def source(self) -> str:
        """Which data these are, to tell their files from those of others; the same when contents change."""
        return str(self.root.resolve())

    @property
    def packed_root(self) -> Path:
        """The packed folder: ``root`` itself, or where it is packed to.

        Raises:
            DataError: If ``root`` is neither a packed folder nor in the M-BEIR layout.
        """
        return packed_place(self.root)

    def prepare_data(self) -> None:
        """Pack the data unless that is done; runs on one process of each node.

        Raises:
            DataError: If anything in the data cannot be used.
        """
        pack_once(self.root, self.packed_root)

    def setup(self, stage: str) -> None:
        """Open the packed data; for ``fit``, begin the training stream.

        Raises:
            DataError: If the training split or pool is missing, or holds too few queries, or a global batch
                has fewer queries than there are ranks.
            ValueError: If weights do not fit the tasks.
            MisconfigurationException: If Lightning would replace the sampler.
        """
        self.corpus = PackedCorpus(self.packed_root)
        self._queries = {}
        if stage == "fit":
            rank, world = ranks_of(self.trainer)
            self.pool(self.train_pool)
            self._sampler = MixtureBatchSampler(self.queries(self.train_split), self.mixture, rank, world)

    def queries(self, split: str) -> QuerySet:
        """Return the queries of a split.

        Raises:
            DataError: If it has none.
        """
        if split not in self._queries:
            self._queries[split] = self.corpus.queries(split)
        return self._queries[split]

    def query_instruction(self, split: str, row: int) -> str:
        """Return the fixed instruction that a query is embedded with: its first."""
        return self.queries(split).instructions(row)[0]

    def query_ids(self, split: str, rows: Sequence[int]) -> list[str]:
        """Return the ids of a split's queries at some rows."""
        return [str(self.queries(split).ids[row]) for row in rows]

    def rehearsed(self, rows: Sequence[int]) -> list[bool]:
        """Return which training queries are of data that an earlier stage has trained on: here, all.

        Args:
            rows: Of training queries.
        """
        return [True] * len(rows)

    def pool(self, name: str) -> Ints:
        """Return the candidate rows of a pool.

        Raises:
            DataError: If there is no such pool.
        """
        pools = self.corpus.pools
        if name not in pools:
            raise DataError(f"{self.corpus.root}: has no pool {name!r}; there are {', '.join(pools)}")
        return pools[name]

    @property
    def sampler(self) -> MixtureBatchSampler:
        """What decides the training stream; there from ``setup("fit")`` on.

        Raises:
            MisconfigurationException: If it is not there yet.
        """
        if self._sampler is None:
            raise MisconfigurationException("There is no training stream before setup('fit'); call it first.")
        return self._sampler

    @property
    def steps_per_epoch(self) -> int:
        """Batches that each rank gets in an epoch."""
        return len(self.sampler)

    @property
    def training_shares(self) -> dict[str, float]:
        """Share of the training samples that each task gets, without those that get none."""
        return self.sampler.shares

    @property
    def training_questions(self) -> dict[str, Asked]:
        """How each task of the training samples is asked, as its first query shows."""
        return questions_of(self.queries(self.train_split), self.training_shares)

    def set_negatives(self, table: NegativeTable | None) -> None:
        """Use mined negatives from now on; between epochs, at a pause, or before training begins."""
        self.sampler.negatives = table

    def set_pause(self, pause: Callable[[int], int] | None) -> None:
        """Say how far batches may be read ahead within an epoch, see :attr:`MixtureBatchSampler.pause`."""
        self.sampler.pause = pause

    def set_targets(self, targets: Targets | None) -> None:
        """Use a teacher's scores from the next epoch on; between epochs, or before training begins."""
        self.sampler.targets = targets

    def train_dataloader(self) -> DataLoader[ContrastiveBatch]:
        """Return this rank's batches; what the sampler names is read by stateless workers."""
        dataset = TrainingDataset(self.queries(self.train_split))
        collate = ContrastiveCollate(self._processor())
        return self._loader(dataset, self.sampler, collate, len(self.sampler), persistent=True)

    def val_dataloader(self) -> Sequence[int]:
        """Return one batch of nothing, with which Lightning calls the hooks of callbacks that evaluate."""
        return range(1)

    def test_dataloader(self) -> Sequence[int]:
        """Return one batch of nothing, as :meth:`val_dataloader`."""
        return range(1)

    def predict_dataloader(self) -> DataLoader[EncodingBatch]:
        """Return batches of all candidates, to embed."""
        return self.candidate_table().loader(np.arange(len(self.corpus), dtype=np.int64))

    def candidate_table(
        self, processor: ContentProcessor | None = None, wording: Wording = FIRST
    ) -> EncodingTable:
        """Return all candidates, to embed some of them.

        Args:
            processor: Makes the model inputs; that of the trained retriever by default.
            wording: How texts are cleaned.
        """
        return self._tables(processor).candidates(self.corpus, wording)

    def query_table(
        self, split: str, processor: ContentProcessor | None = None, wording: Wording = FIRST
    ) -> EncodingTable:
        """Return all queries of a split, each with its fixed instruction, to embed some of them.

        Args:
            split: A split that has queries.
            processor: Makes the model inputs; that of the trained retriever by default.
            wording: Another instruction, or a clean-up, instead.

        Raises:
            DataError: If the split has no queries.
        """
        return self._tables(processor).queries(self.queries(split), wording)

    def _tables(self, processor: ContentProcessor | None) -> EncodingTables:
        return EncodingTables(
            source=self.source,
            batch_size=self.encoding_batch_size,
            batch_tokens=self.encoding_tokens,
            processor=lambda: processor or self._processor(),
            make_loader=self._loader,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the samples of it that were trained on, not merely read ahead by workers."""
        if self._sampler is None:
            return {}
        if self.trainer is None:
            return self._sampler.state_dict()
        return self._sampler.state_at(*position_of(self.trainer))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a run stopped.

        Raises:
            MisconfigurationException: If that is within an epoch of another stream, or workers read already.
        """
        if self._sampler is None or not state_dict:
            return
        if self._sampler.started:
            raise MisconfigurationException(
                "The checkpoint came after the training data had been opened, which "
                "trainer.estimated_stepping_batches does; use datamodule.steps_per_epoch instead."
            )
        try:
            self._sampler.load_state_dict(state_dict)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from None

    def _processor(self) -> ContentProcessor:
        """The retriever's input processor, asked for only when a loader is made: it may need the model."""
        return processor_of(self.trainer)

    def _loader(
        self,
        dataset: Dataset[S],
        batches: Iterable[list[Any]],
        collate: Callable[[Sequence[S]], B],
        count: int,
        *,
        persistent: bool = False,
    ) -> DataLoader[B]:
        workers = min(self.num_workers, count)  # no more than there are batches
        loader = ResumableDataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=persistent and workers > 0,
            multiprocessing_context=self._context() if workers else None,
        )
        return cast("DataLoader[B]", loader)  # torch types a loader by its dataset's items

    def _context(self) -> BaseContext:
        # This module for Lightning: each worker imports the program's main module, which needs it, and the
        # fork server of Python 3.11 does not (https://github.com/python/cpython/issues/126631).
        return worker_context(__name__, type(self._processor()).__module__)
