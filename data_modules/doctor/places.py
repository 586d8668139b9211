"""Where each of many rows stands, in eight bytes a row."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from pathlib import Path

from data_modules.formats.records import Source


class Places:
    """File and line of rows by their number."""

    def __init__(self) -> None:
        self._lines = array("q")
        self._starts: list[int] = []
        self._files: list[Path] = []

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, row: int) -> Source:
        return Source(self._files[bisect_right(self._starts, row) - 1], self._lines[row])

    def add(self, source: Source) -> None:
        """Remember the place of the next row."""
        if not self._files or self._files[-1] != source.path:
            self._files.append(source.path)
            self._starts.append(len(self._lines))
        self._lines.append(source.line)
