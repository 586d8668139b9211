"""A trained retriever in a few lines of Python, without Lightning's trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import normalize

from mmretrieval.batches import EncoderInputs
from mmretrieval.content import Candidate, Content, Query
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.provenance import Provenance, read_provenance
from mmretrieval.encoder.saving import adapter_folder
from mmretrieval.export.mteb_encoder import MTEBEncoder

if TYPE_CHECKING:
    from mteb.models import ModelMeta
    from torch.utils.data import DataLoader

T = TypeVar("T")


class Retriever:
    """Embeds queries and candidates; the best candidate has the largest inner product.

    It is an encoder of mteb 2 as well: ``mteb.evaluate(retriever, tasks)`` works, see :meth:`for_mteb`.

    Args:
        encoder: A loaded encoder.
        device: Where to compute, as ``cpu`` or ``cuda``.
        batch_size: Contents a forward pass, >= 1.
        dim: Keep the first so many dimensions of each embedding, normalised again, of a retriever that was
            trained with :class:`~mmretrieval.loss.Matryoshka`; ``None`` keeps all.
        name: What it is called in others' results.
        provenance: What it was trained on, if that is known.

    Raises:
        ValueError: If ``batch_size`` or ``dim`` is out of range.
    """

    def __init__(
        self,
        encoder: MLLMEncoder,
        device: str = "cpu",
        batch_size: int = 32,
        dim: int | None = None,
        name: str = "retriever",
        provenance: Provenance | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {batch_size}.")
        if dim is not None and not 1 <= dim <= encoder.embedding_dim:
            raise ValueError(f"dim must be between 1 and {encoder.embedding_dim}, found {dim}.")
        self.dim = encoder.embedding_dim if dim is None else dim
        self.encoder = encoder.to(device).eval()
        self.batch_size = batch_size
        self.name = name
        self.provenance = provenance
        self._device = torch.device(device)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str = "cpu",
        batch_size: int = 32,
        dim: int | None = None,
        base: str | None = None,
        language_model: str | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> Self:
        """Load a retriever that was trained here.

        Args:
            path: A training run, its ``adapter`` folder, or what ``mmretrieval export`` wrote.
            device: Where to compute.
            batch_size: Contents a forward pass.
            dim: Keep the first so many dimensions of each embedding.
            base: Where the base model is now, a folder or a hub name; ``None``: where it was in training.
            language_model: The same of a language model that was put into the base.
            trust_remote_code: Whether Python code that comes with the base is executed; a saved retriever
                never grants that.

        Raises:
            UserError: If files are missing or damaged, or do not fit their base model.
        """
        folder = adapter_folder(Path(path))
        whole = folder.resolve()
        name = whole.parent.name if whole.name == "adapter" else whole.name
        encoder = MLLMEncoder.from_pretrained(
            folder, base, language_model, trust_remote_code=trust_remote_code
        )
        return cls(encoder, device, batch_size, dim, name, read_provenance(folder))

    def encode_queries(self, queries: Sequence[Query | Content | str]) -> NDArray[np.float32]:
        """Embed queries.

        Args:
            queries: N queries; a content or a text is a query without an instruction.

        Returns:
            L2-normalised embeddings, ``(N, D)``.
        """
        asked = [item if isinstance(item, Query) else Query(_content(item)) for item in queries]
        return self._encode(asked, self.encoder.input_processor.queries)

    def encode_candidates(self, candidates: Sequence[Candidate | Content | str]) -> NDArray[np.float32]:
        """Embed candidates.

        Args:
            candidates: N candidates, contents or texts.

        Returns:
            L2-normalised embeddings, ``(N, D)``.
        """
        pool = [item if isinstance(item, Candidate) else Candidate(_content(item)) for item in candidates]
        return self._encode(pool, self.encoder.input_processor.candidates)

    def describe(self) -> str:
        """Say what embeds here: the trained weights by a hash, the base, parameters' type, and the device."""
        facts = f"weights {self.encoder.weights_hash()}, {self.dim} dimensions, {self._device}"
        return f"{self.name} ({facts}) on {self.encoder.describe()}"

    def embedding_hash(self) -> str:
        """Return a hex digest of all that decides an embedding."""
        whole = self.encoder.embedding_hash()
        return whole if self.dim == self.encoder.embedding_dim else f"{whole}-{self.dim}"

    def for_mteb(self, instructions: Mapping[str, str]) -> MTEBEncoder:
        """Return the same retriever for ``mteb.evaluate``, with other instructions than mteb's.

        Args:
            instructions: By name or type of mteb's tasks; an empty one is none.
        """
        return MTEBEncoder(self, instructions)

    @cached_property
    def _mteb(self) -> MTEBEncoder:
        return MTEBEncoder(self)

    def encode(self, inputs: DataLoader[Any], **kwargs: Any) -> NDArray[np.float32]:  # noqa: ANN401
        """Embed what a loader of mteb gives, see :class:`~mmretrieval.export.mteb_encoder.MTEBEncoder`."""
        return self._mteb.encode(inputs, **kwargs)

    def similarity(self, embeddings1: ArrayLike | Tensor, embeddings2: ArrayLike | Tensor) -> Tensor:
        """Return the cosine of each of N embeddings with each of M, ``(N, M)``."""
        return self._mteb.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: ArrayLike | Tensor, embeddings2: ArrayLike | Tensor) -> Tensor:
        """Return the cosine of each of N embeddings with its counterpart, ``(N,)``."""
        return self._mteb.similarity_pairwise(embeddings1, embeddings2)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb is told about the retriever.

        Raises:
            UserError: If mteb is not installed.
        """
        return self._mteb.mteb_model_meta

    @torch.inference_mode()
    def _encode(
        self, items: Sequence[T], prepare: Callable[[Sequence[T]], EncoderInputs]
    ) -> NDArray[np.float32]:
        embeddings = np.empty((len(items), self.dim), dtype=np.float32)
        for start in range(0, len(items), self.batch_size):
            inputs = prepare(items[start : start + self.batch_size])
            moved = move_data_to_device(inputs, self._device)
            embedded = normalize(self.encoder(moved)[:, : self.dim], dim=-1)
            embeddings[start : start + self.batch_size] = embedded.cpu().numpy()
        return embeddings


def _content(item: Content | str) -> Content:
    return Content(item) if isinstance(item, str) else item
