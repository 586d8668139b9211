"""What is wrong with a data set: each kind of finding counted, with its first places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Severity(StrEnum):
    """How bad a finding is; notes are worth knowing and no problem."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Check:
    """One kind of finding.

    Args:
        name: Short name, as ``missing-image``.
        severity: How bad it is.
        meaning: What was found and what to do, for people.
    """

    name: str
    severity: Severity
    meaning: str


@dataclass(slots=True)
class Finding:
    """All findings of one kind.

    Args:
        check: Which kind.
        count: How often.
        examples: The first ones, as ``file:line: what``.
    """

    check: Check
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Findings:
    """Collects findings in memory that does not grow with their number.

    Args:
        examples: How many places of each kind to keep, at least 1.
    """

    def __init__(self, examples: int = 3) -> None:
        self.limit = examples
        self._found: dict[str, Finding] = {}

    def add(self, check: Check, where: object, what: str) -> None:
        """Count one finding."""
        finding = self._found.setdefault(check.name, Finding(check))
        finding.count += 1
        if len(finding.examples) < self.limit:
            finding.examples.append(f"{where}: {what}")

    def add_rows(self, check: Check, rows: NDArray[np.int64], describe: Callable[[int], str]) -> None:
        """Count a finding for each row; only the first ones are described, as ``file:line: what``."""
        if rows.size:
            finding = self._found.setdefault(check.name, Finding(check))
            finding.count += rows.size
            missing = max(self.limit - len(finding.examples), 0)
            finding.examples += [describe(row) for row in rows[:missing].tolist()]

    @property
    def all(self) -> list[Finding]:
        """What was found, errors first, then by name."""
        order = list(Severity)
        return sorted(self._found.values(), key=lambda f: (order.index(f.check.severity), f.check.name))

    def count(self, severity: Severity) -> int:
        """How many findings there are of a severity."""
        return sum(found.count for found in self._found.values() if found.check.severity is severity)

    @property
    def clean(self) -> bool:
        """Whether there is neither an error nor a warning."""
        return not (self.count(Severity.ERROR) or self.count(Severity.WARNING))
