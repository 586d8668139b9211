"""A run that was stopped anywhere and resumed equals one that never stopped: same samples, same weights."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch import Callback

from callbacks import AtomicCheckpointIO, HardNegativeMining, ResumeCheckpoint
from data_modules import EmbeddedDataModule
from mmretrieval import MLLMEncoder, UniversalRetriever
from mmretrieval.encoder.adapters import LoRA
from mmretrieval.encoder.chunks import Chunks
from mmretrieval.index import ExactIndex
from mmretrieval.loss import InfoNCE
from mmretrieval.schedules import WarmupCosine

STEPS, EPOCHS = 6, 3  # of an epoch, of a run
SEEDS = int(os.environ.get("RESUME_SEEDS", "3"))
"""How many runs with random points of death; ``RESUME_SEEDS=20 pytest tests/resume`` for the whole matrix."""


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


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMRETRIEVAL_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def fit(base, folder: Path, kill_at=None, resume=False, every_n_steps=4, workers=0):
    """Run, and return what was seen and the weights' hash; a killed run has none."""
    seed_everything(7)
    lora = LoRA(rank=2, alpha=4, dropout=0.2)  # draws matter
    encoder = MLLMEncoder(str(base), lora=lora, chunks=Chunks(rows=8, kept=0.5))
    schedule = lambda optimizer, steps: WarmupCosine(optimizer, steps, warmup_share=0.2)  # noqa: E731
    optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=1e-2)  # noqa: E731
    module = UniversalRetriever(encoder, InfoNCE(0.1), optimizer, schedule)
    data = EmbeddedDataModule(size=64, batch_size=10, seed=3, num_workers=workers)
    mining = KillingMining(top_k=20, k_prime=10, index=ExactIndex(), folder=folder / "negatives")
    recorder = Recorder(kill_at)
    mining.kill_at = kill_at
    checkpoint = ResumeCheckpoint(every_n_steps=every_n_steps, folder=folder / "checkpoints")
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        limit_train_batches=STEPS,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[mining, recorder, checkpoint],
        plugins=[AtomicCheckpointIO()],
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path="last" if resume else None, weights_only=True)
    except KilledError:
        return recorder.stream, None
    assert trainer.global_step == STEPS * EPOCHS
    return recorder.stream, module.weights_hash()


@pytest.fixture(scope="module")
def whole(home, tiny_mllm, tmp_path_factory):
    stream, weights = fit(tiny_mllm, tmp_path_factory.mktemp("whole"))
    assert len(stream) == STEPS * EPOCHS
    sizes = [len(keys) for _, keys in stream.values()]
    assert sizes[0] < sizes[-1]  # mined negatives are in the batches, so that mining matters
    return stream, weights


def points(seed):
    """Where a run is killed, and where its continuation is."""
    draw = random.Random(seed)
    places = ("step starts", "between backward and update", "step ended", "mining starts", "mining ended")
    chosen = []
    for _ in range(2):
        place = draw.choice(places)
        chosen.append((place, draw.randrange(2) if place.startswith("mining") else draw.randrange(1, 18)))
    return chosen


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.filterwarnings("ignore:.*last checkpoint available")
def test_a_run_killed_anywhere_goes_on_as_if_never_stopped(tiny_mllm, whole, tmp_path, seed):
    expected, weights = whole
    found = None
    for number, point in enumerate([*points(seed), None]):
        stream, found = fit(tiny_mllm, tmp_path, point, resume=number > 0, every_n_steps=4 + seed % 3)
        assert [step for step, seen in stream.items() if seen != expected[step]] == [], point
        if found is not None:
            break
    assert found == weights
    assert max(stream) == max(expected)
