"""Several packed data sets as one, without packing anything again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import chain
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from typing_extensions import override

from data_modules.corpus import PackedCorpus
from data_modules.formats.records import CandidateRecord, DataError, QueryRecord
from data_modules.query_set import QuerySet
from data_modules.shards import Codes
from mmretrieval.content import Candidate, Content, Query

Ints = npt.NDArray[np.int64]
TRAIN: Final = "train"
TRAIN_POOL: Final = "global_train"


class JoinedCorpus(PackedCorpus):
    """Packed data sets that are trained on together; rows of the second follow those of the first, and so on.

    The split ``train`` and the pool ``global_train`` are those of all parts. Other splits and pools are the
    first part's alone, with the same rows, so that its evaluation is that of the part by itself.

    Args:
        parts: Packed data sets; the first one counts in evaluation.
        sources: What to call each part's kind of data, as "text"; nothing by default.

    Raises:
        DataError: If there is none, or two of them share a data set's name or number, or one has no
            ``train`` split or no ``global_train``.
    """

    def __init__(self, parts: Sequence[PackedCorpus], sources: Sequence[str] = ()) -> None:
        if not parts:
            raise DataError("no data are given to train on; give at least one folder")
        self.parts, self.sources = tuple(parts), tuple(sources) or ("",) * len(parts)
        self.root = self.parts[0].root
        self.max_text_tokens = None  # each part has its own
        for part in self.parts:
            if TRAIN not in part.splits or TRAIN_POOL not in part.pools:
                raise DataError(
                    f"{part.root}: has no queries of split 'train', or no pool 'global_train'; there are "
                    f"{', '.join(part.splits)} and {', '.join(part.pools)}"
                )
        _refuse_shared(self.parts)
        self.manifest = _joined_manifest(self.parts)

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self.parts, "sources": self.sources}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["parts"], state["sources"])  # type: ignore[misc] # opens nothing

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def starts(self) -> Ints:
        """Row of each part's first candidate, and the number of all, ``(P + 1,)``."""
        return _starts([len(part) for part in self.parts])

    @cached_property
    def image_starts(self) -> Ints:
        """Row of each part's first picture, and the number of all, ``(P + 1,)``."""
        return _starts([part.manifest["counts"]["images"] for part in self.parts])

    @property
    @override
    def text_limits(self) -> str | None:
        limits = [part.text_limits for part in self.parts]
        return None if limits == [None] * len(limits) else str(limits)

    @property
    @override
    def splits(self) -> tuple[str, ...]:
        return self.parts[0].splits

    @cached_property
    @override
    def candidate_ids(self) -> npt.NDArray[np.bytes_]:
        return np.concatenate([part.candidate_ids for part in self.parts])

    @cached_property
    @override
    def candidate_modalities(self) -> Codes:
        return np.concatenate([part.candidate_modalities for part in self.parts])

    @cached_property
    @override
    def candidate_keys(self) -> Ints:
        return np.concatenate([part.candidate_keys for part in self.parts])

    @property
    @override
    def candidate_sizes(self) -> Ints:
        return np.concatenate([part.candidate_sizes for part in self.parts])

    @cached_property
    @override
    def candidate_images(self) -> Ints:
        return _shifted([part.candidate_images for part in self.parts], self.image_starts)

    @cached_property
    @override
    def prompts(self) -> Mapping[tuple[int | str, ...], tuple[str, ...]]:
        return {key: own for part in self.parts for key, own in part.prompts.items()}

    @cached_property
    @override
    def pools(self) -> Mapping[str, Ints]:
        pools = zip(self.parts, self.starts, strict=False)
        return {
            **self.parts[0].pools,
            TRAIN_POOL: np.concatenate([part.pools[TRAIN_POOL] + start for part, start in pools]),
        }

    @override
    def pool_digest(self, name: str) -> str:
        if name != TRAIN_POOL:
            return self.parts[0].pool_digest(name)
        return _digest(part.pool_digest(name) for part in self.parts)

    @override
    def candidate_id(self, row: int) -> str:
        part, own = self._place(row)
        return self.parts[part].candidate_id(own)

    @override
    def candidate_row(self, id_: str) -> int:
        for part, start in zip(self.parts, self.starts.tolist(), strict=False):
            if part.has_candidate(id_):
                return int(start + part.candidate_row(id_))
        return self.parts[0].candidate_row(id_)  # says that there is none

    @override
    def has_candidate(self, id_: str) -> bool:
        return any(part.has_candidate(id_) for part in self.parts)

    @override
    def candidate(self, row: int) -> Candidate:
        part, own = self._place(row)
        return self.parts[part].candidate(own)

    @override
    def candidate_record(self, row: int) -> CandidateRecord:
        part, own = self._place(row)
        return self.parts[part].candidate_record(own)

    @override
    def image(self, row: int) -> Image.Image | None:
        if row < 0:
            return None
        part = int(np.searchsorted(self.image_starts, row, side="right")) - 1
        return self.parts[part].image(row - int(self.image_starts[part]))

    @override
    def queries(self, split: str) -> QuerySet:
        return JoinedQueries(self) if split == TRAIN else self.parts[0].queries(split)

    def _place(self, row: int) -> tuple[int, int]:
        return _place(self.starts, row)


class JoinedQueries(QuerySet):
    """The training queries of all parts; see :class:`~data_modules.query_set.QuerySet`.

    Args:
        corpus: The joined data sets.
    """

    corpus: JoinedCorpus

    def __init__(self, corpus: JoinedCorpus) -> None:
        self.corpus, self.split = corpus, TRAIN
        self.parts = [part.queries(TRAIN) for part in corpus.parts]
        self.tasks = tuple(chain.from_iterable(part.tasks for part in self.parts))

    def __getstate__(self) -> dict[str, Any]:
        return {"corpus": self.corpus}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["corpus"])  # type: ignore[misc] # opens nothing

    def __len__(self) -> int:
        return int(self._offsets[-1])

    @cached_property
    def _offsets(self) -> Ints:
        return _starts([len(part) for part in self.parts])

    @cached_property
    def part_of_task(self) -> tuple[int, ...]:
        """Which part each task is from."""
        return tuple(number for number, part in enumerate(self.parts) for _ in part.tasks)

    @property
    @override
    def task_sources(self) -> tuple[str, ...]:
        return tuple(self.corpus.sources[part] for part in self.part_of_task)

    @cached_property
    @override
    def ids(self) -> npt.NDArray[np.str_]:
        return np.concatenate([part.ids for part in self.parts])

    @cached_property
    @override
    def task_of(self) -> npt.NDArray[np.int32]:
        firsts = _starts([len(part.tasks) for part in self.parts]).tolist()
        moved = [part.task_of + first for part, first in zip(self.parts, firsts, strict=False)]
        return np.concatenate(moved).astype(np.int32)

    @cached_property
    @override
    def modalities(self) -> Codes:
        return np.concatenate([part.modalities for part in self.parts])

    @cached_property
    @override
    def target_modality(self) -> Codes:
        return np.concatenate([part.target_modality for part in self.parts])

    @cached_property
    @override
    def keys(self) -> Ints:
        return np.concatenate([part.keys for part in self.parts])

    @cached_property
    @override
    def copies(self) -> npt.NDArray[np.int32]:
        return np.concatenate([part.copies for part in self.parts])

    @property
    @override
    def sizes(self) -> Ints:
        return np.concatenate([part.sizes for part in self.parts])

    @cached_property
    @override
    def images(self) -> Ints:
        return _shifted([part.images for part in self.parts], self.corpus.image_starts)

    @override
    def instructions(self, row: int) -> tuple[str, ...]:
        part, own = self._place(row)
        return self.parts[part].instructions(own)

    @override
    def positives(self, row: int) -> Ints:
        part, own = self._place(row)
        return np.asarray(self.parts[part].positives(own) + self.corpus.starts[part], np.int64)

    @override
    def negatives(self, row: int) -> Ints:
        part, own = self._place(row)
        return np.asarray(self.parts[part].negatives(own) + self.corpus.starts[part], np.int64)

    @override
    def grades(self, row: int) -> Ints:
        part, own = self._place(row)
        return self.parts[part].grades(own)

    @override
    def listed(self, name: Literal["group", "excluded"], row: int) -> Ints:
        part, own = self._place(row)
        return np.asarray(self.parts[part].listed(name, own) + self.corpus.starts[part], np.int64)

    @override
    def lists(self, name: Literal["group", "excluded"]) -> bool:
        return any(part.lists(name) for part in self.parts)

    @override
    def record(self, row: int) -> QueryRecord:
        part, own = self._place(row)
        return self.parts[part].record(own)

    @override
    def content(self, row: int) -> Content:
        part, own = self._place(row)
        return self.parts[part].content(own)

    @override
    def query(self, row: int, instruction: str | None) -> Query:
        part, own = self._place(row)
        return self.parts[part].query(own, instruction)

    @override
    def asked(self, row: int, instruction: int) -> Query:
        part, own = self._place(row)
        return self.parts[part].asked(own, instruction)

    @override
    def local_pool(self, task: str) -> str | None:
        return self.parts[0].local_pool(task)

    def _place(self, row: int) -> tuple[int, int]:
        return _place(self._offsets, row)


def _place(starts: Ints, row: int) -> tuple[int, int]:
    """The part that has a row, and the row in it."""
    part = int(np.searchsorted(starts, row, side="right")) - 1
    if not 0 <= row < starts[-1]:
        raise IndexError(f"row {row} of {starts[-1]}")
    return part, row - int(starts[part])


def _starts(sizes: Sequence[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _shifted(tables: Sequence[Ints], starts: Ints) -> Ints:
    """Rows of pictures in all parts; -1 stays where there is none."""
    moved = [np.where(own < 0, -1, own + start) for own, start in zip(tables, starts, strict=False)]
    return np.concatenate(moved).astype(np.int64)


def _refuse_shared(parts: Sequence[PackedCorpus]) -> None:
    owners: dict[str, PackedCorpus] = {}
    for part in parts:
        names = {f"number {entry['dataset_id']}" for entry in part.manifest["instructions"]}
        names |= {f"task {task}" for tasks in part.manifest["tasks"].values() for task in tasks}
        for name in sorted(names):
            if owners.setdefault(name, part) is not part:
                raise DataError(
                    f"{part.root}: {name} of a data set is also in {owners[name].root}; convert one of them "
                    "again with another name and number"
                )


def _joined_manifest(parts: Sequence[PackedCorpus]) -> dict[str, Any]:
    """What digests and summaries read."""
    manifests = [part.manifest for part in parts]
    first = manifests[0]
    names = dict.fromkeys(chain.from_iterable(manifest["arrays"] for manifest in manifests))
    return {
        **first,
        "instructions": [entry for manifest in manifests for entry in manifest["instructions"]],
        "shards": {
            name: [shard for manifest in manifests for shard in manifest["shards"].get(name, [])]
            for name in dict.fromkeys(chain.from_iterable(manifest["shards"] for manifest in manifests))
        },
        "arrays": {
            name: {"digest": _digest(json.dumps(manifest["arrays"].get(name)) for manifest in manifests)}
            for name in names
        },
        "tasks": {**first["tasks"], TRAIN: [t for manifest in manifests for t in manifest["tasks"][TRAIN]]},
    }


def _digest(parts: Any) -> str:  # noqa: ANN401 - any iterable of texts
    return blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
