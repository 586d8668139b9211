"""When to mine, and which queries and candidates a round looks at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MiningSchedule:
    """When to mine.

    Rounds come at ends of epochs, or after some steps wherever that is in an epoch.

    Args:
        every_n_epochs: Mine after every n-th epoch, at least 1; ``None``: never while training goes on.
        every_n_steps: Mine when so many optimizer steps were done since the last round, at least 1, in the
            middle of an epoch as well; ends of epochs have no meaning then. The next batch has the new
            negatives. ``None``: ``every_n_epochs`` decides.
        first_step: Mine only from this step on, at least 0: until then, training has no mined negatives.
        after_training: Mine after the last epoch, too, for another run to train with.
        before_training: Mine before the first step, too, where weights are trained already, as in stage 2.
            Under ``fast_dev_run`` it is left out.
        at_steps: Mine after exactly these optimizer steps and at no others, whatever the rest says, in the
            middle of an epoch as well; 0 is before the first step. Steps that training does not come to are
            named in a warning at its end. ``None``: as the rest says.

    Raises:
        ValueError: If a value is out of range.
    """

    every_n_epochs: int | None = 1
    every_n_steps: int | None = None
    first_step: int = 0
    after_training: bool = False
    before_training: bool = False
    at_steps: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name in ("every_n_epochs", "every_n_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}.")
        if self.every_n_steps is not None and self.every_n_epochs not in (None, 1):
            raise ValueError(
                f"every_n_steps is {self.every_n_steps} and every_n_epochs {self.every_n_epochs}: "
                "give one of them."
            )
        if self.first_step < 0:
            raise ValueError(f"first_step must be at least 0, found {self.first_step}.")
        if self.at_steps is not None and any(step < 0 for step in self.at_steps):
            raise ValueError(f"at_steps must be at least 0 each, found {list(self.at_steps)}.")

    @property
    def begins(self) -> bool:
        """Whether to mine before the first step."""
        return self.before_training if self.at_steps is None else 0 in self.at_steps

    @property
    def by_steps(self) -> bool:
        """Whether rounds may come in the middle of an epoch."""
        return self.at_steps is not None or self.every_n_steps is not None

    def is_due(self, epoch: int, step: int, mined_at: int | None, *, last: bool) -> bool:
        """Whether to mine now, at the end of an epoch.

        Args:
            epoch: How many epochs are finished.
            step: How many optimizer steps are done.
            mined_at: The step of the last round; ``None`` before the first.
            last: Whether training is over.
        """
        if self.at_steps is not None:
            return step in self.at_steps and step != mined_at
        if last:
            return self.after_training
        if self.every_n_epochs is None or self.every_n_steps is not None:
            return False
        return epoch % self.every_n_epochs == 0 and step >= self.first_step

    def steps_left(self, step: int, mined_at: int | None) -> int | None:
        """Steps until the next round, 0 or less if it is due; ``None`` if no step brings one.

        Args:
            step: How many optimizer steps are done.
            mined_at: The step of the last round; ``None`` before the first.
        """
        if self.at_steps is not None:
            return min((at - step for at in self.at_steps if at >= step and at != mined_at), default=None)
        if self.every_n_steps is None:
            return None
        return max((mined_at or 0) + self.every_n_steps, self.first_step) - step

    def missed(self, mined_at: Iterable[int]) -> list[int]:
        """Those of ``at_steps`` at which nothing was mined, in ascending order.

        Args:
            mined_at: The steps of all rounds.
        """
        return sorted({*(self.at_steps or ())}.difference(mined_at))


@dataclass(frozen=True, slots=True)
class RoundSubset:
    """What a round looks at, where all of it would take too long.

    Args:
        queries: Mine for so many queries in a round, at least 1; rounds take turns, so that each query gets
            its turn before any has its second. ``None``: for all.
        candidates: Search so many candidates, drawn anew in each round, at least 1, and the labelled
            positives of the round's queries; ``None``: all.
        seed: Of the draws.

    Raises:
        ValueError: If a number is out of range.
    """

    queries: int | None = None
    candidates: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("queries", "candidates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} of a round must be at least 1, found {value}.")

    def queries_of(self, round_: int, count: int) -> Rows:
        """Return the query rows of a round in ascending order.

        Args:
            round_: Number of the round, from 0.
            count: How many queries there are.
        """
        rows = np.arange(count, dtype=np.int64)
        if self.queries is None or self.queries >= count:
            return rows
        order = np.random.default_rng([self.seed, 0]).permutation(rows)
        places = (round_ * self.queries + np.arange(self.queries)) % count
        return np.sort(order[places])

    def candidates_of(self, round_: int, pool: Rows, positives: Rows) -> Rows:
        """Return the candidate rows of a round in ascending order.

        Args:
            round_: Number of the round, from 0.
            pool: Rows of the pool.
            positives: Rows of candidates that must be there if the pool has them.
        """
        if self.candidates is None or self.candidates >= len(pool):
            return np.sort(pool)
        drawn = np.random.default_rng([self.seed, 1, round_]).choice(pool, self.candidates, replace=False)
        return np.union1d(drawn, np.intersect1d(positives, pool))
