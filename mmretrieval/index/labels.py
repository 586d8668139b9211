"""Which labels an index holds, one bit each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LABEL_LIMIT = 2**31
"""Labels are below; so a set of them takes 256 MiB at most, and little where they are dense."""


class LabelSet:
    """A set of labels that refuses to take one twice."""

    def __init__(self) -> None:
        self._bits = np.zeros(0, np.uint8)

    def add(self, labels: NDArray[np.int64]) -> None:
        """Take labels, all or none.

        Args:
            labels: Labels from 0 to ``LABEL_LIMIT - 1``.

        Shape:
            - labels: ``(N,)``.

        Raises:
            ValueError: If one is out of range, or there twice, in the set or among these.
        """
        if not labels.size:
            return
        ordered = np.sort(labels)
        if ordered[0] < 0 or ordered[-1] >= LABEL_LIMIT:
            wrong = ordered[0] if ordered[0] < 0 else ordered[-1]
            raise ValueError(f"Labels must be from 0 to {LABEL_LIMIT - 1}, found {wrong}.")
        self._reserve(int(ordered[-1]) + 1)
        twice = np.flatnonzero((ordered[1:] == ordered[:-1]) | self._holds(ordered[1:]))
        if twice.size or self._holds(ordered[:1]).any():
            label = ordered[1:][twice[0]] if twice.size else ordered[0]
            raise ValueError(f"Label {label} is there twice: each vector needs its own.")
        np.bitwise_or.at(self._bits, ordered >> 3, _bit(ordered))

    def _reserve(self, count: int) -> None:
        missing = -(-count // 8) - self._bits.size
        if missing > 0:
            # At least doubled, so that many small additions do not copy the set each time.
            extra = max(missing, min(self._bits.size, LABEL_LIMIT // 8 - self._bits.size))
            self._bits = np.concatenate([self._bits, np.zeros(extra, np.uint8)])

    def _holds(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        held: NDArray[np.bool_] = (self._bits[labels >> 3] & _bit(labels)) != 0
        return held


def _bit(labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    bits: NDArray[np.uint8] = np.left_shift(1, labels & 7).astype(np.uint8)
    return bits
