"""Small trainings that mine between epochs, note what they see, and can be killed at a point."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy

from callbacks import AtomicCheckpointIO, HardNegativeMining, ResumeCheckpoint
from data_modules import ContinualTextDataModule, EmbeddedDataModule
from mmretrieval import MLLMEncoder, UniversalRetriever
from mmretrieval.encoder.adapters import LoRA
from mmretrieval.encoder.chunks import Chunks
from mmretrieval.index import ExactIndex
from mmretrieval.loss import InfoNCE
from mmretrieval.mining import MiningPlan, ModalityAware
from mmretrieval.schedules import WarmupCosine

STEPS, EPOCHS = 6, 3  # of an epoch, of a run
TEXT_SHARE = 0.4


class KilledError(Exception):
    """Ends a run as a kill would: nothing more is saved."""


class Recorder(Callback):
    """Notes each batch's queries and candidates, and kills the run at a point."""

    def __init__(self, kill_at: tuple[str, int] | None = None) -> None:
        self.stream: dict[int, tuple[list[int], list[int]]] = {}
        self.kill_at = kill_at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.stream[trainer.global_step] = (batch.query_rows.tolist(), batch.candidate_keys.tolist())
        self._maybe_kill("step starts", trainer.global_step)

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self._maybe_kill("between backward and update", trainer.global_step)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._maybe_kill("step ended", trainer.global_step)

    def _maybe_kill(self, point, number):
        if self.kill_at == (point, number):
            raise KilledError(point)


class KillingMining(HardNegativeMining):
    """Mining that is killed before or after its round is written."""

    kill_at: tuple[str, int] | None = None

    def mine(self, trainer, module):
        rounds = len(self.reports)
        if self.kill_at == ("mining starts", rounds):
            raise KilledError
        report = super().mine(trainer, module)
        if self.kill_at == ("mining ended", rounds):
            raise KilledError
        return report


class Run(NamedTuple):
    """What came of a training: ``finished`` says whether it was not killed."""

    stream: dict[int, tuple[list[int], list[int]]]
    finished: bool
    module: UniversalRetriever
    trainer: Trainer


def fit(
    base,
    folder: Path,
    kill_at=None,
    resume=False,
    every_n_steps=4,
    batch=10,
    dropout=0.2,
    workers=0,
    world=1,
    callbacks=(),
    max_skipped_steps=10,
    text_root=None,
    rounds=None,
) -> Run:
    """Train ``EPOCHS`` epochs of ``STEPS`` steps; of ``world`` ranks, each calls it in its own process.

    With ``text_root``, texts from there are blended in.
    """
    seed_everything(7)
    lora = LoRA(rank=2, alpha=4, dropout=dropout)  # draws matter
    encoder = MLLMEncoder(str(base), lora=lora, chunks=Chunks(rows=8, kept=0.5))
    schedule = lambda optimizer, steps: WarmupCosine(optimizer, steps, warmup_share=0.2)  # noqa: E731
    optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=1e-2)  # noqa: E731
    module = UniversalRetriever(encoder, InfoNCE(0.1), optimizer, schedule, max_skipped_steps)
    stream = {"size": 64, "global_batch_size": batch, "seed": 3, "num_workers": workers}
    data = (
        EmbeddedDataModule(**stream)
        if text_root is None
        else ContinualTextDataModule(str(text_root), text_share=TEXT_SHARE, batches_per_epoch=STEPS, **stream)
    )
    plan = MiningPlan(top_k=20, selection=ModalityAware(k_prime=10))
    mining = KillingMining(plan, rounds, index=ExactIndex(), folder=folder / "negatives")
    recorder = Recorder(kill_at)
    mining.kill_at = kill_at
    checkpoint = ResumeCheckpoint(every_n_steps=every_n_steps, folder=folder / "checkpoints")
    trainer = Trainer(
        accelerator="cpu",
        devices=world,
        strategy="auto" if world == 1 else DDPStrategy(),
        max_epochs=EPOCHS,
        limit_train_batches=STEPS,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[mining, recorder, checkpoint, *callbacks],
        plugins=[AtomicCheckpointIO()],
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path="last" if resume else None, weights_only=True)
    except KilledError:
        return Run(recorder.stream, False, module, trainer)
    assert trainer.global_step == STEPS * EPOCHS
    return Run(recorder.stream, True, module, trainer)


def as_rank(rank: int, world: int) -> None:
    """Tell Lightning that this process, already in a process group, is one of ``world``."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), NODE_RANK="0")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")  # unused, as the group is there
