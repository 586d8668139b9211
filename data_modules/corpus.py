"""Random access to a packed data set: candidates, queries, pools, and their images.

A packed folder (see :mod:`data_modules.packing`) is opened in no time and read through memory maps, so that
each data-loading worker can have its own :class:`PackedCorpus` and millions of rows cost a few arrays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_modules.formats.records import CandidateRecord, DataError, id_key, key_id
from data_modules.manifest import read_manifest
from data_modules.query_set import QuerySet
from data_modules.shards import Codes, Column, Ints, ShardTable
from mmretrieval.content import Candidate, Content, Modality
from mmretrieval.image_bytes import decode_image


class PackedCorpus:
    """A packed data set. Copies sent to other processes open the files anew there.

    Args:
        root: The packed folder.
        max_text_tokens: Where texts are cut; the encoder's own limit by default.

    Raises:
        DataError: If ``root`` is no packed folder.
        ValueError: If the limit is below 1.
    """

    _latest: tuple[int, Image.Image] | None = None  # neighbours in a batch often show the same picture

    def __init__(self, root: Path, max_text_tokens: int | None = None) -> None:
        if max_text_tokens is not None and max_text_tokens < 1:
            raise ValueError(f"max_text_tokens must be at least 1, found {max_text_tokens}.")
        self.root, self.max_text_tokens = root, max_text_tokens
        self.manifest = read_manifest(root)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "max_text_tokens": self.max_text_tokens}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.root, self.max_text_tokens = state["root"], state["max_text_tokens"]
        self.manifest = read_manifest(self.root)

    def __len__(self) -> int:
        """Return the number of candidates."""
        return len(self._candidates)

    @property
    def text_limits(self) -> str | None:
        """Where texts are cut, in words; ``None`` where the encoder decides."""
        return None if self.max_text_tokens is None else str(self.max_text_tokens)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have queries."""
        return tuple(self.manifest["tasks"])

    @cached_property
    def candidate_ids(self) -> npt.NDArray[np.bytes_]:
        """Ids of all candidates as ASCII bytes, ``(N,)``; see also :meth:`candidate_id`."""
        return self._candidates.ids

    @cached_property
    def candidate_modalities(self) -> Codes:
        """Modality codes of all candidates, ``(N,)``."""
        return self._candidates.column("modality", np.uint8)

    @cached_property
    def candidate_keys(self) -> Ints:
        """Content keys of all candidates, ``(N,)``: equal iff text and image bytes are; never 0."""
        return self._candidates.column("key", np.int64)

    @property
    def candidate_sizes(self) -> Ints:
        """Bytes of all candidates' records, ``(N,)``: how long their texts are, without reading them."""
        return self._candidates.sizes

    @cached_property
    def prompts(self) -> Mapping[tuple[int | str, ...], tuple[str, ...]]:
        """Instructions by data set number, query modality and target modality."""
        names = "dataset_id", "query_modality", "candidate_modality"
        return {tuple(e[n] for n in names): tuple(e["prompts"]) for e in self.manifest["instructions"]}

    @cached_property
    def pools(self) -> Mapping[str, Ints]:
        """Rows of each pool's candidates, in the order of its file."""
        return {name: self.array(f"pools/{name}.npy") for name in self.manifest["counts"]["candidates"]}

    def pool_digest(self, name: str) -> str:
        """Return a hex digest of a pool's rows, to recognise files computed from it.

        Raises:
            DataError: If there is no such pool.
        """
        entry = self.manifest["arrays"].get(f"pools/{name}.npy")
        if entry is None:
            raise DataError(f"{self.root}: has no pool {name!r}; there are {', '.join(self.pools)}")
        tables = [shard["index"] for shard in self.manifest["shards"]["candidates"]]
        return blake2b("\n".join([entry["digest"], *tables]).encode(), digest_size=16).hexdigest()

    def candidate_id(self, row: int) -> str:
        """Return the id of the candidate at ``row``."""
        return key_id(int(self._numbers[row]))

    def candidate_row(self, id_: str) -> int:
        """Return the row of a candidate.

        Raises:
            DataError: If there is no such candidate.
        """
        if not self.has_candidate(id_):
            raise DataError(f"{self.root}: has no candidate {id_!r}; pack the data set that has it")
        ids, rows = self._lookup
        return int(rows[np.searchsorted(ids, id_key(id_))])

    def has_candidate(self, id_: str) -> bool:
        """Return whether there is a candidate of an id."""
        ids, _ = self._lookup
        place = int(np.searchsorted(ids, key := id_key(id_)))
        return place < len(ids) and bool(ids[place] == key)

    def candidate(self, row: int) -> Candidate:
        """Read a candidate and decode its image.

        Raises:
            DataError: If a shard is damaged.
        """
        text = self.candidate_record(row).text
        image = self.image(int(self.candidate_images[row]))
        return Candidate(Content(text, image, self.max_text_tokens))

    def candidate_record(self, row: int) -> CandidateRecord:
        """Read a candidate without its image.

        Raises:
            DataError: If a shard is damaged.
        """
        fields = json.loads(self._candidates.read(row))
        return CandidateRecord(fields["id"], fields["text"], fields["image"], Modality(fields["modality"]))

    def image(self, row: int) -> Image.Image | None:
        """Decode the image at a row of the image table; ``None`` for row -1.

        Raises:
            DataError: If a shard is damaged.
        """
        if row < 0:
            return None
        latest = self._latest
        if latest is None or latest[0] != row:
            latest = self._latest = (row, decode_image(self._images.read(row)))
        return latest[1].copy()  # the caller may change it

    def queries(self, split: str) -> QuerySet:
        """Return the queries of a split.

        Raises:
            DataError: If the split has none.
        """
        return QuerySet(self, split)

    def table(self, name: str) -> ShardTable:
        """Open the shards under ``candidates``, ``images`` or ``queries/<split>``."""
        return ShardTable(self.root / name, [shard["name"] for shard in self.manifest["shards"][name]])

    def array(self, name: str) -> Column:
        """Map an array file of the packed folder.

        Raises:
            DataError: If the file is missing or damaged.
        """
        path = self.root / name
        try:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: cannot be read ({error}); pack the data again") from None

    @cached_property
    def _candidates(self) -> ShardTable:
        return self.table("candidates")

    @cached_property
    def _images(self) -> ShardTable:
        return self.table("images")

    @cached_property
    def _numbers(self) -> Ints:
        return self._candidates.column("id", np.int64)

    @cached_property
    def candidate_images(self) -> Ints:
        """Row of each candidate's picture, the same iff their bytes are equal; -1 without one, ``(N,)``."""
        return self._candidates.column("image", np.int64)

    @cached_property
    def _lookup(self) -> tuple[Ints, Ints]:
        rows = np.argsort(self._numbers, kind="stable")
        return self._numbers[rows], rows
