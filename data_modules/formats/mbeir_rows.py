"""Single rows of the M-BEIR release layout: checked lines of its files to records, and back."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from data_modules.formats.records import (
    CandidateRecord,
    DataError,
    InstructionRecord,
    QueryRecord,
    Source,
    id_key,
    key_id,
)
from mmretrieval.content import MODALITIES, Modality

Row = dict[str, Any]

_JUDGEMENT = re.compile(r"(\S+)[ \t]+\S+[ \t]+(\S+)[ \t]+([0-9]+)[ \t]+([0-9]+)\s*")


class QueryRow(NamedTuple):
    """A checked row of a query file; the data set's name and the instructions stand elsewhere."""

    id: str
    text: str | None
    image: str | None
    modality: Modality
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    task_id: int


class DistinctIds:
    """Collects ids with their places in little memory and finds the ones that occur twice."""

    def __init__(self) -> None:
        self.keys = array("q")
        self._lines = array("q")
        self._files: list[tuple[int, Path]] = []  # first position of each file

    def add(self, source: Source, id_: str) -> None:
        """Remember an id and where it stands."""
        if not self._files or self._files[-1][1] != source.path:
            self._files.append((len(self.keys), source.path))
        self.keys.append(id_key(id_))
        self._lines.append(source.line)

    def check(self) -> None:
        """Compare all ids.

        Raises:
            DataError: If an id occurs twice: names the id and both places.
        """
        keys = np.array(self.keys, np.int64)
        order = np.argsort(keys, kind="stable")
        twice = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        if len(twice):
            first, second = int(order[twice[0]]), int(order[twice[0] + 1])
            raise DataError(
                f"{self._source(second)}: id {key_id(int(keys[first]))!r} occurs already at "
                f"{self._source(first)}; ids must be unique, remove one of the rows"
            )

    def _source(self, position: int) -> Source:
        path = next(path for start, path in reversed(self._files) if start <= position)
        return Source(path, self._lines[position])


def text_lines(path: Path) -> Iterator[tuple[Source, str]]:
    """Yield the lines of a UTF-8 file that are not blank.

    Raises:
        DataError: If the file is missing, empty, or not UTF-8.
    """
    found = False
    try:
        with path.open("rb") as stream:  # binary: only \n ends a line, not the separators of Unicode
            for number, line in enumerate(stream, 1):
                if not line.isspace():
                    found = True
                    yield Source(path, number), line.decode().rstrip("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: file is missing; add it to the data set") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 ({error}); save the file as UTF-8") from None
    if not found:
        raise DataError(f"{path}: file is empty; add rows or remove the file")


def json_rows(path: Path) -> Iterator[tuple[Source, Row]]:
    """Yield the rows of a JSON-lines file.

    Raises:
        DataError: If the file is missing or empty, or a line is not a JSON object.
    """
    for source, line in text_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}: malformed JSON ({error}); each line must hold one object") from None
        if not isinstance(row, dict):
            raise DataError(f"{source}: is not a JSON object; each line must hold one object in braces")
        yield source, row


def parse_query(source: object, row: Row) -> QueryRow:
    """Check a row of a query file.

    Raises:
        DataError: If a field is missing or cannot be used.
    """
    return QueryRow(
        parse_id(source, row, "qid"),
        *_content(source, row, "query_txt", "query_img_path", "query_modality"),
        _ids(source, row, "pos_cand_list"),
        _ids(source, row, "neg_cand_list"),
        parse_integer(source, row, "task_id"),
    )


def parse_candidate(source: object, row: Row) -> CandidateRecord:
    """Check a row of a candidate pool.

    Raises:
        DataError: If a field is missing or cannot be used.
    """
    return CandidateRecord(
        parse_id(source, row, "did"), *_content(source, row, "txt", "img_path", "modality")
    )


def parse_instruction(source: object, row: dict[str, str]) -> InstructionRecord:
    """Check a line of the instructions, given as column → value.

    Raises:
        DataError: If a column is missing or cannot be used, or there is no prompt.
    """
    number = row.get("dataset_id", "")
    if not re.fullmatch("[0-9]{1,6}", number):
        raise DataError(f"{source}: dataset_id is {number!r}; write a number")
    prompts = tuple(p.strip() for name, p in row.items() if name.startswith("prompt_") and p.strip())
    if not prompts:
        raise DataError(f"{source}: has no prompt; write at least prompt_1")
    return InstructionRecord(
        dataset=row["dataset_name"].lower(),
        dataset_id=int(number),
        query_modality=_modality(source, row, "query_modality"),
        candidate_modality=_modality(source, row, "cand_modality"),
        prompts=prompts,
    )


def parse_judgement(source: object, line: str, task: str) -> tuple[str, str, int]:
    """Return query id, candidate id and grade of a line of qrels; 0 is not relevant.

    Raises:
        DataError: If the line is malformed or of another task.
    """
    match = _JUDGEMENT.fullmatch(line)
    if match is None:
        raise DataError(f"{source}: {line!r} is no judgement; write 'qid 0 did relevance task_id'")
    query, candidate, relevance, task_id = match.groups()
    for id_ in (query, candidate):
        _checked_id(source, "qrels", id_)
    if not task.endswith(f"_task{int(task_id)}"):
        raise DataError(f"{source}: task_id is {task_id}, the file's name says {task}; correct one of them")
    return query, candidate, int(relevance)


def parse_id(source: object, row: Row, name: str) -> str:
    """Return an id field ``"ds:n"``.

    Raises:
        DataError: If it is missing or malformed.
    """
    return _checked_id(source, name, checked_field(source, row, name, str))


def parse_integer(source: object, row: Row, name: str) -> int:
    """Return a field that is a natural number.

    Raises:
        DataError: If it is missing, of another type, or negative.
    """
    value: int = checked_field(source, row, name, int)
    if isinstance(value, bool) or value < 0:
        raise DataError(f"{source}: {name} is {value!r}; write a number from 0")
    return value


def check_image_path(source: object, name: str, value: str) -> str:
    """Return ``value`` if it is a path that stays inside the data set's root.

    Raises:
        DataError: If it is absolute, has ``..``, or cannot be a path.
    """
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or re.search(r"[\\\x00]|^[A-Za-z]:", value):
        raise DataError(
            f"{source}: {name} {value!r} leads out of the data set's root; "
            "write a path relative to the root, without '..', with '/'"
        )
    return value


def query_row(record: QueryRecord) -> Row:
    """Return the row of a query file that says what ``record`` says."""
    return {
        "qid": record.id,
        "query_txt": record.text,
        "query_img_path": record.image,
        "query_modality": record.modality.value,
        "query_src_content": None,
        "pos_cand_list": list(record.positives),
        "neg_cand_list": list(record.negatives),
        "task_id": record.task_id,
    }


def candidate_row(record: CandidateRecord) -> Row:
    """Return the row of a candidate pool that says what ``record`` says."""
    return {
        "did": record.id,
        "txt": record.text,
        "img_path": record.image,
        "modality": record.modality.value,
        "src_content": None,
    }


def checked_field(source: object, row: Row, name: str, *kinds: type) -> Any:  # noqa: ANN401  # JSON
    """Return a field of a row.

    Raises:
        DataError: If it is missing or of none of the types.
    """
    if name not in row:
        raise DataError(f"{source}: field {name!r} is missing; add it")
    value = row[name]
    if not isinstance(value, kinds):
        wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise DataError(
            f"{source}: field {name!r} is {value!r:.80} of type {type(value).__name__}; write {wanted}"
        )
    return value


def _checked_id(source: object, name: str, value: str) -> str:
    try:
        id_key(value)
    except DataError as error:
        raise DataError(f"{source}: {name}: {error}") from None
    return value


def _ids(source: object, row: Row, name: str) -> tuple[str, ...]:
    values = checked_field(source, row, name, list)
    for value in values:
        if not isinstance(value, str):
            raise DataError(f"{source}: field {name!r} holds {value!r:.80}; write a list of ids")
        _checked_id(source, name, value)
    return tuple(values)


def _modality(source: object, row: Row, name: str) -> Modality:
    value = checked_field(source, row, name, str)
    try:
        return Modality(value)
    except ValueError:
        known = ", ".join(repr(modality.value) for modality in MODALITIES)
        raise DataError(f"{source}: {name} {value!r} is unknown; write one of {known}") from None


def _content(
    source: object, row: Row, text_name: str, image_name: str, modality_name: str
) -> tuple[str | None, str | None, Modality]:
    text = checked_field(source, row, text_name, str, type(None)) or None
    image = checked_field(source, row, image_name, str, type(None)) or None
    modality = _modality(source, row, modality_name)
    for name, value, kinds in (
        (text_name, text, (Modality.TEXT, Modality.IMAGE_TEXT)),
        (image_name, image, (Modality.IMAGE, Modality.IMAGE_TEXT)),
    ):
        if (value is not None) != (modality in kinds):
            found = "is null or empty" if value is None else "is given"
            raise DataError(
                f"{source}: {modality_name} is {modality.value!r} but {name} {found}; correct one of them"
            )
        if value is not None and not value.isascii():
            check_unicode(source, name, value)
    if image is not None:
        check_image_path(source, image_name, image)
    return text, image, modality


def check_unicode(source: object, name: str, value: str) -> None:
    """Refuse lone surrogates, which JSON can hold and files of text cannot.

    Raises:
        DataError: If ``value`` has one.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{source}: {name} is not valid Unicode ({error.reason}); correct the text") from None
