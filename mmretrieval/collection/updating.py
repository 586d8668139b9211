"""Bring a collection up to date with its source: embed what is new, forget what is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from mmretrieval.collection import embedding
from mmretrieval.collection.ahead import ahead
from mmretrieval.collection.catalogue import Catalogue, Entry
from mmretrieval.collection.documents import Document, Scan
from mmretrieval.collection.items import Item, read
from mmretrieval.content import Content
from mmretrieval.index.embeddings import EmbeddingStore

_MAX_PIXELS = 2**28  # of the decoded pictures of a batch: 768 MiB


class Embedder(Protocol):
    """What is needed of a retriever; :class:`~mmretrieval.Retriever` has it."""

    def encode_candidates(self, candidates: list[Content]) -> NDArray[np.float32]:
        """Embed N contents, ``(N, D)``."""


@dataclass
class Report:
    """What an update did.

    Args:
        added: Documents that are new.
        changed: Documents that were read again and differ.
        unchanged: Documents that are as they were.
        removed: Documents that are gone.
        embedded: Contents that went through the retriever.
        recovered: Contents that a killed run had embedded.
        damaged: Documents that cannot be used, and why.
        ignored: Files that are neither text nor picture, by extension.
        placed: Vectors that were put into a database.
        displaced: Vectors that were taken out of it.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    embedded: int = 0
    recovered: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    placed: int = 0
    displaced: int = 0


class _Read(NamedTuple):
    """A document with its items, and the contents of those that are not embedded yet, by digest."""

    document: Document
    items: list[Item]
    new: dict[bytes, Content]
    problem: str | None = None


class Updater:
    """Brings catalogue and store up to date; what a batch has embedded is kept when it ends.

    Args:
        catalogue: The collection's catalogue.
        store: Its embeddings.
        embedder: The retriever.
        passage_words: Most words of a passage.
        batch_size: Contents that are embedded and written at a time, at least 1.
        threads: How many documents are read at a time.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        store: EmbeddingStore,
        embedder: Embedder,
        passage_words: int,
        batch_size: int,
        threads: int,
    ) -> None:
        self.catalogue, self.store, self.embedder = catalogue, store, embedder
        self.passage_words, self.batch_size, self.threads = passage_words, batch_size, threads
        self._next = 0

    def update(self, scan: Scan) -> Report:
        """Read what changed, embed what is new, and forget what is gone.

        Args:
            scan: What the source has.
        """
        report = Report(damaged=dict(scan.damaged), ignored=scan.ignored)
        report.recovered = embedding.recover(self.store, self.catalogue)
        self._next = embedding.next_row(self.store, self.catalogue)
        known = self.catalogue.states()
        changed = [d for d in scan.documents.values() if known.get(d.key) != self._state(d)]
        report.unchanged = len(scan.documents) - len(changed)
        for batch in self._batches(scan.root, changed, report):
            self._write(batch, known, report)
        gone = [key for key in known if key not in scan.documents or key in report.damaged]
        with self.catalogue.transaction():
            self.catalogue.remove(gone)
        report.removed = len(gone)
        embedding.compact(self.store, self.catalogue)
        return report

    def _state(self, document: Document) -> str:
        return f"{self.passage_words} {document.state}"

    def _batches(self, root: Path, documents: list[Document], report: Report) -> Iterator[list[_Read]]:
        """Documents whose new contents are embedded together."""
        batch: list[_Read] = []
        contents = pixels = 0
        found = ahead(lambda document: self._read(root, document), documents, self.threads, 2 * self.threads)
        for one in tqdm(found, desc="Indexing", total=len(documents), unit="file", disable=not documents):
            if one.problem is not None:
                report.damaged[one.document.key] = one.problem
                continue
            batch.append(one)
            contents += len(one.new)
            pixels += sum(c.image.width * c.image.height for c in one.new.values() if c.image is not None)
            if contents >= self.batch_size or pixels >= _MAX_PIXELS or len(batch) >= 64 * self.batch_size:
                yield batch
                batch, contents, pixels = [], 0, 0
        if batch:
            yield batch

    def _read(self, root: Path, document: Document) -> _Read:
        try:
            items = read(root, document, self.passage_words)
            known = self.catalogue.rows_of([item.digest for item in items])
            new = {item.digest: item.content() for item in items if item.digest not in known}
        except OSError as error:
            return _Read(document, [], {}, f"cannot be read ({error.strerror or error})")
        except ValueError as error:
            return _Read(document, [], {}, str(error))
        return _Read(document, [replace(item, data=None) for item in items], new)

    def _write(self, batch: list[_Read], known: dict[str, str], report: Report) -> None:
        embedded = self._embed({digest: content for one in batch for digest, content in one.new.items()})
        with self.catalogue.transaction():
            self.catalogue.add_contents(embedded)
            for one in batch:
                rows = self.catalogue.rows_of([item.digest for item in one.items])
                entries = [Entry(i.key, rows[i.digest], i.text, i.image) for i in one.items]
                self.catalogue.put(one.document.key, self._state(one.document), entries)
        report.embedded += len(embedded)
        old = sum(one.document.key in known for one in batch)
        report.changed += old
        report.added += len(batch) - old

    def _embed(self, new: dict[bytes, Content]) -> list[tuple[int, bytes, int]]:
        """Embed contents into the store; returns row, digest, and code of the modality of each."""
        known = self.catalogue.rows_of(list(new))  # from a batch that was written after this one was read
        chosen = {digest: content for digest, content in new.items() if digest not in known}
        if not chosen:
            return []
        rows = np.arange(self._next, self._next + len(chosen))
        codes = [content.modality.code for content in chosen.values()]
        vectors = self.embedder.encode_candidates(list(chosen.values()))
        identifiers = [digest.hex() for digest in chosen]
        self.store.write(embedding.shard_name(rows), rows, identifiers, np.array(codes, np.uint8), vectors)
        self._next += len(chosen)
        return list(zip(rows.tolist(), chosen, codes, strict=True))
