"""What a data module asks its trainer."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from data_modules.collate import ContentProcessor


class Position(NamedTuple):
    """How far training has come.

    Args:
        epoch: How many epochs are finished.
        batches: How many batches of the next one are.
    """

    epoch: int
    batches: int


def ranks_of(trainer: Trainer | None) -> tuple[int, int]:
    """Return this rank, and how many share a global batch.

    Args:
        trainer: The trainer; ``None``: one rank.

    Raises:
        MisconfigurationException: If Lightning would replace the sampler.
    """
    if trainer is None or (ranks := trainer.distributed_sampler_kwargs) is None:
        return 0, 1
    if ranks["num_replicas"] > 1 and trainer._accelerator_connector.use_distributed_sampler:
        raise MisconfigurationException(
            "The data module gives each rank its own batches; set Trainer(use_distributed_sampler=False)."
        )
    return ranks["rank"], ranks["num_replicas"]


def processor_of(trainer: Trainer | None) -> ContentProcessor:
    """Return the input processor of the retriever that the trainer runs.

    Args:
        trainer: The trainer; ``None``: there is none.

    Raises:
        MisconfigurationException: If there is no trainer, or what it runs has none.
    """
    module = None if trainer is None else trainer.lightning_module
    if module is None or not hasattr(module, "input_processor"):
        raise MisconfigurationException(
            "Batches are made with trainer.lightning_module.input_processor, which is not there; "
            "use the data module with a trainer that runs a UniversalRetriever."
        )
    return cast(ContentProcessor, module.input_processor)


def position_of(trainer: Trainer) -> Position:
    """Return how many epochs and batches were trained on, not merely read ahead by workers.

    Args:
        trainer: The trainer.
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current  # typed as their base class
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    within = epochs.started > epochs.processed
    return Position(epochs.processed, batches.processed if within else 0)
