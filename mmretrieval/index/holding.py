"""Which process uses a folder, so that no other one removes it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_GUARD = ".lock"
_MARK = ".in-use-{}.lock"
_held: dict[Path, FileLock] = {}


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within it, no other process is within it for the same folder; they wait.

    Args:
        folder: An existing folder, which gets a lock file.
    """
    with FileLock(folder / _GUARD):
        yield


def leave(folder: Path) -> None:
    """Remove a folder that holds nothing but the lock file of :func:`alone`; any other one stays."""
    guard = folder / _GUARD
    if {*folder.iterdir()} <= {guard}:
        guard.unlink(missing_ok=True)
        folder.rmdir()


def hold(folder: Path) -> bool:
    """Use an existing folder until :func:`release`, or until this process ends, however it does.

    Returns:
        Whether this process did not use it before.
    """
    place = folder.resolve()
    known = _held.get(place)
    if known is not None and Path(known.lock_file).exists():
        return False
    release(folder)
    lock = FileLock(place / _MARK.format(uuid.uuid4().hex))
    lock.acquire()
    _held[place] = lock
    return True


def release(folder: Path) -> None:
    """Use a folder no longer."""
    lock = _held.pop(folder.resolve(), None)
    if lock is not None:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def is_held_elsewhere(folder: Path) -> bool:
    """Whether another process that is alive uses a folder; marks of dead ones are removed."""
    own = _held.get(folder.resolve())
    for path in folder.resolve().glob(_MARK.format("*")):
        if own is not None and path == Path(own.lock_file):
            continue
        mark = FileLock(path)
        try:
            mark.acquire(timeout=0)
        except Timeout:
            return True
        mark.release()
        path.unlink(missing_ok=True)
    return False
