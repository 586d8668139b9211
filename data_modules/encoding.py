"""Contents that can be embedded: a table of rows, in the order of their cost, and batches of any of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader

from data_modules.corpus import PackedCorpus
from data_modules.query_set import QuerySet
from data_modules.shards import Codes
from data_modules.wording import FIRST, Wording
from mmretrieval.batches import EncodingBatch

Ints = npt.NDArray[np.int64]
Batches = Iterable[list[int]]
"""Rows of each batch; what is asked for lazily may be decided lazily."""

_BYTES_PER_TOKEN = 4  # of English; others have fewer, so that their batches cost more than they seem to
_FRAME_TOKENS = 16  # of the template and a short instruction


@dataclass(frozen=True)
class EncodingTable:
    """All candidates, or all queries of a split with their fixed instructions.

    Args:
        name: What they are, as ``candidates`` or ``test queries``.
        source: Which data they are of, to tell tables of one name apart; the same when contents change.
        digest: A hex digest of their contents, to recognise embeddings of them.
        ids: Id of each row, ASCII bytes, ``(N,)``.
        modalities: Modality code of each row, ``(N,)``.
        sizes: Bytes of each row, a measure of its length that needs no reading, ``(N,)``.
        pictures: Which picture each row has, the same number for the same one; -1 without, ``(N,)``.
        contents: Computes a key of each row that is the same, here and in other tables, iff the same is
            embedded, ``(N,)``.
        batch_size: Rows of a batch, at most.
        make_loader: Makes the loader of some batches; the number is how many there are, at most.
        batch_tokens: Tokens of a batch with its padding, at most, as far as they can be estimated; a row, or
            picture, that costs more alone has a batch of its own. ``None``: any number.
        picture_tokens: Computes how many tokens a picture takes, about.
    """

    name: str
    source: str
    digest: str
    ids: npt.NDArray[np.bytes_]
    modalities: Codes
    sizes: Ints
    pictures: Ints
    contents: Callable[[], Ints] = field(repr=False)
    batch_size: int
    make_loader: Callable[[Batches, int], DataLoader[EncodingBatch]] = field(repr=False)
    batch_tokens: int | None = None
    picture_tokens: Callable[[], int] = field(default=lambda: 0, repr=False)

    def __len__(self) -> int:
        return len(self.modalities)

    def costs(self, rows: Ints) -> Ints:
        """Return about how many tokens each of some rows has, ``(M,)``."""
        shown = self.pictures[rows] >= 0
        tokens = self.picture_tokens() if shown.any() else 0
        return self.sizes[rows] // _BYTES_PER_TOKEN + _FRAME_TOKENS + np.where(shown, tokens, 0)

    def by_cost(self, rows: Ints) -> Ints:
        """Sort rows by modality and then by length, the most expensive first; those of one picture together.

        Neighbours have nearly the same number of tokens, so their batches need little padding; what needs
        most memory fails at once or never. Rows that share a picture stand where the most expensive of them
        belongs, so that the picture is read once.

        Raises:
            ValueError: If a row does not exist.
        """
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise ValueError(f"rows go from {rows.min()} to {rows.max()}, there are {len(self)} {self.name}.")
        rows = np.asarray(rows, np.int64)
        order = np.lexsort((rows, self.sizes[rows], self.modalities[rows]))[::-1]
        ordered = rows[order]
        # The place of each row's leader, the first one that shows the same picture.
        groups = np.where(self.pictures[ordered] < 0, -1 - ordered, self.pictures[ordered])
        _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
        return ordered[np.argsort(first[group_of], kind="stable")]

    def batches(self, rows: Ints) -> list[list[int]]:
        """Return rows in the order given as batches; a picture whose rows are neighbours is in one of them.

        Only a picture that more rows share than a batch may have goes on in the next one.
        """
        if not len(rows):
            return []
        rows = np.asarray(rows, np.int64)
        cuts, first, widest = [], 0, 0
        for start, stop, cost in self._groups(rows):
            if stop - first > self._most(max(widest, cost)) and start > first:
                first, widest = start, 0
                cuts.append(first)
            widest = max(widest, cost)
            while stop - first > self._most(widest):
                first += self._most(widest)
                cuts.append(first)
        return [batch.tolist() for batch in np.split(rows, cuts)]

    def loader(self, rows: Ints) -> DataLoader[EncodingBatch]:
        """Return batches of rows by cost; ``EncodingBatch.rows`` says which.

        Raises:
            ValueError: If a row does not exist.
        """
        batches = self.batches(self.by_cost(rows))
        return self.make_loader(batches, len(batches))

    def _most(self, widest: int) -> int:
        """How many rows a batch may have whose most expensive one costs so much."""
        fit = self.batch_size if self.batch_tokens is None else self.batch_tokens // widest
        return max(1, min(self.batch_size, fit))

    def _groups(self, rows: Ints) -> Iterator[tuple[int, int, int]]:
        """Where neighbours that show one picture begin and end, and their cost; other rows are alone."""
        shown = self.pictures[rows]
        apart = (shown[1:] != shown[:-1]) | (shown[1:] < 0)
        starts = np.concatenate([[0], np.flatnonzero(apart) + 1])
        costs = np.maximum.reduceat(self.costs(rows), starts)
        stops = [*starts[1:].tolist(), len(rows)]
        yield from zip(starts.tolist(), stops, costs.tolist(), strict=True)


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
