"""JSON files of annotations, read whole and checked, with the place of each entry for errors."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from data_modules.formats.mbeir_rows import Row, check_unicode, checked_field
from data_modules.formats.records import DataError

MAX_BYTES = 512 * 2**20
"""Larger files are refused: annotations are read whole, and those of the known benchmarks are below 20 MB."""

_BETWEEN = re.compile(r"\s*")


class Entry(NamedTuple):
    """Where an entry of a JSON list stands, printed as ``file:line (entry n)``; both count from 1."""

    path: Path
    line: int
    number: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line} (entry {self.number})"


def json_entries(path: Path) -> list[tuple[Entry, Row]]:
    """Return the objects of a file that is one JSON list.

    Raises:
        DataError: If the file is missing, too large or no list of objects, or has no entry.
    """
    text = _text(path)
    decoder = json.JSONDecoder(object_pairs_hook=_without_copies)
    entries: list[tuple[Entry, Row]] = []
    place, line = 0, 1
    separator = "["
    while True:
        start = _skip(text, place)
        line, place = line + text.count("\n", place, start), start
        at = Entry(path, line, len(entries) + 1)
        if text[place : place + 1] == "]" and separator == ",":
            break
        if text[place : place + 1] != separator:
            raise DataError(
                f"{at}: no JSON list of objects: expected {separator!r}; restore the released file"
            )
        start = _skip(text, place + 1)
        if separator == "[" and text[start : start + 1] == "]":
            raise DataError(f"{path}: has no entry; restore the released file")
        line, place, separator = line + text.count("\n", place, start), start, ","
        at = Entry(path, line, len(entries) + 1)
        try:
            row, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{at}: malformed JSON ({error}); restore the released file") from None
        if not isinstance(row, dict):
            raise DataError(f"{at}: is not a JSON object; restore the released file")
        entries.append((at, row))
        line, place = line + text.count("\n", place, end), end
    if text[place + 1 :].strip():
        raise DataError(f"{path}:{line}: goes on after the end of its list; restore the released file")
    return entries


def json_value(path: Path) -> Any:  # noqa: ANN401  # JSON
    """Return what a JSON file holds.

    Raises:
        DataError: If the file is missing, too large or no JSON, or an object names a key twice.
    """
    text = _text(path)
    try:
        return json.loads(text, object_pairs_hook=_without_copies)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: malformed JSON ({error}); restore the released file") from None


def text_of(source: object, row: Row, name: str) -> str:
    """Return a field that is a text, without blanks around it; it may be empty.

    Raises:
        DataError: If it is missing, of another type, or no valid Unicode.
    """
    value: str = checked_field(source, row, name, str)
    check_unicode(source, name, value)
    return value.strip()


def name_of(source: object, row: Row, name: str) -> str:
    """Return a field that names something: a text or a whole number, as a text that is not empty.

    Raises:
        DataError: If it is missing, of another type, empty, or no valid Unicode.
    """
    return checked_name(source, name, checked_field(source, row, name, str, int))


def checked_name(source: object, name: str, value: object) -> str:
    """Return a text or whole number as a text that is not empty.

    Raises:
        DataError: If it is neither, empty, or no valid Unicode.
    """
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"{source}: {name} is {value!r:.80}; write a name or a number")
    check_unicode(source, name, str(value))
    return str(value)


def _skip(text: str, place: int) -> int:
    match = _BETWEEN.match(text, place)
    assert match is not None
    return match.end()


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{path}: has {size} bytes, more than {MAX_BYTES}; restore the released file")
        return path.read_text("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: file is missing; add it from the benchmark's release") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); restore the released file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _without_copies(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {twice!r:.80} occurs twice in one object")
    return row
