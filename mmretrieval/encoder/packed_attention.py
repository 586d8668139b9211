"""Attention within pictures that lie behind one another in one long sequence, without a loop over them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "flash_packed"
"""transformers gives lengths of sequences only to implementations that are called flash."""


def pack_pictures(tower: Any) -> None:  # noqa: ANN401 - transformers' models are untyped
    """Let a tower that reads all pictures as one sequence attend to each of them in one go.

    transformers' own way with ``sdpa`` goes picture by picture, in each layer, and waits for a GPU each time.
    The results are the same. Towers that read pictures as rows of a batch have nothing to gain.

    Args:
        tower: A vision tower that was loaded with ``sdpa``; others stay as they are.
    """
    config = tower.config
    packed = any(type(module).__name__.endswith("VisionAttention") for module in tower.modules())
    if packed and config.model_type.startswith("qwen") and config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, packed_attention)
        config._attn_implementation = NAME


def packed_attention(
    module: Any,  # noqa: ANN401 - what transformers calls with
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    **options: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """Attend within each of the sequences that lie behind one another.

    Args:
        module: The layer, whose heads share no keys.
        query: ``(1, H, T, D)``, as are key and value.
        key: See there.
        value: See there.
        attention_mask: There is none.
        cu_seq_lens_q: Where each sequence begins, and the end, ``(S + 1,)``.
        max_length_q: Length of the longest one.
        scaling: What scores are multiplied by.
        **options: Of no use here.

    Returns:
        ``(1, T, H, D)``, and no weights.
    """
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
        ends, longest = cu_seq_lens_q.int(), max_length_q
        packed: Any = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling)
        return packed[None], None
    sizes = cu_seq_lens_q.diff().tolist()
    parts = zip(*(torch.split(part, sizes, dim=2) for part in (query, key, value)), strict=True)
    outputs = [scaled_dot_product_attention(q, k, v, scale=scaling) for q, k, v in parts]
    return torch.cat(outputs, dim=2).transpose(1, 2), None
