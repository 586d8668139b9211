"""What mining and evaluation share: embed rows of a data set on all ranks, and search what was embedded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, cast

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm  # type: ignore[import-untyped]

from callbacks.resume_checkpoint import stop_if_asked
from data_modules.corpus import PackedCorpus, QuerySet
from mmretrieval.batches import EncodingBatch
from mmretrieval.distributed import all_gather, gather_sizes, is_distributed, rank, rows_of_rank, world_size
from mmretrieval.index import VectorIndex
from mmretrieval.mining import NegativeTable

Rows = NDArray[np.int64]
LoaderOf = Callable[[Rows], DataLoader[EncodingBatch]]


class Retriever(Protocol):
    """What these callbacks need of a module; :class:`~mmretrieval.module.UniversalRetriever` has it.

    Args:
        encoder: Maps :class:`~mmretrieval.batches.EncoderInputs` to L2-normalised embeddings ``(N, D)``.
    """

    encoder: nn.Module

    def weights_hash(self) -> str:
        """A hash of the trained weights; called on all ranks together."""


class RetrievalData(Protocol):
    """What these callbacks need of a data module; ``RetrievalDataModule`` has it.

    Args:
        corpus: The packed data set.
        train_split: The split that is trained on.
        train_pool: The pool that negatives are mined from.
    """

    corpus: PackedCorpus
    train_split: str
    train_pool: str

    def queries(self, split: str) -> QuerySet:
        """The queries of a split."""

    def candidate_loader(self, rows: Rows) -> DataLoader[EncodingBatch]:
        """Candidates to embed, in any order."""

    def query_loader(self, split: str, rows: Rows) -> DataLoader[EncodingBatch]:
        """Queries to embed with their fixed instruction, in any order."""

    def set_negatives(self, table: NegativeTable) -> None:
        """Take the negatives of the epochs that follow."""


def retriever_of(module: LightningModule) -> Retriever:
    """The module, if it is a retriever.

    Raises:
        MisconfigurationException: If it is not.
    """
    missing = [name for name in ("encoder", "weights_hash") if not hasattr(module, name)]
    if missing:
        raise MisconfigurationException(
            f"{type(module).__name__} has no {' and no '.join(missing)}: mining and evaluation need a "
            "mmretrieval.UniversalRetriever."
        )
    return cast(Retriever, module)


def data_of(trainer: Trainer) -> RetrievalData:
    """The trainer's data module, if retrieval data comes from it.

    Raises:
        MisconfigurationException: If there is none, or of another kind.
    """
    data = getattr(trainer, "datamodule", None)  # Trainer gets the attribute with the first datamodule
    if not hasattr(data, "candidate_loader"):
        raise MisconfigurationException(
            f"Mining and evaluation need a data_modules.RetrievalDataModule, found {type(data).__name__}: "
            "pass one as Trainer.fit(..., datamodule=...)."
        )
    return cast(RetrievalData, data)


def embed(
    trainer: Trainer, module: LightningModule, loader_of: LoaderOf, rows: Rows, description: str
) -> NDArray[np.float32]:
    """Embed rows of a table, each rank its share, and gather all of them on every rank.

    All ranks take the same number of steps, so an encoder that is sharded over ranks never waits for a rank
    that has finished. Nothing is left changed: neither the modes of modules nor the random state.

    Args:
        trainer: Its precision and device placement are used.
        module: The retriever.
        loader_of: Makes the loader of some rows, such as ``RetrievalDataModule.candidate_loader``. Batches
            may come in any order: ``EncodingBatch.rows`` says where an embedding belongs.
        rows: Different rows of the table, at least one.
        description: What is embedded, for the progress bar and errors.

    Shape:
        - rows: ``(N,)``, output: ``(N, D)`` float32 in the order of ``rows``.

    Raises:
        ValueError: If there is no row or a row is there twice, the loader gives other rows than asked for, or
            an embedding is not finite.
    """
    places = _Places(rows, description)
    encoder, device = retriever_of(module).encoder, trainer.strategy.root_device
    own = rows_of_rank(len(rows), rank(), world_size())
    # A rank without rows embeds one for nothing, as collectives inside the encoder need everybody.
    loader = loader_of(rows[own.start : own.stop] if own else rows[:1])
    steps = max(gather_sizes(len(loader), device))
    quiet = rank() > 0 or trainer.progress_bar_callback is None
    batches = tqdm(
        _repeated(loader, steps, bool(own)),
        desc=f"Embedding {description}",
        total=steps,
        unit="batch",
        leave=False,
        disable=quiet,
        dynamic_ncols=True,
    )
    embeddings: NDArray[np.float32] | None = None
    with _encoding(trainer, module):
        for batch, count in batches:
            vectors, at = _encoded(trainer, encoder, batch)
            vectors, at = all_gather(vectors[:count]), all_gather(at[:count])
            if embeddings is None:
                embeddings = np.empty((len(rows), vectors.shape[1]), dtype=np.float32)
            embeddings[places.take(at)] = vectors.cpu().numpy()
            stop_if_asked(trainer)
    places.check(embeddings)
    assert embeddings is not None  # each place was taken, so there was a batch
    return embeddings


def search(
    index: VectorIndex, pool: NDArray[np.float32], queries: NDArray[np.float32], k: int, device: torch.device
) -> tuple[NDArray[np.float32], Rows]:
    """Search a pool, each rank its share of the queries, and gather the results on every rank.

    Args:
        index: An empty index; a copy of it is filled.
        pool: Vectors to find.
        queries: Vectors to search with.
        k: How many to find for each query, at least 1.
        device: Where the process group can exchange tensors.

    Shape:
        - pool: ``(N, D)``, queries: ``(Q, D)``, output: scores ``(Q, k)`` and rows of the pool ``(Q, k)``, as
          :meth:`mmretrieval.index.VectorIndex.search` returns them.
    """
    filled = copy.deepcopy(index)
    filled.add(pool)
    own = rows_of_rank(len(queries), rank(), world_size())
    scores, rows = filled.search(queries[own.start : own.stop], k)
    if world_size() == 1:
        return scores, rows
    gathered = (all_gather(torch.from_numpy(part).to(device)).cpu().numpy() for part in (scores, rows))
    return next(gathered), next(gathered)


def is_last_epoch(trainer: Trainer) -> bool:
    """Whether no epoch follows the one that is ending."""
    epochs = trainer.max_epochs if trainer.max_epochs is not None else -1
    steps = trainer.max_steps
    done = epochs != -1 and trainer.current_epoch + 1 >= epochs
    return done or (steps != -1 and trainer.global_step >= steps) or trainer.should_stop


def is_dry_run(trainer: Trainer) -> bool:
    """Whether the trainer was made with ``fast_dev_run``, so that a run only shows that it works."""
    return bool(getattr(trainer, "fast_dev_run", False))


class _Places:
    """Which place each row of the table has in the result, and which places were taken."""

    def __init__(self, rows: Rows, description: str) -> None:
        self.description = description
        self._order = np.argsort(rows, kind="stable")
        self._sorted = rows[self._order]
        self._seen = np.zeros(len(rows), dtype=np.int64)
        if not len(rows):
            raise ValueError(f"There are no {description} to embed: look at the split and its pools.")
        if (self._sorted[1:] == self._sorted[:-1]).any():
            raise ValueError(f"The rows of {description} to embed are not distinct: embed each row once.")

    def take(self, rows: Tensor) -> Rows:
        wanted = rows.cpu().numpy()
        places = np.searchsorted(self._sorted, wanted).clip(max=len(self._sorted) - 1)
        if (self._sorted[places] != wanted).any():
            raise ValueError(f"The loader of {self.description} gave rows that were not asked for.")
        taken: Rows = self._order[places]
        np.add.at(self._seen, taken, 1)  # += would count a row that is there twice only once
        return taken

    def check(self, embeddings: NDArray[np.float32] | None) -> None:
        if (self._seen != 1).any():
            raise ValueError(
                f"The loader of {self.description} gave {int((self._seen == 0).sum())} of {self._seen.size} "
                f"rows never and {int((self._seen > 1).sum())} more than once; it must give each one once."
            )
        if embeddings is None:
            return
        bad = ~np.isfinite(embeddings).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{int(bad.sum())} of {bad.size} embeddings of {self.description} are not finite, the first "
                f"at place {int(bad.argmax())}: the weights have diverged, or the precision is too low."
            )


def _repeated(
    loader: DataLoader[EncodingBatch], steps: int, own: bool
) -> Iterator[tuple[EncodingBatch, int]]:
    """Each batch with how many of its rows count; the last one again, for nothing, until all ranks end."""
    batch: EncodingBatch | None = None
    for batch in loader:
        yield batch, len(batch.rows) if own else 0
    for _ in range(steps - len(loader)):
        if batch is not None:
            yield batch, 0


def _encoded(trainer: Trainer, encoder: nn.Module, batch: EncodingBatch) -> tuple[Tensor, Tensor]:
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.strategy.batch_to_device(batch)
    with trainer.precision_plugin.forward_context():
        vectors: Tensor = encoder(batch.inputs)
    return vectors.float(), batch.rows


@contextmanager
def _encoding(trainer: Trainer, module: LightningModule) -> Iterator[None]:
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
