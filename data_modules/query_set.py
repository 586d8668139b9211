"""The queries of a split of a packed data set, by row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from data_modules.formats.records import DataError, QueryRecord, dataset_id
from data_modules.shards import Codes, Column, Ints, ShardTable
from mmretrieval.content import MODALITIES, Content, Modality, Query

if TYPE_CHECKING:
    from data_modules.corpus import PackedCorpus


class QuerySet:
    """The queries of one split, by row.

    Args:
        corpus: The packed data set.
        split: One of its splits.

    Raises:
        DataError: If the split has no queries.
    """

    def __init__(self, corpus: PackedCorpus, split: str) -> None:
        if split not in corpus.splits:
            raise DataError(
                f"{corpus.root}: has no queries of split {split!r}; there are {', '.join(corpus.splits)}"
            )
        self.corpus = corpus
        self.split = split
        self.tasks: tuple[str, ...] = tuple(corpus.manifest["tasks"][split])

    def __getstate__(self) -> dict[str, Any]:
        return {"corpus": self.corpus, "split": self.split, "tasks": self.tasks}

    def __len__(self) -> int:
        return len(self._table)

    @cached_property
    def ids(self) -> npt.NDArray[np.str_]:
        """Ids of all queries, ``(N,)``."""
        return self._table.ids.astype(str)

    @cached_property
    def task_of(self) -> npt.NDArray[np.int32]:
        """Position in :attr:`tasks` of each query's task, ``(N,)``."""
        return self._table.column("task", np.int32)

    @property
    def task_sources(self) -> tuple[str, ...]:
        """What each of :attr:`tasks` is from, as "text", where kinds of data are joined; else empty."""
        return ("",) * len(self.tasks)

    @cached_property
    def modalities(self) -> Codes:
        """Modality codes of the queries, ``(N,)``."""
        return self._table.column("modality", np.uint8)

    @cached_property
    def target_modality(self) -> Codes:
        """Modality code of each query's first positive, ``(N,)``."""
        return self._table.column("target", np.uint8)

    @cached_property
    def keys(self) -> Ints:
        """Content keys of the queries, ``(N,)``, comparable with the candidates' keys."""
        return self._table.column("key", np.int64)

    @cached_property
    def own_text_keys(self) -> Ints:
        """Content key of each query that is text, asks for text and is a candidate too, else 0, ``(N,)``."""
        text = Modality.TEXT.code
        asks_for_text = (self.modalities == text) & (self.target_modality == text)
        there = asks_for_text & np.isin(self.keys, self.corpus.candidate_keys)
        return np.where(there, self.keys, 0)

    @cached_property
    def copies(self) -> npt.NDArray[np.int32]:
        """How often each query stands in the source, ``(N,)``: once except in an up-sampled mixture."""
        return self._array("copies")

    @property
    def sizes(self) -> Ints:
        """Bytes of the queries' records, ``(N,)``: how long their texts are, without reading them."""
        return self._table.sizes

    def instructions(self, row: int) -> tuple[str, ...]:
        """Return the instructions that a query can be asked with, without reading its record."""
        modality, target = MODALITIES[self.modalities[row]], MODALITIES[self.target_modality[row]]
        return self.corpus.prompts[dataset_id(str(self.ids[row])), modality, target]

    def positives(self, row: int) -> Ints:
        """Return the candidate rows of a query's known positives."""
        return self._positives[self._starts[row] : self._starts[row + 1]]

    def negatives(self, row: int) -> Ints:
        """Return the candidate rows that the data set itself gives as a query's negatives.

        Raises:
            DataError: If a shard is damaged.
        """
        given = json.loads(self._table.read(row))["negatives"]
        return np.array([self.corpus.candidate_row(id_) for id_ in given], np.int64)

    def grades(self, row: int) -> Ints:
        """Return how relevant each of :meth:`positives` is, at least 1."""
        place = slice(int(self._starts[row]), int(self._starts[row + 1]))
        if self._grades is None:
            return np.ones(place.stop - place.start, np.int64)
        return self._grades[place].astype(np.int64)

    def listed(self, name: Literal["group", "excluded"], row: int) -> Ints:
        """Return the candidate rows of a query's group, or of what is left out of its ranking.

        Args:
            name: ``group``: what a subset measure ranks among; ``excluded``: what the benchmark's own
                evaluation leaves out.
            row: Of the query.
        """
        if not self.lists(name):
            return np.empty(0, np.int64)
        rows, starts = self._listed[name]
        return rows[starts[row] : starts[row + 1]]

    def lists(self, name: Literal["group", "excluded"]) -> bool:
        """Whether any query of the split has such a list."""
        return self._has(name)

    def record(self, row: int) -> QueryRecord:
        """Read a query without its image.

        Raises:
            DataError: If a shard is damaged.
        """
        fields = json.loads(self._table.read(row))
        return QueryRecord(
            id=fields["id"],
            text=fields["text"],
            image=fields["image"],
            modality=Modality(fields["modality"]),
            positives=tuple(fields["positives"]),
            negatives=tuple(fields["negatives"]),
            dataset=fields["dataset"],
            task_id=fields["task_id"],
            instructions=tuple(self.corpus.manifest["instructions"][fields["instruction"]]["prompts"]),
            grades=self._uneven_grades(row),
            group=tuple(self.corpus.candidate_id(int(member)) for member in self.listed("group", row)),
            excluded=tuple(self.corpus.candidate_id(int(other)) for other in self.listed("excluded", row)),
        )

    def content(self, row: int) -> Content:
        """Read a query's text and decode its image.

        Raises:
            DataError: If a shard is damaged.
        """
        return self._content(row, json.loads(self._table.read(row)))

    def query(self, row: int, instruction: str | None) -> Query:
        """Read a query, to be asked with ``instruction``.

        Raises:
            DataError: If a shard is damaged.
        """
        return Query(self.content(row), instruction)

    def asked(self, row: int, instruction: int) -> Query:
        """Read a query, to be asked with the instruction at a position in :meth:`instructions`.

        Raises:
            DataError: If a shard is damaged.
        """
        fields = json.loads(self._table.read(row))
        prompts = self.corpus.manifest["instructions"][fields["instruction"]]["prompts"]
        return Query(self._content(row, fields), prompts[instruction])

    def local_pool(self, task: str) -> str | None:
        """Return the name of a task's own pool, or ``None`` if the data set has none for it."""
        names = (f"local_{task}_{self.split}", f"local_{task}")
        return next((name for name in names if name in self.corpus.pools), None)

    @cached_property
    def _table(self) -> ShardTable:
        return self.corpus.table(f"queries/{self.split}")

    @cached_property
    def images(self) -> Ints:
        """Row of each query's picture, as :attr:`PackedCorpus.candidate_images`, ``(N,)``."""
        return self._table.column("image", np.int64)

    @cached_property
    def _starts(self) -> Ints:
        return self._array("positive_starts")

    @cached_property
    def _positives(self) -> Ints:
        return self._array("positives")

    def _content(self, row: int, fields: Mapping[str, Any]) -> Content:
        image = self.corpus.image(int(self.images[row]))
        return Content(fields["text"], image, self.corpus.max_text_tokens)

    def _uneven_grades(self, row: int) -> tuple[int, ...]:
        grades = tuple(self.grades(row).tolist())
        return grades if {*grades} != {1} else ()

    @cached_property
    def _grades(self) -> Column | None:
        return self._array("grades") if self._has("grades") else None

    @cached_property
    def _listed(self) -> dict[str, tuple[Ints, Ints]]:
        there = [name for name in ("group", "excluded") if self._has(name)]
        return {name: (self._array(name), self._array(f"{name}_starts")) for name in there}

    def _has(self, name: str) -> bool:
        return f"queries/{self.split}/{name}.npy" in self.corpus.manifest["arrays"]

    def _array(self, name: str) -> Column:
        return self.corpus.array(f"queries/{self.split}/{name}.npy")
