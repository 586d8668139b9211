"""What of a model is trained: LoRA on the language model, the projector in full, the rest frozen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from mmretrieval.encoder.families import Family
from mmretrieval.errors import UserError


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters on the language model (Hu et al., 2021, https://arxiv.org/abs/2106.09685).

    Args:
        rank: Rank of the adapters, >= 1; 8 in MM-Embed.
        alpha: The update is scaled by ``alpha / rank``; 64 in MM-Embed.
        dropout: Share of the adapters' inputs that training drops, in [0, 1).
        modules: Names of the linear layers that get an adapter.
        dora: Whether magnitude and direction are learnt apart (Liu et al., 2024, https://arxiv.org/abs/2402.09353).
        rank_stabilized: Whether to scale by ``alpha / sqrt(rank)`` instead (Kalajdzievski, 2023,
            https://arxiv.org/abs/2312.03732).
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
    dora: bool = False
    rank_stabilized: bool = False


@dataclass(frozen=True)
class TrainedParts:
    """Which parts of the model are trained in full.

    Args:
        projector: The modules between vision tower and language model.
        embeddings: The token embeddings.
        vision_tower: The vision tower, projectors inside it aside.
    """

    projector: bool = True
    embeddings: bool = False
    vision_tower: bool = False


def prepare(core: Any, family: Family, lora: LoRA | None, parts: TrainedParts) -> None:  # noqa: ANN401
    """Freeze a core, except for what is to be trained, which is kept in single precision.

    In half precision, steps of usual learning rates would be rounded away.

    Args:
        core: The model without its language-modelling head.
        family: The model's family.
        lora: Adapters to attach to the language model.
        parts: What is trained in full.

    Raises:
        UserError: If the language model lacks layers that adapters are for.
    """
    core.requires_grad_(False)
    if lora is not None:
        _attach(core, family, lora)
    tower = core.get_submodule(family.vision_tower)
    if parts.vision_tower:
        tower.requires_grad_(True)
    for name in family.projectors:
        core.get_submodule(name).requires_grad_(parts.projector)
    if parts.embeddings:
        core.get_input_embeddings().requires_grad_(True)
    for parameter in core.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _attach(core: nn.Module, family: Family, lora: LoRA) -> None:
    language_model = core.get_submodule(family.language_model)
    present = {name.rsplit(".", 1)[-1] for name, _ in language_model.named_modules()}
    missing = sorted(set(lora.modules) - present)
    if missing:
        raise UserError(f"lora.modules: the language model has no layer named {', '.join(missing)}")
    names = "|".join(map(re.escape, lora.modules))
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"{re.escape(family.language_model)}\.(.*\.)?({names})",
        use_dora=lora.dora,
        use_rslora=lora.rank_stabilized,
    )
    inject_adapter_in_model(config, core)


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Size of one part of a model.

    Args:
        name: The part.
        parameters: Its parameters.
        trained: Those of them that training changes.
    """

    name: str
    parameters: int
    trained: int


def parameter_groups(encoder: nn.Module, family: Family) -> list[ParameterGroup]:
    """Count parameters by part: vision tower, projector, embeddings, language model, adapters, and the rest.

    Args:
        encoder: A module whose ``core`` is the model without its head.
        family: The model's family.
    """
    core: Any = encoder.core
    embeddings = {id(parameter) for parameter in core.get_input_embeddings().parameters()}
    counts: dict[str, list[int]] = {}
    for name, parameter in encoder.named_parameters():
        part = "embeddings" if id(parameter) in embeddings else _part(name.removeprefix("core."), family)
        group = counts.setdefault(part, [0, 0])
        group[0] += parameter.numel()
        group[1] += parameter.numel() * int(parameter.requires_grad)
    return [ParameterGroup(name, *numbers) for name, numbers in counts.items()]


def _part(name: str, family: Family) -> str:
    if "lora_" in name:
        return "adapters"
    if any(name.startswith(f"{projector}.") for projector in family.projectors):
        return "projector"
    if name.startswith(f"{family.vision_tower}."):
        return "vision tower"
    if name.startswith(f"{family.language_model}."):
        return "language model"
    return "pooling and head" if name.startswith(("pool.", "head.")) else "other"
