"""Puts a text-embedding LLM into an MLLM, as MM-Embed puts NV-Embed into LLaVA-NeXT."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel
from transformers.initialization import no_init_weights

from mmretrieval.encoder.fingerprint import CONFIG, open_weights, read_json
from mmretrieval.errors import UserError

BIDIRECTIONAL = {"bidir_mistral": "mistral", "llama_bidirec": "llama"}
"""Model types of remote code that only drops the causal mask of a known class.

The first is NV-Embed's, the second llama-embed-nemotron's.
"""

PREFIXES = (
    "",
    "model.",
    "language_model.",
    "language_model.model.",
    "embedding_model.",
    "embedding_model.model.",
)
"""What may stand before the language model's own names in a file."""

LATENT_ATTENTION = "latent_attention_model."

TOKENIZER = "tokenizer.json"
_CONFIG_BYTES = 2**20
_TOKENIZER_BYTES = 256 * 2**20
_NOT_THE_MODELS = {
    "architectures",
    "attn_implementation",
    "auto_map",
    "dtype",
    "experts_implementation",
    "is_causal",
    "model_type",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
}
"""Entries of a configuration about code, files and machines; what is loaded here decides these itself."""


@dataclass(frozen=True)
class SwapReport:
    """What :func:`swap_language_model` did.

    Args:
        model_type: transformers' model type of the new language model.
        bidirectional_suggested: Whether the text model was made to attend in both directions. The swap leaves
            the new module's mask as its class has it.
        loaded: How many tensors the new language model took from the files.
        ignored: Tensors of the files that an encoder has no use for: the language-modelling head, and rotary
            frequencies, which follow from the configuration.
        kept_rows: How many rows at the end of the embedding table are the multimodal model's.
        tokenizer_compared: Whether the folder had a ``tokenizer.json`` to compare.
        latent_attention: Weights of NV-Embed's pooling, by their names within ``latent_attention_model``.
    """

    model_type: str
    bidirectional_suggested: bool
    loaded: int
    ignored: tuple[str, ...]
    kept_rows: int
    tokenizer_compared: bool
    latent_attention: dict[str, Tensor]


@dataclass(frozen=True)
class _Plan:
    """Which tensor of the files goes where: own names to names in the files."""

    sources: dict[str, str]
    ignored: tuple[str, ...]
    latent_attention: tuple[str, ...]


def swap_language_model(
    core: Any,  # noqa: ANN401 - transformers' models are untyped
    language_model_name: str,
    folder: Path,
    tokenizer: Any,  # noqa: ANN401
) -> SwapReport:
    """Replace an MLLM's language model by a text model of the same width (https://arxiv.org/abs/2411.02571).

    The text model's own configuration decides its class and numbers (rotary base, heads, layers); only
    transformers' code runs. Tokens beyond its vocabulary, as the image token, keep the multimodal model's
    embeddings. The core changes only if everything fits; until then both language models are in memory.

    Args:
        core: As :func:`mmretrieval.encoder.backbone.load_backbone` returns it.
        language_model_name: Name of the language model below the core.
        folder: The text model: ``config.json`` and safetensors. Its ``tokenizer.json``, if it has one, must
            agree with ``tokenizer`` on every id below the text model's number of embeddings.
        tokenizer: The multimodal model's tokenizer.

    Raises:
        UserError: If files are missing or damaged; if the model's class is unknown or its width another; if
            tensors are missing, left over or of another shape; or if the tokenizers disagree.
    """
    fields = read_json(folder / CONFIG, _CONFIG_BYTES)
    fields = fields["text_config"] if isinstance(fields.get("text_config"), dict) else fields
    old = core.get_submodule(language_model_name)
    config = _text_config(folder, fields)
    _check_width(folder, config, core)
    own_rows = int(config.vocab_size)
    compared = _check_tokenizer(folder, tokenizer, own_rows)
    config.vocab_size = _table_rows(folder, own_rows, _table(old).shape[0], core, tokenizer)
    new = _build(folder, config, core, old)
    with open_weights(folder) as files:
        plan = _plan(folder, files, _shapes(new, own_rows))
        _fill(new, files, plan.sources, _table(old)[own_rows:])
        latent = {
            name.removeprefix(LATENT_ATTENTION): files[name].get_tensor(name).clone()
            for name in plan.latent_attention
        }
    core.set_submodule(language_model_name, new)
    core.config.text_config = new.config
    return SwapReport(
        model_type=config.model_type,
        bidirectional_suggested=fields["model_type"] in BIDIRECTIONAL or fields.get("is_causal") is False,
        loaded=len(plan.sources),
        ignored=plan.ignored,
        kept_rows=config.vocab_size - own_rows,
        tokenizer_compared=compared,
        latent_attention=latent,
    )


def _text_config(folder: Path, fields: dict[str, Any]) -> Any:  # noqa: ANN401
    """The configuration of transformers' class for what a ``config.json`` describes."""
    found = str(fields.get("model_type"))
    model_type = BIDIRECTIONAL.get(found, found)
    if model_type not in CONFIG_MAPPING:
        raise UserError(
            f"{folder / CONFIG}: model_type {found!r} is none that transformers knows, and code that comes "
            f"with a model is never run; besides transformers' types, {', '.join(BIDIRECTIONAL)} are known"
        )
    used = {name: value for name, value in fields.items() if name not in _NOT_THE_MODELS and name[:1] != "_"}
    try:
        return AutoConfig.for_model(model_type, **used)
    except Exception as error:  # classes check their fields in ways of their own
        raise UserError(f"{folder / CONFIG}: no {model_type} configuration ({error})") from error


def _check_width(folder: Path, config: Any, core: Any) -> None:  # noqa: ANN401
    expected = core.config.get_text_config().hidden_size
    found = getattr(config, "hidden_size", None)
    if found != expected:
        raise UserError(
            f"{folder / CONFIG}: hidden_size {found}, but the multimodal model's projector writes {expected}"
        )
    rows = getattr(config, "vocab_size", None)
    if not isinstance(rows, int) or rows < 1:
        raise UserError(f"{folder / CONFIG}: vocab_size {rows}; a text model has at least one token")


def _check_tokenizer(folder: Path, tokenizer: Any, rows: int) -> bool:  # noqa: ANN401
    """Compare the ids that both tokenizers have; returns whether there was anything to compare."""
    path = folder / TOKENIZER
    if not path.exists():
        return False
    theirs = _by_id(_read_vocabulary(path))
    ours = _by_id(tokenizer.get_vocab())
    added = tokenizer.get_added_vocab()
    for number in sorted(number for number in ours if number < rows):
        alone = number not in theirs and ours[number] in added
        if not alone and theirs.get(number) != ours[number]:
            raise UserError(
                f"{path}: id {number} is {theirs.get(number)!r}, but {ours[number]!r} in the multimodal "
                "model's tokenizer; both models must have been trained with the same tokens"
            )
    return True


def _by_id(vocabulary: dict[str, int]) -> dict[int, str]:
    return {number: token for token, number in vocabulary.items()}


def _read_vocabulary(path: Path) -> dict[str, int]:
    if path.stat().st_size > _TOKENIZER_BYTES:
        raise UserError(f"{path}: larger than the {_TOKENIZER_BYTES} bytes that a tokenizer may have")
    try:
        return Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises nothing more precise
        raise UserError(f"{path}: is no tokenizer ({error})") from error


def _table_rows(folder: Path, own: int, there: int, core: Any, tokenizer: Any) -> int:  # noqa: ANN401
    """Rows of the new embedding table: the text model's, and the rest of the old one where ids need it."""
    image = core.config.image_token_id
    ids = {*tokenizer.get_vocab().values(), image}
    if own > max(ids):
        return own
    needed = 1 + max(ids - {image})  # families may have no row for the image token: features replace it
    if max(own, there) < needed:
        raise UserError(
            f"{folder}: {own} embeddings, and {there} of the multimodal model, whose tokenizer needs {needed}"
        )
    return max(own, there)


def _build(folder: Path, config: Any, core: Any, old: Any) -> Any:  # noqa: ANN401
    """Make the new language model, its parameters not yet set."""
    attention = old.config._attn_implementation
    try:
        with no_init_weights():
            new: Any = AutoModel.from_config(  # type: ignore[no-untyped-call]
                config, dtype=core.dtype, attn_implementation=attention, trust_remote_code=False
            )
            _table_name(new)
    except Exception as error:  # what a class does with sizes that make no sense is its own affair
        raise UserError(
            f"{folder / CONFIG}: no {config.model_type} model with {attention} attention can be made "
            f"({type(error).__name__}: {error})"
        ) from error
    new.train(old.training)
    return new.to(_table(old).device)


def _table(model: Any) -> Tensor:  # noqa: ANN401
    """The weights of a language model's token embeddings."""
    weight: Tensor = model.get_input_embeddings().weight
    return weight


def _table_name(model: Any) -> str:  # noqa: ANN401
    table = _table(model)
    name: str = next(name for name, parameter in model.named_parameters() if parameter is table)
    return name


def _shapes(model: nn.Module, own_rows: int) -> dict[str, list[int]]:
    """The shapes that the files must have."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes[_table_name(model)][0] = own_rows
    return shapes


def _plan(folder: Path, files: dict[str, Any], shapes: dict[str, list[int]]) -> _Plan:
    """Find the tensor for each of the model's own names; all must fit, and none may be left."""
    latent = {name for name in files if name.startswith(LATENT_ATTENTION)}
    ignored = {name for name in files if "lm_head" in name.split(".") or name.endswith("rotary_emb.inv_freq")}
    rest = files.keys() - latent - ignored
    prefix = _prefix(rest, shapes)
    sources = {name: prefix + name for name in shapes if prefix + name in rest}
    found = {name: list(files[source].get_slice(source).get_shape()) for name, source in sources.items()}
    _check(
        folder,
        {
            "missing": [prefix + name for name in shapes.keys() - sources.keys()],
            "unexpected": rest - set(sources.values()),
            "of another shape": [
                f"{sources[name]} ({found[name]} instead of {shapes[name]})"
                for name in sources
                if found[name] != shapes[name]
            ],
        },
    )
    return _Plan(sources, tuple(sorted(ignored)), tuple(sorted(latent)))


def _prefix(names: Iterable[str], shapes: dict[str, list[int]]) -> str:
    """The prefix with which most names are the model's."""
    present = set(names)
    return max(PREFIXES, key=lambda prefix: sum(prefix + name in present for name in shapes))


def _check(folder: Path, problems: dict[str, Iterable[str]]) -> None:
    lists = {kind: sorted(names) for kind, names in problems.items()}
    told = [f"{len(names)} {kind}, as {', '.join(names[:3])}" for kind, names in lists.items() if names]
    if told:
        raise UserError(f"{folder}: the tensors do not fit the model of its {CONFIG}: {'; '.join(told)}")


def _fill(model: nn.Module, files: dict[str, Any], sources: dict[str, str], kept: Tensor) -> None:
    """Copy the tensors one by one, and the kept rows behind the text model's own."""
    state = model.state_dict()
    table = _table_name(model)
    with torch.no_grad():
        for name, source in sources.items():
            tensor = files[source].get_tensor(source)
            place = state[name][: tensor.shape[0]] if name == table else state[name]
            place.copy_(tensor)
            if name == table:
                state[name][tensor.shape[0] :].copy_(kept[: state[name].shape[0] - tensor.shape[0]])
