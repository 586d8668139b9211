"""Trades time for memory: activations are computed again in the backward pass."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from mmretrieval.encoder.families import Family
from mmretrieval.errors import UserError


def checkpoint_projectors(core: nn.Module, family: Family) -> None:
    """Let projectors keep their inputs only, which are the features of the vision tower."""
    for name in family.projectors:
        projector = core.get_submodule(name)
        for part in projector if isinstance(projector, nn.ModuleList) else [projector]:
            part.forward = partial(checkpoint, part.forward, use_reentrant=False)


def checkpoint_activations(core: Any, family: Family) -> None:  # noqa: ANN401
    """Let each layer of the language model keep its inputs only; a frozen tower keeps nothing anyway.

    Raises:
        UserError: If the language model cannot do it.
    """
    language_model = core.get_submodule(family.language_model)
    # transformers 5.23 renamed it; both are there until version 6.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable = next((getattr(language_model, name) for name in names if hasattr(language_model, name)), None)
    if enable is None or not getattr(language_model, "supports_gradient_checkpointing", False):
        raise UserError(
            f"encoder.gradient_checkpointing: a {type(language_model).__name__} cannot do it; leave it out"
        )
    enable({"use_reentrant": False})
