"""Steps whose loss or gradient is not finite change nothing, on any rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmretrieval.distributed import is_distributed


class StepHealth:
    """Skips steps whose loss or gradient is not finite, and counts them."""

    def __init__(self) -> None:
        self.skipped = 0
        """All skipped steps of the training."""
        self.in_row = 0
        """Skipped steps since the last one that counted."""
        self._losses: list[Tensor] = []

    def saw(self, loss: Tensor) -> None:
        """Note the loss of a batch of the coming step."""
        self._losses.append(loss.detach())

    def check(self, parameters: Sequence[nn.Parameter], norm: Tensor) -> bool:
        """Drop the gradients if a loss or their norm is not finite on some rank; all ranks call it together.

        Without gradients, optimizers change neither weights nor their own state.

        Returns:
            Whether the step counts.
        """
        healthy = torch.stack([torch.isfinite(value) for value in (norm, *self._losses)]).all().int()
        self._losses.clear()
        if is_distributed():
            dist.all_reduce(healthy, dist.ReduceOp.MIN)
        if bool(healthy):
            self.in_row = 0
            return True
        for parameter in parameters:
            parameter.grad = None
        self.skipped += 1
        self.in_row += 1
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"skipped": self.skipped, "in_row": self.in_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue counting."""
        self.skipped, self.in_row = int(state["skipped"]), int(state["in_row"])
