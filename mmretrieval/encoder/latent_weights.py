"""Weights of a latent attention on disk, alone or among those of a whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmretrieval.encoder.fingerprint import open_weights
from mmretrieval.encoder.latent_attention import PREFIX, LatentAttention, load_latent_attention
from mmretrieval.encoder.saving import WEIGHTS, adapter_folder
from mmretrieval.errors import UserError

_MLLM = ("language_model.", "vision_tower.", "multi_modal_projector.", "image_newline")
BESIDE = {PREFIX: ("embedding_model.", *_MLLM), "pool.": ("core.", "head.")}
"""What may stand beside a latent attention: by its own prefix, the prefixes of a model's other parts.

The first prefix is NV-Embed's and MM-Embed's, the second that of the retrievers that are saved here.
"""


def start_from(module: LatentAttention, path: Path) -> None:
    """Put the latent attention of a file or a folder into a new one.

    Raises:
        UserError: If there is none, or its names or shapes are not exactly those of the module.
    """
    state = read_latent_attention(path)
    try:
        load_latent_attention(module, state)
    except UserError as error:
        raise UserError(f"encoder.latent_attention.weights {path}: {error}") from None


def read_latent_attention(path: Path) -> dict[str, Tensor]:
    """Read the weights of a latent attention, whatever their names' prefix.

    Args:
        path: A safetensors file, the folder of a model, as NV-Embed's, or of a run, or its ``adapter``.
            Names are those of :class:`~mmretrieval.encoder.latent_attention.LatentAttention`, alone or
            behind a prefix of :data:`BESIDE`, beside which a whole model may stand.

    Returns:
        By name without the prefix.

    Raises:
        UserError: If nothing can be read, or other names are there than those that may be.
    """
    where = f"encoder.latent_attention.weights {path}"
    if not path.exists():
        raise UserError(f"{where}: is not there; give a safetensors file, or the folder of a model or a run")
    if path.is_file():
        return _from_file(path, where)
    saved = adapter_folder(path) / WEIGHTS
    if saved.is_file():
        return _from_file(saved, where)
    with open_weights(path) as files:
        return _chosen(files, where)


def _from_file(path: Path, where: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return _chosen(dict.fromkeys(file.keys(), file), where)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{where}: {path} cannot be read ({error}); download it again") from error


def _chosen(files: dict[str, Any], where: str) -> dict[str, Tensor]:
    """Read what has the latent attention's prefix; nothing of what else there may be."""
    found = [prefix for prefix in BESIDE if any(name.startswith(prefix) for name in files)]
    prefix = found[0] if found else ""
    if f"{prefix}latents" not in files:
        raise UserError(f"{where}: has no latent attention, whose tensors would be named {PREFIX}latents, …")
    beside = BESIDE.get(prefix, ())
    own = [name for name in files if name.startswith(prefix)]
    strange = sorted(name for name in files.keys() - set(own) if not name.startswith(beside))
    if strange:
        raise UserError(
            f"{where}: {len(strange)} tensors belong neither to the latent attention ({prefix}…) nor to what "
            f"may stand beside it, as {', '.join(strange[:3])}"
        )
    return {name.removeprefix(prefix): files[name].get_tensor(name).clone() for name in own}
