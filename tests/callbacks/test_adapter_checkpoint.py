from pathlib import Path
from typing import ClassVar

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

from callbacks import adapter_checkpoint
from callbacks.adapter_checkpoint import AdapterCheckpoint, replaced_directory
from data_modules.formats.records import DataError
from mmretrieval.content import Modality
from mmretrieval.encoder.provenance import Asked, Provenance, Stage, read_provenance, write_provenance

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
]


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.saved = []
        self.gathered = 0

    def trained_state(self):
        self.gathered += 1
        return {"weight": self.weight.detach()}

    def save_pretrained(self, folder):
        self.saved.append(folder)
        save_file(self.trained_state(), folder / "model.safetensors")
        (folder / "retriever.json").write_text("{}")


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()

    def training_step(self, batch, batch_idx):
        return (self.encoder.weight * batch.sum()).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def train_dataloader(self):
        return DataLoader(torch.ones(6), batch_size=2)


class Watch(pl.Callback):
    """Reads what is saved as each epoch begins."""

    def __init__(self, folder):
        self.folder, self.seen = folder, []

    def on_train_epoch_start(self, trainer, pl_module):
        path = self.folder / "model.safetensors"
        self.seen.append((path.is_file(), pl_module.encoder.weight.detach().clone()))
        if path.is_file():
            assert torch.equal(load_file(path)["weight"], pl_module.encoder.weight.detach())


def fit(
    folder: Path,
    *callbacks: pl.Callback,
    module: pl.LightningModule | None = None,
    data: pl.LightningDataModule | None = None,
    **settings,
) -> Module:
    module = module or Module()
    values = {
        "max_epochs": 3,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
    }
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder}
    pl.Trainer(callbacks=list(callbacks), **(values | quiet | settings)).fit(module, data)
    return module


def test_after_each_epoch_the_folder_holds_the_weights_of_that_epoch(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "adapter")
    module = fit(tmp_path, AdapterCheckpoint(), watch)
    assert [there for there, _ in watch.seen] == [False, True, True]
    assert not torch.equal(watch.seen[1][1], watch.seen[2][1]), "the weights changed"
    saved = load_file(tmp_path / "adapter/model.safetensors")["weight"]
    assert torch.equal(saved, module.encoder.weight.detach())
    assert len(module.encoder.saved) == 3, "the end of the fit does not save the last epoch again"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"], "nothing else is left"


def test_a_fit_that_stops_within_an_epoch_is_saved_at_its_end(tmp_path: Path) -> None:
    module = fit(tmp_path, AdapterCheckpoint(tmp_path / "mine"), max_epochs=2, max_steps=4)
    saved = load_file(tmp_path / "mine/model.safetensors")["weight"]
    assert torch.equal(saved, module.encoder.weight.detach())
    assert torch.allclose(saved, torch.tensor(1 - 4 * 0.01 * 2.0))


class Mixture(pl.LightningDataModule):
    training_shares: ClassVar = {"mscoco_task0": 0.75, "webqa_task1": 0.25}

    def train_dataloader(self):
        return DataLoader(torch.ones(6), batch_size=2)


def test_the_mixture_that_was_trained_on_is_saved_too(tmp_path: Path) -> None:
    fit(tmp_path, AdapterCheckpoint(), data=Mixture(), max_epochs=2)
    saved = read_provenance(tmp_path / "adapter")
    assert saved == Provenance(Mixture.training_shares, steps=6)


class Continued(Module):
    """Goes on from saved weights."""

    def __init__(self, start):
        super().__init__()
        self.init_from = start


def test_the_data_of_all_stages_are_saved(tmp_path: Path) -> None:
    said = Asked(Modality.TEXT, Modality.TEXT, ("Find an answer.",))
    (tmp_path / "first").mkdir()
    first = Provenance({"fiqa_task1": 1.0}, 9, {"fiqa_task1": said}, (Stage({"nli_task1": 1.0}, 2),))
    write_provenance(tmp_path / "first", first)
    fit(tmp_path, AdapterCheckpoint(), module=Continued(tmp_path / "first"), data=Mixture())
    saved = read_provenance(tmp_path / "adapter")
    assert saved == first.followed_by(Provenance(Mixture.training_shares, steps=9))
    assert saved.data_sets == {"nli", "fiqa", "mscoco", "webqa"}
    assert saved.asked["fiqa_task1"] == said


def test_data_that_are_unknown_in_part_are_not_saved_as_if_they_were_all(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    with pytest.warns(UserWarning, match="does not say what it was trained on"):
        fit(tmp_path, AdapterCheckpoint(), module=Continued(tmp_path / "first"), data=Mixture(), max_epochs=1)
    assert read_provenance(tmp_path / "adapter") is None


def test_a_second_fit_replaces_the_first(tmp_path: Path) -> None:
    fit(tmp_path, AdapterCheckpoint(), max_epochs=1)
    (tmp_path / "adapter/stale.txt").write_text("of the first")
    module = fit(tmp_path, AdapterCheckpoint(), max_epochs=2)
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "model.safetensors",
        "retriever.json",
    ]
    assert torch.equal(
        load_file(tmp_path / "adapter/model.safetensors")["weight"], module.encoder.weight.detach()
    )


def test_a_folder_with_something_else_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/thesis.txt").write_text("five years")
    module = Module()
    with pytest.raises(DataError, match=r"not saved by an earlier run \(retriever\.json is missing\)"):
        fit(tmp_path, AdapterCheckpoint(), module=module)
    assert module.encoder.saved == []
    assert (tmp_path / "adapter/thesis.txt").read_text() == "five years"


def test_a_failure_while_saving_keeps_the_last_state(tmp_path: Path) -> None:
    fit(tmp_path, AdapterCheckpoint(), max_epochs=1)
    before = load_file(tmp_path / "adapter/model.safetensors")["weight"]

    class FullDisk(Module):
        def on_train_epoch_start(self):
            self.encoder.save_pretrained = self.save_half

        def save_half(self, folder):
            (folder / "retriever.json").write_text("half")
            raise OSError("disk is full")

    with pytest.raises(OSError, match="disk is full"):
        fit(tmp_path, AdapterCheckpoint(), module=FullDisk())
    assert torch.equal(load_file(tmp_path / "adapter/model.safetensors")["weight"], before)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_crash_at_any_rename_leaves_a_complete_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """The staging folder, the old state and the new one are renamed in turn; a kill can come between them."""
    target, real, done = tmp_path / "adapter", Path.rename, []

    def save(state: str) -> None:
        with replaced_directory(target) as stage:
            (stage / "retriever.json").write_text(state)

    def killed_later(self: Path, other: Path) -> Path:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(other)
        return real(self, other)

    save("old")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed_later)
        with pytest.raises(KeyboardInterrupt):
            save("new")
    assert len(done) == renames
    states = {path.read_text() for path in tmp_path.glob("*/retriever.json")}
    states |= {path.read_text() for path in tmp_path.glob(".*/retriever.json")}
    assert "old" in states or "new" in states

    adapter_checkpoint._recover(target)
    assert (target / "retriever.json").read_text() == ("new" if renames == 2 else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    save("newest")
    assert (target / "retriever.json").read_text() == "newest"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "adapter").symlink_to(tmp_path / "store")
    fit(tmp_path, AdapterCheckpoint(), max_epochs=2)
    assert (tmp_path / "adapter").is_symlink()
    assert (tmp_path / "store/retriever.json").is_file()


def test_other_ranks_only_take_part_in_gathering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
    module = fit(tmp_path, AdapterCheckpoint(), max_epochs=2)
    assert module.encoder.saved == []
    assert module.encoder.gathered == 2
    assert not (tmp_path / "adapter").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    module = fit(tmp_path, AdapterCheckpoint(), fast_dev_run=True)
    assert module.encoder.saved == []
    assert not (tmp_path / "adapter").exists()


def test_a_module_without_an_encoder_is_refused(tmp_path: Path) -> None:
    module = Module()
    module.encoder = nn.Linear(1, 1)
    with pytest.raises(MisconfigurationException, match="no encoder that can be saved"):
        fit(tmp_path, AdapterCheckpoint(), module=module)
