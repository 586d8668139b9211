"""What travels from the data-loading workers to the model: named tuples of tensors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Pictures(NamedTuple):
    """The distinct pictures of a batch, each of one or more rows of pixels (tiles, or patches).

    Args:
        pixels: Rows of all pictures, one picture after the other, ``(R, ...)``.
        rows: How many rows each picture has, ``(I,)``; I may be 0.
        tokens: How many image tokens stand for each picture, ``(I,)``.
        shapes: What else the model needs to know of each picture, as its grid, ``(I, K)``; K may be 0.
    """

    pixels: Tensor
    rows: Tensor
    tokens: Tensor
    shapes: Tensor


class EncoderInputs(NamedTuple):
    """Tokenised contents, padded.

    Args:
        input_ids: Token ids, ``(N, T)``; an image is a run of image tokens.
        attention_mask: 1 at real tokens, 0 at padding, ``(N, T)``.
        pooling_mask: 1 at tokens that pooling may read (neither padding nor the instruction), ``(N, T)``.
        pictures: The distinct pictures.
        picture_of: Which of the pictures is shown, for each place that shows one in reading order, ``(P,)``.
        picture_row: In which of the N contents each of these places is, ``(P,)``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    pooling_mask: Tensor
    pictures: Pictures
    picture_of: Tensor
    picture_row: Tensor


class ContrastiveBatch(NamedTuple):
    """Queries with their positives and mined negatives.

    Args:
        inputs: Inputs of the Q queries, then of C candidates: the Q labelled positives in query order, then
            mined negatives. A picture that queries and candidates share is there once.
        positive_columns: Which of the candidates is each query's labelled positive, ``(Q,)``.
        candidate_keys: Content key of each candidate, ``(C,)``: equal iff text and image are.
        positive_keys: Content keys of each query's known positives and of what is left out of its ranking,
            none of which counts as a negative, padded with 0, ``(Q, P)``.
        negative_of: For each mined negative the query it was mined for, ``(C - Q,)``.
        query_rows: Row of each query in the training split, ``(Q,)``.
        targets: A teacher's score of each candidate, NaN for those of queries that it has not scored,
            ``(C,)``; ``None`` without a teacher.
    """

    inputs: EncoderInputs
    positive_columns: Tensor
    candidate_keys: Tensor
    positive_keys: Tensor
    negative_of: Tensor
    query_rows: Tensor
    targets: Tensor | None = None


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
        inputs: Tokens and pixels; ``shapes`` are sizes for any-resolution pictures, empty for whole ones.
        labels: The token itself where it belongs to an answer, -100 elsewhere, ``(N, T)``.
    """

    inputs: EncoderInputs
    labels: Tensor
