"""What must never count against a query: what answers it, what is left out of its ranking, its own text."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_modules.query_set import QuerySet

Ints = npt.NDArray[np.int64]


def guarded_rows(queries: QuerySet, rows: Ints) -> list[Ints]:
    """Return the candidates that no query of some may have as a negative; the labelled positive comes first.

    They are its known positives, what the data leave out of its ranking, as the other side's own text in a
    symmetric set, and, where text asks for text, a candidate with the query's content, be it of another data
    set. What has the content of one of them is meant as well; mining and the loss compare contents. A query's
    own content in another modality than it asks for is a negative like others.

    Args:
        queries: The queries of a split.
        rows: Which of them, ``(Q,)``.
    """
    own, known = queries.own_text_keys[rows], queries.corpus.candidate_keys
    places = np.flatnonzero(np.isin(known, own[own != 0]))
    of_key = {0: np.empty(0, np.int64)}
    of_key |= {int(known[place]): np.array([place]) for place in places}
    return [
        np.concatenate([_listed(queries, row), of_key[key]])
        for row, key in zip(rows.tolist(), own.tolist(), strict=True)
    ]


def guarded_keys(queries: QuerySet, row: int) -> tuple[int, ...]:
    """Return the content keys of what :func:`guarded_rows` says of one query, each once.

    Args:
        queries: The queries of a split.
        row: Of the query.
    """
    keys = queries.corpus.candidate_keys[_listed(queries, row)].tolist()
    own = int(queries.own_text_keys[row])
    return tuple(dict.fromkeys([*keys, own] if own else keys))


def _listed(queries: QuerySet, row: int) -> Ints:
    return np.concatenate([queries.positives(row), queries.listed("excluded", row)])
