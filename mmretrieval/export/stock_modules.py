"""An exported retriever as modules that come with sentence-transformers, so that it needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.pictures import ProcessedPictures, picture_processor
from mmretrieval.export.chat_template import chat_template, has_one_place
from mmretrieval.export.sentence_config import PACKAGE, write_config, write_modules
from mmretrieval.export.whole_pictures import CONVERTED, as_llava

_MODALITIES = ("text", "image", "image+text", "message")


def obstacle(encoder: MLLMEncoder) -> str | None:
    """Say what of an encoder sentence-transformers' own modules cannot compute; ``None``: nothing known."""
    family, pictures, templates = encoder.family, encoder.pictures, encoder.templates
    whole = family.whole is not None and not pictures.tiles
    found = {
        f"pooling {encoder.pooling}, which reads no instruction": encoder.pooling != "last_token",
        "templates.chat": templates.chat,
        "a template that names the instruction more than once": not has_one_place(templates.instruction),
        f"pictures.backend {pictures.backend}": pictures.backend != "torchvision",
        "pictures.max_pixels": pictures.max_pixels is not None and not family.multimodal_rope,
        f"how a {encoder.model_type} marks pictures": family.bare,
        f"windows of a bidirectional {encoder.model_type}": encoder.bidirectional
        and family.token_types is not None,
        f"whole pictures of a {encoder.model_type}": whole and encoder.model_type not in CONVERTED,
    }
    return next((reason for reason, holds in found.items() if holds), None)


def plain_model(encoder: MLLMEncoder) -> tuple[Any, Any, str]:
    """Return a core and a processor that transformers uses as the encoder does.

    Args:
        encoder: A loaded encoder without adapters, for which there is no :func:`obstacle`.

    Returns:
        The core; the processor, whose chat template writes the encoder's prompts, in the place of one for
        dialogues; and what stands behind each picture in a prompt.
    """
    if encoder.family.whole is not None and not encoder.pictures.tiles:
        core, processor, behind = as_llava(encoder)
    else:
        core, processor, behind = encoder.core, encoder.processor, ""
    processor.chat_template = chat_template(encoder, behind)
    return core, processor, behind


def write_stock(folder: Path, encoder: MLLMEncoder, prompts: Mapping[str, str]) -> None:
    """Write the files by which ``SentenceTransformer(folder)`` loads a merged encoder.

    Args:
        folder: Where model and processor of :func:`plain_model` were saved.
        encoder: The encoder that they are.
        prompts: Instructions by name.
    """
    width = encoder.core.config.get_text_config().hidden_size
    names = [("", f"{PACKAGE}.base.modules.transformer.Transformer")]
    _write(folder / "sentence_bert_config.json", _transformer(encoder))
    names.append(("1_Pooling", f"{PACKAGE}.sentence_transformer.modules.pooling.Pooling"))
    pooling = {"embedding_dimension": width, "pooling_mode": "lasttoken", "include_prompt": True}
    _write(folder / "1_Pooling" / "config.json", pooling)
    if encoder.head is not None:
        names.append(("2_Dense", f"{PACKAGE}.base.modules.dense.Dense"))
        _write_dense(folder / "2_Dense", encoder, width)
    names.append((f"{len(names)}_Normalize", f"{PACKAGE}.base.modules.normalize.Normalize"))
    _write(folder / names[-1][0] / "config.json", {"module_input_name": "sentence_embedding"})
    write_modules(folder, names)
    write_config(folder, prompts)


def _transformer(encoder: MLLMEncoder) -> dict[str, Any]:
    output = {"method": "forward", "method_output_name": "last_hidden_state"}
    modalities: dict[str, dict[str, str]] = {name: dict(output) for name in _MODALITIES}
    modalities["message"]["format"] = "structured"
    pictures = picture_processor(
        encoder.processor,
        encoder.family,
        encoder.core.config,
        encoder.core.config.image_token_id,
        encoder.pictures,
    )
    eager = {"model_kwargs": {"attn_implementation": "eager"}}  # where sdpa would leave something out
    return {
        "transformer_task": "feature-extraction",
        "modality_config": modalities,
        "module_output_name": "token_embeddings",
        "processing_kwargs": {
            "text": {"padding_side": "right"},
            "image": pictures.options if isinstance(pictures, ProcessedPictures) else {},
        },
        **(eager if encoder.loading.attention == "eager" else {}),
    }


def _write_dense(folder: Path, encoder: MLLMEncoder, width: int) -> None:
    settings = {
        "in_features": width,
        "out_features": encoder.embedding_dim,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    _write(folder / "config.json", settings)
    # Loaded, it is of the model's type.
    save_file({"linear.weight": encoder.head.weight.detach().contiguous()}, folder / "model.safetensors")


def _write(path: Path, document: Any) -> None:  # noqa: ANN401
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
