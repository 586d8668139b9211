"""Families without a record: finds a model's parts by the names that transformers gives them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from mmretrieval.encoder.families import FAMILIES, Family
from mmretrieval.errors import UserError

_TOWERS = ("vision_tower", "visual", "vision_model", "vision_encoder", "image_tower")
_PROJECTORS = ("multi_modal_projector", "connector", "projector", "mm_projector", "aligner", "visual.merger")
_LANGUAGE_MODELS = ("language_model", "text_model", "decoder")
_SHAPES = ("image_sizes", "image_grid_thw")


@dataclass(frozen=True)
class Parts:
    """Names of a model's parts below its core, for families that the project does not know.

    Args:
        vision_tower: The vision tower.
        projectors: The modules that map its features into the language model.
        language_model: The language model.
    """

    vision_tower: str
    projectors: tuple[str, ...]
    language_model: str


def family_of(
    config: Any,  # noqa: ANN401
    parts: Parts | None = None,
    *,
    trust_remote_code: bool = False,
) -> Family:
    """Return the family of a model: its record, or what can be found out about it.

    Args:
        config: The model's configuration.
        parts: Names to use instead of those recorded or found.
        trust_remote_code: Whether Python code that comes with the model is executed.

    Raises:
        UserError: If parts cannot be found, or the model needs inputs that are not known here.
    """
    known = FAMILIES.get(config.model_type)
    if known is not None:
        return known if parts is None else _renamed(known, parts)
    return _discover(config, parts, trust_remote_code)


def is_discovered(config: Any) -> bool:  # noqa: ANN401
    """Whether there is no record of the model's family, so that what was found should be checked."""
    return config.model_type not in FAMILIES


def _renamed(family: Family, parts: Parts) -> Family:
    return replace(
        family,
        vision_tower=parts.vision_tower,
        projectors=parts.projectors,
        language_model=parts.language_model,
    )


def _discover(config: Any, parts: Parts | None, trust_remote_code: bool) -> Family:  # noqa: ANN401
    core = _skeleton(config, trust_remote_code)
    if parts is None:
        parts = Parts(
            _first(core, _TOWERS, "vision_tower"),
            (_first(core, _PROJECTORS, "projectors"),),
            _first(core, _LANGUAGE_MODELS, "language_model"),
        )
    if "token_type_ids" in inspect.signature(core.forward).parameters:
        raise _needs_record(config, "its attention depends on token types")
    family = Family(shape=_shape(config, core), multimodal_rope=hasattr(core, "get_rope_index"))
    return _renamed(family, parts)


def _skeleton(config: Any, trust_remote_code: bool) -> nn.Module:  # noqa: ANN401
    """The model's core without memory for weights."""
    try:
        with torch.device("meta"):
            model: Any = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
                config, trust_remote_code=trust_remote_code
            )
    except ValueError as error:
        raise UserError(
            f"model_type {config.model_type!r}: transformers has no image-text-to-text model of it ({error})"
        ) from error
    core: nn.Module = model.model
    return core


def _first(core: nn.Module, names: tuple[str, ...], what: str) -> str:
    present = dict(core.named_modules())
    for name in names:
        if name in present:
            return name
    children = ", ".join(name for name, _ in core.named_children())
    raise UserError(
        f"encoder.loading.parts.{what}: cannot be found in a {type(core).__name__}; declare vision_tower, "
        f"projectors and language_model, out of {children} or what is below them"
    )


def _shape(config: Any, core: Any) -> str | None:  # noqa: ANN401
    """The input that says each picture's shape; what is optional beside it is left to the verification."""
    inputs = inspect.signature(core.get_image_features).parameters.values()
    shapes = {parameter.name for parameter in inputs if parameter.name in _SHAPES}
    required = {
        parameter.name
        for parameter in inputs
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    }
    if len(shapes) > 1 or required - shapes - {"self", "pixel_values"}:
        raise _needs_record(config, f"its pictures need {', '.join(sorted(required | shapes))}")
    return next(iter(shapes), None)


def _needs_record(config: Any, reason: str) -> UserError:  # noqa: ANN401
    return UserError(
        f"model_type {config.model_type!r} is of no known family, and {reason}; "
        "add a record to mmretrieval/encoder/families.py"
    )
