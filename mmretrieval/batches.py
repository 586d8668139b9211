"""What travels from the data-loading workers to the model: named tuples of tensors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class EncoderInputs(NamedTuple):
    """Tokenised contents, padded on the right.

    Args:
        input_ids: Token ids, ``(N, T)``; an image is a run of image tokens.
        attention_mask: 1 at real tokens, 0 at padding, ``(N, T)``.
        pooling_mask: 1 at tokens that pooling may read (neither padding nor the instruction), ``(N, T)``.
        pixel_values: The pictures of the rows that have one, in row order, ``(I, 3, H, W)``; I may be 0.
    """

    input_ids: Tensor
    attention_mask: Tensor
    pooling_mask: Tensor
    pixel_values: Tensor


class ContrastiveBatch(NamedTuple):
    """Queries with their positives and mined negatives.

    Args:
        queries: Inputs of the Q queries.
        candidates: Inputs of C candidates: the Q labelled positives in query order, then mined negatives.
        positive_columns: Row in ``candidates`` of each query's labelled positive, ``(Q,)``.
        candidate_keys: Content key of each candidate, ``(C,)``: equal iff text and image are.
        positive_keys: Content keys of each query's known positives, padded with 0, ``(Q, P)``.
        negative_of: For each mined negative the query it was mined for, ``(C - Q,)``.
        query_rows: Row of each query in the training split, ``(Q,)``.
    """

    queries: EncoderInputs
    candidates: EncoderInputs
    positive_columns: Tensor
    candidate_keys: Tensor
    positive_keys: Tensor
    negative_of: Tensor
    query_rows: Tensor


class EncodingBatch(NamedTuple):
    """Contents to embed, and where their embeddings belong.

    Args:
        inputs: Inputs of N contents.
        rows: Row of each content in the table it comes from, ``(N,)``.
    """

    inputs: EncoderInputs
    rows: Tensor


class GenerativeBatch(NamedTuple):
    """Dialogues to be continued.

    Args:
        inputs: Tokens and pixels; ``pixel_values`` is ``(I, tiles, 3, S, S)`` for any-resolution pictures.
        labels: The token itself where it belongs to an answer, -100 elsewhere, ``(N, T)``.
        image_sizes: Height and width of each any-resolution picture, ``(I, 2)``; whole pictures have none.
    """

    inputs: EncoderInputs
    labels: Tensor
    image_sizes: Tensor
