"""Checkpoints that are missing, damaged or hostile are refused with their name and what to do."""

import os

import pytest
import torch

from callbacks.checkpoint_io import AtomicCheckpointIO
from mmretrieval.errors import UserError

IO = AtomicCheckpointIO()


def test_a_missing_checkpoint_is_named_with_those_there_are(tmp_path):
    with pytest.raises(UserError, match=r"x/a\.ckpt: there is no .* The folder .*x does not exist"):
        IO.load_checkpoint(tmp_path / "x/a.ckpt")
    with pytest.raises(UserError, match=r"a\.ckpt: there is no .* holds no other \*\.ckpt file"):
        IO.load_checkpoint(tmp_path / "a.ckpt")
    for age, name in enumerate(["new.ckpt", "old.ckpt", ".new.ckpt.staging-0123456789ab"]):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (100 - age, 100 - age))
    with pytest.raises(UserError, match=r"a\.ckpt: there is no .* holds new\.ckpt, old\.ckpt\.$"):
        IO.load_checkpoint(tmp_path / "a.ckpt")
    (tmp_path / "sharded.ckpt").mkdir()
    with pytest.raises(UserError, match=r"sharded\.ckpt: is a folder.*strategy that saved it"):
        IO.load_checkpoint(tmp_path / "sharded.ckpt")


def test_a_changed_byte_or_a_missing_end_never_loads_as_something_else(tmp_path):
    state, path = {"weights": torch.arange(8.0), "epoch": 3}, tmp_path / "a.ckpt"
    IO.save_checkpoint(state, path)
    whole, outcomes = path.read_bytes(), []
    damaged = [whole[:size] for size in range(0, len(whole), 23)]
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        damaged.append(bytes(changed))
    for content in damaged:
        path.write_bytes(content)
        try:
            loaded = IO.load_checkpoint(path)
            assert torch.equal(loaded.pop("weights"), state["weights"])
            assert loaded == {"epoch": 3}
        except UserError as error:
            outcomes.append(str(error))
    assert len(damaged) / 2 < len(outcomes) < len(damaged), "some bytes of a zip file have no meaning"
    assert all(said.startswith(f"{path}: ") and "Resume from" in said for said in outcomes)


def test_changed_weights_are_noticed(tmp_path):
    path, weights = tmp_path / "a.ckpt", torch.arange(100.0)
    IO.save_checkpoint({"weights": weights}, path)
    content = bytearray(path.read_bytes())
    content[content.index(weights.numpy().tobytes()) + 200] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["weights"], weights), "torch does not notice"
    with pytest.raises(UserError, match=r"a\.ckpt: is damaged .*data/0 is not as it was written"):
        IO.load_checkpoint(path)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {}, "x": Payload(tmp_path / "ran")}, path)
    with pytest.raises(UserError, match=r"a\.ckpt: holds \w+\.mkdir, not only .* could run code"):
        IO.load_checkpoint(path)
    assert not (tmp_path / "ran").exists()
