"""Signals that ask a run to end, and the agreement of all ranks on it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from mmretrieval.distributed import is_distributed, rank

STOPPED = 143
"""Exit status of a run that ended because SIGTERM asked for it: 128 + 15, as shells report that signal."""


class Interruption:
    """Takes SIGTERM, and the signal before the time limit of a SLURM job, as a wish to end soon.

    Lightning's own handlers end a run without saving, or save in the middle of a step. Ours only take note;
    training asks at points where its state is whole.
    """

    def __init__(self) -> None:
        self._asked = False
        self._requeue = False

    def listen(self) -> None:
        """Take over the signals; only the main thread can, elsewhere nothing is done."""
        if threading.current_thread() is not threading.main_thread():
            return
        signal.signal(signal.SIGTERM, lambda *_: self._note(requeue=False))
        if "SLURM_JOB_ID" in os.environ:
            signal.signal(signal.SIGUSR1, lambda *_: self._note(requeue=True))

    def _note(self, *, requeue: bool) -> None:
        self._asked = True
        self._requeue |= requeue

    @property
    def noted(self) -> bool:
        """Whether this rank was asked to end; others may not know of it yet."""
        return self._asked

    def asked(self, device: torch.device) -> bool:
        """Whether some rank was asked to end; all ranks call it together and get the same answer."""
        if not is_distributed():
            return self._asked
        wishes = torch.tensor([self._asked, self._requeue], dtype=torch.int32, device=device)
        dist.all_reduce(wishes, dist.ReduceOp.MAX)
        self._asked, self._requeue = (bool(wish) for wish in wishes.tolist())
        return self._asked

    def end(self, saved: str) -> None:
        """End the run; a SLURM job that was warned of its time limit is queued again.

        Args:
            saved: Where the state to resume from is.

        Raises:
            SystemExit: With status :data:`STOPPED`.
        """
        if self._requeue and rank() == 0:
            _requeue(os.environ["SLURM_JOB_ID"])
        rank_zero_info(f"Asked to end; {saved}")
        raise SystemExit(STOPPED)


def _requeue(job: str) -> None:
    command = shutil.which("scontrol")
    if command is None:
        rank_zero_warn(f"scontrol is not there: SLURM job {job} cannot be queued again; submit it again.")
        return
    status = subprocess.run([command, "requeue", job], check=False).returncode
    if status:
        rank_zero_warn(f"scontrol requeue {job} ended with status {status}; submit the job again.")
