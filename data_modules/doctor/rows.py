"""Single rows of the M-BEIR layout: everything that is wrong with one, not only the first thing.

The strict parser of :mod:`data_modules.formats.mbeir_rows` stops where these functions report and go on.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from data_modules.doctor import checks
from data_modules.doctor.findings import Findings
from data_modules.doctor.lines import Row
from data_modules.formats.mbeir_rows import check_image_path
from data_modules.formats.records import DataError, Source, id_key
from mmretrieval.content import MODALITIES, Modality

TEXT, IMAGE, BOTH = Modality
TASKS: tuple[tuple[Modality, Modality], ...] = (
    (TEXT, IMAGE),
    (TEXT, TEXT),
    (TEXT, BOTH),
    (IMAGE, TEXT),
    (IMAGE, IMAGE),
    (IMAGE, BOTH),
    (BOTH, TEXT),
    (BOTH, IMAGE),
    (BOTH, BOTH),
)
"""Modality of queries and of their answers, by M-BEIR's number of the task."""
UNKNOWN = 255
_JUDGEMENT_COLUMNS = 5
_OPTIONAL = (str, type(None))


class ContentFields(NamedTuple):
    """What a row shows: a text and a path that can be used, and what its modality field says.

    Args:
        text: The text, or ``None``.
        image: A path inside the root, or ``None``.
        modality: Code of the modality that the row really has; ``UNKNOWN`` if it has none.
    """

    text: str | None
    image: str | None
    modality: int


class QueryFields(NamedTuple):
    """A query; ``id`` is ``None`` and ``task`` -1 if they cannot be used."""

    id: str | None
    content: ContentFields
    positives: list[int]
    negatives: list[int]
    task: int


class CandidateFields(NamedTuple):
    """A candidate; ``id`` is ``None`` if it cannot be used."""

    id: str | None
    content: ContentFields


class Judgement(NamedTuple):
    """A line of qrels: keys of its ids, and whether the pair is relevant."""

    query: int
    candidate: int
    relevant: bool


def candidate_fields(findings: Findings, source: Source, row: Row) -> CandidateFields:
    """Check a row of a candidate pool."""
    id_ = _id(findings, source, "did", _value(findings, source, row, "did", (str,)))
    content = _content(findings, source, row, "txt", "img_path", "modality")
    return CandidateFields(id_, content)


def query_fields(findings: Findings, source: Source, row: Row, task: int | None) -> QueryFields:
    """Check a row of a query file.

    Args:
        findings: Where problems are reported.
        source: Where the row stands.
        row: The row.
        task: What the file's name says, if it does.
    """
    id_ = _id(findings, source, "qid", _value(findings, source, row, "qid", (str,)))
    content = _content(findings, source, row, "query_txt", "query_img_path", "query_modality")
    positives = _ids(findings, source, row, "pos_cand_list")
    negatives = _ids(findings, source, row, "neg_cand_list")
    number = _task(findings, source, row, task, content.modality)
    return QueryFields(id_, content, positives, negatives, number)


def judgement(findings: Findings, source: Source, line: str, task: int) -> Judgement | None:
    """Check a line ``qid 0 did relevance task_id``; ``None`` if it cannot be used."""
    parts = line.split()
    if len(parts) != _JUDGEMENT_COLUMNS:
        findings.add(checks.MALFORMED_LINE, source, f"{line!r:.80} is not 'qid 0 did relevance task_id'")
        return None
    query, _, candidate, relevance, number = parts
    if not re.fullmatch("[0-9]{1,9}", number) or int(number) != task:
        findings.add(checks.WRONG_TASK, source, f"task_id is {number!r:.20}, the file's name says {task}")
    ids = [_id(findings, source, "qrels", id_) for id_ in (query, candidate)]
    if not re.fullmatch("[0-9]{1,9}", relevance):
        findings.add(checks.WRONG_SCORE, source, f"relevance is {relevance!r:.20}")
    elif ids[0] is not None and ids[1] is not None:
        return Judgement(id_key(ids[0]), id_key(ids[1]), int(relevance) > 0)
    return None


def _value(findings: Findings, source: Source, row: Row, name: str, kinds: tuple[type, ...]) -> Any:  # noqa: ANN401
    """A value of one of the types, else ``None``."""
    if name not in row:
        findings.add(checks.MISSING_KEY, source, f"{name!r} is missing")
        return None
    value = row[name]
    if not isinstance(value, kinds) or isinstance(value, bool):
        findings.add(checks.WRONG_TYPE, source, f"{name} is {value!r:.60} of type {type(value).__name__}")
        return None
    return value


def _id(findings: Findings, source: Source, name: str, value: str | None) -> str | None:
    try:
        if value is not None:
            id_key(value)
    except DataError:
        findings.add(checks.MALFORMED_ID, source, f"{name} holds {value!r:.60}")
        return None
    return value


def _ids(findings: Findings, source: Source, row: Row, name: str) -> list[int]:
    keys = []
    for value in _value(findings, source, row, name, (list,)) or []:
        if not isinstance(value, str):
            findings.add(
                checks.WRONG_TYPE, source, f"{name} holds {value!r:.60} of type {type(value).__name__}"
            )
        elif _id(findings, source, name, value) is not None:
            keys.append(id_key(value))
    return keys


def _content(
    findings: Findings, source: Source, row: Row, text_name: str, image_name: str, modality_name: str
) -> ContentFields:
    text = _value(findings, source, row, text_name, _OPTIONAL) or None
    path = _value(findings, source, row, image_name, _OPTIONAL) or None
    said = _value(findings, source, row, modality_name, (str,))
    if said is not None and said not in list(Modality):
        findings.add(checks.WRONG_TYPE, source, f"{modality_name} is {said!r:.60}")
    if text is None and path is None:
        findings.add(checks.EMPTY_CONTENT, source, f"neither {text_name} nor {image_name}")
        return ContentFields(None, None, UNKNOWN)
    if text is not None and not text.isascii():
        _check_unicode(findings, source, text_name, text)
    has = Modality.of(text=text is not None, image=path is not None)
    if said in list(Modality) and said != has:
        findings.add(checks.WRONG_MODALITY, source, f"{modality_name} is {said!r}, the row has {has.value!r}")
    return ContentFields(text, _inside(findings, source, image_name, path), has.code)


def _inside(findings: Findings, source: Source, name: str, path: str | None) -> str | None:
    try:
        return None if path is None else check_image_path(source, name, path)
    except DataError:
        findings.add(checks.IMAGE_OUTSIDE, source, f"{name} is {path!r:.100}")
        return None


def _check_unicode(findings: Findings, source: Source, name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        findings.add(checks.WRONG_TYPE, source, f"{name} is no valid Unicode ({error.reason})")


def _task(findings: Findings, source: Source, row: Row, named: int | None, modality: int) -> int:
    number = _value(findings, source, row, "task_id", (int,))
    if number is None:
        return -1
    if not 0 <= number < len(TASKS):
        findings.add(checks.WRONG_TASK, source, f"task_id is {number}; M-BEIR has 0 to {len(TASKS) - 1}")
        return -1
    if named is not None and number != named:
        findings.add(checks.WRONG_TASK, source, f"task_id is {number}, the file's name says {named}")
    wanted = TASKS[number][0]
    if modality not in (UNKNOWN, wanted.code):
        has = MODALITIES[modality].value
        findings.add(
            checks.WRONG_TASK, source, f"task {number} asks with {wanted.value!r}, the query has {has!r}"
        )
    return int(number)
