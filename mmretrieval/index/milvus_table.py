"""Vectors in a Milvus database (https://milvus.io): a file of Milvus Lite, or a cluster by its address."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from mmretrieval.errors import UserError
from mmretrieval.index.base import NO_LABEL, FloatMatrix, Labels, Scores

TOKEN = "MMRETRIEVAL_MILVUS_TOKEN"
"""Environment variable with the token, ``user:password`` or a key; it is written nowhere."""
DEFAULT_FILE = "milvus.db"
"""File of Milvus Lite where no other is named."""
MAX_K = 16_384
"""Milvus' limit of what a search returns."""
_INSTALL = "pip install -e '.[milvus]'"
_SECONDS = 10.0  # to connect
_SETTLED = 10.0  # seconds after which bounded staleness, of 5 s unless a server says otherwise, shows all
_QUERIES = 256
_LABEL, _GROUP, _VECTOR = "row", "modality", "embedding"


def is_address(place: str) -> bool:
    """Whether a place is a server's address, and not a file."""
    return "://" in place


def check_place(place: str) -> None:
    """Refuse what cannot be the place of a database, without connecting.

    Raises:
        UserError: If it is neither an address without a password nor a file that ends in ``.db``.
    """
    if not is_address(place):
        if not place.endswith(".db"):
            raise UserError(f"{place}: a file of Milvus Lite must end in .db; an address begins with http://")
        return
    parts = urlsplit(place)
    if parts.scheme not in ("http", "https", "tcp") or not parts.hostname:
        raise UserError(f"{place}: is no address of a Milvus server, which looks like http://HOST:19530")
    if parts.username is not None or parts.password is not None:
        raise UserError(
            f"{parts.scheme}://{parts.hostname}: leave user and password out of the address, which is "
            f"written to disk; give them as user:password in the environment variable {TOKEN}"
        )


class MilvusTable:
    """Labels, groups and vectors in a collection of Milvus, searched exhaustively by inner product.

    Args:
        place: A file that ends in ``.db``, or a server's address.
        name: The collection's name.

    Raises:
        UserError: From all methods, if the packages are missing, the database cannot be reached or refuses
            what is asked.
    """

    def __init__(self, place: str, name: str) -> None:
        check_place(place)
        self.place, self.name = place, name
        self._client: Any = None
        self._changed = time.monotonic()

    def connect(self) -> None:
        """Connect, if that is not done yet."""
        if self._client is None:
            client = _client_class(lite=not is_address(self.place))
            if not is_address(self.place):
                Path(self.place).parent.mkdir(parents=True, exist_ok=True)
            with self._named("database cannot be opened"):
                self._client = client(self.place, token=os.environ.get(TOKEN, ""), timeout=_SECONDS)
            self._changed = time.monotonic()

    def close(self) -> None:
        """Disconnect; a file can then be opened by other processes."""
        if self._client is None:
            return
        self._client.close()
        self._client = None
        if not is_address(self.place):
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self.place)

    def dim(self) -> int | None:
        """Dimension of the vectors; ``None`` if the database has no such collection.

        Raises:
            UserError: If the collection is somebody else's.
        """
        with self._asking("cannot be read") as client:
            if not client.has_collection(self.name):
                return None
            fields = {field["name"]: field for field in client.describe_collection(self.name)["fields"]}
        if fields.keys() != {_LABEL, _GROUP, _VECTOR} or "dim" not in fields[_VECTOR]["params"]:
            raise UserError(f"{self._where}: has the fields {sorted(fields)}; it was made by something else")
        return int(fields[_VECTOR]["params"]["dim"])

    def create(self, dim: int) -> None:
        """Make the collection.

        Args:
            dim: Dimension of its vectors.
        """
        from pymilvus import DataType

        with self._asking("cannot be made") as client:
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field(_LABEL, DataType.INT64, is_primary=True)
            schema.add_field(_GROUP, DataType.INT8)
            schema.add_field(_VECTOR, DataType.FLOAT_VECTOR, dim=dim)
            indexes = client.prepare_index_params()
            indexes.add_index(_VECTOR, index_type="FLAT", metric_type="IP")
            client.create_collection(
                self.name, schema=schema, index_params=indexes, consistency_level="Strong"
            )

    def drop(self, name: str) -> None:
        """Remove a collection of the database, if there is one of this name."""
        with self._asking(f"does not let {name} be removed") as client:
            client.drop_collection(name)

    def put(self, labels: Labels, groups: NDArray[np.integer[Any]], vectors: FloatMatrix) -> None:
        """Add vectors, or replace those of the same labels.

        Args:
            labels: ``(N,)``.
            groups: From 0 to 127, ``(N,)``.
            vectors: ``(N, D)``.
        """
        floats = np.ascontiguousarray(vectors, np.float32)
        rows = [
            {_LABEL: label, _GROUP: group, _VECTOR: vector}
            for label, group, vector in zip(labels.tolist(), groups.tolist(), floats, strict=True)
        ]
        with self._asking("takes no vectors") as client:
            client.upsert(self.name, rows)
        self._changed = time.monotonic()

    def delete(self, labels: Labels) -> None:
        """Remove vectors; labels that are not there are passed over."""
        with self._asking("cannot be changed") as client:
            client.delete(self.name, ids=labels.tolist())
        self._changed = time.monotonic()

    def flush(self) -> None:
        """Have the database write down what it was given."""
        with self._asking("cannot be written") as client:
            client.flush(self.name)

    def load(self) -> None:
        """Have the database read what a search needs."""
        with self._asking("cannot be loaded") as client:
            client.load_collection(self.name)

    def count(self) -> int:
        """How many vectors there are."""
        with self._asking("cannot be read") as client:
            found = client.query(self.name, output_fields=["count(*)"], consistency_level="Strong")
            return int(found[0]["count(*)"])

    def labels(self) -> Labels:
        """All labels, ascending, ``(N,)``; this reads them one portion after the other."""
        found: list[int] = []
        with self._asking("cannot be read") as client:
            portions = client.query_iterator(
                self.name, batch_size=8_192, output_fields=[_LABEL], consistency_level="Strong"
            )
            while portion := portions.next():
                found += [row[_LABEL] for row in portion]
            portions.close()
        return np.unique(np.array(found, np.int64))

    def search(
        self, queries: FloatMatrix, k: int, groups: Iterable[int] | None = None
    ) -> tuple[Scores, Labels]:
        """Return the labels of the ``k`` best vectors of each query, as an index does.

        Which of several equal scores at the end of the list are in it is Milvus' choice.

        Args:
            queries: ``(Q, D)``.
            k: How many, from 1 to 16,384.
            groups: Groups to search in; all by default.

        Returns:
            ``(Q, k)`` scores and labels, best first, equal scores by ascending label; where there are fewer,
            ``-inf`` and -1.

        Raises:
            UserError: If ``k`` is above Milvus' limit, or the collection is not there.
        """
        if k > MAX_K:
            raise UserError(f"Milvus returns at most {MAX_K:,} results, {k:,} were asked for; ask for fewer")
        scores = np.full((len(queries), k), -np.inf, np.float32)
        labels = np.full((len(queries), k), NO_LABEL, np.int64)
        floats = np.ascontiguousarray(queries, np.float32)
        chosen = "" if groups is None else f"{_GROUP} in {sorted(int(group) for group in groups)}"
        for first in range(0, len(floats), _QUERIES):
            for number, hits in enumerate(self._hits(floats[first : first + _QUERIES], k, chosen), first):
                best = sorted((-hit["distance"], hit[_LABEL]) for hit in hits)
                scores[number, : len(best)] = [-score for score, _ in best]
                labels[number, : len(best)] = [label for _, label in best]
        return scores, labels

    def _hits(self, queries: NDArray[np.float32], k: int, chosen: str) -> Any:  # noqa: ANN401 - pymilvus is optional
        with self._asking("cannot be searched") as client:
            return client.search(
                self.name,
                data=list(queries),
                limit=k,
                filter=chosen,
                anns_field=_VECTOR,
                output_fields=[_LABEL],
                search_params={"metric_type": "IP"},
                consistency_level=self._consistency(),
            )

    def _consistency(self) -> str:
        """What a search has to wait for; a server needs 0.4 s to be sure that it shows the very latest."""
        return "Strong" if time.monotonic() - self._changed < _SETTLED else "Bounded"

    @property
    def _where(self) -> str:
        return f"{self.place}: the Milvus collection {self.name}"

    @contextmanager
    def _asking(self, problem: str) -> Iterator[Any]:
        self.connect()
        with self._named(f"collection {self.name} {problem}"):
            yield self._client

    @contextmanager
    def _named(self, problem: str) -> Iterator[None]:
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except (MilvusException, ValueError) as error:
            said = getattr(error, "message", None) or error
            advice = (
                f"is a server there, and is its token in {TOKEN}?"
                if is_address(self.place)
                else "another process may have it open; it is one process's at a time"
            )
            raise UserError(f"{self.place}: the Milvus {problem} ({said}); {advice}") from error


def _client_class(*, lite: bool) -> Any:  # noqa: ANN401 - pymilvus is optional
    for package, needed in (("pymilvus", True), ("milvus_lite", lite)):
        if needed and find_spec(package) is None:
            raise UserError(f"Milvus needs the package {package.replace('_', '-')}: {_INSTALL}")
    from pymilvus import MilvusClient

    # They print tracebacks of what is raised and named here anyway.
    for name in ("milvus_lite", "pymilvus", *(["grpc._server"] if lite else [])):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MilvusClient
