"""Files that conversion writes at the root of an M-BEIR layout, beside what the layout has.

::

    original_ids.jsonl    kind (query or candidate), id, original: the release's ids, to map run files back
    groups.jsonl          query, candidates: what a subset measure ranks among (CIRR)

The layout's own readers take no notice of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from data_modules.formats.mbeir_rows import Row, checked_field, json_rows, parse_id
from data_modules.formats.records import DataError

ORIGINAL_IDS = "original_ids.jsonl"
GROUPS = "groups.jsonl"
SIDE_FILES = (ORIGINAL_IDS, GROUPS)

Kind = Literal["query", "candidate"]


class OriginalIds(NamedTuple):
    """Id in the layout → id in the release."""

    queries: dict[str, str]
    candidates: dict[str, str]


def original_id_row(kind: Kind, id_: str, original: str) -> Row:
    """Return a row of ``original_ids.jsonl``."""
    return {"kind": kind, "id": id_, "original": original}


def group_row(query: str, candidates: list[str]) -> Row:
    """Return a row of ``groups.jsonl``."""
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


def read_groups(root: Path) -> dict[str, tuple[str, ...]]:
    """Return the candidates that each query of a subset measure ranks; empty where there is no such file.

    Args:
        root: A folder that conversion made.

    Raises:
        DataError: If a row cannot be used.
    """
    groups: dict[str, tuple[str, ...]] = {}
    if not (root / GROUPS).is_file():
        return groups
    for source, row in json_rows(root / GROUPS):
        query = parse_id(source, row, "query")
        if query in groups:
            raise DataError(f"{source}: query {query!r} occurs twice; convert again")
        members = checked_field(source, row, "candidates", list)
        groups[query] = tuple(parse_id(source, {"candidates": id_}, "candidates") for id_ in members)
    return groups
