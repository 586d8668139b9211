"""Which data set each query of a mining belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class DataSets:
    """Which data set each query belongs to.

    Args:
        names: Name of each data set (or task).
        codes: Position in ``names`` of each query's data set.

    Shape:
        - codes: ``(Q,)``.

    Raises:
        ValueError: If a name is there twice, or a code is no position.
    """

    names: Sequence[str]
    codes: NDArray[np.integer]

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"Names of data sets must differ, found {', '.join(self.names)}.")
        if self.codes.size and (self.codes.min() < 0 or self.codes.max() >= len(self.names)):
            raise ValueError(
                f"Codes must be positions of the {len(self.names)} data sets, "
                f"found values from {self.codes.min()} to {self.codes.max()}."
            )
