"""The M-BEIR release layout (https://huggingface.co/datasets/TIGER-Lab/M-BEIR): its reader.

:mod:`data_modules.formats.mbeir_layout` says how files are named, and nothing else knows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from data_modules.formats.mbeir_folder import MBEIRFolder, Mixture, QueryFile
from data_modules.formats.mbeir_instructions import Instructions, read_instructions
from data_modules.formats.mbeir_layout import INSTRUCTIONS, describe
from data_modules.formats.mbeir_modalities import ModalityOf, read_modalities
from data_modules.formats.mbeir_qrels import Qrels, read_qrels
from data_modules.formats.mbeir_rows import (
    DistinctIds,
    QueryRow,
    Row,
    json_rows,
    parse_candidate,
    parse_id,
    parse_integer,
    parse_query,
)
from data_modules.formats.records import SPLITS, CandidateRecord, DataError, QueryRecord, Source, dataset_id
from data_modules.formats.side_files import EXCLUDED, GROUPS, QUERY_LISTS, read_query_lists


class MBEIRReader(MBEIRFolder):
    """Reads a folder in the M-BEIR release layout row by row, and refuses what it cannot trust.

    Args:
        root: The folder that holds ``query/``, ``cand_pool/`` and ``instructions/``.

    Raises:
        DataError: If ``root`` is missing or does not look like the layout.
    """

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
        for file in self.listed(split, "files"):
            if file.dataset is not None and file.task is not None:
                names.add(f"{file.dataset}_task{file.task}")
            else:
                for source, row in json_rows(file.path):
                    task = parse_integer(source, row, "task_id")
                    names.add(f"{self._dataset(file, source, row)}_task{task}")
        return tuple(sorted(names))

    @cached_property
    def instructions(self) -> Instructions:
        """Instructions by data set number, query modality and target modality.

        Raises:
            DataError: If the file is missing or a line of it cannot be used.
        """
        return read_instructions(self.root / INSTRUCTIONS)

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
        files = self.listed(split, mixture)
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
                    f"{self.qrels_files(split)[task]}: judges query {min(extra)!r}, which "
                    f"the queries of {task} lack; remove the line or add the query"
                )

    @cached_property
    def modality_of(self) -> ModalityOf:
        """Modality of any candidate of any pool by its id; the first use reads all pools."""
        return read_modalities(dict.fromkeys(path for files in self.pools.values() for path in files))

    def qrels(self, split: str) -> Qrels:
        """Return the positives and grades of the tasks of a split that have qrels.

        Raises:
            DataError: If a line is not ``qid 0 did relevance task_id``, or a pair has two grades.
        """
        return read_qrels(self.qrels_files(split))

    @cached_property
    def _dataset_names(self) -> dict[int, str]:
        names = {record.dataset_id: record.dataset for record in self.instructions.values()}
        for file in (file for split in SPLITS for file in self.named_files(split)):
            source, row = next(json_rows(file.path))
            names[dataset_id(parse_id(source, row, "qid"))] = str(file.dataset)
        return names

    def _dataset(self, file: QueryFile, source: Source, row: Row) -> str:
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
