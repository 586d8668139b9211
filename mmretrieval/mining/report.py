"""What there is to count about a mining."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Self

from mmretrieval.mining.mined import NegativeKind


@dataclass(frozen=True, slots=True)
class MiningReport:
    """Counts of one mining; reports of disjoint sets of queries add up.

    Args:
        queries: Queries that were mined for.
        wrong_modality: Negatives drawn of kind C1.
        unsatisfactory: Negatives drawn of kind C2.
        incomplete: Queries that got some negatives, but fewer than asked for, draws that take nothing set
            aside.
        without_retrieved: Queries without any negative because nothing was retrieved for them.
        without_kind: Queries without any because none of their candidates passed the filters and is of a
            kind that is drawn, such as C1 or C2.
        without_known: Queries without any because all that could be drawn are known positives, by row or by
            content.
        guarded: Candidates left out because they are known positives, of those that could be drawn.
        positives_missed: Queries whose labelled positive is not among the ``top_k``.
        positive_rank_sum: Sum of the ranks of the labelled positives.
        top_wrong_modality: Queries whose top hit is of another modality than asked for.
        ranked: Negatives drawn that are neither C1 nor C2.
        skipped: Draws that took nothing by chance, though candidates were left.
        without_chance: Queries without any because all their draws were skipped.
        positives_unscored: Queries whose labelled positive's score is unknown, so that filters which compare
            with it keep nothing.
    """

    queries: int = 0
    wrong_modality: int = 0
    unsatisfactory: int = 0
    incomplete: int = 0
    without_retrieved: int = 0
    without_kind: int = 0
    without_known: int = 0
    guarded: int = 0
    positives_missed: int = 0
    positive_rank_sum: int = 0
    top_wrong_modality: int = 0
    ranked: int = 0
    skipped: int = 0
    without_chance: int = 0
    positives_unscored: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(
            **{f.name: _sum(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        )

    @property
    def without(self) -> int:
        """Queries that got no negative, for whatever reason."""
        return self.without_retrieved + self.without_kind + self.without_known + self.without_chance

    @property
    def by_kind(self) -> dict[NegativeKind, int]:
        """How many negatives of each kind were drawn."""
        return {
            NegativeKind.WRONG_MODALITY: self.wrong_modality,
            NegativeKind.UNSATISFACTORY: self.unsatisfactory,
            NegativeKind.RANKED: self.ranked,
        }

    @property
    def mean_positive_rank(self) -> float:
        """Mean rank of the labelled positives, ``top_k`` where one is not found; NaN without queries."""
        return self.positive_rank_sum / self.queries if self.queries else float("nan")

    @property
    def top_wrong_modality_share(self) -> float:
        """Share of queries whose top hit is of the wrong modality; NaN without queries."""
        return self.top_wrong_modality / self.queries if self.queries else float("nan")


@dataclass(frozen=True, slots=True)
class FilteredMiningReport(MiningReport):
    """Counts of one mining with filters; like every report, ``dataclasses.asdict`` makes it plain JSON.

    Args:
        dropped: For each filter by name, how many of the candidates that reached it and are no known
            positives it dropped.
    """

    dropped: dict[str, int] = field(default_factory=dict)

    def totals(self) -> MiningReport:
        """The counts that do not depend on which filters there are."""
        return MiningReport(*(getattr(self, f.name) for f in fields(MiningReport)))


def _sum(first: Any, second: Any) -> Any:  # noqa: ANN401 - of a field: counts, or counts by name
    if not isinstance(first, dict):
        return first + second
    return {name: first.get(name, 0) + second.get(name, 0) for name in [*first, *second]}
