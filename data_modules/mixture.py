"""Which sample comes next: tasks by weight, each task's queries in a new order per pass, exact positions.

Everything is a pure function of (seed, epoch, position) and drawn for the *global* batch of all ranks, in the
main process. So neither the number of workers nor, for an equal global batch, the number of ranks changes
the stream, and training resumes in the middle of an epoch at exactly the next sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from data_modules.blend import Shares, blend_of
from data_modules.corpus import QuerySet
from data_modules.formats.records import DataError
from data_modules.guards import guarded_keys
from mmretrieval.distributed import rows_of_rank
from mmretrieval.mining import NegativeTable

Ints = npt.NDArray[np.int64]

_EPOCH_DRAW, _PASS_DRAW = 0, 1  # keep the streams of random numbers apart


class TrainingItem(NamedTuple):
    """What a worker is asked to read.

    Args:
        query: Row of the query.
        instruction: Which of the query's instructions it is asked with.
        negatives: Candidate rows of its negatives, mined or given by the data set; often one, or none.
        targets: A teacher's scores of the labelled positive and of each of ``negatives``, or nothing.
    """

    query: int
    instruction: int
    negatives: tuple[int, ...]
    targets: tuple[float, ...] = ()


Targets = Callable[[str], Mapping[str, float]]
"""From the id of a query to a teacher's scores by candidate id."""


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

    def __post_init__(self) -> None:
        at_least_1 = ("batch_size", "global_batch_size", "batches_per_epoch")
        at_least_0 = ("seed", "negatives_per_query")
        for name in (*at_least_1, *at_least_0):
            value, bound = getattr(self, name), int(name in at_least_1)
            if value is not None and value < bound:
                raise ValueError(f"{name} must be at least {bound}, found {value}.")
        if self.given_negatives is not None and not 0 <= self.given_negatives <= 1:
            raise ValueError(f"given_negatives must be between 0 and 1, found {self.given_negatives}.")

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
        return [self._item(int(row), epoch) for row in rows]

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

    def _item(self, row: int, epoch: int) -> TrainingItem:
        instruction = self._draw(row, epoch, "instruction") % len(self.queries.instructions(row))
        negatives = self._negatives(row, epoch)
        return TrainingItem(row, instruction, negatives, self._targets(row, negatives))

    def _targets(self, row: int, negatives: Sequence[int]) -> tuple[float, ...]:
        """The teacher's scores, if it has scored all."""
        if self.targets is None or not negatives:
            return ()
        corpus, known = self.queries.corpus, self.targets(str(self.queries.ids[row]))
        ids = [corpus.candidate_id(one) for one in (int(self.queries.positives(row)[0]), *negatives)]
        return tuple(known[id_] for id_ in ids) if all(id_ in known for id_ in ids) else ()

    def _negatives(self, row: int, epoch: int) -> tuple[int, ...]:
        if not self.settings.negatives_per_query:
            return ()
        found = self._mined(row)
        if self._prefers_given(row, epoch, mined=bool(found)):
            found = self._given(row) or found
        count = min(self.settings.negatives_per_query, len(found))
        first = self._draw(row, epoch, "negatives") if count else 0
        chosen = (found[(first + step) % len(found)] for step in range(count))
        return tuple(self.queries.corpus.candidate_row(candidate) for candidate in chosen)

    def _mined(self, row: int) -> Sequence[str]:
        query = str(self.queries.ids[row])
        known = self.negatives is not None and query in self.negatives
        return self.negatives.negatives_of(query) if self.negatives is not None and known else ()

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
