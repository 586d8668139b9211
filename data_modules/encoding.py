"""Contents that can be embedded: a table of rows, in the order of their cost, and batches of any of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader

from data_modules.corpus import Codes, PackedCorpus, QuerySet
from data_modules.wording import FIRST, Wording
from mmretrieval.batches import EncodingBatch

Ints = npt.NDArray[np.int64]
Batches = Iterable[list[int]]
"""Rows of each batch; what is asked for lazily may be decided lazily."""


@dataclass(frozen=True)
class EncodingTable:
    """All candidates, or all queries of a split with their fixed instructions.

    Args:
        name: What they are, as ``candidates`` or ``test queries``.
        digest: A hex digest of their contents, to recognise embeddings of them.
        ids: Id of each row, ASCII bytes, ``(N,)``.
        modalities: Modality code of each row, ``(N,)``.
        sizes: Bytes of each row, a measure of its length that needs no reading, ``(N,)``.
        batch_size: Rows of a batch.
        make_loader: Makes the loader of some batches; the number is how many there are, at most.
    """

    name: str
    digest: str
    ids: npt.NDArray[np.bytes_]
    modalities: Codes
    sizes: Ints
    batch_size: int
    make_loader: Callable[[Batches, int], DataLoader[EncodingBatch]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.modalities)

    def by_cost(self, rows: Ints) -> Ints:
        """Sort rows by modality and then by length, the most expensive first.

        Neighbours have nearly the same number of tokens, so their batches need little padding; what needs
        most memory fails at once or never; and each modality is one range.

        Raises:
            ValueError: If a row does not exist.
        """
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise ValueError(f"rows go from {rows.min()} to {rows.max()}, there are {len(self)} {self.name}.")
        order = np.lexsort((rows, self.sizes[rows], self.modalities[rows]))[::-1]
        return np.asarray(rows, np.int64)[order]

    def batches(self, rows: Ints) -> list[list[int]]:
        """Return rows in the order given as batches; the last one may be smaller."""
        starts = range(0, len(rows), self.batch_size)
        return [rows[start : start + self.batch_size].tolist() for start in starts]

    def loader(self, rows: Ints) -> DataLoader[EncodingBatch]:
        """Return batches of rows by cost; ``EncodingBatch.rows`` says which.

        Raises:
            ValueError: If a row does not exist.
        """
        batches = self.batches(self.by_cost(rows))
        return self.make_loader(batches, len(batches))


def candidates_digest(corpus: PackedCorpus, wording: Wording = FIRST) -> str:
    """Return a hex digest of all candidates and pictures, and of how texts are cleaned."""
    return _digest(corpus, ["candidates", "images"], *_facts(wording.candidate_suffix), *_limits(corpus))


def queries_digest(queries: QuerySet, wording: Wording = FIRST) -> str:
    """Return a hex digest of a split's queries, their instructions and wording, pictures and positives."""
    corpus, name = queries.corpus, f"queries/{queries.split}"
    arrays = [f"{name}/{array}.npy" for array in ("positives", "positive_starts")]
    facts = [corpus.manifest["arrays"][array]["digest"] for array in arrays]
    instructions = json.dumps(corpus.manifest["instructions"], sort_keys=True)
    return _digest(corpus, [name, "images"], *facts, instructions, *_facts(wording.suffix), *_limits(corpus))


def _facts(suffix: str) -> tuple[str, ...]:
    return (suffix,) if suffix else ()  # nothing for the usual wording, whose embeddings are kept in fits


def _limits(corpus: PackedCorpus) -> tuple[str, ...]:
    return () if corpus.text_limits is None else (f"texts cut at {corpus.text_limits}",)


def _digest(corpus: PackedCorpus, tables: list[str], *facts: str) -> str:
    # A shard's index has the checksums of all that is in it.
    shards = [shard["index"] for table in tables for shard in corpus.manifest["shards"].get(table, [])]
    return blake2b("\n".join([*facts, *shards]).encode(), digest_size=16).hexdigest()
