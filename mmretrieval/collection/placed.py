"""Which contents a database of vectors has, written down so that only changes are sent to it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmretrieval.collection.catalogue import Catalogue

_NAME = "placed_in"
_OWNER = "owner"
_TABLE = "CREATE TABLE IF NOT EXISTS placed (row INTEGER PRIMARY KEY, digest BLOB NOT NULL)"
# A row may come to be another content's: the digest says whose vector the database has.
_MISSING = """
SELECT row, digest, modality FROM contents WHERE row IN (SELECT row FROM items) AND NOT EXISTS
    (SELECT 1 FROM placed WHERE placed.row = contents.row AND placed.digest = contents.digest)
ORDER BY row"""
_GONE = "SELECT row FROM placed WHERE row NOT IN (SELECT row FROM items) ORDER BY row"


class Portion(NamedTuple):
    """Contents that the database does not have yet.

    Args:
        rows: Rows of their embeddings, ``(N,)``.
        digests: Digest of each.
        modalities: Code of each one's modality, ``(N,)``.
    """

    rows: NDArray[np.int64]
    digests: list[bytes]
    modalities: NDArray[np.uint8]


class Placed:
    """What is written down; it is noted after the database has it, so a kill sends at most a portion again.

    Args:
        catalogue: The collection's catalogue.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        catalogue.many(_TABLE, [()])

    def owner(self) -> str:
        """A random name of this collection, the same each time."""
        known = self.catalogue.facts().get(_OWNER)
        if known is None:
            known = uuid.uuid4().hex[:16]
            self.catalogue.note({_OWNER: known})
        return known

    def begin(self, place: str, name: str) -> str | None:
        """Write down in which collection of which database the contents are; of another, nothing is known.

        Args:
            place: The database.
            name: The collection in it.

        Returns:
            The collection that the same database had before, if that was another one.
        """
        now = json.dumps([place, name])
        before = self.catalogue.facts().get(_NAME)
        if before == now:
            return None
        with self.catalogue.transaction():
            self.forget_all()
            self.catalogue.note({_NAME: now})
        old_place, old_name = json.loads(before) if before else ("", "")
        return old_name if old_place == place and old_name != name else None

    def forget_all(self) -> None:
        """Nothing is in the database."""
        self.catalogue.many("DELETE FROM placed", [()])

    def count(self) -> int:
        """How many contents the database has, as far as is known."""
        return int(self.catalogue.ask("SELECT COUNT(*) FROM placed")[0][0])

    def rows(self) -> NDArray[np.int64]:
        """Rows of these, ascending, ``(N,)``."""
        return np.array(self.catalogue.ask("SELECT row FROM placed ORDER BY row"), np.int64).reshape(-1)

    def missing(self, size: int) -> Iterator[Portion]:
        """Contents of documents that the database does not have.

        Args:
            size: How many at a time.
        """
        found = self.catalogue.ask(_MISSING)
        for first in range(0, len(found), size):
            rows, digests, modalities = zip(*found[first : first + size], strict=True)
            yield Portion(np.array(rows, np.int64), list(digests), np.array(modalities, np.uint8))

    def gone(self, size: int) -> Iterator[NDArray[np.int64]]:
        """Rows that the database has and no document.

        Args:
            size: How many at a time.
        """
        rows = np.array(self.catalogue.ask(_GONE), np.int64).reshape(-1)
        for first in range(0, len(rows), size):
            yield rows[first : first + size]

    def pending(self) -> bool:
        """Whether the database lacks something, or has too much."""
        return bool(self.catalogue.ask(f"{_MISSING} LIMIT 1") or self.catalogue.ask(f"{_GONE} LIMIT 1"))

    def note(self, portion: Portion) -> None:
        """The database has these."""
        rows = zip(portion.rows.tolist(), portion.digests, strict=True)
        with self.catalogue.transaction():
            self.catalogue.many("INSERT OR REPLACE INTO placed VALUES (?, ?)", rows)

    def forget(self, rows: NDArray[np.int64]) -> None:
        """The database does not have these."""
        with self.catalogue.transaction():
            self.catalogue.many("DELETE FROM placed WHERE row = ?", [(row,) for row in rows.tolist()])
