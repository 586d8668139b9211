"""Keeps the trained part of a retriever in a folder that can be loaded without Lightning."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from data_modules.atomic import staged_directory
from data_modules.formats.records import DataError
from mmretrieval.encoder.provenance import FILE, Provenance, read_provenance, write_provenance

CARD = "retriever.json"
"""The file that tells a saved retriever from any other folder."""


class SavedEncoder(Protocol):
    """What is needed of an encoder; that of :class:`~mmretrieval.module.UniversalRetriever` has it."""

    def save_pretrained(self, folder: Path) -> None:
        """Write :data:`CARD` and the weights into a folder; calls :meth:`trained_state` exactly once."""

    def trained_state(self) -> Mapping[str, Tensor]:
        """What was trained, gathered from all ranks if they share it; all of them call it together."""


class AdapterCheckpoint(Callback):
    """Saves what was trained of the encoder after each epoch, replacing the folder of the epoch before.

    The folder holds either the last or the next complete state: a new one is written beside it and then takes
    its place. If a run is killed between the two renames, both states lie beside the empty place, and the
    next run puts the newer one there. Under ``fast_dev_run`` nothing is written.

    Args:
        folder: Where to save, ``adapter`` in the trainer's ``default_root_dir`` by default.

    Raises:
        MisconfigurationException: From ``setup``, if the module has no encoder that can be saved.
        DataError: From ``setup``, if the folder holds something else than a saved retriever.
    """

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.folder = folder
        self._saved_step: int | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        _encoder_of(pl_module)
        self._saved_step = None
        if trainer.is_global_zero:
            folder = self.output_folder(trainer).resolve()
            _recover(folder)
            _refuse_foreign(folder)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, pl_module)  # a fit that stopped within an epoch

    def output_folder(self, trainer: Trainer) -> Path:
        """Where the retriever is saved."""
        return self.folder if self.folder is not None else Path(trainer.default_root_dir, "adapter")

    def _save(self, trainer: Trainer, module: LightningModule) -> None:
        if self._saved_step == trainer.global_step or getattr(trainer, "fast_dev_run", False):
            return
        save_adapter(trainer, module, self.output_folder(trainer))
        self._saved_step = trainer.global_step


def save_adapter(trainer: Trainer, module: LightningModule, folder: Path) -> None:
    """Write what was trained of the encoder into a folder, replacing one that was saved there before.

    Beside it goes what it was trained on, in this run and before it, where the data module can say.

    All ranks call it together; rank 0 writes.

    Raises:
        MisconfigurationException: If the module has no encoder that can be saved.
        DataError: If the folder holds something else.
    """
    encoder = _encoder_of(module)
    if trainer.is_global_zero:
        with replaced_directory(folder) as stage:
            encoder.save_pretrained(stage)
            _record_data(trainer, stage)
    else:
        encoder.trained_state()  # rank 0 gathers the shards of all


@contextmanager
def replaced_directory(target: Path, card: str = CARD) -> Iterator[Path]:
    """Yield a new folder that takes the place of ``target`` when the block ends without an error.

    Args:
        target: A folder that an earlier call made, or no folder yet.
        card: A file that only such folders have: nothing else is replaced.

    Raises:
        DataError: If ``target`` holds something else.
    """
    target = target.resolve()  # a link stays, what it points to is replaced
    _recover(target)
    following, previous = _following(target), _previous(target)
    with staged_directory(following) as stage:
        yield stage
        _refuse_foreign(target, card)
    if target.exists():
        target.rename(previous)
    following.rename(target)
    shutil.rmtree(previous, ignore_errors=True)


def _recover(target: Path) -> None:
    """Finish what a killed process began: put a complete state back and remove what else it left."""
    following, previous = _following(target), _previous(target)
    left = [folder for folder in (following, previous) if folder.is_dir()]
    if left and not target.exists():
        left.pop(0).rename(target)
    for folder in left:
        shutil.rmtree(folder)


def _refuse_foreign(target: Path, card: str = CARD) -> None:
    """What is there will be deleted, so it must have been saved here before."""
    if not target.exists() or (target / card).is_file():
        return
    if not target.is_dir() or any(target.iterdir()):
        raise DataError(
            f"{target}: was not saved by an earlier run ({card} is missing) and will not be replaced; "
            "remove it or choose another folder"
        )


def _record_data(trainer: Trainer, folder: Path) -> None:
    """Write down the mixture of a data module that has one, as all of this project do.

    Where training went on from saved weights, their data come first; where those are not known, nothing is
    written, which says that nobody knows all of the data.
    """
    data = getattr(trainer, "datamodule", None)
    shares = getattr(data, "training_shares", None)
    if shares is None:
        return
    trained = Provenance(shares, trainer.global_step, getattr(data, "training_questions", {}))
    start: Path | None = getattr(trainer.lightning_module, "init_from", None)
    if start is None:
        write_provenance(folder, trained)
    elif (before := read_provenance(start)) is not None:
        write_provenance(folder, before.followed_by(trained))
    else:
        rank_zero_warn(
            f"{start} does not say what it was trained on, so the retriever is saved without {FILE}: "
            "mteb will take no task for unseen."
        )


def _following(target: Path) -> Path:
    return target.with_name(f".{target.name}.next")


def _previous(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def _encoder_of(module: LightningModule) -> SavedEncoder:
    encoder = getattr(module, "encoder", None)
    if not hasattr(encoder, "save_pretrained") or not hasattr(encoder, "trained_state"):
        raise MisconfigurationException(
            f"{type(module).__name__} has no encoder that can be saved: AdapterCheckpoint needs a "
            "mmretrieval.UniversalRetriever."
        )
    return cast(SavedEncoder, encoder)
