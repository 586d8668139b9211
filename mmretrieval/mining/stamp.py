"""What mined negatives belong to, so that stale ones are refused."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmretrieval.errors import UserError

FORMAT_VERSION = 1
Scalar = str | int | float | bool | None


class StaleNegativesError(UserError):
    """A file of mined negatives belongs to other weights, another pool, or other queries."""


class DamagedNegativesError(UserError):
    """A file is no complete file of mined negatives."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What negatives were mined from.

    Args:
        weights_hash: Hash of the retriever's weights.
        step: The optimizer step of these weights.
        pool_hash: Hash of the candidate pool.
        queries_hash: Hash of the queries with their positives.
        round: Number of the mining, from 0.
        settings: All that mining was configured with, as JSON scalars.
        format_version: Version of the file format.
    """

    weights_hash: str
    step: int
    pool_hash: str
    queries_hash: str
    round: int
    settings: dict[str, Scalar] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class ExpectedStamp:
    """What a reader needs negatives to be mined from; ``None`` accepts anything.

    Args:
        pool_hash: Hash of the candidate pool.
        queries_hash: Hash of the queries with their positives.
        weights_hash: Hash of the retriever's weights.
        step: The optimizer step of the weights.
        round: Number of the mining.
        settings: All that mining is configured with.
    """

    pool_hash: str
    queries_hash: str
    weights_hash: str | None = None
    step: int | None = None
    round: int | None = None
    settings: dict[str, Scalar] | None = None

    def check(self, stamp: Stamp, path: Path) -> None:
        """Refuse a stamp that differs.

        Raises:
            StaleNegativesError: Names every field that differs, with what was found and expected.
        """
        differing = [
            f"{name}: found {getattr(stamp, name)!r}, expected {expected!r}"
            for name, expected in asdict(self).items()
            if expected is not None and getattr(stamp, name) != expected
        ]
        if differing:
            raise StaleNegativesError(
                f"{path} was mined from something else. {'; '.join(differing)}. "
                "Mine again with the current weights and data, or point to the file that belongs to them."
            )


def stamp_array(stamp: Stamp) -> NDArray[np.str_]:
    """The stamp as a file keeps it: JSON in an array without dimensions.

    Raises:
        ValueError: If a setting is no JSON scalar.
    """
    for key, value in stamp.settings.items():
        if not isinstance(value, str | int | float | bool | None):
            raise ValueError(f"Setting {key!r} must be a JSON scalar, found {type(value).__name__}.")
    return np.array(json.dumps(asdict(stamp), sort_keys=True, allow_nan=False))


def parsed_stamp(array: NDArray[np.str_], path: Path) -> Stamp:
    """The stamp that :func:`stamp_array` made.

    Args:
        array: As read.
        path: The file, for errors.

    Raises:
        DamagedNegativesError: If it is none.
        StaleNegativesError: If it is of another version.
    """
    try:
        values = json.loads(str(array))
        version = values["format_version"]
        if version == FORMAT_VERSION:
            return Stamp(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedNegativesError(f"{path} has no readable stamp: {error}. Mine again.") from error
    raise StaleNegativesError(
        f"{path}: format_version: found {version!r}, expected {FORMAT_VERSION}. "
        "Mine again with this version of the package."
    )
