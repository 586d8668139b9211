"""Rows of a batch, sorted by length and cut into chunks, so that little is padding."""

from __future__ import annotations

import torch
from torch import Tensor

from mmretrieval.batches import EncoderInputs


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
