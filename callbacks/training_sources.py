"""Which source of the blend each training query is of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from numpy.typing import NDArray

from callbacks.collaborators import RetrievalData, data_of
from data_modules.mixture import MixtureBatchSampler


class BlendedData(RetrievalData, Protocol):
    """What is needed of a data module; ``RetrievalDataModule`` has it."""

    sampler: MixtureBatchSampler


@dataclass(frozen=True, slots=True)
class TrainingSources:
    """The sources that a data module blends.

    A source is a task, or in :class:`~data_modules.ContinualTextDataModule` the multimodal data and each text
    data set.

    Args:
        names: Of the sources.
        asked: Share of the samples that was asked for, of each.
        source_of: Position of each training query's source in ``names``, ``(N,)``.
    """

    names: list[str]
    asked: list[float]
    source_of: NDArray[np.int64]

    @classmethod
    def of(cls, trainer: Trainer, callback: Callback) -> TrainingSources:
        """Those of a trainer's data module.

        Raises:
            MisconfigurationException: If the data module blends nothing.
        """
        data = data_of(trainer)
        if not hasattr(data, "sampler"):
            raise MisconfigurationException(
                f"{type(callback).__name__} looks at what a RetrievalDataModule blends, found "
                f"{type(data).__name__}."
            )
        sampler = cast(BlendedData, data).sampler
        queries, sources = sampler.queries, sampler.settings.sources
        tasks = {task: [task] for task in queries.tasks} if sources is None else sources
        place = {task: number for number, own in enumerate(tasks.values()) for task in own}
        source_of = np.array([place[task] for task in queries.tasks])[queries.task_of]
        asked = [sum(sampler.shares.get(task, 0.0) for task in own) for own in tasks.values()]
        return cls(list(tasks), asked, source_of)
