"""A process is killed at many points of a save; what lies at the checkpoint's path must be whole after each.

A process is forked for each kill, because importing torch takes seconds. The kernel kills it at a byte (the
limit of a file's size), or it dies at a call that opens or changes files, before the call is made.
"""

import json
import os
import resource
import signal
import sys
import traceback
from collections import Counter

import pytest
import torch

from callbacks.checkpoint_io import AtomicCheckpointIO
from mmretrieval.errors import UserError

pytestmark = [
    # Python 3.12 warns where another test left a thread: the child makes no use of threads or their locks.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

CALLS = {
    "open",
    "os.listdir",
    "os.scandir",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.truncate",
    "fcntl.flock",
}
IO = AtomicCheckpointIO()


def save_in_place(state, path):
    torch.save(state, path)


class Recorder:
    """Notes this process's calls, and kills it before the one with number ``deadly``."""

    def __init__(self, deadly=None):
        self.calls, self.deadly = [], deadly
        self.fsync, os.fsync = os.fsync, self.noted_fsync
        sys.addaudithook(lambda event, args: self.note(event) if event in CALLS else None)

    def noted_fsync(self, descriptor):
        self.note("os.fsync")
        self.fsync(descriptor)

    def note(self, event):
        if len(self.calls) == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls.append(event)


def status_of(action):
    """How a forked process ends that does nothing else."""
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    return os.waitpid(child, 0)[1]


def calls_of(save):
    """The calls of a save that is not killed."""
    reading, writing = os.pipe()

    def report():
        recorder = Recorder()
        save()
        os.write(writing, json.dumps(recorder.calls).encode())

    assert status_of(report) == 0
    os.close(writing)
    with os.fdopen(reading) as file:
        return json.load(file)


def killed_at(point, save):
    kind, number = point

    def act():
        if kind == "byte":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, and gets an error instead
            resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
        else:
            Recorder(number)
        save()

    status = status_of(act)
    assert os.WIFSIGNALED(status), f"the save was not killed at {point}"
    assert os.WTERMSIG(status) == (signal.SIGXFSZ if kind == "byte" else signal.SIGKILL)


def checkpoint(step):
    weights = {f"layer{n}.weight": torch.full((20, 40), float(step)) for n in range(6)}
    return {"global_step": step, "state_dict": weights, "loops": {"done": [step] * 20}}


def step_of(path):
    """The step of a complete checkpoint; None if it cannot be read or mixes two steps."""
    try:
        found = IO.load_checkpoint(path)
    except UserError:
        return None
    expected = checkpoint(found["global_step"])
    same = [torch.equal(found["state_dict"][name], value) for name, value in expected["state_dict"].items()]
    return found["global_step"] if all(same) and found["loops"] == expected["loops"] else None


def leave_one_leftover(path):
    """So that each save makes the same calls, the removal of a leftover among them."""
    for other in path.parent.glob(".*"):
        other.unlink()
    (path.parent / f".{path.name}.staging-0123456789ab").touch()


def points(calls, size, kills):
    """All calls, and bytes spread evenly over the file."""
    of_calls = [("call", number) for number in range(len(calls))]
    count = kills - len(of_calls)
    assert count > 0
    return of_calls + [("byte", size * number // count) for number in range(count)]


def kill_saves(path, kills, save):
    """The calls of one save, and how often a kill left the old, the new or no readable checkpoint."""
    seen = Counter()
    save(checkpoint(0), path)
    leave_one_leftover(path)
    calls = calls_of(lambda: save(checkpoint(0), path))
    for point in points(calls, path.stat().st_size, kills):
        leave_one_leftover(path)
        before = step_of(path)
        following = checkpoint(before + 1)
        killed_at(point, lambda state=following: save(state, path))
        after = step_of(path)
        seen[{before: "old", before + 1: "new"}.get(after, "unreadable")] += 1
        if after is None:
            save(checkpoint(before), path)
    return calls, seen


@pytest.mark.parametrize("kills", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_a_kill_at_any_point_leaves_the_old_or_the_new_checkpoint(tmp_path, kills):
    path = tmp_path / "last.ckpt"
    calls, seen = kill_saves(path, kills, IO.save_checkpoint)
    assert set(seen) == {"old", "new"}
    assert seen.total() == kills
    assert calls.index("fcntl.flock") < calls.index("os.remove"), "a leftover was locked and removed"
    rename = calls.index("os.rename")
    assert "os.fsync" in calls[:rename], "what is renamed is on the disk"
    assert "os.fsync" in calls[rename:], "and then its name"
    assert len(list(tmp_path.glob(".*"))) == 1, "the last kill left a file"
    IO.save_checkpoint(checkpoint(1), path)
    assert list(tmp_path.iterdir()) == [path]


def test_writing_in_place_does_not_survive_such_kills(tmp_path):
    _, seen = kill_saves(tmp_path / "last.ckpt", 10, save_in_place)
    assert seen["unreadable"] > 5
    assert seen.total() == 10
