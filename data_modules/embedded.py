"""The benchmark that needs no download."""

from __future__ import annotations

import logging
from hashlib import blake2b
from pathlib import Path

from data_modules.cached_packing import cache_home
from data_modules.encoding_tables import ENCODING_TOKENS
from data_modules.formats.records import DataError
from data_modules.mixture_settings import Positive
from data_modules.retrieval import RetrievalDataModule
from data_modules.synthetic import benchmark

logger = logging.getLogger(__name__)


class EmbeddedDataModule(RetrievalDataModule):
    """The synthetic benchmark, drawn and packed under ``MMRETRIEVAL_HOME`` on first use.

    Args:
        size: Number of training queries; candidates and test queries grow with it.
        data_seed: Of what is drawn and written, >= 0; ``seed`` is that of the stream.
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

    def __init__(
        self,
        size: int = benchmark.DEFAULT_SIZE,
        data_seed: int = 0,
        batch_size: int = 64,
        global_batch_size: int | None = None,
        encoding_batch_size: int = 128,
        encoding_tokens: int | None = ENCODING_TOKENS,
        num_workers: int = 0,
        weights: dict[str, float] | None = None,
        homogeneous: bool = False,
        batches_per_epoch: int | None = None,
        negatives_per_query: int = 1,
        given_negatives: float | None = 0.0,
        positive: Positive = "first",
        seed: int = 0,
        train_split: str = "train",
        train_pool: str = "global_train",
    ) -> None:
        root = cache_home() / "embedded" / f"size{size}-seed{data_seed}-{generator_digest()}"
        super().__init__(
            root,
            batch_size=batch_size,
            global_batch_size=global_batch_size,
            encoding_batch_size=encoding_batch_size,
            encoding_tokens=encoding_tokens,
            num_workers=num_workers,
            weights=weights,
            homogeneous=homogeneous,
            batches_per_epoch=batches_per_epoch,
            negatives_per_query=negatives_per_query,
            given_negatives=given_negatives,
            positive=positive,
            seed=seed,
            train_split=train_split,
            train_pool=train_pool,
        )
        self.size = size
        self.data_seed = data_seed

    def prepare_data(self) -> None:
        """Write and pack the benchmark unless that is done; runs on one process of each node.

        Raises:
            ValueError: If ``size`` or ``data_seed`` is out of range.
        """
        if not self.root.is_dir():
            logger.info("Drawing the embedded benchmark into %s, once.", self.root)
            try:
                benchmark.write_benchmark(self.root, seed=self.data_seed, size=self.size, progress=True)
            except DataError:
                if not self.root.is_dir():  # else another process was faster
                    raise
        super().prepare_data()


def generator_digest() -> str:
    """Return a hex digest of the generator's source: what another version wrote is not taken for its own."""
    digest = blake2b(digest_size=6)
    for path in sorted(Path(benchmark.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
