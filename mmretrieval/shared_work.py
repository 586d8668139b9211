"""Numbered pieces of work that ranks share: whoever is free takes the next one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mmretrieval.distributed import rank, world_size

_STOP = "stop"


class SharedWork:
    """Iterates over the pieces that this rank shall do; together, all ranks do each piece once.

    Ranks that need each other in every forward pass, as those of a sharded model do, take turns: piece n is
    for rank n mod W. Others claim the next free piece when they are done with theirs, so a slow rank delays
    nobody by more than a piece. A claim is a file that only one process can create, in a folder that all
    ranks see.

    Args:
        count: How many pieces there are.
        claims: An empty folder for the claims of this work alone; ``None`` for taking turns.
    """

    def __init__(self, count: int, claims: Path | None = None) -> None:
        self.count, self.claims = count, claims

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            if self.claims is None:
                if number % world_size() == rank():
                    yield number
            elif self.stopped:
                return
            elif self._claimed(number):
                yield number

    @property
    def stopped(self) -> bool:
        """Whether some rank asked all to take no more pieces."""
        return self.claims is not None and (self.claims / _STOP).exists()

    def stop(self) -> None:
        """Let no rank take another piece; without claims, nothing happens."""
        if self.claims is not None:
            (self.claims / _STOP).touch()

    def _claimed(self, number: int) -> bool:
        assert self.claims is not None
        try:
            os.close(os.open(self.claims / str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True
