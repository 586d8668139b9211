"""A trained retriever in a few lines of Python, without Lightning's trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from numpy.typing import NDArray
from torch.nn.functional import normalize

from mmretrieval.batches import EncoderInputs
from mmretrieval.content import Candidate, Content, Query
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.saving import adapter_folder

T = TypeVar("T")


class Retriever:
    """Embeds queries and candidates; the best candidate has the largest inner product.

    Args:
        encoder: A loaded encoder.
        device: Where to compute, as ``cpu`` or ``cuda``.
        batch_size: Contents a forward pass, >= 1.
        dim: Keep the first so many dimensions of each embedding, normalised again, of a retriever that was
            trained with :class:`~mmretrieval.loss.Matryoshka`; ``None`` keeps all.

    Raises:
        ValueError: If ``batch_size`` or ``dim`` is out of range.
    """

    def __init__(
        self, encoder: MLLMEncoder, device: str = "cpu", batch_size: int = 32, dim: int | None = None
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {batch_size}.")
        if dim is not None and not 1 <= dim <= encoder.embedding_dim:
            raise ValueError(f"dim must be between 1 and {encoder.embedding_dim}, found {dim}.")
        self.dim = encoder.embedding_dim if dim is None else dim
        self.encoder = encoder.to(device).eval()
        self.batch_size = batch_size
        self._device = torch.device(device)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: str = "cpu", batch_size: int = 32, dim: int | None = None
    ) -> Self:
        """Load the ``adapter`` folder of a training run.

        Args:
            path: The folder, or a run's folder that has it.
            device: Where to compute.
            batch_size: Contents a forward pass.
            dim: Keep the first so many dimensions of each embedding.

        Raises:
            UserError: If files are missing or damaged, or do not fit their base model.
        """
        return cls(MLLMEncoder.from_pretrained(adapter_folder(Path(path))), device, batch_size, dim)

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
