"""Puts the weights of an encoder together: the base model, what replaces parts of it, and what is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lightning.fabric.utilities import rank_zero_warn
from torch import nn

from mmretrieval.encoder.adapters import prepare
from mmretrieval.encoder.attention import make_bidirectional
from mmretrieval.encoder.backbone import check_attention, load_backbone
from mmretrieval.encoder.checkpointing import checkpoint_activations, checkpoint_projectors
from mmretrieval.encoder.compiling import compile_layers
from mmretrieval.encoder.discovery import is_discovered
from mmretrieval.encoder.fingerprint import model_folder
from mmretrieval.encoder.language_swap import swap_language_model
from mmretrieval.encoder.latent_attention import load_latent_attention
from mmretrieval.encoder.latent_weights import start_from
from mmretrieval.encoder.packed_attention import pack_pictures
from mmretrieval.encoder.pooling import make_pooling
from mmretrieval.encoder.verification import verify_discovered

if TYPE_CHECKING:
    from mmretrieval.encoder.mllm_encoder import MLLMEncoder


class Assembled(NamedTuple):
    """What an encoder computes with.

    Args:
        core: The model without its language-modelling head.
        pool: The pooling.
        head: The linear map after pooling, or ``None``.
        started_from: What was put into the base, in words.
    """

    core: Any
    pool: nn.Module
    head: nn.Linear | None
    started_from: list[str]


def assemble(encoder: MLLMEncoder, config: Any, *, trained: bool) -> Assembled:  # noqa: ANN401
    """Read the base model, attach the adapters, freeze the rest.

    Args:
        encoder: Whose settings say what to load.
        config: Transformers' configuration of the base.
        trained: Whether trained weights come next, so that none need be there to start from.

    Raises:
        UserError: If the base cannot be loaded as it should.
    """
    family, loading, started_from = encoder.family, encoder.loading, []
    check_attention(config, family, loading, bidirectional=encoder.bidirectional)
    core = load_backbone(encoder.base, loading, (family.vision_tower, *family.projectors))
    if is_discovered(core.config):
        verify_discovered(core, family, encoder.processor, encoder.base)
    hidden_size = int(config.get_text_config().hidden_size)
    pool: Any = make_pooling(encoder.pooling, hidden_size, encoder.latent_attention)
    if loading.language_model is not None:
        started_from += _swap(encoder, core, pool, loading.language_model, trained=trained)
    if encoder.latent_attention.weights is not None and not trained:
        start_from(pool, encoder.latent_attention.weights)
        started_from.append(f"latent attention of {encoder.latent_attention.weights}")
    if encoder.bidirectional:
        make_bidirectional(core, family)
    prepare(core, family, encoder.lora, encoder.trained)
    if encoder.gradient_checkpointing:
        checkpoint_activations(core, family)
    if encoder.chunks.kept < 1:
        checkpoint_projectors(core, family)
    pack_pictures(core.get_submodule(family.vision_tower))
    if encoder.compiled:
        compile_layers(core, family)
    projection = encoder.projection
    head = None if projection is None else nn.Linear(hidden_size, projection, bias=False)
    return Assembled(core, pool, head, started_from)


def _swap(encoder: MLLMEncoder, core: Any, pool: Any, name: str, *, trained: bool) -> list[str]:  # noqa: ANN401
    """Put another language model into the core, and its latent attention into the pooling."""
    tokenizer = encoder.processor.tokenizer
    report = swap_language_model(
        core, encoder.family.language_model, model_folder(name, fetch=True), tokenizer
    )
    if report.bidirectional_suggested and not encoder.bidirectional:
        rank_zero_warn(f"{name} was trained with bidirectional attention; set encoder.bidirectional: true")
    kept = f"{report.kept_rows} embeddings of the base kept"
    started_from = [f"language model {name} ({report.model_type}, {kept})"]
    latent = encoder.pooling == "latent_attention"
    if not latent or encoder.latent_attention.weights is not None or trained:
        return started_from
    if report.latent_attention:
        load_latent_attention(pool, report.latent_attention)
        return [*started_from, "its latent attention"]
    rank_zero_warn(
        f"{name} has no weights of a latent attention: pooling starts from random ones, where no "
        "checkpoint replaces them; encoder.latent_attention.weights takes others"
    )
    return [*started_from, "a random latent attention"]
