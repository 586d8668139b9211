import copy
import errno
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

import callbacks
from callbacks import checkpoint_io
from callbacks.checkpoint_io import AtomicCheckpointIO
from data_modules.formats.records import DataError

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")
IO = AtomicCheckpointIO()


def assert_same(left, right):
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for pair in zip(left, right, strict=True):
            assert_same(*pair)
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    else:
        assert left == right


def trained_state():
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert optimizer.state_dict()["state"]
    return {
        "state_dict": dict(layer.state_dict()),
        "optimizer_states": [optimizer.state_dict()],
        "half": torch.arange(5, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 4),
        "loops": {"epoch": 3, "seen": [1, 2.5, None, True, "ü", b"x"], "pair": (1, {2: 3})},
    }


def test_a_checkpoint_is_loaded_as_it_was_saved(tmp_path):
    state, path = trained_state(), tmp_path / "new/folder/ü=1.ckpt"
    expected = copy.deepcopy(state)
    IO.save_checkpoint(state, path)
    assert_same(IO.load_checkpoint(str(path)), expected)
    assert_same(IO.load_checkpoint(path, map_location="cpu", weights_only=True), expected)
    IO.save_checkpoint({"epoch": 4}, str(path))
    assert IO.load_checkpoint(path) == {"epoch": 4}
    assert list(path.parent.iterdir()) == [path]


def test_map_location_moves_tensors(tmp_path):
    IO.save_checkpoint({"a": torch.ones(2)}, tmp_path / "a.ckpt")
    assert IO.load_checkpoint(tmp_path / "a.ckpt", map_location="meta")["a"].device.type == "meta"


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return DataLoader(torch.arange(12.0).view(4, 3), batch_size=2)


def fit(folder: Path, epochs: int, resume: Path | None = None) -> Module:
    module, keep = Module(), ModelCheckpoint(folder, save_last=True, filename="{epoch}")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=[keep],
        plugins=[AtomicCheckpointIO()],
        **quiet,
    )
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
    trainer.fit(module, ckpt_path=resume)
    return module


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")  # it resumes there
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path):
    whole, parts = fit(tmp_path / "whole", 4), tmp_path / "parts"
    half = fit(parts, 2)
    assert sorted(path.name for path in parts.iterdir()) == ["epoch=1.ckpt", "last.ckpt"]
    resumed = fit(parts, 4, parts / "last.ckpt")
    assert sorted(path.name for path in parts.iterdir()) == ["epoch=3.ckpt", "last.ckpt"]
    assert_same(resumed.state_dict(), whole.state_dict())
    assert not torch.equal(half.layer.weight, whole.layer.weight)


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    IO.save_checkpoint({"epoch": 1}, path)
    with pytest.raises((AttributeError, TypeError, RuntimeError), match=r"lambda|pickle"):
        IO.save_checkpoint({"epoch": 2, "bad": lambda: None}, path)

    def disk_is_full(state, file):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_io.torch, "save", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        IO.save_checkpoint({"epoch": 2}, path)
    assert IO.load_checkpoint(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_what_it_points_to(tmp_path):
    IO.save_checkpoint({"epoch": 1}, tmp_path / "epoch=1.ckpt")
    (tmp_path / "last.ckpt").symlink_to("epoch=1.ckpt")  # as ModelCheckpoint(save_last="link") makes
    IO.save_checkpoint({"epoch": 2}, tmp_path / "last.ckpt")
    assert IO.load_checkpoint(tmp_path / "epoch=1.ckpt") == {"epoch": 1}
    assert IO.load_checkpoint(tmp_path / "last.ckpt") == {"epoch": 2}


def test_only_leftovers_of_the_same_checkpoint_are_removed(tmp_path):
    mine = [tmp_path / f".a[1].ckpt.staging-{n:012x}" for n in range(2)]
    others = [
        tmp_path / name
        for name in (
            ".b.ckpt.staging-0123456789ab",
            ".a[1].ckpt.staging-notes",
            "a[1].ckpt.staging-0123456789ab",
        )
    ]
    for path in (*mine, *others):
        path.write_bytes(b"half")
    IO.save_checkpoint({"epoch": 1}, tmp_path / "a[1].ckpt")
    assert set(tmp_path.iterdir()) == {*others, tmp_path / "a[1].ckpt"}


def test_a_file_that_another_process_writes_is_kept(tmp_path, monkeypatch):
    path, save, inner = tmp_path / "a.ckpt", torch.save, []

    def while_saving(state, file):
        if state["epoch"] == 1:
            with pytest.warns(UserWarning, match=r"a\.ckpt\.staging-.*: kept .* give each its own"):
                IO.save_checkpoint({"epoch": 2}, path)
            inner.append(IO.load_checkpoint(path))
        save(state, file)

    monkeypatch.setattr(checkpoint_io.torch, "save", while_saving)
    IO.save_checkpoint({"epoch": 1}, path)
    assert inner == [{"epoch": 2}]
    assert IO.load_checkpoint(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_remove_takes_files_links_and_sharded_folders(tmp_path):
    IO.save_checkpoint({}, tmp_path / "a.ckpt")
    (tmp_path / "sharded.ckpt").mkdir()
    (tmp_path / "sharded.ckpt/.metadata").touch()
    (tmp_path / "link.ckpt").symlink_to("sharded.ckpt")
    IO.remove_checkpoint(tmp_path / "link.ckpt")
    assert (tmp_path / "sharded.ckpt/.metadata").exists()
    for name in ("a.ckpt", "sharded.ckpt", "missing.ckpt"):
        IO.remove_checkpoint(str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["s3://bucket/a.ckpt", "file:///tmp/a.ckpt", Path("gs://bucket/a.ckpt")])
def test_addresses_are_refused(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (lambda: IO.save_checkpoint({}, url), IO.load_checkpoint, IO.remove_checkpoint):
        with pytest.raises(MisconfigurationException, match=r"^\w+:/.*/a\.ckpt: is an address"):
            use(*([] if use.__name__ == "<lambda>" else [url]))
    assert list(tmp_path.iterdir()) == []


def test_misuse_is_refused(tmp_path):
    with pytest.raises(
        TypeError, match=r"storage_options=\{'a': 1\}.*not supported for `AtomicCheckpointIO`"
    ):
        IO.save_checkpoint({}, tmp_path / "a.ckpt", storage_options={"a": 1})
    with pytest.raises(DataError, match="is a folder"):
        IO.save_checkpoint({}, tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MisconfigurationException, match=r"a\.ckpt: weights_only=False would let .* run code"):
        IO.load_checkpoint(tmp_path / "a.ckpt", weights_only=False)


def test_it_is_exported():
    assert callbacks.AtomicCheckpointIO is AtomicCheckpointIO
