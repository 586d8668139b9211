"""The weights that training changes: taken out of a module, put into one, and hashed."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor, nn

from mmretrieval.encoder import saving
from mmretrieval.errors import UserError


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """Copy what training changes to the CPU, by sorted name.

    Args:
        module: Whose parameters that have gradients are meant.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    return {name: trained[name].detach().cpu().contiguous() for name in sorted(trained)}


def put_weights(module: nn.Module, path: Path) -> None:
    """Put saved trained weights into a module.

    Args:
        module: Whose parameters that have gradients are replaced.
        path: Where the weights are.

    Raises:
        UserError: If the file is missing or damaged, or has other names or shapes than are trained here.
    """
    state = saving.read_weights(path)
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    expected = {name: parameter.shape for name, parameter in parameters.items()}
    found = {name: tensor.shape for name, tensor in state.items()}
    if found != expected:
        names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise UserError(f"{path}: does not fit the encoder: {len(names)} weights differ, as {names[:3]}")
    with torch.no_grad():
        for name, tensor in state.items():
            parameters[name].copy_(tensor)


def hash_weights(base_fingerprint: str, state: Mapping[str, Tensor]) -> str:
    """Return a hex digest of the base's weights and of everything trained.

    Args:
        base_fingerprint: Of the weights that training started from.
        state: Trained weights by name, on the CPU.
    """
    digest = blake2b(base_fingerprint.encode(), digest_size=16)
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
