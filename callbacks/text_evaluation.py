"""Text retrieval measures of the current weights, beside those of the data that is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from callbacks.collaborators import RetrievalData
from callbacks.pool_search import Pool, pools_of
from callbacks.retrieval_evaluation import RetrievalEvaluation
from data_modules.formats.records import DataError
from data_modules.query_set import QuerySet
from data_modules.text_sets import EMBEDDED, TextSets, split_of
from mmretrieval.index import VectorIndex
from mmretrieval.metrics.evaluation import LOCAL

EVALUATED = ("dev", "val", "validation", "test")
"""Splits to evaluate on, the first that a folder has: what weights are chosen by should not be the test."""


VALIDATION = "val"
"""What such a split is called here, whatever each data set calls it."""


class TextEvaluation(RetrievalEvaluation):
    """Measures retrieval on text data sets in the BEIR layout, as the small ones of NanoBEIR.

    Does what :class:`~callbacks.RetrievalEvaluation` does, at the same times, on data of its own: each data
    set is a task that searches its own corpus. Measures go to the loggers as ``<label>/local/<task>/…``,
    their averages can be monitored, and files have the label in their names: ``metrics_<label>.json``,
    ``runs_<label>/``. :class:`~callbacks.RunReport` has a table of it.

    Args:
        folders: Folders in the BEIR layout, or a folder of such; their names are those of the data sets.
            "embedded": the text benchmark that ships with the project. ``None``: those that the data module
            trains on (:class:`~data_modules.ContinualTextDataModule`), as far as they have a split to
            evaluate.
        label: What names begin with; different for each evaluation of a trainer.
        released_split: Which of the qrels to use, as ``dev`` to choose by; by default ``test`` of
            ``folders``, and of those of the data module the first of ``dev``, ``val``, ``validation`` and
            ``test`` that each has.
        prompts: Name of a data set → its instruction; by default those of the data module's own ``prompts``
            for its folders, and a general one for others.
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
        max_text_tokens: Where texts are cut; by default where the data module cuts those that it trains on,
            and for ``folders`` the encoder's own limit.
        encoding_batch_size: Texts per batch, at least 1.
        num_workers: Processes that read and tokenise.
        final_split: The qrels to report on, if they are others than those to choose by.
        allow_empty: Names of data sets whose documents and queries without text are left out and counted; by
            default those of the data module's own for its folders.

    Raises:
        DataError: If a folder cannot be used; from ``setup``, if anything in it cannot, or the data module's
            text data have nothing to evaluate.
        MisconfigurationException: From ``setup``, without ``folders`` and with a data module without text.
        ValueError: As :class:`~callbacks.RetrievalEvaluation`, or if the label is empty.
    """

    _sets: TextSets
    _released: str
    _splits: Sequence[str]
    _prompts: Mapping[str, str] | None
    _allow_empty: Sequence[str]
    _max_text_tokens: int | None
    _encoding_batch_size: int
    _num_workers: int

    def __init__(
        self,
        folders: dict[str, str] | list[str] | str | None = None,
        label: str = "text",
        released_split: str | None = None,
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
        allow_empty: Sequence[str] = (),
    ) -> None:
        super().__init__(
            released_split or (VALIDATION if folders is None else "test"),
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
        self._follows_data = folders is None
        for evaluation in self._both():
            evaluation._prompts, evaluation._max_text_tokens = prompts, max_text_tokens
            evaluation._allow_empty = tuple(allow_empty)
            evaluation._encoding_batch_size, evaluation._num_workers = encoding_batch_size, num_workers
            evaluation.label = label
            evaluation._released = evaluation.split
            evaluation.split = "test"  # whatever the release calls it
            if folders is not None:
                evaluation._sets = evaluation._made(
                    folders, evaluation._released, prompts, max_text_tokens, allow_empty
                )
        self._splits = EVALUATED if released_split is None else (released_split,)
        if isinstance(self.final, TextEvaluation):  # what has no such split is reported on what it has
            self.final._splits = (self.final._released, *EVALUATED)

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(label=self.label)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "predict":
            for evaluation in self._both():
                if self._follows_data:
                    evaluation._sets = evaluation._sets_of(trainer)
                evaluation._open(trainer)
        super().setup(trainer, pl_module, stage)

    def _both(self) -> list[TextEvaluation]:
        """This evaluation, and that of the final split."""
        return [one for one in self.of_stage("fit") if isinstance(one, TextEvaluation)]

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

    def _sets_of(self, trainer: Trainer) -> TextSets:
        """What the data module trains on, as far as it can be evaluated."""
        data = getattr(trainer, "datamodule", None)  # Trainer gets the attribute with the first datamodule
        trained = getattr(data, "texts", None)
        if not isinstance(trained, TextSets):
            raise MisconfigurationException(
                f"TextEvaluation has no folders, and {type(data).__name__} has no text data: set folders."
            )
        limit = trained.max_text_tokens if self._max_text_tokens is None else self._max_text_tokens
        splits = [split for split in self._splits if split not in trained.splits]
        if trained.embedded:
            return self._made(EMBEDDED, splits, self._prompts or trained.prompts, limit, ())
        found = {name: str(path) for name, path in trained.sources if split_of(path, splits)}
        if left := [name for name in trained.names if name not in found]:
            what = f"{', '.join(left)}: no qrels of {', '.join(splits)}, so nothing to evaluate text on"
            if not found:
                raise DataError(
                    f"{what}; add such a folder in the BEIR layout to data.text_root, or set the folders of "
                    "callbacks.TextEvaluation"
                )
            trainer.print(f"{what}. Text is evaluated on {', '.join(found)}.")
        if self.final is not None:
            self._tell_same(trainer, found, splits)
        known = {name: prompt for name, prompt in trained.prompts.items() if name in found}
        empty = self._allow_empty or [name for name in trained.allow_empty if name in found]
        return self._made(found, splits, self._prompts or known, limit, empty)

    def _tell_same(self, trainer: Trainer, found: Mapping[str, str], splits: Sequence[str]) -> None:
        """Say where weights are chosen by the split that is reported."""
        reported = self.final.shown_split if self.final is not None else ""
        same = [name for name, path in found.items() if split_of(Path(path), splits) == reported]
        if same:
            trainer.print(
                f"{', '.join(same)}: only the split {reported} can be evaluated, so weights are chosen by "
                "what is reported; add qrels/dev.tsv to keep them apart."
            )

    def _made(
        self,
        folders: dict[str, str] | list[str] | str,
        splits: Sequence[str] | str,
        prompts: Mapping[str, str] | None,
        max_text_tokens: int | None,
        allow_empty: Sequence[str],
    ) -> TextSets:
        return TextSets(
            folders,
            splits,
            prompts=prompts,
            max_text_tokens=max_text_tokens,
            encoding_batch_size=self._encoding_batch_size,
            num_workers=self._num_workers,
            allow_empty=allow_empty,
        )

    @override
    def data(self, trainer: Trainer) -> RetrievalData:
        return self._sets

    @override
    def pools_of(self, queries: QuerySet) -> list[Pool]:
        return [pool for pool in pools_of(queries) if pool.kind == LOCAL]
