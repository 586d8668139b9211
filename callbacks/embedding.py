"""Embed rows of a table, all ranks together, into a folder that keeps what is done."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.seed import isolate_rng
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from callbacks.collaborators import retriever_of
from callbacks.embedding_stores import copy_from_others, open_store, remove_store, write_rows
from callbacks.resume_checkpoint import is_asked_here, stop_if_asked
from data_modules.encoding import EncodingTable
from mmretrieval.batches import EncodingBatch
from mmretrieval.distributed import gather_sizes, is_distributed, rank, world_size
from mmretrieval.index import EmbeddingStore
from mmretrieval.shared_work import SharedWork

Rows = NDArray[np.int64]

_UNITS_PER_RANK = 4  # so that ranks of unlike speed end at nearly the same time
_UNIT_BATCHES = 64  # a unit is lost when a process is killed
_SEEN_WITHIN = 60.0  # seconds until a shared file system shows what other machines wrote


def embed(
    trainer: Trainer,
    module: nn.Module,
    table: EncodingTable,
    rows: Rows,
    folder: Path | None = None,
    dtype: str = "float32",
    while_embedding: Callable[[], AbstractContextManager[object]] | None = None,
) -> EmbeddingStore:
    """Embed rows of a table, and return the store that has them, perhaps among others.

    The rows are cut into units of like cost, the most expensive first, and each is written as a shard when it
    is done. What the folder has already, of the same contents by the same weights and settings, is not
    embedded again: after a kill only units under work are lost, mining and evaluation share what both need,
    and when a pool gains candidates, or judgements change, only new contents are embedded. Stores of the same
    data and table by other weights are removed, unless another process is using them.

    Ranks take units as they become free; those of a model that is sharded over ranks take turns and make the
    same number of steps, so that nobody waits for a rank that has finished. All ranks must see the folder.
    Nothing else is changed: neither the modes of modules nor the random state.

    Args:
        trainer: Its precision and device placement are used.
        module: The retriever.
        table: Contents of the data module, as its ``candidate_table()``.
        rows: Different rows of the table, at least one, ``(N,)``.
        folder: Where stores are kept, ``embeddings`` in the trainer's ``default_root_dir`` by default.
        dtype: How embeddings are kept: ``float32``, ``float16`` or ``bfloat16``.
        while_embedding: Makes what is entered while something is embedded, and not where all is kept.

    Raises:
        ValueError: If there is no row, or a row is there twice or not in the table, the loader gives other
            rows than asked for, or an embedding is not finite.
        SystemExit: If a signal asks the run to end.
    """
    folder = folder if folder is not None else Path(trainer.default_root_dir, "embeddings")
    _check(table, rows)
    store = open_store(trainer, module, table, folder, dtype)
    # Rank 0 decides: another job may be filling the store, and ranks that each look for themselves would
    # disagree on what is missing, and then wait for each other in different places.
    missing = trainer.strategy.broadcast(rows[~store.present(rows)])
    if len(missing):
        new = missing[~copy_from_others(trainer, store, table, missing)]
        _say(trainer, table, len(rows), len(missing), len(new))
        if len(new):
            with while_embedding() if while_embedding is not None else nullcontext():
                _embed_units(trainer, module, table, _units(table, new), store)
    _await(store, rows, table)  # also if rank 0 sees all: another machine may not yet
    return store


@contextmanager
def same_bits(module: nn.Module) -> Iterator[None]:
    """Within it, embeddings do not depend on batches, for about a tenth of the time to embed.

    Embeddings that were kept without it are made again.

    Args:
        module: The retriever; one whose encoder has no such setting stays as it is.
    """
    encoder: Any = retriever_of(module).encoder
    usual = getattr(encoder, "aligned", None)
    if usual is None:
        yield
        return
    encoder.aligned = True
    try:
        yield
    finally:
        encoder.aligned = usual


def discard(trainer: Trainer, *stores: EmbeddingStore) -> None:
    """Remove stores, for runs that shall leave nothing behind; all ranks call it together."""
    trainer.strategy.barrier("embeddings were used")
    if not trainer.is_global_zero:
        return
    for store in stores:
        remove_store(store)


class _Unit:
    """Batches that one rank embeds and writes as a shard."""

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches
        self.rows: Rows = np.concatenate([np.array(batch, np.int64) for batch in batches])

    def __len__(self) -> int:
        return len(self.rows)


def _check(table: EncodingTable, rows: Rows) -> None:
    if not len(rows):
        raise ValueError(f"There are no {table.name} to embed: look at the split and its pools.")
    if len(np.unique(rows)) < len(rows):
        raise ValueError(f"The rows of {table.name} to embed are not distinct: embed each row once.")


def _units(table: EncodingTable, rows: Rows) -> list[_Unit]:
    batches = table.batches(table.by_cost(rows))
    size = min(_UNIT_BATCHES, -(-len(batches) // (_UNITS_PER_RANK * world_size())))
    return [_Unit(batches[start : start + size]) for start in range(0, len(batches), size)]


def _say(trainer: Trainer, table: EncodingTable, count: int, missing: int, new: int) -> None:
    if new < count:
        trainer.print(
            f"Embeddings of {table.name}: of {count:,}, {count - missing:,} are kept, {missing - new:,} have "
            f"contents that are kept elsewhere, {new:,} are made now."
        )


def _embed_units(
    trainer: Trainer,
    module: nn.Module,
    table: EncodingTable,
    units: Sequence[_Unit],
    store: EmbeddingStore,
) -> None:
    encoder, device = retriever_of(module).encoder, trainer.strategy.root_device
    with _claims(trainer, store) as claims:
        work = SharedWork(len(units), claims)
        feed = _Feed(units, work)
        writer = _Writer(table, units, feed.taken, store)
        together = claims is None and world_size() > 1
        steps = max(gather_sizes(feed.own_batches, device)) if together else None
        loader = table.make_loader(feed.padded(steps), feed.own_batches)
        with _encoding(trainer, module), _progress(trainer, table, units) as progress:
            for step, batch in enumerate(loader):
                vectors = _encoded(trainer, encoder, batch)
                if steps is None or step < feed.own_batches:  # else it was embedded for nothing
                    progress(writer.add(batch.rows.cpu().numpy(), vectors))
                if steps is not None:
                    stop_if_asked(trainer)
                elif is_asked_here(trainer) or work.stopped:
                    work.stop()
                    break
        gather_sizes(0, device)  # claims are there until all have finished
    stop_if_asked(trainer)
    writer.check()


@contextmanager
def _claims(trainer: Trainer, store: EmbeddingStore) -> Iterator[Path | None]:
    """A new folder for claims, if ranks are free to take work as they please."""
    free = isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy)
    if world_size() == 1 or not free:
        yield None
        return
    name = trainer.strategy.broadcast(f".claims-{time.time_ns()}")
    claims: Path = store.folder / name
    if trainer.is_global_zero:
        for left in store.folder.glob(".claims-*"):  # of a process that was killed
            shutil.rmtree(left)
        claims.mkdir()
    trainer.strategy.barrier("claims")
    yield claims
    if trainer.is_global_zero:
        shutil.rmtree(claims)


class _Feed:
    """The batches of the units that this rank takes."""

    def __init__(self, units: Sequence[_Unit], work: SharedWork) -> None:
        self.taken: deque[int] = deque()
        """Units that were taken and are not finished, in the order of their batches."""
        self._units, self._work = units, work

    @property
    def own_batches(self) -> int:
        """How many batches this rank has; at most, if ranks take units as they please."""
        numbers = range(len(self._units)) if self._work.claims else self._work
        return sum(len(self._units[number].batches) for number in numbers)

    def padded(self, steps: int | None) -> Iterator[list[int]]:
        """The batches; then, up to ``steps``, one for nothing, as other ranks still need this one."""
        done = 0
        for number in self._work:
            self.taken.append(number)
            for batch in self._units[number].batches:
                done += 1
                yield batch
        for _ in range(done, steps or 0):
            yield self._units[0].batches[0]


class _Writer:
    """Collects the embeddings of a unit and writes them when it is complete."""

    def __init__(
        self, table: EncodingTable, units: Sequence[_Unit], taken: deque[int], store: EmbeddingStore
    ) -> None:
        self._table, self._units, self._taken, self._store = table, units, taken, store
        self._rows: list[Rows] = []
        self._vectors: list[Tensor] = []

    def add(self, rows: Rows, vectors: Tensor) -> int:
        """Take a batch; returns how many rows of all units are done or under work by now."""
        if not self._taken:
            raise ValueError(f"The loader of {self._table.name} gave rows that were not asked for.")
        self._rows.append(rows)
        self._vectors.append(vectors)
        number = self._taken[0]
        done = sum(len(part) for part in self._rows)
        if done >= len(self._units[number]):
            self._write(number)
        return sum(len(unit) for unit in self._units[:number]) + done

    def check(self) -> None:
        """Refuse to go on with a unit that has begun.

        Raises:
            ValueError: If the loader left rows out.
        """
        if self._taken or self._rows:
            raise ValueError(f"The loader of {self._table.name} did not give all rows that were asked for.")

    def _write(self, number: int) -> None:
        unit, rows = self._units[number].rows, np.concatenate(self._rows)
        if not np.array_equal(np.sort(rows), np.sort(unit)):
            raise ValueError(
                f"The loader of {self._table.name} gave other rows than those asked for, "
                f"{len(np.setdiff1d(unit, rows))} of {len(unit)} not at all."
            )
        vectors = torch.cat(self._vectors).cpu()
        finite = torch.isfinite(vectors).all(dim=1).numpy()
        if not finite.all():
            raise ValueError(
                f"{int((~finite).sum())} of {len(rows)} embeddings of {self._table.name} are not finite, as "
                f"that of {self._table.ids[rows[~finite][0]].decode()}: the weights have diverged, or the "
                "precision is too low."
            )
        write_rows(self._store, self._table, rows, vectors)
        self._taken.popleft()
        self._rows, self._vectors = [], []


def _await(store: EmbeddingStore, rows: Rows, table: EncodingTable) -> None:
    """Wait until this machine sees what others wrote."""
    deadline = time.monotonic() + (_SEEN_WITHIN if world_size() > 1 else 0)
    while not store.present(rows).all():
        if time.monotonic() > deadline:
            raise ValueError(
                f"{store.folder}: {int((~store.present(rows)).sum())} embeddings of {table.name} are not "
                "here: the loader did not give all rows, or machines do not share the folder."
            )
        time.sleep(0.5)


@contextmanager
def _progress(
    trainer: Trainer, table: EncodingTable, units: Sequence[_Unit]
) -> Iterator[Callable[[int], object]]:
    quiet = rank() > 0 or trainer.progress_bar_callback is None
    with tqdm(
        desc=f"Embedding {table.name}",
        total=sum(len(unit) for unit in units),
        unit="item",
        leave=False,
        disable=quiet,
        dynamic_ncols=True,
    ) as bar:
        yield lambda done: bar.update(done - bar.n)


def _encoded(trainer: Trainer, encoder: nn.Module, batch: EncodingBatch) -> Tensor:
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.strategy.batch_to_device(batch)
    with trainer.precision_plugin.forward_context():
        vectors: Tensor = encoder(batch.inputs)
    return vectors.float()


@contextmanager
def _encoding(trainer: Trainer, module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each module has the mode that it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    # As Lightning's own loops: gloo and sharded modules do not bear inference mode.
    context = torch.no_grad() if is_distributed() else torch.inference_mode()
    try:
        with isolate_rng(include_cuda=trainer.strategy.root_device.type == "cuda"), context:
            yield
    finally:
        for part, mode in modes:
            part.training = mode
