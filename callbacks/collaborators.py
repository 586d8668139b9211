"""What mining and evaluation need of the module and the data module of a trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, cast

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from torch import nn

from data_modules.collate import ContentProcessor
from data_modules.corpus import PackedCorpus
from data_modules.encoding import EncodingTable
from data_modules.query_set import QuerySet
from data_modules.wording import FIRST, Wording
from mmretrieval.mining import NegativeTable

C = TypeVar("C", bound=Callback)
UNTRAINED = "untrained"
"""The origin of weights that nothing was trained of."""


class Retriever(Protocol):
    """What these callbacks need of a module; :class:`~mmretrieval.module.UniversalRetriever` has it.

    Args:
        encoder: Maps :class:`~mmretrieval.batches.EncoderInputs` to L2-normalised embeddings ``(N, D)``.
    """

    encoder: nn.Module

    def weights_hash(self) -> str:
        """A hash of the trained weights; called on all ranks together."""

    def embedding_hash(self) -> str:
        """A hash of all that decides an embedding; called on all ranks together."""


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

    def candidate_table(
        self, processor: ContentProcessor | None = None, wording: Wording = FIRST
    ) -> EncodingTable:
        """All candidates, to embed; by default with the trained retriever's processor."""

    def query_table(
        self, split: str, processor: ContentProcessor | None = None, wording: Wording = FIRST
    ) -> EncodingTable:
        """The queries of a split with their fixed instructions, or worded otherwise, to embed."""

    def set_negatives(self, table: NegativeTable) -> None:
        """Take the negatives of the batches that follow."""

    def set_pause(self, pause: Callable[[int], int] | None) -> None:
        """Take how far training batches may be read ahead within an epoch."""


def retriever_of(module: nn.Module) -> Retriever:
    """The module, if it is a retriever.

    Raises:
        MisconfigurationException: If it is not.
    """
    missing = [name for name in ("encoder", "weights_hash", "embedding_hash") if not hasattr(module, name)]
    if missing:
        raise MisconfigurationException(
            f"{type(module).__name__} has no {', '.join(missing)}: mining and evaluation need a "
            "mmretrieval.UniversalRetriever."
        )
    return cast(Retriever, module)


def data_of(trainer: Trainer) -> RetrievalData:
    """The trainer's data module, if retrieval data comes from it.

    Raises:
        MisconfigurationException: If there is none, or of another kind.
    """
    data = getattr(trainer, "datamodule", None)  # Trainer gets the attribute with the first datamodule
    if not hasattr(data, "candidate_table"):
        raise MisconfigurationException(
            f"Mining and evaluation need a data_modules.RetrievalDataModule, found {type(data).__name__}: "
            "pass one as Trainer.fit(..., datamodule=...)."
        )
    return cast(RetrievalData, data)


def listed_before(trainer: Trainer, callback: Callback, kind: type[C]) -> C:
    """The last callback of a kind, without a label, that is listed before one that shows its results.

    Raises:
        MisconfigurationException: If there is none.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set by a connector
    earlier = callbacks[: callbacks.index(callback)]
    found = [c for c in earlier if isinstance(c, kind) and not getattr(c, "label", "")]
    if not found:
        shown, shower = kind.__name__, type(callback).__name__
        raise MisconfigurationException(
            f"{shower} shows what {shown} has found: list callbacks.{shown} before callbacks.{shower} in the "
            "trainer's callbacks."
        )
    return found[-1]


def trained_steps(trainer: Trainer, module: nn.Module) -> int:
    """Optimizer steps that the weights have seen, as far as is known: in this fit, or by their checkpoint."""
    return trainer.global_step or int(getattr(module, "trained_steps", 0))


def weights_origin(trainer: Trainer, module: nn.Module) -> str:
    """Where weights come from: ``adapter``, ``step <n>``, :data:`UNTRAINED`; ``unknown`` if nobody says."""
    steps = trained_steps(trainer, module)
    if steps:
        return f"step {steps}"
    if not hasattr(module, "init_from"):
        return "unknown"
    return UNTRAINED if module.init_from is None else "adapter"


def is_last_epoch(trainer: Trainer) -> bool:
    """Whether no epoch follows the one that is ending."""
    epochs = trainer.max_epochs if trainer.max_epochs is not None else -1
    steps = trainer.max_steps
    done = epochs != -1 and trainer.current_epoch + 1 >= epochs
    return done or (steps != -1 and trainer.global_step >= steps) or trainer.should_stop


def is_dry_run(trainer: Trainer) -> bool:
    """Whether the trainer was made with ``fast_dev_run``, so that a run only shows that it works."""
    return bool(getattr(trainer, "fast_dev_run", False))
