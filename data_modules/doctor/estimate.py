"""What a data set will cost before hours and disks are spent on it: counts, and figures derived from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_modules.doctor.images import ImageRate
from data_modules.shards import BLOCK

_ROW_FRAME = 130  # the names of a row's keys, digests and quotes in a shard
_INDEX_BYTES = 40  # of a sample in the index beside its shard
_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Estimate:
    """Counted, measured and extrapolated figures of a data set.

    Args:
        candidates: Distinct candidates of all pools, counted.
        queries: Split → rows of queries, counted; those of the up-sampled mixture are not.
        images: Distinct images that were found, counted.
        image_bytes: Their size, counted.
        packed_bytes: Size of the folder that 'mmretrieval data pack' makes, extrapolated: image bytes as
            counted, rows from the lengths of their texts, and tar's blocks.
        decoded: Images that were read and decoded, with seconds and threads: measured on this machine.
        images_per_second: The rate of it; ``None`` if none was decoded.
        decode_hours: Decoding each distinct image once more at that rate: a lower bound for one embedding of
            everything, without the model.
        contents_per_second: The model's rate, as the user gave it.
        embedding_hours: Distinct candidates and queries of val and test at the user's rate: extrapolated.
        dimension: Length of an embedding, as the user gave it.
        embedding_bytes: Candidates' embeddings in float32; half of it in float16.
    """

    candidates: int
    queries: dict[str, int]
    images: int
    image_bytes: int
    packed_bytes: int
    decoded: ImageRate
    images_per_second: float | None
    decode_hours: float | None
    contents_per_second: float | None
    embedding_hours: float | None
    dimension: int | None
    embedding_bytes: int | None


@dataclass(frozen=True)
class Assumed:
    """What only the user knows.

    Args:
        contents_per_second: How many contents a second the model embeds, > 0.
        dimension: Length of an embedding, at least 1.
    """

    contents_per_second: float | None = None
    dimension: int | None = None


def packed_bytes(id_: str, text: str | None, image: str | None) -> int:
    """Return about how many bytes of a shard a row takes, its index included."""
    size = _ROW_FRAME + len(id_) + len((text or "").encode("utf-8", "surrogatepass")) + len(image or "")
    return _tar_bytes(size)


def estimate(
    *,
    candidate_bytes: NDArray[np.int64],
    query_bytes: dict[str, NDArray[np.int64]],
    image_sizes: NDArray[np.int64],
    decoded: ImageRate,
    assumed: Assumed,
) -> Estimate:
    """Derive the figures.

    Args:
        candidate_bytes: Packed size of each distinct candidate.
        query_bytes: Packed size of each query, by split.
        image_sizes: Size of each distinct image.
        decoded: What was measured while images were checked.
        assumed: What the user gave.
    """
    blocks = (image_sizes + BLOCK - 1) // BLOCK * BLOCK + BLOCK + _INDEX_BYTES
    rows = int(candidate_bytes.sum()) + sum(int(sizes.sum()) for sizes in query_bytes.values())
    contents = candidate_bytes.size + sum(query_bytes[s].size for s in query_bytes if s != "train")
    rate, speed, dimension = decoded.per_second, assumed.contents_per_second, assumed.dimension
    return Estimate(
        candidates=candidate_bytes.size,
        queries={split: sizes.size for split, sizes in query_bytes.items()},
        images=image_sizes.size,
        image_bytes=int(image_sizes.sum()),
        packed_bytes=rows + int(blocks.sum()),
        decoded=decoded,
        images_per_second=rate,
        decode_hours=image_sizes.size / rate / _SECONDS_PER_HOUR if rate else None,
        contents_per_second=speed,
        embedding_hours=contents / speed / _SECONDS_PER_HOUR if speed else None,
        dimension=dimension,
        embedding_bytes=4 * dimension * candidate_bytes.size if dimension else None,
    )


def _tar_bytes(size: int) -> int:
    return BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK + _INDEX_BYTES
