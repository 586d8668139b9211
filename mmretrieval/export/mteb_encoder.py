"""A trained retriever as an encoder of mteb 2 (https://github.com/embeddings-benchmark/mteb)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import DataLoader
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from mmretrieval.content import Content, Query
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.provenance import Provenance
from mmretrieval.errors import UserError
from mmretrieval.export.mteb_inputs import DOCUMENT, contents_of, instruction_for, queries_of
from mmretrieval.export.mteb_meta import model_meta

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models import ModelMeta
    from mteb.types import PromptType

logger = logging.getLogger(__name__)


class Embedder(Protocol):
    """What is needed of a retriever; :class:`~mmretrieval.Retriever` has it."""

    encoder: MLLMEncoder
    dim: int
    name: str
    provenance: Provenance | None

    def encode_queries(self, queries: Sequence[Query | Content | str]) -> NDArray[np.float32]:
        """Embed queries."""

    def encode_candidates(self, candidates: Sequence[Content | str]) -> NDArray[np.float32]:
        """Embed candidates."""


class MTEBEncoder:
    """mteb's encoder protocol for a retriever: texts, pictures and both; ``mteb.evaluate`` takes it.

    Queries get an instruction, as in training (:func:`~mmretrieval.export.mteb_inputs.instruction_for` says
    which), documents none. Inputs of tasks without two sides, as STS and classification, are queries.

    Args:
        retriever: What embeds.
        instructions: Instructions by name or type of mteb's tasks, instead of those that mteb has; an empty
            one is none.
    """

    def __init__(self, retriever: Embedder, instructions: Mapping[str, str] | None = None) -> None:
        self.retriever = retriever
        self.instructions = dict(instructions or {})

    def encode(
        self,
        inputs: DataLoader[Any],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        precision: str | None = None,
        show_progress_bar: bool = True,
        **kwargs: Any,  # noqa: ANN401 - what else mteb says, as the loader's batch size
    ) -> NDArray[np.float32]:
        """Embed what a loader gives.

        Args:
            inputs: Batches of N inputs in all.
            task_metadata: What mteb knows of the task.
            hf_split: The task's split; no embedding depends on it.
            hf_subset: The task's subset; no embedding depends on it.
            prompt_type: Whether these are queries or documents; ``None`` where a task has not two sides.
            precision: ``float32`` or nothing.
            show_progress_bar: Whether to show one.
            kwargs: Not used.

        Returns:
            L2-normalised embeddings in the order of the inputs, ``(N, D)``.

        Raises:
            UserError: If another precision is asked for.
        """
        if precision not in (None, "float32"):
            raise UserError(f"precision {precision!r}: a retriever's embeddings are float32; leave it out")
        instruction = None
        if prompt_type != DOCUMENT:
            instruction = instruction_for(task_metadata, prompt_type, self.instructions)
        parts, blank = [np.empty((0, self.retriever.dim), np.float32)], 0
        for batch in tqdm(inputs, desc=f"{task_metadata.name} {hf_split}", disable=not show_progress_bar):
            contents, empty = contents_of(batch)
            blank += empty
            if prompt_type == DOCUMENT:
                parts.append(self.retriever.encode_candidates(contents))
            else:
                queries = queries_of(contents, instruction, batch.get("instruction"))
                parts.append(self.retriever.encode_queries(queries))
        if blank:
            logger.warning("%s: embedded %d empty inputs as a blank text.", task_metadata.name, blank)
        return np.concatenate(parts)

    def similarity(self, embeddings1: ArrayLike | Tensor, embeddings2: ArrayLike | Tensor) -> Tensor:
        """Return the cosine of each embedding with each other one.

        Shape:
            - embeddings1: ``(N, D)`` or ``(D,)``, embeddings2: ``(M, D)`` or ``(D,)``, output: ``(N, M)``.
        """
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: ArrayLike | Tensor, embeddings2: ArrayLike | Tensor) -> Tensor:
        """Return the cosine of each embedding with its counterpart.

        Shape:
            - embeddings1, embeddings2: ``(N, D)`` or ``(D,)``, output: ``(N,)``.
        """
        return (_unit(embeddings1) * _unit(embeddings2)).sum(dim=1)

    @cached_property
    def mteb_model_meta(self) -> ModelMeta:
        """Name, revision, sizes, modalities and training data, for mteb's results and its checks.

        Raises:
            UserError: If mteb is not installed.
        """
        one = self.retriever
        return model_meta(one.encoder, one.name, one.dim, one.provenance, self.instructions)


def _unit(embeddings: ArrayLike | Tensor) -> Tensor:
    rows = torch.as_tensor(embeddings).float()
    return normalize(rows if rows.ndim > 1 else rows[None], dim=1)
