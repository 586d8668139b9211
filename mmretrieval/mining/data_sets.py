"""Which data set each query of a mining belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class DataSets:
    """Which data set each query belongs to.

    Args:
        names: Name of each data set (or task).
        codes: Position in ``names`` of each query's data set.
        sources: What each data set is from, as "text"; by default nobody says.

    Shape:
        - codes: ``(Q,)``.

    Raises:
        ValueError: If a name is there twice, a code is no position, or there is not one source a name.
    """

    names: Sequence[str]
    codes: NDArray[np.integer]
    sources: Sequence[str] = ()

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"Names of data sets must differ, found {', '.join(self.names)}.")
        if self.sources and len(self.sources) != len(self.names):
            raise ValueError(f"{len(self.names)} data sets need a source each, found {len(self.sources)}.")
        if self.codes.size and (self.codes.min() < 0 or self.codes.max() >= len(self.names)):
            raise ValueError(
                f"Codes must be positions of the {len(self.names)} data sets, "
                f"found values from {self.codes.min()} to {self.codes.max()}."
            )

    def pairs(self) -> list[tuple[str, str]]:
        """Name and source of each data set; an empty source where nobody says."""
        return list(zip(self.names, self.sources or [""] * len(self.names), strict=True))


def fits(pattern: str, name: str, source: str = "") -> bool:
    """Whether a pattern means a data set.

    Args:
        pattern: A name with ``*`` and ``?``, as ``*_task1``; or source and name, as ``text:*``, which text
            tasks from elsewhere do not fit.
        name: Of the data set.
        source: What it is from.
    """
    return fnmatchcase(f"{source}:{name}" if ":" in pattern else name, pattern)
