"""Adapters added to the weights that they belong to."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from mmretrieval.encoder.backbone import Loading
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.errors import UserError


def check_mergeable(loading: Loading) -> None:
    """Refuse bases whose weights do not take a sum.

    Raises:
        UserError: If the base is quantized.
    """
    if loading.quantization is not None:
        raise UserError(
            f"encoder.loading.quantization {loading.quantization}: adapters cannot be merged into weights of "
            "4 bits without changing the model; export the adapter alone (--form adapter)"
        )


@torch.no_grad()
def merge(encoder: MLLMEncoder, dtype: torch.dtype) -> None:
    """Turn the core of a loaded encoder into a plain model of transformers, its adapters merged.

    The sums are computed in single precision, whatever the type of the base, and then cast: in half precision
    small updates of large weights would be rounded away. The encoder is not to be used afterwards.

    Args:
        encoder: A loaded encoder with LoRA, DoRA or rank-stabilised LoRA, or without adapters.
        dtype: Type of all weights of the core.

    Raises:
        UserError: If the base is quantized, or a merged weight is not finite.
    """
    check_mergeable(encoder.loading)
    core = encoder.core
    adapted = [(name, layer) for name, layer in core.named_modules() if isinstance(layer, BaseTunerLayer)]
    for name, layer in adapted:
        core.set_submodule(name, _merged(name, layer, dtype))
    if hasattr(core, "peft_config"):
        del core.peft_config
    for parameter in core.parameters():  # not buffers: rotary frequencies stay in single precision
        parameter.data = parameter.data.to(dtype)
    core.requires_grad_(False)
    core.config.dtype = dtype


def _merged(name: str, layer: Any, dtype: torch.dtype) -> nn.Module:  # noqa: ANN401
    """The layer below an adapter, with the adapter's update."""
    base: nn.Module = layer.get_base_layer()
    for parameter in base.parameters():
        parameter.data = parameter.data.float()
    try:
        layer.merge(safe_merge=True)
    except ValueError as error:
        raise UserError(f"core.{name}: its adapter cannot be merged ({error})") from error
    for parameter in base.parameters():
        parameter.data = parameter.data.to(dtype)
    return base
