"""Writes the M-BEIR release layout; see :mod:`data_modules.formats.mbeir_layout`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO, Self

from data_modules.atomic import staged_directory
from data_modules.formats.mbeir_layout import (
    DATASET_NAME,
    FOLDERS,
    INSTRUCTION_COLUMNS,
    INSTRUCTIONS,
    POOL_NAME,
    UNION_FILES,
)
from data_modules.formats.mbeir_rows import (
    Row,
    candidate_row,
    check_image_path,
    parse_candidate,
    parse_judgement,
    parse_query,
    query_row,
)
from data_modules.formats.records import SPLITS, CandidateRecord, DataError, InstructionRecord, QueryRecord


class MBEIRWriter:
    """Writes a folder in the M-BEIR release layout; it appears when the ``with`` block ends without an error.

    Args:
        root: The folder to create; it may exist only as an empty folder.

    Raises:
        DataError: If ``root`` is occupied, or a record could not be read back.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open = ExitStack()
        self._streams: dict[str, BinaryIO] = {}

    def __enter__(self) -> Self:
        self._stage = self._open.enter_context(staged_directory(self.root))
        for name in ("query", "cand_pool"):
            (self._stage / name).mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def write_instructions(self, records: Iterable[InstructionRecord]) -> None:
        """Write the instructions of all data sets."""
        rows = list(records)
        width = max((len(row.prompts) for row in rows), default=0)
        lines = [[*INSTRUCTION_COLUMNS, *(f"prompt_{n + 1}" for n in range(width))]]
        for row in rows:
            prompts = [prompt.strip() for prompt in row.prompts]
            if not prompts or not all(prompts) or any(set("\t\r\n") & set(prompt) for prompt in prompts):
                raise DataError(f"{row.dataset}: a prompt is empty or has a tab or line break: {row.prompts}")
            fields = [row.query_modality, row.candidate_modality, row.dataset, str(row.dataset_id)]
            lines.append([*fields, *prompts, *[""] * (width - len(prompts))])
        for line in lines:
            self._write(INSTRUCTIONS, "\t".join(line))

    def write_queries(
        self, split: str, records: Iterable[QueryRecord], *, union: bool = False, qrels: bool = True
    ) -> None:
        """Append queries of a split to the files of their data sets, and their positives to the qrels.

        Args:
            split: ``train``, ``val`` or ``test``.
            records: The queries; their instructions are written by :meth:`write_instructions`.
            union: Append to the union file of ``train`` or ``val`` instead, without qrels.
            qrels: Whether to write the positives to the qrels; else call :meth:`write_judgements`.
        """
        if split not in (UNION_FILES if union else SPLITS):
            raise DataError(
                f"split {split!r}: unknown; choose one of {', '.join(UNION_FILES if union else SPLITS)}"
            )
        for record in records:
            if not DATASET_NAME.fullmatch(record.dataset):
                raise DataError(
                    f"data set name {record.dataset!r}: use lower-case letters, digits, '_', '-', '.'"
                )
            name = record.dataset if split == "train" else record.task
            path = UNION_FILES[split] if union else f"query/{split}/mbeir_{name}_{split}.jsonl"
            self._write_row(path, query_row(record))
            if qrels and not union:
                self.write_judgements(split, record, dict.fromkeys(record.positives, 1))

    def write_judgements(self, split: str, query: QueryRecord, grades: Mapping[str, int]) -> None:
        """Append judgements of a query to the qrels.

        Args:
            split: ``train``, ``val`` or ``test``.
            query: The query.
            grades: Candidate id → grade, >= 0; all of at least 1 are positives.
        """
        path = f"qrels/{split}/mbeir_{query.task}_{split}_qrels.txt"
        for candidate, grade in grades.items():
            line = f"{query.id} 0 {candidate} {grade} {query.task_id}"
            parse_judgement(f"{self.root / path}: line to write", line, query.task)
            self._write(path, line)

    def write_pool(self, name: str, records: Iterable[CandidateRecord]) -> None:
        """Append candidates to the pool ``global_<split>`` or ``local_<dataset>_task<t>[_<split>]``."""
        if not POOL_NAME.fullmatch(name):
            raise DataError(f"pool {name!r}: use global_<split> or local_<dataset>_task<t>[_<split>]")
        scope, rest = name.split("_", 1)
        stem = f"mbeir_union_{rest}" if scope == "global" else f"mbeir_{rest}"
        for record in records:
            self._write_row(f"cand_pool/{scope}/{stem}_cand_pool.jsonl", candidate_row(record))

    def write_image(self, path: str, data: bytes) -> None:
        """Write an image file at a path relative to the root, which rows then name."""
        self._new_image(path).write_bytes(data)

    def place_image(self, path: str, source: Path, *, copy: bool = False) -> bool:
        """Bring an image file from elsewhere to a path relative to the root, which rows then name.

        Args:
            path: Where to put it.
            source: The file; a symbolic link stands for what it points to.
            copy: Copy it, instead of a hard link where the file systems allow one.

        Returns:
            Whether it is a hard link.
        """
        return _place(self._new_image(path), source, copy=copy)

    def place_file(self, path: str, source: Path) -> None:
        """Copy a whole file of rows or judgements, which was checked, to the same place in this root."""
        target = self._stage / check_image_path(self.root, "file", path)
        if target.exists():
            raise DataError(f"{source}: {path} is there already; the data sets need different names")
        target.parent.mkdir(parents=True, exist_ok=True)
        _place(target, source, copy=True)

    def write_beside(self, name: str, row: Row) -> None:
        """Append a row to a JSON-lines file at the root, which is no part of the layout."""
        self._write(name, json.dumps(row, ensure_ascii=False))

    def _new_image(self, path: str) -> Path:
        target = self._stage / check_image_path(self.root, "image", path)
        if {*PurePosixPath(path).parts[:1]} & {*FOLDERS} or target.exists():
            raise DataError(
                f"image path {path!r}: is taken already; write each image once, under mbeir_images/"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _write_row(self, path: str, row: Row) -> None:
        source = f"{self.root / path}: row to write"
        (parse_query if "qid" in row else parse_candidate)(source, row)
        self._write(path, json.dumps(row, ensure_ascii=False))

    def _write(self, path: str, line: str) -> None:
        if path not in self._streams:
            target = self._stage / path
            target.parent.mkdir(parents=True, exist_ok=True)
            self._streams[path] = self._open.enter_context(target.open("wb"))
        self._streams[path].write(line.encode() + b"\n")


def _place(target: Path, source: Path, *, copy: bool) -> bool:
    real = source.resolve(strict=True)
    if not copy:
        try:
            os.link(real, target)
        except OSError:  # another file system, or one without hard links
            pass
        else:
            return True
    shutil.copyfile(real, target)
    return False
