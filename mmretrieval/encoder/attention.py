"""Lifts the causal mask, so that every token sees the whole content."""

from __future__ import annotations

from typing import Any

from mmretrieval.encoder.families import Family
from mmretrieval.errors import UserError


def make_bidirectional(core: Any, family: Family) -> None:  # noqa: ANN401
    """Let each token of the language model attend to all others, padding aside (as NV-Embed does).

    Layers with a sliding window keep it, as they were trained with it: their tokens see as far ahead as back
    (as in EmbeddingGemma); layers without one, if there are any, see everything.

    transformers builds masks from ``is_causal`` of the configuration, and the attention kernels go by that
    of the layers where no mask is needed, so both are set.

    Raises:
        UserError: If no attention layer says whether it is causal.
    """
    language_model = core.get_submodule(family.language_model)
    layers = [module for module in language_model.modules() if hasattr(module, "is_causal")]
    if not layers:
        raise UserError(
            f"encoder.bidirectional: {type(language_model).__name__} has no attention layer with "
            "'is_causal', so that its mask cannot be lifted; leave it out"
        )
    for config in (language_model.config, core.config.get_text_config()):
        config.is_causal = False
    for layer in layers:
        layer.is_causal = False
