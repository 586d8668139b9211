"""What a sample has besides its query: an instruction, negatives, and a teacher's scores of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from data_modules.guards import guarded_keys
from data_modules.mixture_settings import MixtureSettings
from data_modules.query_set import QuerySet
from mmretrieval.mining import NegativeTable


class TrainingItem(NamedTuple):
    """What a worker is asked to read.

    Args:
        query: Row of the query.
        instruction: Which of the query's instructions it is asked with.
        negatives: Candidate rows of its negatives, mined or given by the data set; often one, or none.
        targets: A teacher's scores of that positive and of each of ``negatives``, or nothing.
        positive: Which of the query's positives is in the sample, from 0.
    """

    query: int
    instruction: int
    negatives: tuple[int, ...]
    targets: tuple[float, ...] = ()
    positive: int = 0


Targets = Callable[[str], Mapping[str, float]]
"""From the id of a query to a teacher's scores by candidate id."""


class TrainingItems:
    """Draws the samples of queries, as a pure function of seed, epoch and query id.

    Args:
        queries: The training queries.
        settings: The seed, and which negatives a sample uses.
    """

    def __init__(self, queries: QuerySet, settings: MixtureSettings) -> None:
        self.queries, self.settings = queries, settings

    def item(
        self, row: int, epoch: int, mined: NegativeTable | None, targets: Targets | None
    ) -> TrainingItem:
        """Return the sample of a query.

        Args:
            row: Of the query.
            epoch: From 0.
            mined: Where mined negatives come from.
            targets: Where a teacher's scores come from.
        """
        instruction = self._draw(row, epoch, "instruction") % len(self.queries.instructions(row))
        negatives, positive = self._negatives(row, epoch, mined), self._positive(row, epoch)
        scores = self._targets(row, positive, negatives, targets)
        return TrainingItem(row, instruction, negatives, scores, positive)

    def _positive(self, row: int, epoch: int) -> int:
        if self.settings.positive == "first":
            return 0
        return self._draw(row, epoch, "positive") % len(self.queries.positives(row))

    def _targets(
        self, row: int, positive: int, negatives: Sequence[int], targets: Targets | None
    ) -> tuple[float, ...]:
        """The teacher's scores, if it has scored all."""
        if targets is None or not negatives:
            return ()
        corpus, known = self.queries.corpus, targets(str(self.queries.ids[row]))
        ids = [corpus.candidate_id(one) for one in (int(self.queries.positives(row)[positive]), *negatives)]
        return tuple(known[id_] for id_ in ids) if all(id_ in known for id_ in ids) else ()

    def _negatives(self, row: int, epoch: int, mined: NegativeTable | None) -> tuple[int, ...]:
        if not self.settings.negatives_per_query:
            return ()
        found = self._mined(row, mined)
        if self._prefers_given(row, epoch, mined=bool(found)):
            found = self._given(row) or found
        count = min(self.settings.negatives_per_query, len(found))
        first = self._draw(row, epoch, "negatives") if count else 0
        chosen = (found[(first + step) % len(found)] for step in range(count))
        return tuple(self.queries.corpus.candidate_row(candidate) for candidate in chosen)

    def _mined(self, row: int, table: NegativeTable | None) -> Sequence[str]:
        query = str(self.queries.ids[row])
        return table.negatives_of(query) if table is not None and query in table else ()

    def _prefers_given(self, row: int, epoch: int, *, mined: bool) -> bool:
        chance = self.settings.given_negatives
        if chance is None or not mined:
            return chance is not None
        return chance > 0 and self._draw(row, epoch, "given") < chance * 2**64

    def _given(self, row: int) -> Sequence[str]:
        """What the data set gives, each content once, without what must not count against the query."""
        corpus, guarded = self.queries.corpus, {*guarded_keys(self.queries, row)}
        of_key = {int(corpus.candidate_keys[given]): int(given) for given in self.queries.negatives(row)}
        return [corpus.candidate_id(given) for key, given in of_key.items() if key not in guarded]

    def _draw(self, row: int, epoch: int, purpose: str) -> int:
        """A number that depends on seed, epoch and query id only."""
        key = f"{self.settings.seed} {epoch} {purpose} {self.queries.ids[row]}"
        return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")
