"""Keeps the best states of a run, each as a checkpoint and as a folder to load without Lightning."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from callbacks.adapter_checkpoint import save_adapter
from callbacks.collaborators import is_last_epoch


class BestCheckpoint(ModelCheckpoint):
    """After each epoch's evaluation, keeps the checkpoints with the best values of a measure.

    ``best-step<n>.ckpt`` is a whole checkpoint, as for ``--ckpt_path``; the folder ``best-step<n>`` beside it
    has the trained weights alone, as :class:`~callbacks.adapter_checkpoint.AdapterCheckpoint` saves them. An
    interrupted run is resumed from ``last.ckpt``, see
    :class:`~callbacks.resume_checkpoint.ResumeCheckpoint`. Under ``fast_dev_run`` nothing is saved.

    Args:
        monitor: An average of :class:`~callbacks.retrieval_evaluation.RetrievalEvaluation`, as
            "global/average/hit@5", or anything else that is logged at the end of epochs.
        mode: Whether the largest or the smallest value is best.
        save_top_k: How many states to keep, at least 1.
        folder: Where they go, ``checkpoints`` in the trainer's ``default_root_dir`` by default.

    Raises:
        ValueError: If ``save_top_k`` is below 1.
        MisconfigurationException: At the end of the last epoch, if nothing of that name was ever logged.
    """

    def __init__(
        self,
        monitor: str,
        mode: Literal["min", "max"] = "max",
        save_top_k: int = 1,
        folder: Path | None = None,
    ) -> None:
        if save_top_k < 1:
            raise ValueError(f"save_top_k must be at least 1, found {save_top_k}.")
        super().__init__(
            dirpath=folder,
            filename="best-step{step}",
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.folder = folder

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.folder is None:
            self.dirpath = str(Path(trainer.default_root_dir, "checkpoints"))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        if self.monitor not in trainer.callback_metrics:  # an epoch without evaluation
            self._require_any(trainer)
            return
        before = {*self.best_k_models}
        super().on_train_epoch_end(trainer, pl_module)
        after = {*self.best_k_models}
        for path in sorted(after - before):
            save_adapter(trainer, pl_module, Path(path).with_suffix(""))
        if trainer.is_global_zero:
            for path in before - after:
                shutil.rmtree(Path(path).with_suffix(""), ignore_errors=True)

    def _require_any(self, trainer: Trainer) -> None:
        if is_last_epoch(trainer) and not self.best_k_models:
            raise MisconfigurationException(
                f"{self.monitor!r} was never logged, so no checkpoint is the best; take one of "
                f"{', '.join(sorted(trainer.callback_metrics))}."
            )
