"""Learning-rate schedules over a known number of steps."""

from __future__ import annotations

import math

from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import Optimizer


class WarmupCosine(LambdaLR):
    """Linear warm-up, then half a cosine down to a share of the full rate.

    Args:
        optimizer: Whose rates to schedule.
        total_steps: Optimizer steps of the whole training, >= 1.
        warmup_share: Share of the steps that the rate rises, in [0, 1).
        final_share: Share of the full rate that is left at the end, in [0, 1].

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_share: float = 0.05,
        final_share: float = 0.0,
    ) -> None:
        if total_steps < 1 or not 0 <= warmup_share < 1 or not 0 <= final_share <= 1:
            raise ValueError(
                "Needs total_steps >= 1, 0 <= warmup_share < 1 and 0 <= final_share <= 1, found "
                f"{total_steps}, {warmup_share} and {final_share}."
            )
        warmup = math.ceil(warmup_share * total_steps)

        def share(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            progress = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
            return final_share + (1 - final_share) * (1 + math.cos(math.pi * progress)) / 2

        super().__init__(optimizer, share)
