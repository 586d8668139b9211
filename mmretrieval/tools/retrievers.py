"""The models that a command is given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmretrieval.rerank.describing import Description
    from mmretrieval.rerank.zero_shot import ZeroShotReranker
    from mmretrieval.retriever import Retriever


def load_retriever(
    folder: Path,
    device: str,
    batch_size: int = 32,
    dim: int | None = None,
    base: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> Retriever:
    """Load a retriever, and say on stderr what was loaded.

    Args:
        folder: A training run, or an exported retriever.
        device: cpu, cuda, or auto for cuda where there is one.
        batch_size: Contents a forward pass.
        dim: Keep the first so many dimensions of each embedding.
        base: Where its base model is now; where it was in training by default.
        trust_remote_code: Whether Python code that comes with the base model is executed.

    Raises:
        UserError: If there is none, or it cannot be used.
    """
    from mmretrieval.retriever import Retriever

    loaded = Retriever.from_pretrained(
        folder, device_of(device), batch_size, dim, base, trust_remote_code=trust_remote_code
    )
    print(loaded.describe(), file=sys.stderr)
    return loaded


def load_reranker(base: str, device: str) -> ZeroShotReranker:
    """Load an MLLM that reorders.

    Args:
        base: A folder, a hub name, or ``embedded``.
        device: cpu, cuda, or auto for cuda where there is one.

    Raises:
        UserError: If there is none, or it cannot be used.
    """
    from mmretrieval.rerank.zero_shot import ZeroShotReranker

    made = ZeroShotReranker(base, describe=description(base))
    made.load()
    return made.to(device_of(device))


def description(base: str, *, describe: bool | None = None) -> Description | None:
    """How an MLLM puts pictures into words before it judges them, if it does.

    Args:
        base: A folder, a hub name, or ``embedded``.
        describe: Whether it does; by default only the small MLLM that ships does, which judges words far
            better than pictures.
    """
    from mmretrieval.encoder.backbone import EMBEDDED
    from mmretrieval.rerank.describing import Description

    return Description() if describe or (describe is None and base == EMBEDDED) else None


def device_of(device: str) -> str:
    """The device itself, or for ``auto`` cuda where there is one, else cpu."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
