"""Reads files of rows to their end, whatever single lines are like."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_modules.doctor import checks
from data_modules.doctor.findings import Findings
from data_modules.formats.records import Source

MAX_LINE = 16 * 2**20
"""Longer lines are not kept: no row of a retrieval data set comes near."""
_REPORT_BYTES = 2**20

Row = dict[str, Any]


class LineReader:
    """Yields the usable lines of files below a root and reports the others.

    Args:
        root: Places are named relative to it.
        findings: Where unusable lines are reported.
        advance: Called with the number of bytes that were read, now and then.
    """

    def __init__(self, root: Path, findings: Findings, advance: Callable[[int], None]) -> None:
        self.root, self.findings, self._advance = root, findings, advance

    def lines(self, path: Path) -> Iterator[tuple[Source, str]]:
        """Yield the lines of a UTF-8 file that are not blank, without their end."""
        name = path.relative_to(self.root)
        found = False
        for number, line in self._raw(path):
            if line.isspace():
                continue
            found = True
            source = Source(name, number)
            if len(line) > MAX_LINE:
                self.findings.add(checks.MALFORMED_LINE, source, f"has more than {MAX_LINE} bytes")
                continue
            try:
                yield source, line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                self.findings.add(checks.MALFORMED_LINE, source, f"not UTF-8 ({error.reason})")
        if not found:
            self.findings.add(checks.EMPTY_FILE, name, "has no row")

    def objects(self, path: Path) -> Iterator[tuple[Source, Row]]:
        """Yield the JSON objects of a file, one a line."""
        for source, line in self.lines(path):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                self.findings.add(checks.MALFORMED_LINE, source, f"malformed JSON ({error})")
                continue
            if isinstance(row, dict):
                yield source, row
            else:
                self.findings.add(checks.MALFORMED_LINE, source, "is no JSON object")

    def _raw(self, path: Path) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of each line; of one that is too long, only the beginning."""
        number = pending = 0
        with path.open("rb") as stream:
            while line := stream.readline(MAX_LINE + 1):
                number += 1
                pending += len(line)
                yield number, line
                rest = line if len(line) > MAX_LINE else b""
                while rest and not rest.endswith(b"\n"):
                    rest = stream.readline(MAX_LINE)
                    pending += len(rest)
                if pending >= _REPORT_BYTES:
                    self._advance(pending)
                    pending = 0
        self._advance(pending)
