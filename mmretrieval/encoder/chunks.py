"""A batch in chunks, sorted by length, so that little is padding and memory holds one chunk at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mmretrieval.batches import EncoderInputs
from mmretrieval.errors import UserError


@dataclass(frozen=True)
class Chunks:
    """How a batch is embedded, chunk by chunk; the embeddings are the same whatever is chosen.

    Contents are sorted by length over the whole batch and cut into chunks, each padded only to its own
    longest. What is not kept of a chunk is computed again in the backward pass. That is the result of
    GradCache (Gao et al., 2021, https://arxiv.org/abs/2101.06983), within automatic differentiation: the
    batch is as large as one likes, and memory that of what is kept or of one chunk, whichever is larger.
    The features of a frozen vision tower are never computed again.

    Args:
        rows: Most contents in a chunk; ``None``: no limit.
        tokens: Most tokens in a chunk, padding counted; a longer content is a chunk of its own. ``None``: no
            limit.
        kept: Share of the chunks whose activations are kept for the backward pass, from 0 (least memory) to 1
            (no time spent on computing again).
        pixel_rows: Most tiles (or patches) that the vision tower takes at a time; a larger picture goes
            alone. ``None``: no limit.

    Raises:
        UserError: If a value is out of range.
    """

    rows: int | None = None
    tokens: int | None = None
    kept: float = 1.0
    pixel_rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "tokens", "pixel_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"encoder.chunks.{name} {value}: must be at least 1")
        if not 0 <= self.kept <= 1:
            raise UserError(f"encoder.chunks.kept {self.kept}: must be between 0 and 1")

    def sizes(self, lengths: Tensor) -> list[int]:
        """Cut contents of ascending lengths ``(N,)`` into chunks; returns the number of each one's rows."""
        sizes: list[int] = []
        rows = self.rows or len(lengths)
        for length in lengths.tolist():
            if sizes and sizes[-1] < rows and (sizes[-1] + 1) * length <= (self.tokens or torch.inf):
                sizes[-1] += 1
            else:
                sizes.append(1)
        return sizes

    def recomputed(self, chunks: int) -> int:
        """Of so many chunks, return how many are computed again.

        They are the first ones: the backward pass frees the last ones' activations before it comes to them.
        """
        return chunks - round(self.kept * chunks)


def split_further(sizes: list[int], count: int) -> list[int]:
    """Cut the largest chunks in two until there are ``count``; chunks without rows fill up the rest."""
    sizes = list(sizes)
    while len(sizes) < count:
        largest = max(range(len(sizes)), key=sizes.__getitem__)
        half = sizes[largest] // 2
        sizes[largest : largest + 1] = [half, sizes[largest] - half]
    return sizes


def length_sorted(inputs: EncoderInputs) -> Tensor:
    """Return the rows from the shortest to the longest, ``(N,)``; equal ones stay in order."""
    return inputs.attention_mask.sum(dim=1).argsort(stable=True)


def rows_of(inputs: EncoderInputs, rows: Tensor) -> EncoderInputs:
    """Return some rows, without columns that all of them pad.

    Args:
        inputs: N contents.
        rows: Which of them, in the order wanted, ``(n,)``.

    Returns:
        The rows; ``pictures`` stay those of the whole batch, as features are of them.
    """
    attention = inputs.attention_mask[rows]
    used = attention.any(dim=0).nonzero().squeeze(1)
    columns = slice(int(used[0]), int(used[-1]) + 1)
    place = torch.full((inputs.input_ids.shape[0],), -1, device=rows.device)
    place[rows] = torch.arange(len(rows), device=rows.device)
    new_row = place[inputs.picture_row]
    order = new_row.argsort(stable=True)
    kept = order[new_row[order] >= 0]
    return EncoderInputs(
        inputs.input_ids[rows][:, columns],
        attention[:, columns],
        inputs.pooling_mask[rows][:, columns],
        inputs.pictures,
        inputs.picture_of[kept],
        new_row[kept],
    )


def aligned(inputs: EncoderInputs, padding: int, columns: int = 16) -> EncoderInputs:
    """Pad to a multiple of so many columns.

    In single precision on a CPU, an embedding then is the same to the last bit whatever it is embedded with:
    vectorised sums over tokens begin anew at each multiple of a few vectors, so that masked columns only add
    zeros, and rows of a matrix product do not depend on each other (on Intel processors as
    :mod:`mmretrieval.reproducible_products` sees to). Without it, the padding that a batch
    happens to need changes scores by about 3e-7. GPUs choose their kernels by the size of a batch, so there
    it does not hold; nor does it for products of fewer than eight rows by several threads, as of a lone
    picture of four patches.

    Args:
        inputs: N contents.
        padding: Id of any token that is no image token.
        columns: At least 1; 8 are too few on AVX2 already.
    """
    missing = -inputs.input_ids.shape[1] % columns
    if not missing:
        return inputs
    return inputs._replace(
        input_ids=functional.pad(inputs.input_ids, (0, missing), value=padding),
        attention_mask=functional.pad(inputs.attention_mask, (0, missing)),
        pooling_mask=functional.pad(inputs.pooling_mask, (0, missing)),
    )
