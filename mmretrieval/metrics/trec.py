"""Run files and qrels as trec_eval reads them (https://github.com/usnistgov/trec_eval), with limits.

A line of a run is ``qid Q0 did rank score run_id``, M-BEIR's has a ``task_id`` behind; a line of qrels is
``qid 0 did relevance``, M-BEIR's again with a ``task_id``. Both are read line by line; of a run, only one
query is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mmretrieval.errors import UserError

MAX_LINE = 4096
"""Bytes of a line at most."""
MAX_DEPTH = 100_000
"""Candidates of one query at most."""

Order = Literal["score", "rank"]
Qrels = dict[str, dict[str, int]]
"""Query id → candidate id → relevance; what is not listed has 0."""


class RankedList(NamedTuple):
    """What was found for a query, best first.

    Args:
        query: The query's id.
        candidates: Ids.
        scores: The run's scores.
    """

    query: str
    candidates: list[str]
    scores: list[float]


class _Found(NamedTuple):
    candidate: str
    rank: int
    score: float
    line: int


def read_qrels(path: Path) -> Qrels:
    """Read qrels.

    Raises:
        UserError: If the file cannot be read, a line is malformed, or a pair has two relevances; names file
            and line.
    """
    qrels: Qrels = {}
    for number, parts in lines_of(path):
        where = f"{path}:{number}"
        if len(parts) not in (4, 5):
            raise UserError(f"{where}: has {len(parts)} columns; write 'qid 0 did relevance [task_id]'")
        relevance = _integer(where, "relevance", parts[3])
        judged = qrels.setdefault(parts[0], {})
        if judged.setdefault(parts[2], relevance) != relevance:
            raise UserError(f"{where}: {parts[0]!r} with {parts[2]!r} was judged otherwise; keep one line")
    if not qrels:
        raise UserError(f"{path}: holds no judgement")
    return qrels


def read_run(path: Path, order: Order = "score") -> Iterator[RankedList]:
    """Yield the ranked lists of a run file.

    As trec_eval does, ``order="score"`` ranks by score, rounded to float32, and equal scores by the
    candidate's id, larger ids first; the rank column is not looked at. ``order="rank"`` takes the run's own
    ranks.

    Raises:
        UserError: If the file cannot be read, a line is malformed, a query has a candidate or a rank twice or
            its lines do not stand together, or something exceeds the limits; names file and line.
    """
    seen: set[str] = set()
    query, found = "", list[_Found]()
    for number, parts in lines_of(path):
        if len(parts) not in (6, 7):
            raise UserError(
                f"{path}:{number}: has {len(parts)} columns; write 'qid Q0 did rank score run_id [task_id]'"
            )
        if parts[0] != query:
            if found:
                yield _listed(query, _ranked(path, found, order))
            query, found = parts[0], []
            if query in seen:
                raise UserError(f"{path}:{number}: query {query!r} occurs again; sort the lines by query")
            seen.add(query)
        found.append(_parsed(f"{path}:{number}", parts, number))
        if len(found) > MAX_DEPTH:
            raise UserError(
                f"{path}:{number}: query {query!r} has more than {MAX_DEPTH} candidates; cut the lists"
            )
    if not found:
        raise UserError(f"{path}: holds no ranked list")
    yield _listed(query, _ranked(path, found, order))


def _parsed(where: str, parts: list[str], line: int) -> _Found:
    try:
        score = float(parts[4])
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"{where}: score is {parts[4]!r}; write a finite number")
    return _Found(parts[2], _integer(where, "rank", parts[3]), score, line)


def _integer(where: str, name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{where}: {name} is {text!r:.40}; write an integer") from None


def _listed(query: str, ranked: list[_Found]) -> RankedList:
    return RankedList(query, [one.candidate for one in ranked], [one.score for one in ranked])


def _ranked(path: Path, found: list[_Found], order: Order) -> list[_Found]:
    key = {one.candidate: one for one in found}
    if len(key) < len(found):
        twice = next(one for one in found if key[one.candidate] is not one)
        raise UserError(
            f"{path}:{key[twice.candidate].line}: {twice.candidate!r} was listed before for the query"
        )
    if order == "score":
        with np.errstate(over="ignore"):
            scores = np.array([one.score for one in found], np.float32).tolist()
        rounded = zip(scores, found, strict=True)
        pairs = sorted(rounded, key=lambda pair: (pair[0], pair[1].candidate), reverse=True)
        return [one for _, one in pairs]
    by_rank = sorted(found, key=lambda one: one.rank)
    for before, after in pairwise(by_rank):
        if before.rank == after.rank:
            raise UserError(f"{path}:{after.line}: rank {after.rank} was taken before; use order 'score'")
    return by_rank


def lines_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and columns of each line that is not blank.

    Raises:
        UserError: If the file cannot be read; names file and line.
    """
    try:
        with path.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise UserError(f"{path}:{number}: has more than {MAX_LINE} bytes; this is no such file")
                if parts := line.decode().split():
                    yield number, parts
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
