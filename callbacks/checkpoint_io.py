"""Writes training checkpoints that a kill at any moment leaves complete, and reads them as plain data."""

from __future__ import annotations

import fcntl
import pickle  # noqa: TID251 - its error is named; nothing is unpickled freely
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from torch.serialization import MAP_LOCATION
from torch.types import Storage
from typing_extensions import override

from data_modules.atomic import staged_file
from mmretrieval.errors import UserError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one slash: what Path leaves of s3://


def _on_cpu(storage: Storage, location: str) -> Storage:
    """Leave a tensor where it is read to."""
    return storage


class AtomicCheckpointIO(CheckpointIO):
    """Saves a checkpoint as a whole or not at all, and loads only tensors and plain values.

    A checkpoint is written and synced beside its place and then renamed, so its path holds the old or the new
    one, whenever the process is killed. Use it as ``Trainer(plugins=[AtomicCheckpointIO()])``. The folders of
    sharded checkpoints are written and read by their strategy, and only removed here.

    A killed process leaves a hidden ``.NAME.staging-*`` file, which the next save to the same path removes.
    Rank 0 of one run is the only process that writes to a path; should two runs share one by mistake, a file
    that the other is writing is locked and stays. On a file system without locks all such files stay, with a
    warning.
    """

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        """Write the file, or leave what is there as it is.

        Args:
            checkpoint: State of the model and the trainer.
            path: A local file to create or replace.
            storage_options: Not supported.

        Raises:
            TypeError: If ``storage_options`` are given.
            MisconfigurationException: If ``path`` is an address such as ``s3://…``.
            DataError: If ``path`` is a folder.
        """
        if storage_options is not None:
            raise TypeError(
                f"storage_options={storage_options!r}: `Trainer.save_checkpoint(..., storage_options=...)` "
                f"is not supported for `{type(self).__name__}`, which writes local files; leave it out."
            )
        target = _local(path)
        _remove_leftovers(target)
        with _locked_staging(target) as file:
            torch.save(checkpoint, file)

    @override
    def load_checkpoint(
        self,
        path: _PATH,
        map_location: MAP_LOCATION = _on_cpu,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a file after comparing all its parts with their checksums.

        Args:
            path: A local file that :meth:`save_checkpoint` or Lightning wrote.
            map_location: Where tensors go, as in :func:`torch.load`; the CPU by default.
            weights_only: True or unset; reading anything else than tensors and plain values can run code.

        Raises:
            MisconfigurationException: If ``weights_only`` is false or ``path`` is an address.
            UserError: If there is no such file, it is damaged, or it holds other objects.
        """
        if weights_only is False:
            raise MisconfigurationException(
                f"{path}: weights_only=False would let the checkpoint run code; leave it out or set it true."
            )
        source = _local(path)
        _refuse_missing(source)
        _refuse_damaged(source)
        try:
            with source.open("rb") as file:
                loaded: dict[str, Any] = torch.load(file, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise _untrusted(source, error) from error
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            raise _damaged(source, str(error).partition("\n")[0]) from error
        return loaded

    @override
    def remove_checkpoint(self, path: _PATH) -> None:
        """Remove a checkpoint file, or the folder of a sharded one; nothing happens if there is none.

        Raises:
            MisconfigurationException: If ``path`` is an address.
        """
        target = _local(path)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def _local(path: _PATH) -> Path:
    if _URL.match(str(path)):
        raise MisconfigurationException(
            f"{path}: is an address, and AtomicCheckpointIO reads and writes local files; give a path in a "
            "mounted folder, or leave the plugin out for Lightning's own."
        )
    return Path(path)


@contextmanager
def _locked_staging(target: Path) -> Iterator[BinaryIO]:
    """Yield a file that replaces ``target`` when the block ends well; it is locked until it has done so."""
    with ExitStack() as until_renamed, staged_file(target) as staging:
        file = until_renamed.enter_context(staging.open("wb"))
        with suppress(OSError):  # no locks here: then _remove_leftovers cannot lock either, and keeps it
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file
        file.flush()  # it stays open, for its lock, while staged_file syncs and renames it


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes were writing to ``target``: their locks went with them."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.staging-[0-9a-f]{{12}}")
    beside = list(target.parent.iterdir()) if target.parent.is_dir() else []
    for leftover in (path for path in beside if ours.fullmatch(path.name)):
        try:
            with leftover.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()
        except FileNotFoundError:
            continue  # it was renamed or removed just now
        except OSError as error:
            rank_zero_warn(
                f"{leftover}: kept an unfinished checkpoint, because it cannot be locked ({error}). "
                "If another run saves to this path, give each its own; if none does, remove the file."
            )


def _refuse_missing(path: Path) -> None:
    if path.is_dir():
        raise UserError(
            f"{path}: is a folder, as sharded strategies write them; load it with the strategy that saved "
            f"it. {_others(path)}"
        )
    if not path.exists():
        raise UserError(f"{path}: there is no such checkpoint. {_others(path)}")


def _refuse_damaged(path: Path) -> None:
    """Compare with the checksums, which torch writes and does not read: it loads changed weights silently."""
    with path.open("rb") as file:
        try:
            changed = _changed_member(file)
        except (zipfile.BadZipFile, EOFError, OSError, OverflowError, RuntimeError, ValueError) as error:
            raise _damaged(path, str(error) or "it ends too early") from error
    if changed is not None:
        raise _damaged(path, f"{changed} is not as it was written")


def _changed_member(file: BinaryIO) -> str | None:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            # torch stores plain members only; one that a changed bit marks as a folder it reads as noise.
            if member.compress_type != zipfile.ZIP_STORED or member.external_attr != 0:
                return member.filename
        return archive.testzip()


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path}: is damaged or no checkpoint: {what}. Resume from another one. {_others(path)}")


def _untrusted(path: Path, error: Exception) -> UserError:
    named = re.search(r"GLOBAL (\S+)", str(error))
    return UserError(
        f"{path}: holds {named[1] if named else 'objects'}, not only tensors and plain values, and reading "
        f"that could run code. Resume from a checkpoint that this program wrote. {_others(path)}"
    )


def _others(path: Path) -> str:
    """The checkpoints beside ``path``, the newest first."""
    folder = path.parent
    if not folder.is_dir():
        return f"The folder {folder} does not exist."
    found = [file for file in folder.glob("*.ckpt") if file.is_file() and file != path]
    newest = sorted(found, key=lambda file: file.stat().st_mtime_ns, reverse=True)
    names = ", ".join(file.name for file in newest)
    return f"{folder} holds {names}." if names else f"{folder} holds no other *.ckpt file."
