"""The tables of a packed data set that are embedded: all candidates, and the queries of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from data_modules.collate import (
    CandidateCollate,
    CandidateDataset,
    ContentProcessor,
    QueryCollate,
    QueryDataset,
)
from data_modules.content_keys import candidate_contents, query_contents
from data_modules.corpus import PackedCorpus
from data_modules.encoding import EncodingTable, candidates_digest, queries_digest
from data_modules.query_set import QuerySet
from data_modules.wording import Wording
from mmretrieval.content import Candidate, Content

S = TypeVar("S")
B = TypeVar("B")

ENCODING_TOKENS: Final = 65_536
"""Tokens of a batch to embed: those of 128 contents of 512 tokens."""
_USUAL_SIZE = (640, 480)


class MakeLoader(Protocol):
    """Makes the loader of some batches of a data set; the number is how many there are, at most."""

    def __call__(
        self,
        dataset: Dataset[S],
        batches: Iterable[list[Any]],
        collate: Callable[[Sequence[S]], B],
        count: int,
        /,
    ) -> DataLoader[B]:
        """Return the loader."""


@dataclass(frozen=True)
class EncodingTables:
    """Makes tables of a data set.

    Args:
        source: Which data they are of, see :class:`~data_modules.encoding.EncodingTable`.
        batch_size: Rows of a batch, at most.
        batch_tokens: Tokens of a batch, at most; ``None``: any number.
        processor: Returns what makes the model inputs; asked only when something is embedded.
        make_loader: Makes the loaders.
    """

    source: str
    batch_size: int
    batch_tokens: int | None
    processor: Callable[[], ContentProcessor]
    make_loader: MakeLoader

    def candidates(self, corpus: PackedCorpus, wording: Wording) -> EncodingTable:
        """Return all candidates.

        Args:
            corpus: The packed data set.
            wording: How texts are cleaned.
        """
        made = CandidateDataset(corpus, wording)
        return EncodingTable(
            name=f"candidates{wording.candidate_suffix}",
            source=self.source,
            digest=candidates_digest(corpus, wording),
            ids=corpus.candidate_ids,
            modalities=corpus.candidate_modalities,
            sizes=corpus.candidate_sizes,
            pictures=corpus.candidate_images,
            contents=lambda: candidate_contents(corpus, wording),
            batch_size=self.batch_size,
            batch_tokens=self.batch_tokens,
            picture_tokens=lambda: picture_tokens(self.processor()),
            make_loader=lambda batches, count: self.make_loader(
                made, batches, CandidateCollate(self.processor()), count
            ),
        )

    def queries(self, queries: QuerySet, wording: Wording) -> EncodingTable:
        """Return all queries of a split.

        Args:
            queries: Of the split.
            wording: Which instruction they are asked with, and how texts are cleaned.
        """
        return EncodingTable(
            name=f"{queries.split} queries{wording.suffix}",
            source=self.source,
            digest=queries_digest(queries, wording),
            ids=queries.ids.astype(np.bytes_),
            modalities=queries.modalities,
            sizes=queries.sizes,
            pictures=queries.images,
            contents=lambda: query_contents(queries, wording),
            batch_size=self.batch_size,
            batch_tokens=self.batch_tokens,
            picture_tokens=lambda: picture_tokens(self.processor()),
            make_loader=lambda batches, count: self.make_loader(
                QueryDataset(queries, wording), batches, QueryCollate(self.processor()), count
            ),
        )


def picture_tokens(processor: ContentProcessor) -> int:
    """Return how many tokens a picture of a usual size takes.

    Args:
        processor: What makes model inputs of it.
    """
    usual = Candidate(Content(image=Image.new("RGB", _USUAL_SIZE)))
    return int(processor.candidates([usual]).input_ids.shape[1])
