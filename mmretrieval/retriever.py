"""A trained retriever in a few lines of Python, without Lightning's trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mmretrieval.batches import EncoderInputs
from mmretrieval.content import Candidate, Content, Query
from mmretrieval.encoder.mllm_encoder import MLLMEncoder

T = TypeVar("T")


class Retriever:
    """Embeds queries and candidates; the best candidate has the largest inner product.

    Args:
        encoder: A loaded encoder.
        device: Where to compute, as ``cpu`` or ``cuda``.
        batch_size: Contents a forward pass, >= 1.
    """

    def __init__(self, encoder: MLLMEncoder, device: str = "cpu", batch_size: int = 32) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {batch_size}.")
        self.encoder = encoder.to(device).eval()
        self.batch_size = batch_size
        self._device = torch.device(device)

    @classmethod
    def from_pretrained(cls, path: str | Path, device: str = "cpu", batch_size: int = 32) -> Self:
        """Load the ``adapter`` folder of a training run.

        Args:
            path: The folder, or a run's folder that has it.
            device: Where to compute.
            batch_size: Contents a forward pass.

        Raises:
            UserError: If files are missing or damaged, or do not fit their base model.
        """
        folder = Path(path)
        if (folder / "adapter").is_dir():
            folder = folder / "adapter"
        return cls(MLLMEncoder.from_pretrained(folder), device, batch_size)

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
        embeddings = np.empty((len(items), self.encoder.embedding_dim), dtype=np.float32)
        for start in range(0, len(items), self.batch_size):
            inputs = prepare(items[start : start + self.batch_size])
            moved = EncoderInputs(*(tensor.to(self._device) for tensor in inputs))
            embeddings[start : start + self.batch_size] = self.encoder(moved).cpu().numpy()
        return embeddings


def _content(item: Content | str) -> Content:
    return Content(item) if isinstance(item, str) else item
