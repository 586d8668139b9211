"""Samples and batches, made in data-loading workers: read by row, decode, tokenise, pad.

Datasets here keep nothing but a reference to the packed folder, and workers no state: what to read comes
from a sampler in the main process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from data_modules.corpus import PackedCorpus
from data_modules.guards import guarded_keys
from data_modules.query_set import QuerySet
from data_modules.training_items import TrainingItem
from data_modules.wording import FIRST, Wording
from mmretrieval.batches import ContrastiveBatch, EncoderInputs, EncodingBatch
from mmretrieval.content import Candidate, Query

Ints = npt.NDArray[np.int64]


class ContentProcessor(Protocol):
    """What makes model inputs of contents; workers get a pickled copy."""

    def queries(self, queries: Sequence[Query], /) -> EncoderInputs:
        """Return the inputs of queries."""

    def candidates(self, candidates: Sequence[Candidate], /) -> EncoderInputs:
        """Return the inputs of candidates."""

    def together(self, queries: Sequence[Query], candidates: Sequence[Candidate], /) -> EncoderInputs:
        """Return the inputs of queries, followed by those of candidates."""


class TrainingSample(NamedTuple):
    """A query and what it is compared with.

    Args:
        row: Row of the query.
        query: The query with its instruction.
        candidates: A positive, then the negatives.
        candidate_keys: Content key of each of ``candidates``.
        positive_keys: Content keys of all known positives, and of what else may not count as a negative,
            see :mod:`data_modules.guards`.
        targets: A teacher's score of each of ``candidates``, or nothing.
    """

    row: int
    query: Query
    candidates: tuple[Candidate, ...]
    candidate_keys: tuple[int, ...]
    positive_keys: tuple[int, ...]
    targets: tuple[float, ...] = ()


class TrainingDataset(Dataset[TrainingSample]):
    """Reads what a :class:`~data_modules.training_items.TrainingItem` names.

    Args:
        queries: The training queries.
    """

    def __init__(self, queries: QuerySet) -> None:
        self.queries = queries

    def __getitem__(self, item: TrainingItem) -> TrainingSample:
        """Read and decode a sample.

        Raises:
            DataError: If a shard is damaged.
        """
        corpus = self.queries.corpus
        rows = (int(self.queries.positives(item.query)[item.positive]), *item.negatives)
        return TrainingSample(
            row=item.query,
            query=self.queries.asked(item.query, item.instruction),
            candidates=tuple(corpus.candidate(row) for row in rows),
            candidate_keys=tuple(int(corpus.candidate_keys[row]) for row in rows),
            positive_keys=guarded_keys(self.queries, item.query),
            targets=item.targets,
        )


@dataclass(frozen=True, slots=True)
class ContrastiveCollate:
    """Samples to a batch; candidates of equal content stay separate, the loss masks them by key.

    Args:
        processor: Makes the model inputs.
    """

    processor: ContentProcessor

    def __call__(self, samples: Sequence[TrainingSample]) -> ContrastiveBatch:
        """Return the batch: all positives in query order, then all mined negatives."""
        order = [(number, 0) for number in range(len(samples))]
        order += [(number, n) for number, s in enumerate(samples) for n in range(1, len(s.candidates))]
        width = max(len(sample.positive_keys) for sample in samples)
        positives = [s.positive_keys + (0,) * (width - len(s.positive_keys)) for s in samples]
        return ContrastiveBatch(
            inputs=self.processor.together(
                [sample.query for sample in samples], [samples[q].candidates[n] for q, n in order]
            ),
            positive_columns=torch.arange(len(samples)),
            candidate_keys=torch.tensor([samples[q].candidate_keys[n] for q, n in order]),
            positive_keys=torch.tensor(positives),
            negative_of=torch.tensor([q for q, _ in order[len(samples) :]], dtype=torch.int64),
            query_rows=torch.tensor([sample.row for sample in samples]),
            targets=_targets(samples, order),
        )


def _targets(samples: Sequence[TrainingSample], order: Sequence[tuple[int, int]]) -> torch.Tensor | None:
    """The teacher's score of each candidate, NaN where there is none; ``None`` if there is none at all."""
    if not any(sample.targets for sample in samples):
        return None
    return torch.tensor([samples[q].targets[n] if samples[q].targets else float("nan") for q, n in order])


class CandidateDataset(Dataset[tuple[int, Candidate]]):
    """Candidates by row.

    Args:
        corpus: The packed data set.
        wording: How texts are cleaned.
    """

    def __init__(self, corpus: PackedCorpus, wording: Wording = FIRST) -> None:
        self.corpus = corpus
        self.wording = wording

    def __getitem__(self, row: int) -> tuple[int, Candidate]:
        """Read and decode a candidate.

        Raises:
            DataError: If a shard is damaged.
        """
        return row, self.wording.candidate(self.corpus.candidate(row))


class QueryDataset(Dataset[tuple[int, Query]]):
    """Queries by row, each with its first instruction: evaluation must not depend on draws.

    Args:
        queries: The queries of a split.
        wording: Another instruction, or a clean-up, instead.
    """

    def __init__(self, queries: QuerySet, wording: Wording = FIRST) -> None:
        self.queries = queries
        self.wording = wording

    def __getitem__(self, row: int) -> tuple[int, Query]:
        """Read and decode a query.

        Raises:
            DataError: If a shard is damaged.
        """
        if self.wording == FIRST:
            return row, self.queries.asked(row, 0)
        count = len(self.queries.instructions(row))
        position = self.wording.position(str(self.queries.ids[row]), count)
        return row, self.wording.query(self.queries.asked(row, position))


@dataclass(frozen=True, slots=True)
class CandidateCollate:
    """Candidates to a batch.

    Args:
        processor: Makes the model inputs.
    """

    processor: ContentProcessor

    def __call__(self, samples: Sequence[tuple[int, Candidate]]) -> EncodingBatch:
        """Return the batch."""
        rows, candidates = zip(*samples, strict=True)
        return EncodingBatch(self.processor.candidates(candidates), torch.tensor(rows))


@dataclass(frozen=True, slots=True)
class QueryCollate:
    """Queries to a batch.

    Args:
        processor: Makes the model inputs.
    """

    processor: ContentProcessor

    def __call__(self, samples: Sequence[tuple[int, Query]]) -> EncodingBatch:
        """Return the batch."""
        rows, queries = zip(*samples, strict=True)
        return EncodingBatch(self.processor.queries(queries), torch.tensor(rows))
