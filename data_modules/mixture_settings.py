"""The settings of a training stream: how tasks blend into batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from data_modules.formats.records import DataError

Positive = Literal["first", "drawn"]


@dataclass(frozen=True, slots=True)
class MixtureSettings:
    """How tasks blend into batches.

    Args:
        batch_size: Queries per rank and step, >= 1; without effect if ``global_batch_size`` is given.
        global_batch_size: Queries per step over all ranks, >= 1, shared out as evenly as possible. ``None``:
            ``batch_size`` times ranks.
        seed: Of all draws, >= 0.
        weights: Share of the samples that each task gets, >= 0 and normalised; all tasks are named. ``None``:
            in proportion to their numbers of queries, copies of an up-sampled mixture counted.
        homogeneous: Whether all queries of a global batch are of one task.
        sources: Name of a source → its tasks. Weights, passes and homogeneous batches are then those of
            sources, each of which shows all its tasks in proportion to their queries.
        batches_per_epoch: Length of an epoch, >= 1; ``None``: as many global batches as the queries fill.
        negatives_per_query: How many of a query's negatives a sample uses, >= 0, drawn in each epoch.
        positive: Which of a query's positives its sample has: the "first", or one "drawn" anew in each
            epoch, as where there are many; none of the others is ever a negative.
        given_negatives: Chance, between 0 and 1, that a sample uses negatives that the data set gives where
            its query has mined ones as well; where it has none, those given are used. ``None``: never.

    Raises:
        ValueError: If a number is out of range.
    """

    batch_size: int
    global_batch_size: int | None = None
    seed: int = 0
    weights: Mapping[str, float] | None = None
    homogeneous: bool = False
    batches_per_epoch: int | None = None
    negatives_per_query: int = 1
    sources: Mapping[str, Sequence[str]] | None = None
    given_negatives: float | None = 0.0
    positive: Positive = "first"

    def __post_init__(self) -> None:
        at_least_1 = ("batch_size", "global_batch_size", "batches_per_epoch")
        at_least_0 = ("seed", "negatives_per_query")
        for name in (*at_least_1, *at_least_0):
            value, bound = getattr(self, name), int(name in at_least_1)
            if value is not None and value < bound:
                raise ValueError(f"{name} must be at least {bound}, found {value}.")
        if self.given_negatives is not None and not 0 <= self.given_negatives <= 1:
            raise ValueError(f"given_negatives must be between 0 and 1, found {self.given_negatives}.")
        if self.positive not in get_args(Positive):
            raise ValueError(f"positive must be one of {get_args(Positive)}, found {self.positive!r}.")

    def queries_per_step(self, world: int) -> int:
        """Return the size of a global batch of ``world`` ranks.

        Raises:
            DataError: If a rank would get no query.
        """
        size = self.batch_size * world if self.global_batch_size is None else self.global_batch_size
        if size < world:
            raise DataError(
                f"global_batch_size={size} leaves some of {world} ranks without a query; "
                f"set it to {world} or more, or train on at most {size} ranks"
            )
        return size
