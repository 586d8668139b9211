"""The M-BEIR release layout (https://huggingface.co/datasets/TIGER-Lab/M-BEIR): reader, and writer.

:mod:`data_modules.formats.mbeir_layout` says how files are named, and nothing else knows it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from data_modules.formats.mbeir_layout import (
    EXPECTED,
    FOLDERS,
    INSTRUCTION_COLUMNS,
    INSTRUCTIONS,
    POOL_FILE,
    QRELS_FILE,
    QUERY_FILE,
    UNION_FILES,
    describe,
    listing,
    named,
)
from data_modules.formats.mbeir_rows import (
    DistinctIds,
    QueryRow,
    Row,
    json_rows,
    parse_candidate,
    parse_id,
    parse_instruction,
    parse_integer,
    parse_judgement,
    parse_query,
    text_lines,
)
from data_modules.formats.mbeir_writer import MBEIRWriter
from data_modules.formats.records import (
    SPLITS,
    CandidateRecord,
    DataError,
    InstructionRecord,
    QueryRecord,
    Source,
    dataset_id,
    id_key,
)
from data_modules.formats.side_files import EXCLUDED, GROUPS, QUERY_LISTS, read_query_lists
from mmretrieval.content import MODALITIES, Modality

__all__ = ["MBEIRReader", "MBEIRWriter", "Mixture", "ModalityOf", "Qrels"]

Mixture = Literal["files", "union"]
ModalityOf = Callable[[str], Modality | None]
"""Modality of a candidate id; ``None`` when no pool has it."""
Qrels = dict[str, dict[str, dict[str, int]]]
"""Task → query id → id of a positive → its grade, at least 1."""


class _QueryFile(NamedTuple):
    path: Path
    dataset: str | None  # None: a union file
    task: int | None


class MBEIRReader:
    """Reads a folder in the M-BEIR release layout row by row, and refuses what it cannot trust.

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
        splits = tuple(split for split in SPLITS if self._files(split) or self._union_file(split))
        if not splits:
            raise DataError(f"{self.root / 'query'}: holds no query file; expected {EXPECTED}")
        return splits

    @cached_property
    def datasets(self) -> dict[str, int]:
        """Name → number of all data sets that query files or instructions name."""
        return {name: number for number, name in sorted(self._dataset_names.items())}

    def tasks(self, split: str) -> tuple[str, ...]:
        """Return the sorted names of a split's dataset-tasks; reads the rows where file names do not tell.

        Raises:
            DataError: If the split has no queries.
        """
        names = set()
        for file in self._query_files(split, "files"):
            if file.dataset is not None and file.task is not None:
                names.add(f"{file.dataset}_task{file.task}")
            else:
                for source, row in json_rows(file.path):
                    task = parse_integer(source, row, "task_id")
                    names.add(f"{self._dataset(file, source, row)}_task{task}")
        return tuple(sorted(names))

    @cached_property
    def instructions(self) -> dict[tuple[int, Modality, Modality], InstructionRecord]:
        """Instructions by data set number, query modality and target modality.

        Raises:
            DataError: If the file is missing or a line of it cannot be used.
        """
        path = self.root / INSTRUCTIONS
        table: dict[tuple[int, Modality, Modality], InstructionRecord] = {}
        lines = text_lines(path)
        _, header = next(lines)
        names = header.rstrip("\r").split("\t")
        if missing := [name for name in INSTRUCTION_COLUMNS if name not in names]:
            raise DataError(f"{path}:1: header lacks the columns {missing}; separate names by tabs")
        for source, line in lines:
            record = parse_instruction(source, dict(zip(names, line.rstrip("\r").split("\t"), strict=False)))
            key = (record.dataset_id, record.query_modality, record.candidate_modality)
            if key in table:
                raise DataError(f"{source}: instructions for {describe(*key)} occur twice; keep one line")
            table[key] = record
        return table

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

    def candidates(self, pool: str) -> Iterator[CandidateRecord]:
        """Yield the candidates of a pool, each once.

        Raises:
            DataError: If the pool is unknown or empty, or a row of it cannot be used.
        """
        return (record for _, record in self.located_candidates(pool))

    def located_candidates(self, pool: str) -> Iterator[tuple[Source, CandidateRecord]]:
        """Like :meth:`candidates`, with the file and line of each."""
        if pool not in self.pools:
            raise DataError(f"{self.root}: has no pool {pool!r}; there are {', '.join(self.pools)}")
        files = self.pools[pool]
        earlier: set[int] = set()  # what other files of a joined pool gave already
        for path in files:
            ids = DistinctIds()
            for source, row in json_rows(path):
                record = parse_candidate(source, row)
                ids.add(source, record.id)
                if not earlier or ids.keys[-1] not in earlier:
                    yield source, record
            ids.check()
            if path != files[-1]:
                earlier.update(ids.keys)

    def queries(
        self, split: str, *, mixture: Mixture = "files", modality_of: ModalityOf | None = None
    ) -> Iterator[QueryRecord]:
        """Yield the queries of a split; where qrels exist for val and test, positives are theirs.

        Args:
            split: ``train``, ``val`` or ``test``.
            mixture: ``"files"`` for one file per data set; ``"union"`` for the released, up-sampled training
                mixture, in which queries occur several times. A split of which only one exists uses that.
            modality_of: The candidates' modalities, when already known; else all pools are read first.

        Raises:
            DataError: If the split is missing or empty, or a row of it cannot be used.
        """
        return (record for _, record in self.located_queries(split, mixture=mixture, modality_of=modality_of))

    def located_queries(
        self, split: str, *, mixture: Mixture = "files", modality_of: ModalityOf | None = None
    ) -> Iterator[tuple[Source, QueryRecord]]:
        """Like :meth:`queries`, with the file and line of each."""
        files = self._query_files(split, mixture)
        modality_of = modality_of or self.modality_of
        qrels = {} if split == "train" else self.qrels(split)
        answered: dict[str, set[str]] = {}
        ids = DistinctIds()
        for file in files:
            for source, row in json_rows(file.path):
                dataset = self._dataset(file, source, row)
                record = self._query(source, parse_query(source, row), dataset, modality_of, qrels)
                if file.task not in (None, record.task_id):
                    raise DataError(
                        f"{source}: task_id is {record.task_id}, the file's name says {file.task}"
                    )
                answered.setdefault(record.task, set()).add(record.id)
                if file.dataset is not None:
                    ids.add(source, record.id)
                yield source, record
        ids.check()
        for task in sorted(answered.keys() & qrels.keys()):
            if extra := qrels[task].keys() - answered[task]:
                raise DataError(
                    f"{self._qrels_files(split)[task]}: judges query {min(extra)!r}, which "
                    f"the queries of {task} lack; remove the line or add the query"
                )

    @cached_property
    def modality_of(self) -> ModalityOf:
        """Modality of any candidate of any pool by its id; the first use reads all pools."""
        keys, codes = array("q"), array("B")
        for path in dict.fromkeys(path for files in self.pools.values() for path in files):
            for source, row in json_rows(path):
                record = parse_candidate(source, row)
                keys.append(id_key(record.id))
                codes.append(record.modality.code)
        ids, first = np.unique(np.asarray(keys, np.int64), return_index=True)
        modalities = np.asarray(codes, np.uint8)[first]

        def modality_of(id_: str) -> Modality | None:
            row = int(np.searchsorted(ids, key := id_key(id_)))
            return MODALITIES[modalities[row]] if row < len(ids) and ids[row] == key else None

        return modality_of

    def qrels(self, split: str) -> Qrels:
        """Return the positives and grades of the tasks of a split that have qrels.

        Raises:
            DataError: If a line is not ``qid 0 did relevance task_id``, or a pair has two grades.
        """
        tables: Qrels = {}
        for task, path in self._qrels_files(split).items():
            table = tables.setdefault(task, {})
            for source, line in text_lines(path):
                query, candidate, grade = parse_judgement(source, line, task)
                positives = table.setdefault(query, {})
                if grade and positives.setdefault(candidate, grade) != grade:
                    raise DataError(
                        f"{source}: {query!r} with {candidate!r} was judged {positives[candidate]} before; "
                        "keep one of the lines"
                    )
        return tables

    def query_files(self, split: str, *, mixture: Mixture = "files") -> list[Path]:
        """Return the files that :meth:`queries` reads.

        Raises:
            DataError: If there are none.
        """
        return [file.path for file in self._query_files(split, mixture)]

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

    def _files(self, split: str) -> list[_QueryFile]:
        files = []
        for path in listing(self.root / "query" / split):
            match = named(QUERY_FILE, path, f"mbeir_<dataset>[_task<t>]_{split}.jsonl", split)
            task = int(match["task"]) if match["task"] else None
            files.append(_QueryFile(path, match["dataset"].lower(), task))
        return files

    def _union_file(self, split: str) -> _QueryFile | None:
        path = self.root / UNION_FILES[split] if split in UNION_FILES else None
        return _QueryFile(path, None, None) if path and path.is_file() else None

    def _query_files(self, split: str, mixture: Mixture) -> list[_QueryFile]:
        if split not in SPLITS:
            raise DataError(f"split {split!r}: unknown; choose one of {', '.join(SPLITS)}")
        files, union = self._files(split), self._union_file(split)
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

    def _qrels_files(self, split: str) -> dict[str, Path]:
        files = {}
        for path in listing(self.root / "qrels" / split, "*.txt"):
            match = named(QRELS_FILE, path, f"mbeir_<dataset>_task<t>_{split}_qrels.txt", split)
            files[f"{match['dataset'].lower()}_task{int(match['task'])}"] = path
        return files

    @cached_property
    def _dataset_names(self) -> dict[int, str]:
        names = {record.dataset_id: record.dataset for record in self.instructions.values()}
        for file in (file for split in SPLITS for file in self._files(split)):
            source, row = next(json_rows(file.path))
            names[dataset_id(parse_id(source, row, "qid"))] = str(file.dataset)
        return names

    def _dataset(self, file: _QueryFile, source: Source, row: Row) -> str:
        if file.dataset is not None:
            return file.dataset
        number = dataset_id(parse_id(source, row, "qid"))
        if number not in self._dataset_names:
            raise DataError(f"{source}: data set {number} has no name; add it to {self.root / INSTRUCTIONS}")
        return self._dataset_names[number]

    def _query(
        self, source: Source, row: QueryRow, dataset: str, modality_of: ModalityOf, qrels: Qrels
    ) -> QueryRecord:
        positives = row.positives
        grades: tuple[int, ...] = ()
        if (judged := qrels.get(f"{dataset}_task{row.task_id}")) is not None:
            graded = judged.get(row.id, {})
            positives = tuple(graded)
            grades = tuple(graded.values()) if {*graded.values()} != {1} else ()
            if not positives:
                raise DataError(
                    f"{source}: query {row.id!r} has no positive in the task's qrels; add a line for it"
                )
        elif not positives:
            raise DataError(
                f"{source}: query {row.id!r} has an empty pos_cand_list; add a positive or remove it"
            )
        lists = {"positive": positives, "negative": row.negatives}
        lists |= {f"line of {name},": table.get(row.id, ()) for name, table in self.query_lists.items()}
        for role, candidate in ((role, candidate) for role, own in lists.items() for candidate in own):
            if modality_of(candidate) is None:
                raise DataError(
                    f"{source}: {role} {candidate!r} of query {row.id!r} is in no pool; add it to "
                    f"{self.root / 'cand_pool'} or remove it from the query"
                )
        target = modality_of(positives[0])
        assert target is not None
        key = (dataset_id(row.id), row.modality, target)
        if key not in self.instructions:
            raise DataError(
                f"{self.root / INSTRUCTIONS}: no instruction for {describe(*key, dataset)}, "
                f"needed by query {row.id!r} ({source}); add a line for it"
            )
        prompts = self.instructions[key].prompts
        return QueryRecord(
            row.id,
            row.text,
            row.image,
            row.modality,
            positives,
            row.negatives,
            dataset,
            row.task_id,
            prompts,
            grades,
            self.query_lists[GROUPS].get(row.id, ()),
            self.query_lists[EXCLUDED].get(row.id, ()),
        )

    @cached_property
    def query_lists(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """File beside the layout → query id → candidates that it lists for the query.

        Raises:
            DataError: If a row of such a file cannot be used.
        """
        return {name: read_query_lists(self.root, name) for name in QUERY_LISTS}
