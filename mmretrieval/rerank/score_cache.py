"""Scores that were computed before: nothing is scored twice, neither after a kill nor in another run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from mmretrieval.errors import UserError

MAX_LINE = 2**24
"""Bytes of a line at most."""
Scores = dict[str, float]
"""Candidate id → score."""


class ScoreCache:
    """Files with a line a scored query: of what (model, prompt and data as a hash), query, scores.

    Each process appends to a file of its own, and reads all. A line that a kill has cut off is left out.

    Args:
        folder: Where the files are; made if it is not there.
        name: Of this process' file, as its rank.

    Raises:
        UserError: If a file cannot be read, or a line in its middle is damaged; names file and line.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"scores-{name}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[tuple[str, str], Scores] = {}
        self._stream: TextIO | None = None
        for path in sorted(folder.glob("scores-*.jsonl")):
            self._read(path)

    def known(self, key: str, query: str) -> Scores:
        """The scores of a query's candidates that are known.

        Args:
            key: Of model, prompt and data.
            query: The query's id.
        """
        return self._known.get((key, query), {})

    def add(self, key: str, query: str, scores: Mapping[str, float]) -> None:
        """Keep scores of a query; they are in the file when this returns.

        Args:
            key: Of model, prompt and data.
            query: The query's id.
            scores: By candidate id, finite.
        """
        if self._stream is None:
            _end_line(self._path)
            self._stream = self._path.open("a", encoding="utf-8")
        row = {"key": key, "query": query, "scores": dict(scores)}
        self._stream.write(json.dumps(row, allow_nan=False) + "\n")
        self._stream.flush()
        self._known.setdefault((key, query), {}).update(scores)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; more can be added afterwards."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as stream:
                number = 0
                while line := stream.readline(MAX_LINE + 1):
                    number += 1
                    if not line.endswith(b"\n") and len(line) <= MAX_LINE:
                        return  # cut off by a kill
                    self._take(line, f"{path}:{number}")
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error})") from error

    def _take(self, line: bytes, where: str) -> None:
        try:
            row: Any = json.loads(line[: MAX_LINE + 1])
            scores = {str(name): float(score) for name, score in row["scores"].items()}
            key, query = row["key"], row["query"]
            sound = (
                isinstance(key, str) and isinstance(query, str) and all(map(math.isfinite, scores.values()))
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            sound = False
        if not sound:
            raise UserError(
                f"{where}: is no line of scores; remove the file, and its queries are scored again"
            )
        self._known.setdefault((key, query), {}).update(scores)


def _end_line(path: Path) -> None:
    """Cut off what a kill has left of a line, so that the next one begins a new one."""
    if not path.is_file():
        return
    with path.open("rb+") as stream:
        whole = stream.read()
        stream.truncate(whole.rfind(b"\n") + 1)
