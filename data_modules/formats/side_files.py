"""Files that conversion writes at the root of an M-BEIR layout, beside what the layout has.

::

    original_ids.jsonl    kind (query or candidate), id, original: the release's ids, to map run files back
    groups.jsonl          query, candidates: what a subset measure ranks among (CIRR)
    excluded.jsonl        query, candidates: what the benchmark's own evaluation leaves out of its ranking
                          (BEIR: the document with the query's id; CIRR: the query's own image)
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from data_modules.formats.mbeir_rows import Row, checked_field, json_rows, parse_id
from data_modules.formats.records import DataError

ORIGINAL_IDS = "original_ids.jsonl"
GROUPS = "groups.jsonl"
EXCLUDED = "excluded.jsonl"
QUERY_LISTS = (GROUPS, EXCLUDED)
SIDE_FILES = (ORIGINAL_IDS, *QUERY_LISTS)

Kind = Literal["query", "candidate"]


class OriginalIds(NamedTuple):
    """Id in the layout → id in the release."""

    queries: dict[str, str]
    candidates: dict[str, str]


def original_id_row(kind: Kind, id_: str, original: str) -> Row:
    """Return a row of ``original_ids.jsonl``."""
    return {"kind": kind, "id": id_, "original": original}


def query_list_row(query: str, candidates: list[str]) -> Row:
    """Return a row of ``groups.jsonl`` or ``excluded.jsonl``."""
    return {"query": query, "candidates": candidates}


def read_original_ids(root: Path) -> OriginalIds:
    """Return the ids that queries and candidates had before conversion.

    Args:
        root: A folder that conversion made.

    Raises:
        DataError: If the file is missing or a row of it cannot be used.
    """
    found = OriginalIds({}, {})
    tables = {"query": found.queries, "candidate": found.candidates}
    for source, row in json_rows(root / ORIGINAL_IDS):
        kind, id_ = checked_field(source, row, "kind", str), parse_id(source, row, "id")
        if kind not in tables or id_ in tables[kind]:
            raise DataError(f"{source}: kind {kind!r} is unknown or {id_!r} occurs twice; convert again")
        tables[kind][id_] = checked_field(source, row, "original", str)
    return found


def read_query_lists(root: Path, name: str) -> dict[str, tuple[str, ...]]:
    """Return the candidates that a file lists for queries; empty where there is no such file.

    Args:
        root: A folder in the M-BEIR layout.
        name: One of :data:`QUERY_LISTS`.

    Raises:
        DataError: If a row cannot be used.
    """
    lists: dict[str, tuple[str, ...]] = {}
    if not (root / name).is_file():
        return lists
    for source, row in json_rows(root / name):
        query = parse_id(source, row, "query")
        if query in lists:
            raise DataError(f"{source}: query {query!r} occurs twice; keep one line")
        members = checked_field(source, row, "candidates", list)
        lists[query] = tuple(parse_id(source, {"candidates": id_}, "candidates") for id_ in members)
    return lists
