"""``last`` is the checkpoint in the run's own folder, whatever logs there are."""

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from callbacks import AtomicCheckpointIO, ResumeCheckpoint


class Line(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.steps = 0

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, epochs, *, logger, ckpt_path=None, checkpoints=None):
    module = Line()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=TensorBoardLogger(folder, name="tensorboard") if logger else False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[ResumeCheckpoint(folder=checkpoints)],
        plugins=[AtomicCheckpointIO()],
        log_every_n_steps=1,
    )
    trainer.fit(module, DataLoader(torch.ones(4, 1)), ckpt_path=ckpt_path, weights_only=True)
    return module


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:Checkpoint directory")
@pytest.mark.parametrize("logger", [False, True])
@pytest.mark.parametrize("own_folder", [False, True])
def test_last_is_found(tmp_path, logger, own_folder):
    place = tmp_path / "elsewhere" if own_folder else None
    fit(tmp_path, 1, logger=logger, checkpoints=place)
    assert ((place or tmp_path / "checkpoints") / "last.ckpt").is_file()
    resumed = fit(tmp_path, 3, logger=logger, ckpt_path="last", checkpoints=place)
    assert resumed.steps == 8, "two epochs more"


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*there is no last checkpoint")
def test_a_first_run_may_ask_for_the_last(tmp_path):
    assert fit(tmp_path, 1, logger=True, ckpt_path="last").steps == 4
