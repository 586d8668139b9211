"""Loads MLLMs and prepares them for training: checks their keys, freezes them, attaches LoRA."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from mmretrieval.encoder.families import Family, family_of
from mmretrieval.errors import UserError

EMBEDDED = "embedded"
"""Name of the small MLLM that ships with the project."""


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters on the language model (Hu et al., 2021, https://arxiv.org/abs/2106.09685).

    Args:
        rank: Rank of the adapters, >= 1; 8 in MM-Embed.
        alpha: The update is scaled by ``alpha / rank``; 64 in MM-Embed.
        dropout: Share of the adapters' inputs that training drops, in [0, 1).
        modules: Names of the linear layers that get an adapter.
    """

    rank: int = 8
    alpha: float = 64.0
    dropout: float = 0.0
    modules: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )


def resolve(base: str) -> str:
    """Return the folder or hub name of a base model; ``embedded`` is the one that ships."""
    return str(files("mmretrieval.encoder") / "assets") if base == EMBEDDED else base


def load_config(base: str) -> Any:  # noqa: ANN401 - each family has a configuration class of its own
    """Load a model's configuration.

    Raises:
        UserError: If there is none at ``base``.
    """
    try:
        return AutoConfig.from_pretrained(resolve(base), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"encoder.base {base!r}: no configuration can be loaded there ({error})") from error


def load_processor(base: str) -> Any:  # noqa: ANN401 - transformers' processors share no typed base
    """Load a model's processor (tokenizer and image processor).

    Raises:
        UserError: If there is none at ``base``.
    """
    try:
        return AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            resolve(base), trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise UserError(f"encoder.base {base!r}: no processor can be loaded there ({error})") from error


def load_backbone(base: str, dtype: str, attention: str) -> Any:  # noqa: ANN401
    """Load an image-text-to-text model, without its language-modelling head, and check that it is whole.

    Args:
        base: A folder, a hub name, or ``embedded``.
        dtype: Name of the parameters' type, as ``float32`` or ``bfloat16``.
        attention: transformers' attention implementation, as ``sdpa``.

    Returns:
        The model's core: vision tower, projector and language model.

    Raises:
        UserError: If nothing can be loaded, or weights are missing, left over or of another shape.
    """
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            resolve(base),
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"encoder.base {base!r}: no model can be loaded there ({error})") from error
    model, report = loaded
    wrong = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}
    if wrong:
        raise UserError(f"encoder.base {base!r}: the weights do not fit the model: {wrong}")
    return model.model


def prepare(core: Any, lora: LoRA | None, *, projector: bool, embeddings: bool) -> None:  # noqa: ANN401
    """Freeze a core, except for what is to be trained.

    Args:
        core: As :func:`load_backbone` returns it.
        lora: Adapters to attach to the language model.
        projector: Whether to train the projector in full.
        embeddings: Whether to train the token embeddings in full.

    Raises:
        UserError: If the language model has none of the layers that adapters are for.
    """
    family = family_of(core.config)
    core.requires_grad_(False)
    if lora is not None:
        _attach(core, family, lora)
    if projector:
        core.get_submodule(family.projector).requires_grad_(True)
    if embeddings:
        core.get_input_embeddings().requires_grad_(True)


def _attach(core: nn.Module, family: Family, lora: LoRA) -> None:
    language_model = core.get_submodule(family.language_model)
    present = {name.rsplit(".", 1)[-1] for name, _ in language_model.named_modules()}
    missing = sorted(set(lora.modules) - present)
    if missing:
        raise UserError(f"lora.modules: the language model has no layer named {', '.join(missing)}")
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"{family.language_model}\..*\.({'|'.join(lora.modules)})",
    )
    inject_adapter_in_model(config, core)


def trained_names(core: nn.Module) -> Iterable[str]:
    """Names of the parameters that training changes, sorted."""
    return sorted(name for name, parameter in core.named_parameters() if parameter.requires_grad)
