"""Texts and pictures of one's own, embedded to be searched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from mmretrieval.collection.backends import backend_of
from mmretrieval.collection.catalogue import FILE, Catalogue
from mmretrieval.collection.documents import inside, scan
from mmretrieval.collection.embedding import open_store
from mmretrieval.collection.items import upright
from mmretrieval.collection.settings import Settings
from mmretrieval.collection.updating import Report, Updater
from mmretrieval.content import Content
from mmretrieval.errors import UserError
from mmretrieval.index.base import Searchable
from mmretrieval.retriever import Retriever


class Collection:
    """A folder with a catalogue of documents and the embeddings of their contents.

    Made by :meth:`create_or_open` or :meth:`open`; a context manager that closes its files.

    Args:
        folder: The collection's folder.
        catalogue: The catalogue in it.
        settings: How it was made.
    """

    def __init__(self, folder: Path, catalogue: Catalogue, settings: Settings) -> None:
        self.folder, self.catalogue, self.settings = folder, catalogue, settings
        self.store = open_store(folder, settings.embedding_hash)
        self.backend = backend_of(settings, folder, catalogue, self.store)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a collection.

        Raises:
            UserError: If there is none, or it is damaged.
        """
        if not (folder / FILE).is_file():
            raise UserError(f"{folder}: is no index; make one with 'mmretrieval index FOLDER --out {folder}'")
        catalogue = Catalogue(folder / FILE)
        settings = Settings.read(catalogue, folder)
        if settings is None:
            raise UserError(f"{folder}: was not made to its end; index again")
        return cls(folder, catalogue, settings)

    @classmethod
    def create_or_open(cls, folder: Path, settings: Settings) -> Self:
        """Open a collection and take over new settings, or make one.

        Raises:
            UserError: If it is of another source or retriever, the folder holds something else, or the
                backend cannot be used; the settings are as they were then.
        """
        if not (folder / FILE).is_file():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise UserError(f"{folder}: holds something else; choose another folder for the index")
            folder.mkdir(parents=True, exist_ok=True)
        catalogue = Catalogue(folder / FILE)
        try:
            found = Settings.read(catalogue, folder)
            if found is not None:
                _compare(found, settings, folder)
            collection = cls(folder, catalogue, settings)
            collection.backend.check()
            settings.write(catalogue)
        except BaseException:
            catalogue.close()
            raise
        return collection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self.backend.close()
        self.catalogue.close()

    @property
    def root(self) -> Path:
        """The folder that pictures' paths are relative to."""
        source = Path(self.settings.source)
        return source if source.is_dir() else source.parent

    def update(self, retriever: Retriever, batch_size: int = 64, threads: int | None = None) -> Report:
        """Embed what is new in the source, and forget what is gone.

        A killed update goes on where it was: at most a batch is embedded again.

        Args:
            retriever: That of the settings.
            batch_size: Contents that are embedded and written at a time, at least 1.
            threads: How many documents are read at a time; by default one a core, at most 8.

        Raises:
            UserError: If another process is updating, or the source is not there.
        """
        check_retriever(self.settings, retriever, self.folder)
        with self._alone():
            updater = Updater(
                self.catalogue,
                self.store,
                retriever,
                self.settings.passage_words,
                batch_size,
                threads or min(os.cpu_count() or 1, 8),
            )
            report = updater.update(scan(Path(self.settings.source)))
            report.placed, report.displaced = self.backend.refresh()
        return report

    def index(self) -> Searchable:
        """What searches what the collection has now; labels are rows, groups are modality codes."""
        return self.backend.searchable()

    def content(self, text: str | None, image: str | None) -> Content:
        """Read an item again, from the source.

        Args:
            text: Its text.
            image: Its picture's file, relative to :attr:`root`.

        Raises:
            UserError: If the picture is not there any more.
        """
        if image is None:
            return Content(text)
        try:
            return Content(text, upright(inside(self.root, image).read_bytes()))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.root / image}: cannot be read any more ({error}); bring the index up to date with "
                f"'mmretrieval index {self.settings.source} --out {self.folder}'"
            ) from None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                yield
        except Timeout:
            raise UserError(f"{self.folder}: another process is indexing; wait for that one") from None


def check_retriever(settings: Settings, retriever: Retriever, folder: Path) -> None:
    """Refuse a retriever whose embeddings are others than the collection's.

    Raises:
        UserError: If it is another one.
    """
    if (found := retriever.embedding_hash()) != settings.embedding_hash:
        raise UserError(
            f"{folder}: was made with the retriever {settings.model} ({settings.embedding_hash}), this is "
            f"{retriever.name} ({found}); give that one, or make another index"
        )


def _compare(found: Settings, asked: Settings, folder: Path) -> None:
    if found.embedding_hash != asked.embedding_hash:
        raise UserError(
            f"{folder}: was made with another retriever ({found.model}); choose another folder, or remove it"
        )
    # One that was moved may be indexed from its new place; of two, which one is meant is not clear.
    if found.source != asked.source and Path(found.source).exists():
        raise UserError(
            f"{folder}: is the index of {found.source}, not of {asked.source}; choose another folder for it"
        )
