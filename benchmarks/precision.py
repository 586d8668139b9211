"""The precision that benchmarks compute in."""

from __future__ import annotations

import torch


def mixed(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The casts of Lightning's ``bf16-mixed``, where a model's weights are in half precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
