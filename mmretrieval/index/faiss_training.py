"""What FAISS says when there is too little to train an index on, in words that help."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TOO_FEW = re.compile(r"training points \((\d+)\) should be at least as large as .* \((\d+)\)")


def train(index: Any, sample: NDArray[np.float32], factory: str) -> None:  # noqa: ANN401 - faiss ships no types
    """Train an index of FAISS.

    Args:
        index: The index.
        sample: Vectors to train on, ``(N, D)``.
        factory: The index's factory string, for messages.

    Raises:
        ValueError: If FAISS cannot train on them, as on fewer vectors than the index has clusters or codes.
    """
    try:
        index.train(sample)
    except RuntimeError as error:
        counts = _TOO_FEW.search(str(error))
        needs = f"needs at least {counts[2]}" if counts else f"cannot: {str(error).rpartition('failed: ')[2]}"
        raise ValueError(
            f"FAISS shall train {factory!r} on {len(sample)} vectors and {needs}. Take a factory of fewer "
            'clusters or codes, or "Flat", which needs no training.'
        ) from error
