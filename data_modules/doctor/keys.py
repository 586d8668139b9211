"""Sixty-four bits that stand for a text, a path or a content, and sorted tables of them.

Millions of rows are compared by such keys, so texts need not be kept. Two of 10⁷ different contents share a
key by chance with a probability of about 10⁻⁵.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int64]
Rows = NDArray[np.int64]
_SHIFT = np.uint64(29)
_ODD = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9))


def key_of(text: str | None) -> int:
    """Return a positive 63-bit integer for a text, 0 for none."""
    if not text:
        return 0
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1 or 1


def joined(first: Keys, second: Keys) -> Keys:
    """Return keys of pairs, element by element; the order of the two matters.

    Shape:
        - first, second: ``(N,)``, output: ``(N,)``.
    """
    mixed = first.astype(np.uint64) * _ODD[0]
    mixed ^= mixed >> _SHIFT
    mixed = (mixed + second.astype(np.uint64)) * _ODD[1]
    mixed ^= mixed >> _SHIFT
    result: Keys = (mixed * _ODD[0]).view(np.int64)
    return result


def repeats(values: Keys) -> tuple[Rows, Rows]:
    """Return the rows whose value occurred before, in ascending order, and where each occurred first.

    Shape:
        - values: ``(N,)``, outputs: ``(R,)``.
    """
    order = np.argsort(values, kind="stable")
    again = np.concatenate([[False], values[order][1:] == values[order][:-1]])[: values.size]
    starts = np.maximum.accumulate(np.where(again, 0, np.arange(values.size)))
    later, first = order[again], order[starts[again]]
    by_row = np.argsort(later)
    return later[by_row], first[by_row]


class KeyTable:
    """A growing map from keys to integers in sorted runs: 16 bytes an entry.

    Runs of similar size are merged, so there are only logarithmically many.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[Keys, NDArray[np.int64]]] = []

    def __len__(self) -> int:
        return sum(keys.size for keys, _ in self._runs)

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """Return the value of each key, -1 for unknown ones.

        Shape:
            - keys: ``(N,)``, output: ``(N,)``.
        """
        values = np.full(keys.size, -1, np.int64)
        for known, stored in self._runs:
            places = np.minimum(np.searchsorted(known, keys), known.size - 1)
            hits = known[places] == keys
            values[hits] = stored[places[hits]]
        return values

    def add(self, keys: Keys, values: NDArray[np.int64]) -> None:
        """Add keys that are new and distinct.

        Args:
            keys: ``(N,)``.
            values: ``(N,)``, each at least 0.
        """
        if not keys.size:
            return
        order = np.argsort(keys)
        self._runs.append((keys[order], values[order]))
        while len(self._runs) > 1 and self._runs[-2][0].size < 2 * self._runs[-1][0].size:
            (keys_a, values_a), (keys_b, values_b) = self._runs.pop(), self._runs.pop()
            keys, values = np.concatenate([keys_a, keys_b]), np.concatenate([values_a, values_b])
            order = np.argsort(keys, kind="stable")
            self._runs.append((keys[order], values[order]))
