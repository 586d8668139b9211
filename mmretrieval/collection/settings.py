"""How a collection was made, written down in its catalogue."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Self

from mmretrieval.collection.catalogue import Catalogue
from mmretrieval.errors import UserError

FORMAT_VERSION = 1
_NAME = "settings"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a collection is of, which stays the same for its life, and how it is searched, which may change.

    Args:
        source: The indexed folder or JSONL file.
        model: The retriever's folder.
        embedding_hash: Hash of all that decides its embeddings.
        passage_words: Most words of a passage.
        precision: Of the first stage of a search: ``float32``, ``int8`` or ``binary``.
        dims: How many dimensions the first stage reads; ``None`` for all.
        milvus: Address of the Milvus database that searches, or its file, relative to the collection's
            folder; ``None`` without one.
        oversampling: How many times more the first stage finds than is asked for; ``None`` for what suits
            precision and dimensions.
    """

    source: str
    model: str
    embedding_hash: str
    passage_words: int
    precision: str
    dims: int | None
    milvus: str | None
    oversampling: int | None = None

    @property
    def exact(self) -> bool:
        """Whether a search is exhaustive by itself."""
        return self.precision == "float32" and self.dims is None and self.milvus is None

    def searches_as(self, other: Self) -> bool:
        """Whether others find what these do."""
        names = ("precision", "dims", "milvus", "oversampling")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def write(self, catalogue: Catalogue) -> None:
        """Write them down."""
        catalogue.note({_NAME: json.dumps({"format_version": FORMAT_VERSION, **asdict(self)})})

    @classmethod
    def read(cls, catalogue: Catalogue, folder: Path) -> Self | None:
        """Read them; ``None`` from a collection that was not made to its end.

        Raises:
            UserError: If they are of another version or not readable.
        """
        said = catalogue.facts().get(_NAME)
        if said is None:
            return None
        try:
            values = json.loads(said)
            version = values.pop("format_version")
        except (ValueError, AttributeError, KeyError) as error:
            raise UserError(f"{folder}: its settings cannot be read ({error}); index again") from None
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if version != FORMAT_VERSION or not needed <= set(values) <= {field.name for field in fields(cls)}:
            raise UserError(f"{folder}: is of format version {version}, not {FORMAT_VERSION}; index again")
        return cls(**values)
