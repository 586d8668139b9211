"""A folder in the M-BEIR release layout: which files it has."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from data_modules.formats.mbeir_layout import (
    EXPECTED,
    FOLDERS,
    POOL_FILE,
    QRELS_FILE,
    QUERY_FILE,
    UNION_FILES,
    listing,
    named,
)
from data_modules.formats.records import SPLITS, DataError
from data_modules.formats.side_files import QUERY_LISTS

Mixture = Literal["files", "union"]


class QueryFile(NamedTuple):
    """A file of queries.

    Args:
        path: Where it is.
        dataset: The data set that its name says; ``None``: a union file.
        task: The task that its name says.
    """

    path: Path
    dataset: str | None
    task: int | None


class MBEIRFolder:
    """A folder in the M-BEIR release layout.

    Args:
        root: The folder that holds ``query/``, ``cand_pool/`` and ``instructions/``.

    Raises:
        DataError: If ``root`` is missing or does not look like the layout.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; give the folder that holds {EXPECTED}")
        missing = [name for name in ("query", "cand_pool") if not (root / name).is_dir()]
        if missing:
            raise DataError(
                f"{root}: is not in the M-BEIR layout, {' and '.join(missing)} missing; expected {EXPECTED}"
            )
        self.root = root

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """The splits that have queries, in the order train, val, test.

        Raises:
            DataError: If there is no query file at all.
        """
        splits = tuple(split for split in SPLITS if self.named_files(split) or self._union_file(split))
        if not splits:
            raise DataError(f"{self.root / 'query'}: holds no query file; expected {EXPECTED}")
        return splits

    @cached_property
    def pools(self) -> dict[str, tuple[Path, ...]]:
        """The files of each pool by its name; local pools of the split replace a missing global file.

        Raises:
            DataError: If a split with queries has no candidates.
        """
        local = {}
        for path in listing(self.root / "cand_pool/local"):
            match = named(POOL_FILE, path, "mbeir_<dataset>_task<t>_cand_pool.jsonl")
            name = f"local_{match['dataset'].lower()}_task{int(match['task'])}"
            local[f"{name}_{match['split']}" if match["split"] else name] = (path, match["split"])
        pools: dict[str, tuple[Path, ...]] = {}
        for split in SPLITS:
            path = self.root / f"cand_pool/global/mbeir_union_{split}_cand_pool.jsonl"
            parts = tuple(part for part, of in local.values() if of in (None, split))
            if path.is_file():
                pools[f"global_{split}"] = (path,)
            elif split in self.splits and parts:
                pools[f"global_{split}"] = parts
            elif split in self.splits:
                raise DataError(
                    f"{path}: missing, and no local pools replace it; add the candidates of the split"
                )
        return pools | {name: (path,) for name, (path, _) in local.items()}

    def query_files(self, split: str, *, mixture: Mixture = "files") -> list[Path]:
        """Return the paths of :meth:`listed`.

        Raises:
            DataError: If there are none.
        """
        return [file.path for file in self.listed(split, mixture)]

    def source_files(self) -> list[Path]:
        """Return the sorted paths of all rows, judgements and instructions, without images."""
        beside = (self.root / name for name in QUERY_LISTS)
        rows = (path for name in FOLDERS for path in (self.root / name).rglob("*"))
        return sorted(path for path in (*beside, *rows) if path.is_file())

    def image_files(self) -> Iterator[Path]:
        """Yield the files of all other folders, which hold the images."""
        for folder in sorted(self.root.iterdir()):
            if folder.is_dir() and folder.name not in FOLDERS:
                yield from (path for path in folder.rglob("*") if path.is_file())

    def named_files(self, split: str) -> list[QueryFile]:
        """Return the query files of a split whose names say a data set.

        Raises:
            DataError: If a file's name says none.
        """
        files = []
        for path in listing(self.root / "query" / split):
            match = named(QUERY_FILE, path, f"mbeir_<dataset>[_task<t>]_{split}.jsonl", split)
            task = int(match["task"]) if match["task"] else None
            files.append(QueryFile(path, match["dataset"].lower(), task))
        return files

    def _union_file(self, split: str) -> QueryFile | None:
        path = self.root / UNION_FILES[split] if split in UNION_FILES else None
        return QueryFile(path, None, None) if path and path.is_file() else None

    def listed(self, split: str, mixture: Mixture = "files") -> list[QueryFile]:
        """Return the query files of a split: those of single data sets, or the union.

        Raises:
            DataError: If there are none.
        """
        if split not in SPLITS:
            raise DataError(f"split {split!r}: unknown; choose one of {', '.join(SPLITS)}")
        files, union = self.named_files(split), self._union_file(split)
        if mixture == "union" and union is None:
            raise DataError(f"{self.root}: the {split} split has no union file; use mixture='files'")
        if union is not None and (mixture == "union" or not files):
            return [union]
        if not files:
            raise DataError(
                f"{self.root / 'query' / split}: the {split} split is empty; "
                f"add mbeir_<dataset>_…_{split}.jsonl or use one of {', '.join(self.splits)}"
            )
        return files

    def qrels_files(self, split: str) -> dict[str, Path]:
        """Return the qrels of a split by task.

        Raises:
            DataError: If a file's name says no task.
        """
        files = {}
        for path in listing(self.root / "qrels" / split, "*.txt"):
            match = named(QRELS_FILE, path, f"mbeir_<dataset>_task<t>_{split}_qrels.txt", split)
            files[f"{match['dataset'].lower()}_task{int(match['task'])}"] = path
        return files
