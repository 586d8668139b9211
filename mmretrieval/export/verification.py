"""Checks that what was exported embeds as what was trained does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from numpy.typing import NDArray
from PIL import Image

from mmretrieval.content import Candidate, Content, Query
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.errors import UserError

TOLERANCE = 1e-4
"""Largest difference of any value, in single precision."""
LEAST_COSINE = 0.95
"""Smallest cosine of an item's embeddings where one of the two was computed in half precision."""

_INSTRUCTION = "Find a picture that shows what the text says."

Embed = Callable[[Sequence[Query | Candidate]], NDArray[np.float32]]


def samples() -> list[Query | Candidate]:
    """Return texts, pictures and both, as queries with and without instruction and as candidates."""
    wide = Image.radial_gradient("L").resize((96, 40)).convert("RGB")
    tall = Image.merge("RGB", (Image.linear_gradient("L").resize((30, 50)),) * 3).rotate(90, expand=False)
    contents = [
        Content("Two red stars beside a blue circle."),
        Content("Ein grüner Punkt; 3 + 4 = 7 <image> </s>"),
        Content(None, wide),
        Content("a grey glow", tall),
    ]
    queries = [Query(content, _INSTRUCTION) for content in contents]
    return [*queries, Query(contents[0]), Query(contents[3]), *map(Candidate, contents)]


def check(what: str, found: NDArray[np.float32], expected: NDArray[np.float32], *, exact: bool) -> float:
    """Compare embeddings of :func:`samples`.

    Args:
        what: What gave them, for the error.
        found: Its embeddings, ``(N, D)``.
        expected: Those of the trained retriever, ``(N, D)``.
        exact: Whether all was computed in single precision.

    Returns:
        The largest difference of any value.

    Raises:
        UserError: If they differ by more than :data:`TOLERANCE`, or :data:`LEAST_COSINE` allows.
    """
    if found.shape != expected.shape:
        raise UserError(f"{what} gives embeddings of shape {found.shape} instead of {expected.shape}")
    difference = float(np.abs(found - expected).max())
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = float(((found * expected).sum(axis=1) / lengths).min())
    if not (difference <= TOLERANCE if exact else cosine >= LEAST_COSINE):
        raise UserError(
            f"{what} embeds otherwise than the trained retriever: values differ by up to {difference:.2g}, "
            f"the smallest cosine is {cosine:.4f}; nothing was exported"
        )
    return difference


def by_encoder(encoder: MLLMEncoder) -> Embed:
    """Embed with an encoder, wherever it is.

    Args:
        encoder: A loaded encoder.
    """

    @torch.inference_mode()
    def embed(items: Sequence[Query | Candidate]) -> NDArray[np.float32]:
        rows = []
        for item in items:
            queries, candidates = ([item], []) if isinstance(item, Query) else ([], [item])
            inputs = encoder.input_processor.together(queries, candidates)
            moved = move_data_to_device(inputs, next(encoder.parameters()).device)
            rows.append(encoder(moved)[0].cpu().numpy())
        return np.stack(rows)

    return embed


def by_sentence_transformers(model: Any) -> Embed:  # noqa: ANN401 - an optional package
    """Embed with a ``SentenceTransformer``.

    Args:
        model: The model.
    """

    def embed(items: Sequence[Query | Candidate]) -> NDArray[np.float32]:
        rows = []
        for item in items:
            given = as_input(item.content)
            if isinstance(item, Query):
                rows.append(model.encode_query([given], prompt=item.instruction or "")[0])
            else:
                rows.append(model.encode_document([given])[0])
        return np.stack(rows).astype(np.float32)

    return embed


def as_input(content: Content) -> Any:  # noqa: ANN401
    """Return a content as sentence-transformers takes it."""
    if content.image is None:
        return content.text
    return {"image": content.image, "text": content.text} if content.text else content.image


def load_sentence_transformer(folder: Path, device: str, *, stock: bool) -> Any:  # noqa: ANN401
    """Load an exported folder with sentence-transformers.

    Args:
        folder: The folder.
        device: Where to compute.
        stock: Whether its modules are sentence-transformers' own; else the folder's are this project's.

    Raises:
        UserError: If sentence-transformers is not installed.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(
            f"The package sentence-transformers is needed to check what is exported ({error}); "
            "pip install 'sentence-transformers>=6.2', or leave its files out (--modules none)"
        ) from error
    return SentenceTransformer(str(folder), device=device, local_files_only=True, trust_remote_code=not stock)
