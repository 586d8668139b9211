"""The best states of a run are kept as checkpoint and folder, and nothing else is."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

from callbacks import AtomicCheckpointIO, BestCheckpoint, ResumeCheckpoint


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def trained_state(self):
        return {"weight": self.weight.detach()}

    def save_pretrained(self, folder):
        save_file(self.trained_state(), folder / "model.safetensors")
        (folder / "retriever.json").write_text("{}")


class Module(pl.LightningModule):
    """Adds 1 to its weight in each step, and logs the scores that it is told to after its epochs."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.encoder = scores, Encoder()

    def training_step(self, batch, batch_idx):
        return -self.encoder.weight.sum()

    def on_train_epoch_end(self):
        if self.current_epoch in self.scores:
            self.log("average", self.scores[self.current_epoch])
        else:
            self.trainer.callback_metrics.pop("average", None)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1)

    def train_dataloader(self):
        return DataLoader(torch.ones(2))


def fit(folder, scores, *callbacks, epochs=None, resume=False, **settings):
    epochs = len(scores) if epochs is None else epochs
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*callbacks, ResumeCheckpoint()],
        plugins=[AtomicCheckpointIO()],
        **settings,
    )
    trainer.fit(Module(dict(enumerate(scores))), ckpt_path="last" if resume else None, weights_only=True)
    return trainer


def kept(folder):
    return {path.name for path in (folder / "checkpoints").iterdir()} - {"last.ckpt"}


@pytest.mark.parametrize(
    ("mode", "top", "steps"), [("max", 1, [4]), ("max", 2, [2, 4]), ("min", 1, [8]), ("min", 3, [2, 6, 8])]
)
def test_the_best_are_kept_as_checkpoint_and_folder(tmp_path, mode, top, steps):
    trainer = fit(tmp_path, [0.5, 0.9, 0.3, 0.1], BestCheckpoint("average", mode, top))
    assert kept(tmp_path) == {f"best-step{step}{end}" for step in steps for end in ("", ".ckpt")}
    for step in steps:
        path = tmp_path / f"checkpoints/best-step{step}"
        assert load_file(path / "model.safetensors")["weight"].tolist() == [step, step]
        assert torch.load(path.with_suffix(".ckpt"), weights_only=True)["global_step"] == step
    best = trainer.checkpoint_callback.best_model_path
    assert best.endswith(f"best-step{4 if mode == 'max' else 8}.ckpt")


def test_a_resumed_run_remembers_what_was_best(tmp_path):
    fit(tmp_path, [0.5, 0.9], BestCheckpoint("average"))
    fit(tmp_path, [0.5, 0.9, 0.8, 0.7], BestCheckpoint("average"), resume=True)
    assert kept(tmp_path) == {"best-step4", "best-step4.ckpt"}


class KilledError(Exception):
    pass


@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")
def test_a_kill_between_the_saves_loses_nothing(tmp_path, monkeypatch):
    def killed_after_the_best(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise KilledError
        self._save(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(ResumeCheckpoint, "on_train_epoch_end", killed_after_the_best)
        with pytest.raises(KilledError):
            fit(tmp_path, [0.5, 0.9, 0.8], BestCheckpoint("average"))
    assert kept(tmp_path) == {"best-step4", "best-step4.ckpt"}
    fit(tmp_path, [0.5, 0.9, 0.8], BestCheckpoint("average"), resume=True)
    assert kept(tmp_path) == {"best-step4", "best-step4.ckpt"}


def test_epochs_without_a_measure_are_left_out(tmp_path):
    fit(tmp_path, [0.5], BestCheckpoint("average"), epochs=3)
    assert kept(tmp_path) == {"best-step2", "best-step2.ckpt"}


def test_a_measure_that_never_comes_is_named(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"'averge' was never logged.*average"):
        fit(tmp_path, [0.5, 0.6], BestCheckpoint("averge"))


def test_a_dry_run_saves_nothing(tmp_path):
    fit(tmp_path, [0.5], BestCheckpoint("average"), fast_dev_run=True)
    assert not (tmp_path / "checkpoints").exists()


def test_at_least_one_is_kept():
    with pytest.raises(ValueError, match="save_top_k must be at least 1, found 0"):
        BestCheckpoint("average", save_top_k=0)
