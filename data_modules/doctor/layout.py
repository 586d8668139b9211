"""Which files of the M-BEIR layout are there; files whose names say nothing are reported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_modules.doctor import checks
from data_modules.doctor.findings import Findings
from data_modules.formats.mbeir_layout import (
    INSTRUCTIONS,
    POOL_FILE,
    QRELS_FILE,
    QUERY_FILE,
    UNION_FILES,
    listing,
)
from data_modules.formats.records import SPLITS

_GLOBAL_FILE = re.compile(r"mbeir_union_(?P<split>train|val|test)_cand_pool\.jsonl")


class LayoutFile(NamedTuple):
    """A file and what its name says."""

    path: Path
    dataset: str | None
    task: int | None
    split: str | None


class Layout:
    """The files of a folder.

    Args:
        root: The folder.
        findings: Where unusable names and missing files are reported.
    """

    def __init__(self, root: Path, findings: Findings) -> None:
        self._root, self._findings = root, findings
        self.queries = {split: list(self._named(f"query/{split}", QUERY_FILE, split)) for split in SPLITS}
        self.unions = {split: root / name for split, name in UNION_FILES.items() if (root / name).is_file()}
        self.global_pools = {
            str(f.split): f.path for f in self._named("cand_pool/global", _GLOBAL_FILE, None)
        }
        self.local_pools = list(self._named("cand_pool/local", POOL_FILE, None))
        self.qrels = {
            split: list(self._named(f"qrels/{split}", QRELS_FILE, split, "*.txt")) for split in SPLITS
        }
        self.instructions = root / INSTRUCTIONS
        self._report_missing()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have queries."""
        return tuple(split for split in SPLITS if self.queries[split] or split in self.unions)

    def files(self) -> Iterator[Path]:
        """Yield everything that will be read, as often as it will be."""
        for groups in (self.queries, self.qrels):
            yield from (file.path for files in groups.values() for file in files)
        yield from (*self.unions.values(), *self.global_pools.values())
        yield from (file.path for file in self.local_pools)
        if self.instructions.is_file():
            yield self.instructions

    def _named(
        self, folder: str, pattern: re.Pattern[str], split: str | None, glob: str = "*.jsonl"
    ) -> Iterator[LayoutFile]:
        for path in listing(self._root / folder, glob):
            match = pattern.fullmatch(path.name)
            found = match.groupdict() if match else {}
            if match is None or not path.is_file() or split not in (None, found["split"]):
                self._findings.add(checks.FILE_NAME, path.relative_to(self._root), "is left out")
                continue
            task = found.get("task")
            dataset = str(found.get("dataset", "union")).lower()
            yield LayoutFile(path, dataset, int(task) if task else None, found.get("split"))

    def _report_missing(self) -> None:
        if not self.splits:
            self._findings.add(checks.MISSING_FILE, "query", "no split has a file of queries")
        for split in self.splits:
            served = [file for file in self.local_pools if file.split in (None, split)]
            if split not in self.global_pools and not served:
                self._findings.add(checks.MISSING_FILE, "cand_pool", f"no pool for the split {split!r}")
        if not self.instructions.is_file():
            self._findings.add(checks.MISSING_FILE, INSTRUCTIONS, "instructions are missing")


def pool_name(file: LayoutFile) -> str:
    """Return the name of a local pool, as the reader has it."""
    name = f"local_{file.dataset}_task{file.task}"
    return f"{name}_{file.split}" if file.split else name
