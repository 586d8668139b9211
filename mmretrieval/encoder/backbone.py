"""Loads MLLMs, checks that they are whole, and says what was loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from mmretrieval.encoder.discovery import Parts
from mmretrieval.encoder.families import Family
from mmretrieval.errors import UserError

EMBEDDED = "embedded"
"""Name of the small MLLM that ships with the project."""

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Loading:
    """How a base model is loaded.

    Args:
        dtype: Type of the parameters: ``float32``, ``bfloat16`` or ``float16``.
        attention: transformers' attention implementation, as ``eager``, ``sdpa`` or ``flash_attention_2``.
        revision: Branch, tag or commit of a hub name.
        language_model: Folder or hub name of a text model that takes the language model's place, as NV-Embed
            does in MM-Embed.
        quantization: ``nf4`` keeps the frozen language model in 4 bits (QLoRA, Dettmers et al., 2023,
            https://arxiv.org/abs/2305.14314); needs CUDA and bitsandbytes.
        parts: Names of the model's parts, for a family that the project does not know.
        trust_remote_code: Whether Python code that comes with the model is executed. Leave it at false unless
            you have read that code.

    Raises:
        UserError: If a value is out of range.
    """

    dtype: str = "float32"
    attention: str = "sdpa"
    revision: str | None = None
    language_model: str | None = None
    quantization: str | None = None
    parts: Parts | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"encoder.loading.dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")
        if self.quantization not in (None, "nf4"):
            raise UserError(
                f"encoder.loading.quantization {self.quantization!r}: choose nf4, or leave it out"
            )
        if self.quantization is not None and self.language_model is not None:
            raise UserError("encoder.loading: quantization and language_model cannot be combined")


def resolve(base: str) -> str:
    """Return the folder or hub name of a base model; ``embedded`` is the one that ships.

    Raises:
        UserError: If it is a folder on this machine that holds no model.
    """
    if base == EMBEDDED:
        return str(files("mmretrieval.encoder") / "assets")
    if Path(base).is_dir() and not Path(base, "config.json").is_file():
        raise UserError(f"encoder.base {base!r}: there is no config.json; give the folder of a saved model")
    return base


def load_config(base: str, loading: Loading) -> Any:  # noqa: ANN401 - each family has a configuration class of its own
    """Load a model's configuration.

    Raises:
        UserError: If there is none at ``base``.
    """
    try:
        return AutoConfig.from_pretrained(
            resolve(base), revision=_revision(loading), trust_remote_code=loading.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise _unloadable(base, "no configuration", error) from error


def load_processor(
    base: str,
    loading: Loading = Loading(),
    backend: str = "torchvision",
) -> Any:  # noqa: ANN401 - transformers' processors share no typed base
    """Load a model's processor (tokenizer and image processor).

    Args:
        base: A folder, a hub name, or ``embedded``.
        loading: Revision, and whether remote code is trusted.
        backend: What resizes pictures: ``torchvision`` or ``pil``.

    Raises:
        UserError: If there is none at ``base``.
    """
    options: dict[str, Any] = {
        "revision": _revision(loading),
        "trust_remote_code": loading.trust_remote_code,
    }
    try:
        processor = AutoProcessor.from_pretrained(resolve(base), **options)  # type: ignore[no-untyped-call]
        if backend != "torchvision":
            processor.image_processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                resolve(base), backend=backend, **options
            )
    except (OSError, ValueError, ImportError) as error:
        raise _unloadable(base, "no processor", error) from error
    return processor


def load_backbone(
    base: str,
    loading: Loading = Loading(),
    unquantized: Sequence[str] = (),
) -> Any:  # noqa: ANN401
    """Load an image-text-to-text model as :func:`load_model`, without its language-modelling head.

    A folder may hold a model that was saved without one, as ``mmretrieval export`` does.

    Returns:
        The model's core: vision tower, projector and language model.

    Raises:
        UserError: As :func:`load_model`.
    """
    if is_headless(load_config(base, loading)):
        return _load(AutoModel, base, loading, unquantized)
    return load_model(base, loading, unquantized).model


def is_headless(config: Any) -> bool:  # noqa: ANN401
    """Whether a model was saved without its language-modelling head, going by its configuration."""
    return bool(config.architectures == [MODEL_MAPPING_NAMES.get(config.model_type)])


def load_model(
    base: str,
    loading: Loading = Loading(),
    unquantized: Sequence[str] = (),
) -> Any:  # noqa: ANN401
    """Load an image-text-to-text model and check that it is whole.

    Args:
        base: A folder, a hub name, or ``embedded``.
        loading: How to load it.
        unquantized: Names of parts below the core that quantization leaves as they are.

    Raises:
        UserError: If nothing can be loaded, or weights are missing, left over or of another shape.
    """
    return _load(AutoModelForImageTextToText, base, loading, unquantized)


def _load(auto: Any, base: str, loading: Loading, unquantized: Sequence[str]) -> Any:  # noqa: ANN401
    try:
        loaded: Any = auto.from_pretrained(
            resolve(base),
            revision=_revision(loading),
            dtype=getattr(torch, loading.dtype),
            attn_implementation=loading.attention,
            use_safetensors=True,
            trust_remote_code=loading.trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, and refused below
            **_quantization(loading, unquantized),
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise _unloadable(base, "no model", error) from error
    model, report = loaded
    wrong = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}
    if wrong:
        raise UserError(f"encoder.base {base!r}: the weights do not fit the model: {wrong}")
    return model


def _unloadable(base: str, what: str, error: Exception) -> UserError:
    told = f"encoder.base {base!r}: {what} can be loaded there ({error})"
    if "trust_remote_code" not in str(error):  # transformers names its own option
        return UserError(told)
    return UserError(
        f"encoder.base {base!r}: comes with Python code of its own, which is not executed unless you ask for "
        "it. Read that code; then set encoder.loading.trust_remote_code: true, or where a saved retriever is "
        f"loaded, trust_remote_code: true (--trust_remote_code true on the command line). {told}"
    )


def _revision(loading: Loading) -> str:
    return loading.revision or "main"


def check_attention(
    config: Any,  # noqa: ANN401
    family: Family,
    loading: Loading,
    *,
    bidirectional: bool,
) -> None:
    """Refuse attention kernels that would silently leave out what a model needs.

    Raises:
        UserError: If the kernel knows no cap on attention scores, or no masks of the family's kind.
    """
    name = loading.attention
    if name == "sdpa" and getattr(config.get_text_config(), "attn_logit_softcapping", None):
        raise UserError(
            f"encoder.loading.attention sdpa: this {config.model_type} caps its attention scores, "
            "which sdpa leaves out; choose eager"
        )
    if name.startswith("flash") and family.token_types is not None and not bidirectional:
        raise UserError(
            f"encoder.loading.attention {name}: it would read a {config.model_type}'s pictures causally; "
            "choose sdpa or eager"
        )


def _quantization(loading: Loading, unquantized: Sequence[str]) -> dict[str, Any]:
    """Options that load the language model in 4 bits; vision tower and projector stay as they are."""
    if loading.quantization is None:
        return {}
    if not torch.cuda.is_available() or find_spec("bitsandbytes") is None:
        raise UserError(
            "encoder.loading.quantization nf4 needs a CUDA device and bitsandbytes "
            "(pip install 'mmretrieval[qlora]'); leave it out here"
        )
    settings = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, loading.dtype),
        llm_int8_skip_modules=[*(f"model.{name}" for name in unquantized), "lm_head"],
    )
    return {"quantization_config": settings, "device_map": {"": torch.cuda.current_device()}}


def check_tokens(base: str, processor: Any, family: Family, config: Any) -> tuple[int, int]:  # noqa: ANN401
    """Check that the tokenizer knows the tokens that stand for pictures.

    Returns:
        The ids of the placeholder in texts and of the token that the model replaces by features.

    Raises:
        UserError: If a token is missing, or the model's configuration gives it another number.
    """
    tokenizer = processor.tokenizer
    placeholder = getattr(processor, family.placeholder, None)
    if placeholder is None:
        raise UserError(f"encoder.base {base!r}: its processor names no {family.placeholder}")
    text = family.markup.format(image=placeholder)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    number = tokenizer.convert_tokens_to_ids(placeholder)
    if number is None or ids.count(number) != 1 or number == tokenizer.unk_token_id:
        raise UserError(
            f"encoder.base {base!r}: its tokenizer lacks the special token {placeholder}, "
            "which stands for a picture; add it, or use the tokenizer that belongs to the model"
        )
    image_token_id = getattr(config, "image_token_id", None)
    if image_token_id is None or image_token_id >= len(tokenizer):
        raise UserError(
            f"encoder.base {base!r}: the configuration's image_token_id {image_token_id} is no token of its "
            f"tokenizer, which has {len(tokenizer)}"
        )
    return number, int(image_token_id)
