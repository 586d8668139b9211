"""Stage 2: multimodal data and text data in one training stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from typing_extensions import override

from data_modules.blend import tempered
from data_modules.corpus import PackedCorpus
from data_modules.embedded import EmbeddedDataModule
from data_modules.encoding_tables import ENCODING_TOKENS
from data_modules.joined import TRAIN, TRAIN_POOL, JoinedCorpus, JoinedQueries
from data_modules.mbeir import MBEIRDataModule
from data_modules.mixture import MixtureBatchSampler
from data_modules.mixture_settings import Positive
from data_modules.retrieval import RetrievalDataModule
from data_modules.synthetic.benchmark import DEFAULT_SIZE
from data_modules.text_sets import TextSets
from data_modules.trainer_facts import ranks_of

MULTIMODAL = "multimodal"
"""Name of the source that is all tasks of the multimodal data."""
TEXT = "text"
"""What all text data sets are, in patterns as ``text:*``."""


class ContinualTextDataModule(RetrievalDataModule):
    """Streams multimodal samples and text samples, each sample once in a pass over its source.

    The multimodal data are one source, and each text data set is one. Splits other than ``train``, and their
    pools, are those of the multimodal data, so that evaluation gives the numbers of stage 1; what is trained
    on and mined from are both. Text is evaluated by :class:`callbacks.TextEvaluation`.

    Args:
        text_root: Text data sets, as for :class:`~data_modules.TextSets`: a folder in the BEIR layout, a file
            of pairs, a folder of such, or several, as ``name=path`` to name them; the embedded text benchmark
            by default.
        root: The multimodal data, as for :class:`~data_modules.MBEIRDataModule`; the embedded benchmark by
            default.
        text_split: Which of the qrels to train on.
        text_share: Share of the samples that are text, between 0 and 1. ``None``: all sources blend in
            proportion to their queries, the multimodal data as one.
        temperature: Proportions are those of the queries to the power of 1 / temperature, at least 1: among
            the text data sets, or, without ``text_share``, among all sources.
        weights: Share of each source instead, ``multimodal`` and the text data sets' tasks, ``<name>_task1``;
            all are named.
        homogeneous: Whether all queries of a step, over all ranks, are of one source.
        max_text_tokens: Where texts of the text data sets are cut.
        max_multimodal_tokens: Where texts of the multimodal data are cut; the encoder's own limit by default.
        prompts: Name of a text data set → its instruction; general ones for the others.
        symmetric: Names of files of pairs whose positives ask for their queries as well.
        allow_empty: Names of text data sets in the BEIR layout whose documents and queries without text are
            left out and counted.
        size: Of the embedded benchmark.
        data_seed: Of the embedded benchmark, >= 0.
        batch_size: Queries per rank and step, >= 1.
        global_batch_size: Queries per step over all ranks, >= 1; ``None``: ``batch_size`` times ranks.
        encoding_batch_size: Contents per batch when embedding, >= 1.
        encoding_tokens: Tokens per batch when embedding, about, with padding and pictures, >= 1; no more than
            ``encoding_batch_size`` contents in any case. ``None``: any number.
        num_workers: Processes that read, decode and tokenise; 0 does it in the main process.
        batches_per_epoch: Steps of an epoch; ``None``: as many as the queries of all sources fill.
        positive: Which of a query's positives its sample has: the "first", or one "drawn" anew in each
            epoch, as where there are many; none of the others is ever a negative.
        negatives_per_query: How many of a query's negatives a sample uses, drawn anew in each epoch.
        given_negatives: Chance, between 0 and 1, that a sample uses negatives that the data set gives where
            its query has mined ones as well; where it has none, those given are used. ``None``: never.
        seed: Of the stream, >= 0.

    Raises:
        DataError: If there are no text data.
        ValueError: If a number is out of range.
    """

    corpus: JoinedCorpus

    def __init__(
        self,
        text_root: dict[str, str] | list[str] | str = "embedded",
        root: Path | None = None,
        text_split: str = "train",
        text_share: float | None = 0.5,
        temperature: float = 1.0,
        weights: dict[str, float] | None = None,
        homogeneous: bool = False,
        max_text_tokens: int | None = 512,
        max_multimodal_tokens: int | None = None,
        prompts: Mapping[str, str] | None = None,
        symmetric: Sequence[str] = (),
        size: int = DEFAULT_SIZE,
        data_seed: int = 0,
        batch_size: int = 64,
        global_batch_size: int | None = None,
        encoding_batch_size: int = 128,
        encoding_tokens: int | None = ENCODING_TOKENS,
        num_workers: int = 0,
        batches_per_epoch: int | None = None,
        negatives_per_query: int = 1,
        given_negatives: float | None = 0.0,
        positive: Positive = "first",
        seed: int = 0,
        allow_empty: Sequence[str] = (),
    ) -> None:
        tempered(
            {"any": 1}, temperature, 1.0 if text_share is None else text_share
        )  # refuses what is out of range now
        self.multimodal: RetrievalDataModule = (
            EmbeddedDataModule(size, data_seed) if root is None else MBEIRDataModule(root)
        )
        self.texts = TextSets(
            text_root, text_split, TRAIN, prompts, symmetric, max_text_tokens, allow_empty=allow_empty
        )
        super().__init__(
            self.multimodal.root,
            batch_size=batch_size,
            global_batch_size=global_batch_size,
            encoding_batch_size=encoding_batch_size,
            encoding_tokens=encoding_tokens,
            num_workers=num_workers,
            weights=weights,
            homogeneous=homogeneous,
            batches_per_epoch=batches_per_epoch,
            negatives_per_query=negatives_per_query,
            given_negatives=given_negatives,
            positive=positive,
            seed=seed,
            train_split=TRAIN,
            train_pool=TRAIN_POOL,
        )
        self.text_share, self.temperature = text_share, temperature
        self.max_multimodal_tokens = max_multimodal_tokens

    @property
    @override
    def source(self) -> str:
        return f"{self.multimodal.source}\n{self.texts.source}"

    @override
    def prepare_data(self) -> None:
        for part in (self.multimodal, self.texts):
            part.prepare_data()

    @override
    def setup(self, stage: str) -> None:
        parts = (self.multimodal, self.texts)
        for part in parts:
            part.setup("validate")
        self.multimodal.corpus = PackedCorpus(self.multimodal.packed_root, self.max_multimodal_tokens)
        self.corpus = JoinedCorpus([part.corpus for part in parts], (MULTIMODAL, TEXT))
        self._queries = {}
        if stage == "fit":
            rank, world = ranks_of(self.trainer)
            queries = self.queries(TRAIN)
            assert isinstance(queries, JoinedQueries)
            sources = sources_of(queries)
            weights = self.mixture.weights or self._weights(queries)
            mixture = replace(self.mixture, sources=sources, weights=weights)
            self._sampler = MixtureBatchSampler(queries, mixture, rank, world)

    @override
    def rehearsed(self, rows: Sequence[int]) -> list[bool]:
        """Return which training queries are multimodal ones.

        Args:
            rows: Of training queries.
        """
        queries = self.queries(TRAIN)
        assert isinstance(queries, JoinedQueries)
        return [not queries.part_of_task[queries.task_of[row]] for row in rows]

    def _weights(self, queries: JoinedQueries) -> dict[str, float]:
        counts = np.bincount(queries.task_of, weights=queries.copies, minlength=len(queries.tasks))
        of_task = dict(zip(queries.tasks, counts.tolist(), strict=True))
        sizes = {
            name: int(sum(of_task[task] for task in tasks)) for name, tasks in sources_of(queries).items()
        }
        if self.text_share is None:
            return tempered(sizes, self.temperature, 1.0)
        del sizes[MULTIMODAL]
        return {MULTIMODAL: 1 - self.text_share, **tempered(sizes, self.temperature, self.text_share)}


def sources_of(queries: JoinedQueries) -> dict[str, list[str]]:
    """Return the tasks of each source: all of the first part, and each other one by itself."""
    parts = zip(queries.tasks, queries.part_of_task, strict=True)
    sources: dict[str, list[str]] = {MULTIMODAL: []}
    for task, part in parts:
        sources.setdefault(task if part else MULTIMODAL, []).append(task)
    return sources
