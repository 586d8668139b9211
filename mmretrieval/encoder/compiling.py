"""Compiles the layers of a model, which fuses what lies between their matrix products."""

from __future__ import annotations

from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from mmretrieval.encoder.families import Family
from mmretrieval.errors import UserError


def compile_layers(core: Any, family: Family) -> None:  # noqa: ANN401 - transformers' models are untyped
    """Compile each layer of vision tower and language model for any batch and any length.

    One layer's code serves all layers of its kind, so that this takes seconds and not minutes.

    Raises:
        UserError: If the language model has no layers that transformers marks as such.
    """
    parts = [core.get_submodule(name) for name in (family.vision_tower, family.language_model)]
    layers = [[m for m in part.modules() if isinstance(m, GradientCheckpointingLayer)] for part in parts]
    if not layers[1]:
        kind = type(parts[1]).__name__
        raise UserError(f"encoder.compiled: no layers are known of a {kind}; leave it out")
    for layer in (layer for own in layers for layer in own):
        layer.compile(dynamic=True)
