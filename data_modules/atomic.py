"""Write a file or a folder completely or not at all: stage beside the target, fsync, rename."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from data_modules.formats.records import DataError


@contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """Yield a new folder beside ``target`` that becomes ``target`` when the block ends without an error.

    A block that fails leaves nothing behind. Renaming needs staging and target on one file system, so the
    staging folder is a sibling, never in a temporary directory elsewhere.

    Args:
        target: The folder to create; it may exist only as an empty folder.

    Raises:
        DataError: If ``target`` exists and is not an empty folder.
    """
    _refuse_occupied(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = _sibling(target)
    staging.mkdir()
    try:
        yield staging
        _fsync_tree(staging)
        _refuse_occupied(target)  # another process may have finished the same folder meanwhile
        staging.rename(target)
        _fsync(target.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target``; what the block writes there replaces ``target`` when it ends well.

    Args:
        target: The file to create or replace.

    Raises:
        DataError: If ``target`` is a folder.
    """
    if target.is_dir():
        raise DataError(f"{target}: is a folder; give the path of a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = _sibling(target)
    try:
        yield staging
        _fsync(staging)
        staging.replace(target)
        _fsync(target.parent)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


def _sibling(target: Path) -> Path:
    return target.with_name(f".{target.name}.staging-{uuid.uuid4().hex[:12]}")


def _refuse_occupied(target: Path) -> None:
    present = target.exists() or target.is_symlink()
    if present and not (target.is_dir() and not any(target.iterdir())):
        raise DataError(f"{target}: exists already; remove it or choose another output folder")


def _fsync_tree(root: Path) -> None:
    """Sync all files of a folder, many at a time: the disk answers thousands of waits one by one slowly."""
    folders = [(Path(folder), files) for folder, _, files in os.walk(root)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(_fsync, (folder / name for folder, files in folders for name in files)))
    for folder, _ in reversed(folders):
        _fsync(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
