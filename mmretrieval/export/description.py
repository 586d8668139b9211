"""What is said about an exported retriever, and its base's licence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import metadata_load

from mmretrieval.encoder.backbone import resolve
from mmretrieval.encoder.fingerprint import model_folder
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.errors import UserError

_LICENCE = re.compile(r"[\w.+-]{1,64}")


@dataclass(frozen=True)
class Description:
    """Facts of a trained encoder that outlive it: merging uses it up.

    Args:
        base: Name of the model that training started from.
        hub_name: The same, if it is a name on the hub.
        fingerprint: Of its weights.
        model_type: transformers' name of its family.
        licence: Its licence, if its model card says so or it was given.
        width: Width of the embeddings.
        pooling: How they are pooled.
        bidirectional: Whether tokens see later ones.
        max_text_tokens: Where texts are cut.
        adapters: What was trained of the language model.
        trained: Other parts that were trained.
    """

    base: str
    hub_name: str | None
    fingerprint: str
    model_type: str
    licence: str | None
    width: int
    pooling: str
    bidirectional: bool
    max_text_tokens: int
    adapters: str
    trained: str


def describe(encoder: MLLMEncoder, licence: str | None) -> Description:
    """Collect what is said about a loaded encoder.

    Args:
        encoder: The encoder, as it was trained.
        licence: The licence's identifier on the hub; ``None`` takes that of the base's model card.

    Raises:
        UserError: If the licence is no identifier.
    """
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise UserError(f"--license {licence!r}: give an identifier of the hub, as apache-2.0, mit or other")
    base, language_model = _shown(encoder.base), encoder.loading.language_model
    if language_model is not None:
        base = f"{base} with the language model of {_shown(language_model)}"
    return Description(
        base=base,
        hub_name=hub_name(encoder.base),
        fingerprint=encoder.base_fingerprint,
        model_type=encoder.model_type,
        licence=licence or _licence_of(encoder),
        width=encoder.embedding_dim,
        pooling=encoder.pooling,
        bidirectional=encoder.bidirectional,
        max_text_tokens=encoder.max_text_tokens,
        adapters=_adapters(encoder),
        trained=_trained(encoder),
    )


def _shown(base: str) -> str:
    """A hub name, or a folder's own name: where it lies here is nobody's business."""
    return base if hub_name(base) is not None else Path(base).name


def hub_name(base: str) -> str | None:
    """Return a base's name if it is one on the hub, and no folder here."""
    return base if re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists() else None


def _licence_of(encoder: MLLMEncoder) -> str | None:
    """The licence in the base's model card; a language model put into it may have another."""
    if encoder.loading.language_model is not None:
        return None
    path = model_folder(resolve(encoder.base), encoder.loading.revision) / "README.md"
    if not path.is_file():
        return None
    try:
        found = (metadata_load(path) or {}).get("license")
    except (OSError, ValueError, yaml.YAMLError):
        return None  # a card that cannot be read states no licence
    return found if isinstance(found, str) and _LICENCE.fullmatch(found) else None


def _adapters(encoder: MLLMEncoder) -> str:
    lora = encoder.lora
    if lora is None:
        return "none"
    kind = "DoRA" if lora.dora else "rank-stabilised LoRA" if lora.rank_stabilized else "LoRA"
    return f"{kind} of rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.modules)}"


def _trained(encoder: MLLMEncoder) -> str:
    parts = {
        "projector": encoder.trained.projector,
        "token embeddings": encoder.trained.embeddings,
        "vision tower": encoder.trained.vision_tower,
        "latent attention": encoder.pooling == "latent_attention",
        f"projection to {encoder.projection} dimensions": encoder.projection is not None,
    }
    return ", ".join(name for name, holds in parts.items() if holds) or "none"
