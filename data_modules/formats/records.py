"""What a data set consists of, whatever layout it is stored in: queries, candidates, instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mmretrieval.content import Modality
from mmretrieval.errors import UserError

SPLITS: tuple[str, ...] = ("train", "val", "test")
"""The splits a data set can have, in the order in which they are listed everywhere."""

_ID = re.compile(r"(0|[1-9][0-9]{0,5}):(0|[1-9][0-9]{0,11})")
_NUMBER_BITS = 40


class DataError(UserError):
    """Data that cannot be used: the message says what was found, where (file, line, key) and what to do."""


class Source(NamedTuple):
    """Where a row was read from: a file and its line (from 1), printed as ``file:line``."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class QueryRecord:
    """One query, with images as paths.

    Args:
        id: ``"<dataset id>:<number>"``.
        text: The query's text, or ``None``.
        image: The query's picture, relative to the data set's root, or ``None``.
        modality: Which of text and image are there.
        positives: Ids of the candidates that answer the query; the first one decides the target's modality.
        negatives: Ids of candidates released as hard negatives; often empty.
        dataset: Lower-case name of the data set.
        task_id: The task's number within M-BEIR's list (0 text→image, 1 text→text, …).
        instructions: The prompts that say what to find; at least one.
        grades: How relevant each positive is, at least 1; empty where all are equally so.
        group: Ids of the candidates among which a subset measure ranks; mostly empty.
        excluded: Ids of the candidates that the benchmark's own evaluation leaves out of the query's ranking;
            mostly empty.
    """

    id: str
    text: str | None
    image: str | None
    modality: Modality
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    dataset: str
    task_id: int
    instructions: tuple[str, ...]
    grades: tuple[int, ...] = ()
    group: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """Name of the dataset-task, as ``mscoco_task0``."""
        return f"{self.dataset}_task{self.task_id}"


@dataclass(frozen=True, slots=True)
class CandidateRecord:
    """One candidate of a pool, with its image as a path.

    Args:
        id: ``"<dataset id>:<number>"``.
        text: The candidate's text, or ``None``.
        image: The candidate's picture, relative to the data set's root, or ``None``.
        modality: Which of text and image are there.
    """

    id: str
    text: str | None
    image: str | None
    modality: Modality


@dataclass(frozen=True, slots=True)
class InstructionRecord:
    """The prompts of all queries with one data set, query modality and target modality.

    Args:
        dataset: Lower-case name of the data set.
        dataset_id: The number before the colon in the ids of its queries.
        query_modality: Modality of the queries.
        candidate_modality: Modality of their positives.
        prompts: Equivalent wordings; at least one.
    """

    dataset: str
    dataset_id: int
    query_modality: Modality
    candidate_modality: Modality
    prompts: tuple[str, ...]


def id_key(id_: str) -> int:
    """Return the 63-bit integer that stands for an id ``"ds:n"``; keys sort like ``(ds, n)``.

    Raises:
        DataError: If the id is not two plain decimal numbers (ds < 10⁶, n < 10¹²) joined by a colon.
    """
    match = _ID.fullmatch(id_)
    if match is None:
        raise DataError(
            f"id {id_!r} is malformed; write '<dataset id>:<number>' with plain decimals, as in '3:1042'"
        )
    return int(match[1]) << _NUMBER_BITS | int(match[2])


def key_id(key: int) -> str:
    """Return the id that :func:`id_key` maps to ``key``."""
    return f"{key >> _NUMBER_BITS}:{key & (1 << _NUMBER_BITS) - 1}"


def dataset_id(id_: str) -> int:
    """Return the data set's number in an id ``"ds:n"``.

    Raises:
        DataError: If the id is malformed.
    """
    return id_key(id_) >> _NUMBER_BITS
