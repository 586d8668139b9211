"""``mmretrieval mine``: hard negatives for another run to begin with."""

from __future__ import annotations

from pathlib import Path


def mine(run: Path, out: Path, checkpoint: Path | None = None, devices: int = 1) -> None:
    """Mine hard negatives for all training queries, for another run to begin with.

    Data, plan and model are those of the run; 'callbacks.HardNegativeMining' takes the file as 'start'.

    Args:
        run: Folder of a finished or interrupted 'lightning fit', with its config.yaml.
        out: Folder for round_0.npz.
        checkpoint: Weights to mine with; checkpoints/last.ckpt of the run by default.
        devices: How many processes or GPUs share the work.
    """
    from mmretrieval.tools import offline_mining  # takes seconds, which other sub-commands need not wait for

    offline_mining.mine(run, out, checkpoint, devices)
