"""Which sample comes next: tasks by weight, each task's queries in a new order per pass, exact positions.

Everything is a pure function of (seed, epoch, position) and drawn for the *global* batch of all ranks, in the
main process. So neither the number of workers nor, for an equal global batch, the number of ranks changes
the stream, and training resumes in the middle of an epoch at exactly the next sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from data_modules.blend import blend_of
from data_modules.mixture_settings import MixtureSettings
from data_modules.mixture_stream import MixtureStream
from data_modules.query_set import QuerySet
from data_modules.training_items import Targets, TrainingItem, TrainingItems
from mmretrieval.distributed import rows_of_rank
from mmretrieval.mining import NegativeTable


class MixtureBatchSampler(Sampler[list[TrainingItem]]):
    """One rank's part of each global batch, with instruction and negatives drawn.

    Args:
        queries: The training queries.
        settings: How tasks blend.
        rank: This rank, from 0.
        world: How many ranks share a global batch: each has a contiguous part, in rank order, and the sizes
            of the parts differ by at most one.

    Raises:
        ValueError: If weights do not fit the tasks.
        DataError: If the queries do not fill one global batch, or it has fewer queries than there are ranks.
    """

    def __init__(self, queries: QuerySet, settings: MixtureSettings, rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"Needs 0 <= rank < world, found rank={rank}, world={world}.")
        size = settings.queries_per_step(world)
        counts = np.bincount(queries.task_of, weights=queries.copies, minlength=len(queries.tasks))
        blend = blend_of(queries.tasks, counts.astype(np.int64), settings.weights, settings.sources)
        units = blend.unit_of[queries.task_of].astype(np.int32)
        self.stream = MixtureStream(units, queries.copies, blend.shares, size, settings)
        self.shares = blend.task_shares
        """Share of the samples that each task gets, without those that get none."""
        self.queries, self.settings = queries, settings
        self._items = TrainingItems(queries, settings)
        self._own = rows_of_rank(size, rank, world)
        self.negatives: NegativeTable | None = None
        """Where mined negatives come from; set between epochs, or at a pause."""
        self.pause: Callable[[int], int] | None = None
        """From a batch of the epoch to one from which on nothing may be read before it has its turn, as mined
        negatives may be others by then; ``None``: all of an epoch may be read ahead."""
        self.targets: Targets | None = None
        """Where a teacher's scores come from; set between epochs."""
        self.epoch, self.position = 0, 0
        self.started = False
        """Whether anything was asked for; workers read ahead of training."""
        self._first = 0  # where iteration of the epoch begins, after a resume in its middle
        self._paused: int | None = None  # where the next iteration goes on

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch, also when iteration resumes in its middle."""
        return len(self.stream)

    def __iter__(self) -> Iterator[list[TrainingItem]]:
        """Yield the batches of the epoch, after a resume the rest of them; up to a pause, if there is one."""
        self.started = True
        epoch, first = self.epoch, self._first if self._paused is None else self._paused
        self._paused = None
        stop = len(self) if self.pause is None else min(len(self), max(self.pause(first), first + 1))
        for position in range(first, stop):
            self.position = position + 1
            yield self.batch(epoch, position)
        if stop < len(self):
            self._paused = stop

    @property
    def paused(self) -> bool:
        """Whether the epoch is not over, and another iteration goes on with it."""
        return self._paused is not None

    @property
    def sampler(self) -> MixtureBatchSampler:
        """Itself: Lightning calls ``set_epoch`` on the ``sampler`` of a batch sampler."""
        return self

    def batch(self, epoch: int, position: int) -> list[TrainingItem]:
        """Return this rank's part of a global batch."""
        rows = self.stream.batch(epoch, position)[self._own.start : self._own.stop]
        return [self._items.item(int(row), epoch, self.negatives, self.targets) for row in rows]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to iterate; the one that was resumed in its middle still begins there."""
        if epoch != self.epoch:
            self.epoch, self.position, self._first, self._paused = epoch, 0, 0, None

    def state_dict(self) -> dict[str, Any]:
        """Return how far the iteration has come, see :meth:`state_at`."""
        return self.state_at(self.epoch, self.position)

    def state_at(self, epoch: int, position: int) -> dict[str, Any]:
        """Return the state after ``position`` batches of an epoch; samples are counted over all ranks."""
        epoch, position = (epoch + 1, 0) if position >= len(self) else (epoch, position)
        size = self.stream.global_batch
        return {
            "epoch": epoch,
            "samples": position * size,
            "global_batch": size,
            "stream": self.stream.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a run stopped; between epochs, settings may have changed.

        Raises:
            ValueError: If the state lies within an epoch of another stream.
        """
        if state["samples"] and state["stream"] != self.stream.fingerprint:
            raise ValueError(self._refusal(state))
        self.epoch, self._paused = state["epoch"], None
        self.position = self._first = state["samples"] // self.stream.global_batch

    def _refusal(self, state: Mapping[str, Any]) -> str:
        place = f"The checkpoint stands {state['samples']} samples into epoch {state['epoch']}"
        size = state.get("global_batch")  # states of earlier versions have none
        if size and state["stream"] == self.stream.fingerprint_with(size):
            return (
                f"{place}, trained with global batches of {size} queries; here they are "
                f"{self.stream.global_batch}. Resume with --data.init_args.global_batch_size {size}, "
                "or from a checkpoint of an epoch's end."
            )
        return (
            f"{place} of another stream. Resume with the data, seed, weights, homogeneous, batches_per_epoch "
            "and batch_size x ranks of that run, or from a checkpoint of an epoch's end."
        )
