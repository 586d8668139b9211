"""Random numbers that belong to a query, not to a stream: a subset of the queries gets the same ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Chances:
    """Two uniform numbers in [0, 1) for one draw of each query.

    Args:
        kind: For what is drawn.
        member: For which of its candidates.

    Shape:
        - both ``(Q,)``.
    """

    kind: NDArray[np.float64]
    member: NDArray[np.float64]

    @classmethod
    def of(cls, query_keys: NDArray[np.integer], seed: int, draw: int, round_: int = 0) -> Chances:
        """The numbers of a draw: a hash of (seed, round, query, draw).

        Args:
            query_keys: A number for each query that stays the same in every call.
            seed: Of all draws.
            draw: The draw's number, from 0.
            round_: Number of the mining, from 0. Were it left out, the same queries would get nothing by
                chance, or the same kind, in every round.
        """
        base = _mixed(query_keys.astype(np.uint64) ^ _of_round(seed, round_))
        kind, member = (_unit(_mixed(base + np.uint64(2 * draw + part))) for part in (0, 1))
        return cls(kind, member)


def nth_member(members: NDArray[np.bool_], chance: NDArray[np.float64]) -> NDArray[np.int64]:
    """The column of one true entry of each row, all equally likely for a uniform ``chance``.

    Args:
        members: Rows with at least one true entry each.
        chance: A number in [0, 1) for each row.

    Shape:
        - members: ``(Q, K)``, chance and output: ``(Q,)``.
    """
    nth = np.floor(chance * members.sum(axis=1)).astype(np.int64) + 1
    columns: NDArray[np.int64] = (members.cumsum(axis=1) == nth[:, None]).argmax(axis=1)
    return columns


def _of_round(seed: int, round_: int) -> NDArray[np.uint64]:
    """A number for each round of each seed; that of the first round is a hash of the seed alone."""
    of_seed = _mixed(np.array([seed & (2**64 - 1)], dtype=np.uint64))
    return _mixed(of_seed + np.uint64(round_)) if round_ else of_seed


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's step (Steele et al., 2014, https://doi.org/10.1145/2660193.2660195)."""
    values = values + np.uint64(0x9E37_79B9_7F4A_7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return values ^ (values >> np.uint64(31))


def _unit(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The upper 53 bits as a fraction."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
