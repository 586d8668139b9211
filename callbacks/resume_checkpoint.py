"""Keeps the state to resume a run from, whatever ends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from callbacks.interruption import Interruption


class ResumeCheckpoint(ModelCheckpoint):
    """Saves ``last.ckpt`` for ``--ckpt_path last``, so that a resumed run equals one that never stopped.

    Saves after every n-th optimizer step; before the last step of an epoch, which a run that is killed in
    mining or evaluation does again; after mining and evaluation; and when SIGTERM asks the run to end, which
    then does with status :data:`~callbacks.interruption.STOPPED` (143), in mining and evaluation at once. In
    a SLURM job the signal before the time limit (``#SBATCH --signal=SIGUSR1@120``) does the same and queues
    the job again. With :class:`~callbacks.checkpoint_io.AtomicCheckpointIO` the file is always whole. Under
    ``fast_dev_run`` nothing is saved.

    Args:
        every_n_steps: Optimizer steps between saves, >= 1; ``None`` saves at the ends of epochs only.
        folder: Where ``last.ckpt`` goes, ``checkpoints`` in the trainer's ``default_root_dir`` by default.

    Raises:
        ValueError: If ``every_n_steps`` is below 1.
    """

    def __init__(self, every_n_steps: int | None = 200, folder: Path | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, found {every_n_steps}.")
        super().__init__(dirpath=folder, filename="last", enable_version_counter=False)
        self.every_n_steps = every_n_steps
        self.folder = folder
        self.interruption = Interruption()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._find_folder(trainer)

    @override
    def _find_last_checkpoints(self, trainer: Trainer) -> set[str]:
        # Lightning looks for "last" before it calls setup, and would look in the logger's folder.
        self._find_folder(trainer)
        return super()._find_last_checkpoints(trainer)

    def _find_folder(self, trainer: Trainer) -> None:
        if self.folder is None:
            self.dirpath = str(Path(trainer.default_root_dir, "checkpoints"))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.interruption.listen()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        batches, accumulated = int(trainer.num_training_batches), trainer.accumulate_grad_batches
        done = batch_idx + 1
        if done % accumulated and done < batches:
            return  # gradients that wait for more batches are not saved
        due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        before_last = done == (batches - 1) // accumulated * accumulated
        asked = self.interruption.asked(trainer.strategy.root_device)
        # Lightning takes what is saved after an epoch's last step for a finished epoch, and would never mine
        # and evaluate; so the last step is done again.
        if done < batches and (due or before_last or asked):
            self._save(trainer)
        if asked:
            self._end()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)  # what mining and evaluation found, too

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save nothing: steps and epochs decide."""

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save nothing more."""

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save nothing: after an error the state is not known to be whole."""

    def stop_if_asked(self, trainer: Trainer) -> None:
        """End the run without saving if a signal asked for it; all ranks call it together.

        Raises:
            SystemExit: If so.
        """
        if self.interruption.asked(trainer.strategy.root_device):
            self._end()

    def _end(self) -> None:
        self.interruption.end(f"resume with --ckpt_path {self._path()}")

    def _path(self) -> Path:
        return Path(str(self.dirpath), "last.ckpt")

    def _save(self, trainer: Trainer) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        trainer.save_checkpoint(self._path())


def stop_if_asked(trainer: Trainer) -> None:
    """End a run within long work between steps, if a signal asked for it; all ranks call it together.

    Raises:
        SystemExit: If so.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ResumeCheckpoint):
            callback.stop_if_asked(trainer)


def is_asked_here(trainer: Trainer) -> bool:
    """Whether a signal asked this rank to end; others may not know of it yet."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(c, ResumeCheckpoint) and c.interruption.noted for c in callbacks)
