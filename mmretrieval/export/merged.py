"""A retriever with its adapters merged: a folder that transformers loads, and the settings beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmretrieval.encoder.adapters import TrainedParts
from mmretrieval.encoder.backbone import DTYPES, Loading
from mmretrieval.encoder.merging import merge
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.errors import UserError
from mmretrieval.export.stock_modules import plain_model


def write_merged(encoder: MLLMEncoder, folder: Path, dtype: str, *, plain: bool) -> MLLMEncoder:
    """Write model, processor, ``retriever.json`` and what was trained of pooling and head.

    Args:
        encoder: A loaded encoder; not to be used afterwards.
        folder: An empty folder.
        dtype: ``float32``, ``bfloat16`` or ``float16``; pooling and head keep their own.
        plain: Whether the model is made one that transformers itself uses as the encoder does, which needs
            that there is no :func:`~mmretrieval.export.stock_modules.obstacle`.

    Returns:
        The encoder that was written.

    Raises:
        UserError: If the adapters cannot be merged.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    merge(encoder, getattr(torch, dtype))
    core, processor, behind = plain_model(encoder) if plain else (encoder.core, encoder.processor, "")
    core.save_pretrained(folder)
    processor.save_pretrained(folder)
    written = _settled(encoder, core, folder, dtype, behind)
    written.save_pretrained(folder)
    return written


def _settled(encoder: MLLMEncoder, core: Any, folder: Path, dtype: str, behind: str) -> MLLMEncoder:  # noqa: ANN401
    """The encoder as it will be loaded from the folder."""
    templates = encoder.templates
    same_family = core.config.model_type == encoder.model_type
    made = MLLMEncoder(
        base=str(folder),
        loading=Loading(
            dtype, encoder.loading.attention, parts=encoder.loading.parts if same_family else None
        ),
        pictures=encoder.pictures,
        templates=replace(templates, after_image=behind + templates.after_image),
        max_text_tokens=encoder.max_text_tokens,
        bidirectional=encoder.bidirectional,
        pooling=encoder.pooling,
        latent_attention=encoder.latent_attention,
        projection=encoder.projection,
        lora=None,
        trained=TrainedParts(projector=False),
    )
    made.core, made.pool, made.head = core, encoder.pool, encoder.head
    return made
