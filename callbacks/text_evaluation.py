"""Text retrieval measures of the current weights, beside those of the data that is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from callbacks.collaborators import RetrievalData
from callbacks.pool_search import Pool, pools_of
from callbacks.retrieval_evaluation import RetrievalEvaluation
from data_modules.corpus import QuerySet
from data_modules.text_sets import TextSets
from mmretrieval.index import VectorIndex
from mmretrieval.metrics.evaluation import LOCAL


class TextEvaluation(RetrievalEvaluation):
    """Measures retrieval on text data sets in the BEIR layout, as the small ones of NanoBEIR.

    Does what :class:`~callbacks.RetrievalEvaluation` does, at the same times, on data of its own: each data
    set is a task that searches its own corpus. Measures go to the loggers as ``<label>/local/<task>/…``,
    their averages can be monitored, and files have the label in their names: ``metrics_<label>.json``,
    ``runs_<label>/``. :class:`~callbacks.RunReport` has a table of it.

    Args:
        folders: Folders in the BEIR layout, or a folder of such; their names are those of the data sets.
            "embedded": the text benchmark that ships with the project.
        label: What names begin with; different for each evaluation of a trainer.
        released_split: Which of the qrels to use; to choose by, ``dev`` or ``val``.
        prompts: Name of a data set → its instruction; a general one for the others.
        ks: Cut-off ranks of the hit rates, each at least 1.
        ndcg_k: Cut-off rank of nDCG, at least 1.
        depth: Length of the ranked lists.
        headline: The measure that summaries show first.
        folder: Where files go, the trainer's ``default_root_dir`` by default.
        index: An empty index to search with.
        every_n_epochs: Evaluate after every n-th epoch, at least 1, and after the last one.
        before_training: Evaluate before the first optimizer step as well.
        embeddings: Where embeddings are kept, see :func:`~callbacks.embedding.embed`.
        embedding_dtype: How they are kept.
        max_text_tokens: Where texts are cut; the encoder's own limit by default.
        encoding_batch_size: Texts per batch, at least 1.
        num_workers: Processes that read and tokenise.
        final_split: The qrels to report on, if they are others than those to choose by.

    Raises:
        DataError: If a folder cannot be used; from ``setup``, if anything in it cannot.
        ValueError: As :class:`~callbacks.RetrievalEvaluation`, or if the label is empty.
    """

    _released: str
    _sets: TextSets

    def __init__(
        self,
        folders: list[str] | str,
        label: str = "text",
        released_split: str = "test",
        prompts: Mapping[str, str] | None = None,
        ks: Sequence[int] = (1, 5, 10),
        ndcg_k: int = 10,
        depth: int = 100,
        headline: str = "ndcg@10",
        folder: Path | None = None,
        index: VectorIndex | None = None,
        every_n_epochs: int = 1,
        before_training: bool = True,
        embeddings: Path | None = None,
        embedding_dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        max_text_tokens: int | None = None,
        encoding_batch_size: int = 128,
        num_workers: int = 0,
        final_split: str | None = None,
    ) -> None:
        super().__init__(
            released_split,
            ks,
            ndcg_k,
            depth,
            headline,
            folder,
            index,
            every_n_epochs,
            before_training,
            embeddings,
            embedding_dtype,
            final_split=final_split,
        )
        if not label.isidentifier():
            raise ValueError(f"label must be letters, digits and underscores, found {label!r}.")
        for evaluation in self.of_stage("fit"):
            assert isinstance(evaluation, TextEvaluation)
            evaluation.label = label
            evaluation._released = evaluation.split
            evaluation.split = "test"  # whatever the release calls it
            evaluation._sets = TextSets(
                folders,
                evaluation._released,
                prompts=prompts,
                max_text_tokens=max_text_tokens,
                encoding_batch_size=encoding_batch_size,
                num_workers=num_workers,
            )

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(label=self.label)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "predict":
            for evaluation in self.of_stage(stage):
                assert isinstance(evaluation, TextEvaluation)
                evaluation._open(trainer)
        super().setup(trainer, pl_module, stage)

    def _open(self, trainer: Trainer) -> None:
        if trainer.local_rank == 0:
            self._sets.prepare_data()
        trainer.strategy.barrier("text data")
        self._sets.trainer = trainer
        self._sets.setup("validate")

    @property
    @override
    def shown_split(self) -> str:
        return self._released

    @override
    def data(self, trainer: Trainer) -> RetrievalData:
        return self._sets

    @override
    def pools_of(self, queries: QuerySet) -> list[Pool]:
        return [pool for pool in pools_of(queries) if pool.kind == LOCAL]
