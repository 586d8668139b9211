"""M-BEIR and data in its layout."""

from __future__ import annotations

from data_modules.retrieval import RetrievalDataModule


class MBEIRDataModule(RetrievalDataModule):
    """Data in the M-BEIR release layout (Wei et al., 2023, https://arxiv.org/abs/2311.17136).

    The folder is packed under ``MMRETRIEVAL_HOME`` on first use. Any data sets in this layout will do, the
    released ten or one's own.

    Args:
        root: The folder that holds ``query/``, ``cand_pool/``, ``instructions/`` and the images; or what
            ``mmretrieval data pack`` made of it.
        batch_size: Queries per rank and step, >= 1.
        global_batch_size: Queries per step over all ranks, >= 1 and not fewer than ranks; the stream does not
            depend on the number of ranks then. ``None``: ``batch_size`` times ranks.
        encoding_batch_size: Contents per batch when embedding, >= 1.
        encoding_tokens: Tokens per batch when embedding, about, with padding and pictures, >= 1; no more than
            ``encoding_batch_size`` contents in any case. ``None``: any number.
        num_workers: Processes that read, decode and tokenise; 0 does it in the main process.
        weights: Share of the samples that each task gets; every task is named, 0 skips one. ``None``: in
            proportion to their numbers of queries.
        homogeneous: Whether all queries of a step, over all ranks, are of one task.
        batches_per_epoch: Steps of an epoch; ``None``: as many as the queries fill.
        positive: Which of a query's positives its sample has: the "first", or one "drawn" anew in each
            epoch, as where there are many; none of the others is ever a negative.
        negatives_per_query: How many of a query's negatives a sample uses, drawn anew in each epoch.
        given_negatives: Chance, between 0 and 1, that a sample uses negatives that the data set gives where
            its query has mined ones as well; where it has none, those given are used. ``None``: never.
        seed: Of the stream, >= 0.
        train_split: The split to train on.
        train_pool: The pool that training candidates and mined negatives are from.

    Raises:
        ValueError: If a number is out of range.
    """
