"""A loader that goes on where a run was interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader
from typing_extensions import override

from data_modules.mixture import MixtureBatchSampler


class ResumableDataLoader(DataLoader[Any]):
    """A loader whose position the data module keeps.

    Lightning takes a loader with these methods for one that resumes within an epoch, and warns about others.
    Its own way to keep their state loses it when ``estimated_stepping_batches`` is asked for
    (https://github.com/Lightning-AI/pytorch-lightning/issues/20550), so there is none here.
    """

    @override
    def __iter__(self) -> Any:
        sampler = self.batch_sampler
        if not isinstance(sampler, MixtureBatchSampler) or sampler.pause is None:
            return super().__iter__()
        return self._with_pauses(sampler)

    def _with_pauses(self, sampler: MixtureBatchSampler) -> Iterator[Any]:
        """The batches of an epoch; workers begin anew after a pause, when its next batch is asked for."""
        while True:
            yield from super().__iter__()
            if not sampler.paused:
                return

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: see :meth:`RetrievalDataModule.state_dict`."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: see :meth:`RetrievalDataModule.load_state_dict`."""
