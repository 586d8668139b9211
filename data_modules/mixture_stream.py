"""Which queries the global batches have: tasks by weight, each task's queries in a new order per pass."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_modules.blend import Shares
from data_modules.formats.records import DataError
from data_modules.mixture_settings import MixtureSettings

Ints = npt.NDArray[np.int64]

_EPOCH_DRAW, _PASS_DRAW = 0, 1  # keep the streams of random numbers apart


def apportion(total: int, shares: Shares) -> Ints:
    """Divide ``total`` into whole numbers by Webster's method.

    No part ever shrinks when ``total`` grows, so the parts of successive totals differ by what is drawn
    between them: no task, however small, is rounded away for good.

    Shape:
        - shares: ``(T,)`` with sum 1, output: ``(T,)`` with sum ``total``.
    """
    surely = max(0.0, total - len(shares) / 2 - 1)  # rounding T parts moves the sum by T / 2 at most
    counts = np.floor(surely * shares + 0.5).astype(np.int64)
    there = np.flatnonzero(shares > 0)
    for _ in range(total - int(counts.sum())):
        counts[there[np.argmin((counts[there] + 0.5) / shares[there])]] += 1  # whose turn is next
    return counts


class _EpochPlan(NamedTuple):
    epoch: int
    tasks: Ints  # (batches, slots): the task of each slot; one slot stands for all in homogeneous batches
    used: Ints  # (batches, tasks): samples of each task that earlier batches of all epochs have drawn


class MixtureStream:
    """Query rows of each global batch, as a pure function of (seed, epoch, position).

    A task's queries come in a random order that is new in each pass; the passes run on over batches and
    epochs, so that no query comes twice before all came once. Copies of one query are spread evenly over a
    pass, and passes are joined such that a batch holds no query twice unless its task is too small.

    Args:
        task_of: Task number of each query, ``(N,)``.
        copies: How often a pass shows each query, ``(N,)``.
        shares: Share of each task, ``(T,)``.
        global_batch: Queries per step over all ranks.
        settings: Seed, homogeneity and epoch length.

    Raises:
        DataError: If all queries do not fill one global batch.
    """

    def __init__(
        self,
        task_of: npt.NDArray[np.int32],
        copies: npt.NDArray[np.int32],
        shares: Shares,
        global_batch: int,
        settings: MixtureSettings,
    ) -> None:
        self.global_batch = global_batch
        order = np.argsort(task_of, kind="stable")
        self._rows_of = np.split(order, np.cumsum(np.bincount(task_of, minlength=len(shares)))[:-1])
        self._copies, self._shares, self._settings = copies, shares, settings
        self._sizes = np.array([copies[rows].sum() for rows in self._rows_of], np.int64)
        self._length = self._length_with(global_batch)
        if self._length == 0:
            raise DataError(
                f"{self._sizes.sum()} training queries do not fill one global batch of {global_batch}; "
                "lower batch_size, or global_batch_size if it is set, or set batches_per_epoch to let "
                "queries repeat"
            )
        self._cached: _EpochPlan | None = None
        self._orders: dict[int, tuple[int, Ints]] = {}  # task → its latest pass

    def __len__(self) -> int:
        """Return the number of global batches of an epoch."""
        return self._length

    @property
    def fingerprint(self) -> str:
        """A hex digest of all that decides the stream."""
        return self.fingerprint_with(self.global_batch)

    def fingerprint_with(self, global_batch: int) -> str:
        """Return what :attr:`fingerprint` would be if only the size of the global batches were another."""
        settings, length = self._settings, self._length_with(global_batch)
        facts = (settings.seed, settings.homogeneous, global_batch, length, self._shares.tolist())
        digest = blake2b(repr((*facts, self._sizes.tolist())).encode(), digest_size=8)
        return digest.hexdigest()

    def batch(self, epoch: int, position: int) -> Ints:
        """Return the query rows of a global batch, ``(global_batch,)``.

        Args:
            epoch: From 0.
            position: Number of the batch in the epoch, from 0.
        """
        plan = self._plan(epoch)
        tasks = np.broadcast_to(plan.tasks[position], (self.global_batch,))
        rows = np.empty(self.global_batch, np.int64)
        for task in np.unique(tasks):
            places = np.flatnonzero(tasks == task)
            rows[places] = self._take(int(task), int(plan.used[position, task]), len(places))
        return rows

    def _length_with(self, global_batch: int) -> int:
        return self._settings.batches_per_epoch or int(self._sizes.sum()) // global_batch

    def _plan(self, epoch: int) -> _EpochPlan:
        if self._cached is None or self._cached.epoch != epoch:
            slots = 1 if self._settings.homogeneous else self.global_batch
            units = self._length * slots
            before = apportion(epoch * units, self._shares)
            counts = apportion((epoch + 1) * units, self._shares) - before
            tasks = np.repeat(np.arange(len(counts)), counts)
            np.random.default_rng([self._settings.seed, _EPOCH_DRAW, epoch]).shuffle(tasks)
            cells = np.repeat(np.arange(self._length) * len(counts), slots) + tasks
            drawn = np.bincount(cells, minlength=self._length * len(counts)).reshape(self._length, -1)
            used = before + np.cumsum(drawn, axis=0) - drawn
            scale = self.global_batch // slots
            self._cached = _EpochPlan(epoch, tasks.reshape(self._length, slots), used * scale)
        return self._cached

    def _take(self, task: int, start: int, count: int) -> Ints:
        pieces = []
        while count:
            number, place = divmod(start, int(self._sizes[task]))
            pieces.append(self._pass(task, number)[place : place + count])
            start, count = start + len(pieces[-1]), count - len(pieces[-1])
        return np.concatenate(pieces)

    def _pass(self, task: int, number: int) -> Ints:
        known, order = self._orders.get(task, (-1, None))
        if order is None or known != number:
            order = self._shuffled(task, number)
            if number > 0:
                self._part_from(self._shuffled(task, number - 1), order)
            self._orders[task] = (number, order)
        return order

    def _shuffled(self, task: int, number: int) -> Ints:
        """The rows of a task in random order; copies of a query lie evenly spaced from a random start."""
        rows = self._rows_of[task]
        copies = self._copies[rows]
        rng = np.random.default_rng([self._settings.seed, _PASS_DRAW, task, number])
        starts = np.repeat(np.cumsum(copies) - copies, copies)
        copy = np.arange(len(starts)) - starts
        places = (copy + np.repeat(rng.random(len(rows)), copies)) / np.repeat(copies, copies)
        return np.repeat(rows, copies)[np.argsort(places, kind="stable")]

    def _part_from(self, earlier: Ints, order: Ints) -> None:
        """Move what ends the earlier pass away from the beginning of ``order``, whose own end stays."""
        reach = min(self.global_batch, len(order) // 3)
        head = order[: 2 * reach]
        order[: 2 * reach] = head[np.argsort(np.isin(head, earlier[len(earlier) - reach :]), kind="stable")]
