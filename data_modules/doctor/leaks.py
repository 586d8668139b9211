"""What is in train and in val or test by content: the same question with the same answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data_modules.doctor import checks
from data_modules.doctor.findings import Findings
from data_modules.doctor.keys import Keys, Rows, joined


class Asked(NamedTuple):
    """The queries of some rows, with what they and their answers contain.

    Args:
        contents: What stands for each query's content, ``(Q,)``.
        rows: The query of each pair, ``(P,)``.
        answers: What stands for the content of each pair's answer, ``(P,)``.
        name: Where a query stands, by its row.
    """

    contents: Keys
    rows: Rows
    answers: Keys
    name: Callable[[int], str]

    def with_more(self, other: Asked) -> Asked:
        """These queries and those of another table, whose rows come after."""
        size = self.contents.size
        return Asked(
            np.concatenate([self.contents, other.contents]),
            np.concatenate([self.rows, other.rows + size]),
            np.concatenate([self.answers, other.answers]),
            lambda row: self.name(row) if row < size else other.name(row - size),
        )


def check_leaks(findings: Findings, train: Asked, held_out: Asked) -> None:
    """Report queries of val or test whose content and answer are those of a training query.

    The same content with another answer is a note: short texts mean several things, in M-BEIR as well.
    """
    pairs, known = (joined(part.contents[part.rows], part.answers) for part in (held_out, train))
    leaked = np.unique(held_out.rows[np.isin(pairs, known)])

    def describe(row: int) -> str:
        match = np.flatnonzero(np.isin(known, pairs[held_out.rows == row]))[0]
        return f"{held_out.name(row)} and its answer are those of {train.name(int(train.rows[match]))}"

    findings.add_rows(checks.LEAK, leaked, describe)
    repeated = np.flatnonzero(np.isin(held_out.contents, train.contents))
    findings.add_rows(
        checks.REPEATED_QUERY,
        np.setdiff1d(repeated, leaked),
        lambda row: f"{held_out.name(row)} has the content of a training query",
    )
