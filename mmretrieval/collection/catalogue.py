"""Which documents a collection has, and where the embedding of each of their contents is: an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmretrieval.errors import UserError

FILE = "catalogue.sqlite"
_AT_ONCE = 500  # SQLite takes at least 999 values in a statement
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS contents (
    row INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, modality INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS documents (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS items (
    key TEXT NOT NULL, document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    row INTEGER NOT NULL REFERENCES contents, text TEXT, image TEXT);
CREATE INDEX IF NOT EXISTS items_of_documents ON items (document);
CREATE INDEX IF NOT EXISTS items_of_contents ON items (row);
"""


class Entry(NamedTuple):
    """One item of a document.

    Args:
        key: What names it.
        row: Row of its content's embedding.
        text: Its text.
        image: Its picture's file, relative to the source's folder.
    """

    key: str
    row: int
    text: str | None
    image: str | None


class Contents(NamedTuple):
    """Contents that documents have.

    Args:
        rows: Rows of their embeddings, ascending, ``(N,)``.
        modalities: Code of each one's modality, ``(N,)``.
    """

    rows: NDArray[np.int64]
    modalities: NDArray[np.uint8]


class Catalogue:
    """Documents, their items, and the distinct contents of these; a content outlives its last document.

    Args:
        path: The file; it is made if there is none.

    Raises:
        UserError: From all methods, if the file is damaged, or another process is writing to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = RLock()  # of a page's threads, and of those that read ahead
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        with self._named():
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._connection.execute("PRAGMA trusted_schema = OFF")  # the file may be somebody else's
            self._connection.executescript(_TABLES)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What the block writes is there completely or not at all."""
        with self._named(), self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def facts(self) -> dict[str, str]:
        """What was written down about the collection."""
        return dict(self.ask("SELECT name, value FROM facts"))

    def note(self, facts: Mapping[str, str]) -> None:
        """Write facts down, in place of those of the same names."""
        self.many("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())

    def states(self) -> dict[str, str]:
        """The state of each document, by key."""
        return dict(self.ask("SELECT key, state FROM documents"))

    def rows_of(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """Row of each content that is known, by digest."""
        found: dict[bytes, int] = {}
        for first in range(0, len(digests), _AT_ONCE):
            asked = digests[first : first + _AT_ONCE]
            marks = ",".join("?" * len(asked))
            found |= dict(self.ask(f"SELECT digest, row FROM contents WHERE digest IN ({marks})", asked))
        return found

    def add_contents(self, contents: Iterable[tuple[int, bytes, int]]) -> None:
        """Add contents that were embedded: row, digest, and code of the modality of each."""
        self.many("INSERT INTO contents VALUES (?, ?, ?)", contents)

    def put(self, key: str, state: str, entries: Iterable[Entry]) -> None:
        """Add a document, or replace it."""
        self.remove([key])
        self.many("INSERT INTO documents (key, state) VALUES (?, ?)", [(key, state)])
        rows = [(e.key, key, e.row, e.text, e.image) for e in entries]
        self.many("INSERT INTO items VALUES (?, (SELECT number FROM documents WHERE key = ?), ?, ?, ?)", rows)

    def remove(self, keys: Iterable[str]) -> None:
        """Remove documents."""
        self.many("DELETE FROM documents WHERE key = ?", [(key,) for key in keys])

    def contents(self) -> Contents:
        """All contents that a document has."""
        found = self.ask(
            "SELECT row, modality FROM contents WHERE row IN (SELECT row FROM items) ORDER BY row"
        )
        table = np.array(found, np.int64).reshape(-1, 2)
        return Contents(table[:, 0].copy(), table[:, 1].astype(np.uint8))

    def all_rows(self) -> NDArray[np.int64]:
        """Rows of all contents, whether a document has them or not, ascending, ``(N,)``."""
        return np.array(self.ask("SELECT row FROM contents ORDER BY row"), np.int64).reshape(-1)

    def digests_of(self, rows: NDArray[np.int64]) -> dict[int, tuple[bytes, int]]:
        """Digest and code of the modality of contents, by row."""
        found: dict[int, tuple[bytes, int]] = {}
        for first in range(0, len(rows), _AT_ONCE):
            asked = rows[first : first + _AT_ONCE].tolist()
            marks = ",".join("?" * len(asked))
            said = self.ask(f"SELECT row, digest, modality FROM contents WHERE row IN ({marks})", asked)
            found |= {row: (digest, modality) for row, digest, modality in said}
        return found

    def forget_unused(self, rows: NDArray[np.int64]) -> None:
        """Forget contents, but those that a document has."""
        unused = "DELETE FROM contents WHERE row = ? AND row NOT IN (SELECT row FROM items)"
        self.many(unused, [(row,) for row in rows.tolist()])

    def items_of(self, row: int) -> list[Entry]:
        """The items of a content, by key."""
        asked = "SELECT key, row, text, image FROM items WHERE row = ? ORDER BY key"
        return [Entry(*values) for values in self.ask(asked, [row])]

    def image_of(self, key: str) -> str | None:
        """The picture's file of an item, if there are such an item and picture."""
        found = self.ask("SELECT image FROM items WHERE key = ? AND image IS NOT NULL LIMIT 1", [key])
        return str(found[0][0]) if found else None

    def counts(self) -> tuple[int, int, int]:
        """How many documents, items, and contents of theirs there are."""
        asked = "SELECT (SELECT COUNT(*) FROM documents), COUNT(*), COUNT(DISTINCT row) FROM items"
        documents, items, contents = self.ask(asked)[0]
        return documents, items, contents

    def ask(self, statement: str, values: Sequence[object] = ()) -> list[tuple]:  # type: ignore[type-arg]
        """Run one statement and return its rows."""
        with self._named(), self._lock:
            return self._connection.execute(statement, values).fetchall()

    def many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each row of values."""
        with self._named(), self._lock:
            self._connection.executemany(statement, rows)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            busy = "another process writes to it; wait for that one" if "locked" in str(error) else error
            raise UserError(f"{self.path}: cannot be used ({busy})") from error
