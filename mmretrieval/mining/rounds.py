"""Mixing the negatives of several mining rounds, so that training does not forget the older ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mmretrieval.mining.negatives import NegativeTable
from mmretrieval.mining.stamp import StaleNegativesError

_ROUNDS, _FILES = "merged_rounds", "merged_files"


def merge_rounds(newest: NegativeTable, older: Mapping[str, NegativeTable], at_most: int) -> NegativeTable:
    """Put the negatives of earlier rounds behind those of the newest.

    Earlier negatives keep a retriever from unlearning what they taught, while the newest ones show what it
    does wrong now (project; ANCE, https://arxiv.org/abs/2007.00808, mines anew and replaces).

    Args:
        newest: The last round.
        older: Earlier rounds by the hash of their file (:func:`~mmretrieval.mining.negatives.file_hash`), in
            any order.
        at_most: How many rounds to mix, the newest included, at least 1; the oldest are left out.

    Returns:
        Each query's negatives, those of newer rounds first; a candidate id that is there already is dropped
        with its older rank and score. The stamp is the newest round's; its settings say which rounds and
        files were mixed, as the JSON strings ``merged_rounds`` and ``merged_files``.

    Raises:
        ValueError: If ``at_most`` is below 1, two rounds have one number, an older one is not older, or a
            table is mixed already.
        StaleNegativesError: If the rounds are of different pools or queries.
    """
    if at_most < 1:
        raise ValueError(f"At least 1 round is needed, found {at_most}.")
    files = sorted(older, key=lambda file: older[file].stamp.round, reverse=True)
    tables = [newest, *(older[file] for file in files)]
    _check(tables)
    tables, files = tables[:at_most], files[: at_most - 1]
    settings = {
        **newest.stamp.settings,
        _ROUNDS: json.dumps([table.stamp.round for table in tables], separators=(",", ":")),
        _FILES: json.dumps(files, separators=(",", ":")),
    }
    queries = np.concatenate([np.repeat(np.arange(len(table)), table.counts) for table in tables])
    columns = {name: np.concatenate([table.columns[name] for table in tables]) for name in newest.columns}
    chosen = _first_of_each(queries, columns["candidate_ids"])
    return newest.with_columns(
        dataclasses.replace(newest.stamp, settings=settings),
        np.bincount(queries[chosen], minlength=len(newest)),
        {name: column[chosen] for name, column in columns.items()},
    )


def _first_of_each(queries: NDArray[np.int64], candidates: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """Positions of the first entry of each (query, candidate), by query, then as they come."""
    distinct, codes = np.unique(candidates, return_inverse=True)
    first = np.unique(queries * max(distinct.size, 1) + codes, return_index=True)[1]
    first.sort()
    chosen: NDArray[np.int64] = first[np.argsort(queries[first], kind="stable")]
    return chosen


def _check(tables: Sequence[NegativeTable]) -> None:
    """Refuse rounds that do not belong together; ``tables`` come newest first."""
    newest, rounds = tables[0], [table.stamp.round for table in tables]
    if any(new <= old for new, old in pairwise(rounds)):
        raise ValueError(f"Rounds to mix must be of different numbers, the newest first; found {rounds}.")
    for table in tables:
        stamp = table.stamp
        if _ROUNDS in stamp.settings:
            raise ValueError(f"Round {stamp.round} is mixed already: mix the single rounds.")
        for name in ("pool_hash", "queries_hash"):
            found, expected = getattr(stamp, name), getattr(newest.stamp, name)
            if found != expected:
                raise StaleNegativesError(
                    f"Round {stamp.round} was mined from something else than round {newest.stamp.round}: "
                    f"{name}: found {found!r}, expected {expected!r}. Mine again, or mix other rounds."
                )
        if not np.array_equal(table.query_ids, newest.query_ids):
            raise StaleNegativesError(
                f"Round {stamp.round} has other query ids than round {newest.stamp.round}. Mine again."
            )
