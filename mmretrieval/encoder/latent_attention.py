"""NV-Embed's latent attention: every token looks up learned latents before the mean is taken."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmretrieval.errors import UserError

PREFIX = "latent_attention_model."
"""Where NV-Embed's checkpoints have the module."""


@dataclass(frozen=True)
class LatentAttentionOptions:
    """A latent attention's sizes, by default those of NV-Embed's released weights, and where it starts.

    Args:
        latents: Number of learned latents, >= 1.
        heads: Attention heads, >= 1.
        head_width: Width of each head, >= 1; ``None``: the whole width of the tokens, not a share of it.
        mlp_ratio: Inner width of the MLP in widths of the tokens, >= 1.
        weights: What training starts from, see
            :func:`~mmretrieval.encoder.latent_weights.read_latent_attention`: a safetensors file, or the
            folder of a model with NV-Embed's names, or of a run. ``None``: the weights that come with a
            swapped language model, else random ones.

    Raises:
        UserError: If a size is below 1.
    """

    latents: int = 512
    heads: int = 8
    head_width: int | None = None
    mlp_ratio: int = 4
    weights: Path | None = None

    def __post_init__(self) -> None:
        sizes = {
            "latents": self.latents,
            "heads": self.heads,
            "head_width": self.head_width,
            "mlp_ratio": self.mlp_ratio,
        }
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise UserError(f"latent_attention.{name} {size}: must be at least 1")


class LatentAttention(nn.Module):
    """Pooling of NV-Embed (Lee et al., 2024, https://arxiv.org/abs/2405.17428).

    Each token's hidden state is the query of a multi-head cross attention to learned latents, then passes an
    MLP with gated GELU, both pre-normalised and with a residual connection; the mean over the tokens is the
    embedding. Tokens do not see each other. Parameters are named as in NV-Embed's and MM-Embed's released
    weights. At width 4096 the defaults have 0.74 billion of them.

    An untrained one is the mean over the tokens.

    Args:
        width: Width of the tokens, >= 1.
        options: Sizes of the attention and the MLP.

    Shape:
        - hidden: ``(N, T, D)``, pooling_mask: ``(N, T)`` with at least one 1 a row, output: ``(N, D)`` in at
          least single precision.
    """

    def __init__(
        self,
        width: int,
        options: LatentAttentionOptions = LatentAttentionOptions(),
    ) -> None:
        super().__init__()
        self.cross_attend_blocks = nn.ModuleList([_AttentionBlock(width, options), _MLPBlock(width, options)])
        self.latents = nn.Parameter(torch.randn(options.latents, width))

    def forward(self, hidden: Tensor, pooling_mask: Tensor) -> Tensor:
        """Pool the tokens that the mask lets through; others are not computed at all."""
        attend, transform = self.cross_attend_blocks
        tokens = hidden[pooling_mask.bool()]
        with _computing_in_type_of(tokens):
            tokens = transform(attend(tokens, self.latents))
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        rows = tokens.split(pooling_mask.sum(dim=1).tolist())
        return torch.stack([row.mean(dim=0, dtype=dtype) for row in rows])


def load_latent_attention(module: LatentAttention, state: Mapping[str, Tensor]) -> None:
    """Put NV-Embed's weights into a latent attention, in the types of the module's own parameters.

    Args:
        module: Where they go; unchanged when they are refused.
        state: Weights by name, all with or all without the prefix ``latent_attention_model.``.

    Raises:
        UserError: If names are missing or unexpected, or a shape is another.
    """
    prefix = PREFIX if any(name.startswith(PREFIX) for name in state) else ""
    parameters = {prefix + name: parameter for name, parameter in module.named_parameters()}
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(parameter.shape)}"
        for name, parameter in parameters.items()
        if name in state and state[name].shape != parameter.shape
    ]
    found = {
        "missing": sorted(parameters.keys() - state.keys()),
        "unexpected": sorted(state.keys() - parameters.keys()),
        "of another shape (see encoder.latent_attention)": shapes,
    }
    problems = [f"{kind}: {_listed(names)}" for kind, names in found.items() if names]
    if problems:
        raise UserError(f"the weights do not fit the latent attention; {'; '.join(problems)}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


def _listed(names: list[str], shown: int = 14) -> str:
    """Names as a list, cut where a whole model was given instead."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _computing_in_type_of(tokens: Tensor) -> AbstractContextManager[object]:
    """Multiply in half precision when the tokens have it, whatever type the parameters have.

    The module is trained in full, so its parameters may be wider than those of the model below it.
    """
    if tokens.dtype in (torch.float16, torch.bfloat16):
        return torch.autocast(tokens.device.type, dtype=tokens.dtype)
    return nullcontext()


class _AttentionBlock(nn.Module):
    """The residual cross attention from tokens to latents."""

    def __init__(self, width: int, options: LatentAttentionOptions) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width)
        self.fn = _CrossAttention(width, options.heads, options.head_width or width)

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """Add what the tokens find. Shape: ``(M, D)``, ``(R, D)`` to ``(M, D)``."""
        attended: Tensor = self.fn(self.norm(tokens), self.norm_context(latents))
        return tokens + attended


class _CrossAttention(nn.Module):
    """Multi-head attention without biases; all tokens share the keys and values."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width, bias=False)
        # Zero, as the MLP's output below: the residual paths then add nothing, and pooling starts as the
        # plain mean of a pre-trained model's hidden states instead of noise upon them. The gradients of these
        # zeros are not zero, so that training opens the paths with its first step, as it does for LoRA.
        nn.init.zeros_(self.to_out.weight)

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        keys, values = self.to_kv(latents).chunk(2, dim=-1)
        attended = functional.scaled_dot_product_attention(
            self._by_head(self.to_q(tokens)), self._by_head(keys), self._by_head(values)
        )
        joined: Tensor = self.to_out(attended[0].transpose(0, 1).flatten(1))
        return joined

    def _by_head(self, features: Tensor) -> Tensor:
        """Shape: ``(L, H * W)`` to ``(1, H, L, W)``; the tokens of all rows are one sequence of queries."""
        return features.reshape(len(features), self.heads, -1).transpose(0, 1)[None]


class _MLPBlock(nn.Module):
    """The residual MLP."""

    def __init__(self, width: int, options: LatentAttentionOptions) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = _GatedMLP(width, options.mlp_ratio * width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Add the MLP's output. Shape: ``(M, D)`` to ``(M, D)``."""
        transformed: Tensor = self.fn(self.norm(tokens))
        return tokens + transformed


class _GatedMLP(nn.Module):
    """Two layers around a gated GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        last = nn.Linear(inner, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(nn.Linear(width, 2 * inner), _GatedGELU(), last)

    def forward(self, tokens: Tensor) -> Tensor:
        transformed: Tensor = self.net(tokens)
        return transformed


class _GatedGELU(nn.Module):
    """The first half of the features times the GELU of the second."""

    def forward(self, features: Tensor) -> Tensor:
        values, gates = features.chunk(2, dim=-1)
        return values * functional.gelu(gates)
