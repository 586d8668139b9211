"""Everything that is wrong with a folder in the M-BEIR release layout, in one pass over its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_modules.doctor import checks
from data_modules.doctor.findings import Findings
from data_modules.doctor.images import ImageChecker
from data_modules.doctor.judgements import Judgements
from data_modules.doctor.keys import Keys, Rows
from data_modules.doctor.layout import Layout, LayoutFile, pool_name
from data_modules.doctor.leaks import Asked, check_leaks
from data_modules.doctor.lines import LineReader
from data_modules.doctor.pools import PoolChecks
from data_modules.doctor.queries import (
    Answers,
    InstructionKey,
    QueryTable,
    check_answers,
    check_ids,
    check_instructions,
    check_reach,
)
from data_modules.formats.mbeir_rows import parse_instruction
from data_modules.formats.records import DataError


class MBEIRChecks:
    """Examines a folder; pools first, since queries are compared with them.

    Args:
        layout: The files.
        reader: Reads them.
        images: Checks the images that rows name.
    """

    def __init__(self, layout: Layout, reader: LineReader, images: ImageChecker) -> None:
        self._layout, self._reader, self._images = layout, reader, images
        self._pools = PoolChecks(reader, images)
        self._known: set[InstructionKey] = set()
        self._numbers: dict[str, set[int]] = {}
        self._asked: dict[str, Asked] = {}
        self.query_bytes: dict[str, Keys] = {}

    @property
    def candidate_bytes(self) -> NDArray[np.int64]:
        """Packed size of each distinct candidate."""
        return self._pools.candidates.bytes

    @property
    def _findings(self) -> Findings:
        return self._reader.findings

    def run(self) -> None:
        """Read everything and report what is wrong."""
        self._read_instructions(self._layout.instructions)
        for split, path in self._layout.global_pools.items():
            self._pools.read(f"global_{split}", path)
        for file in self._layout.local_pools:
            self._pools.read(pool_name(file), file.path)
            self._compare(file)
        for split in self._layout.splits:
            self._check_split(split)
        for split in ("val", "test"):
            if "train" in self._asked and split in self._asked:
                check_leaks(self._findings, self._asked["train"], self._asked[split])
        self._images.flush()

    def _read_instructions(self, path: Path) -> None:
        if not path.is_file():
            return
        lines = self._reader.lines(path)
        names = next(lines, (None, ""))[1].split("\t")
        for source, line in lines:
            row = dict.fromkeys(("dataset_name", "dataset_id", "query_modality", "cand_modality"), "")
            try:
                record = parse_instruction(source, row | dict(zip(names, line.split("\t"), strict=False)))
            except DataError as error:
                self._findings.add(checks.MALFORMED_LINE, source, str(error).partition(": ")[2])
                continue
            key = (record.dataset_id, record.query_modality, record.candidate_modality)
            if key in self._known:
                self._findings.add(checks.DUPLICATE_INSTRUCTION, source, line[:80])
            self._known.add(key)
            self._numbers.setdefault(record.dataset, set()).add(record.dataset_id)

    def _compare(self, file: LayoutFile) -> None:
        """A local pool is part of the global one of its split; val's and test's often share one."""
        wanted = [file.split] if file.split else ["test", "val"]
        served = [f"global_{split}" for split in wanted if split in self._layout.global_pools]
        self._pools.compare(pool_name(file), served[:1])

    def _check_split(self, split: str) -> None:
        table, union = QueryTable(), QueryTable()
        for file in self._layout.queries[split]:
            table.read(self._reader, self._images, file.path, file.dataset, file.task)
        if split in self._layout.unions:
            union.read(self._reader, self._images, self._layout.unions[split], None, None)
        check_ids(self._findings, table, union, self._images)
        qrels = self._read_qrels(split, table if len(table) else union)
        for part in (table, union):
            if len(part):
                answers = self._answers(split, part, qrels)
                check_answers(self._findings, answers)
                check_instructions(self._findings, answers, self._known)
                if part is table or not len(table):
                    self._check_pools(split, answers)
                    self.query_bytes[split] = part.column("bytes")
                self._add_asked(split, answers)

    def _read_qrels(self, split: str, table: QueryTable) -> list[Judgements]:
        qrels = []
        for file in self._layout.qrels[split]:
            judged = Judgements(self._reader, file.path, int(file.task or 0))
            judged.check(table, self._rows_of(table, file), self._pools.candidates)
            qrels.append(judged)
        return qrels

    def _rows_of(self, table: QueryTable, file: LayoutFile) -> Rows:
        name = str(file.dataset)
        return table.rows_of(name, self._numbers.get(name, set()), int(file.task or 0))

    def _answers(self, split: str, table: QueryTable, qrels: list[Judgements]) -> Answers:
        """Positives from the rows; in val and test, from qrels where a row lists none, as the reader does."""
        rows, candidates = table.pairs()
        if split != "train":
            found = [judged.positives(table) for judged in qrels]
            judged_rows = np.concatenate([np.empty(0, np.int64), *(pair[0] for pair in found)])
            judged_ids = np.concatenate([np.empty(0, np.int64), *(pair[1] for pair in found)])
            missing = ~np.isin(judged_rows, rows)
            rows = np.concatenate([rows, judged_rows[missing]])
            candidates = np.concatenate([candidates, judged_ids[missing]])
            order = np.argsort(rows, kind="stable")
            rows, candidates = rows[order], candidates[order]
        return Answers(table, rows, candidates, self._pools.candidates)

    def _check_pools(self, split: str, answers: Answers) -> None:
        members, name = self._pools.members, f"global_{split}"
        if name in members:
            every = np.arange(len(answers.table))
            check_reach(self._findings, answers, every, name, members[name])
        if split == "train":
            return  # nothing is searched in local pools while training
        for file in self._layout.local_pools:
            if file.split in (None, split):
                rows = self._rows_of(answers.table, file)
                check_reach(self._findings, answers, rows, pool_name(file), members[pool_name(file)])

    def _add_asked(self, split: str, answers: Answers) -> None:
        contents, found = answers.table.contents(self._images), answers.found
        own = answers.known.contents[answers.places[found]]
        asked = Asked(contents, answers.rows[found], own, answers.table.name)
        self._asked[split] = self._asked[split].with_more(asked) if split in self._asked else asked
