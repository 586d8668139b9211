"""A rank that dies or raises ends the others, with its number and the cause; a regular end alarms nobody."""

import itertools
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from callbacks import RankWatch
from callbacks.rank_watch import STATUS, _summary, watched

ROOT = Path(__file__).resolve().parents[2]
INTERVAL, TIMEOUT = 0.2, 2.0
FOREVER = 60
HOST = socket.gethostname()

# The processes only do what is safe after a fork; a new interpreter takes seconds for its imports.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def _start(rank, act, method, environment, folder):
    """What each process runs: a process group, a watch, and then what the test does on this rank."""
    for stream in (1, 2):
        os.dup2(os.open(f"{folder}/{rank}.{stream}", os.O_CREAT | os.O_WRONLY), stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    torch.set_num_threads(1)
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    if method is not None:
        dist.init_process_group(
            "gloo", init_method=method, rank=rank, world_size=int(os.environ["WORLD_SIZE"])
        )
        dist.barrier()
    act(rank, RankWatch(INTERVAL, TIMEOUT))


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    """``ranks(act)`` runs ``act(rank, watch)`` on each rank and returns the status and output of each."""
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])  # a new interpreter can import this module then
    started = []

    def run(act, method="env://", world=2, start="fork", meanwhile=None, left=()):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        environment = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "NODE_RANK": "0",
            "WORLD_SIZE": str(world),
        }
        method = f"file://{tmp_path}/rendezvous" if method == "file" else method
        process = multiprocessing.get_context(start).Process
        rest = (act, method, environment, str(tmp_path))
        started.extend(process(target=_start, args=(rank, *rest)) for rank in range(world))
        for process in started:
            process.start()
        if meanwhile is not None:
            meanwhile(tmp_path, started)
        for rank in {*range(world)} - {*left}:
            started[rank].join(240 if start == "spawn" else 30)
        return SimpleNamespace(
            status=[process.exitcode for process in started],
            stdout=[(tmp_path / f"{rank}.1").read_text() for rank in range(world)],
            stderr=[(tmp_path / f"{rank}.2").read_text() for rank in range(world)],
        )

    yield run
    for process in started:
        process.kill()  # also one that was stopped
        process.join()


def _begin(watch):
    watch.setup(None, None, "fit")
    time.sleep(4 * INTERVAL)  # until both were seen


def _fail(watch, error):
    watch.on_exception(None, None, error)
    raise error


def _alarms(result):
    return [[line for line in text.splitlines() if line.startswith("mmretrieval:")] for text in result.stderr]


def _killed_while_the_other_waits(rank, watch):
    _begin(watch)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    print(time.monotonic())
    dist.distributed_c10d._get_default_store().wait(["never"])  # gloo has no part in this


@pytest.mark.parametrize("method", ["env://", "file"])
def test_a_killed_rank_ends_the_one_that_waits_for_it(ranks, method):
    result = ranks(_killed_while_the_other_waits, method)
    waited = time.monotonic() - float(result.stdout[0])  # what was in the buffer of stdout is not lost
    assert TIMEOUT - 2 * INTERVAL < waited < 4 * TIMEOUT
    assert result.status == [STATUS, -signal.SIGKILL]
    ((alarm,), _) = _alarms(result)
    assert f"rank 1 on host {HOST} gave no sign of life for 2 s (killed" in alarm
    assert "ending rank 0. Resume with --ckpt_path last" in alarm


def _stopped_within_a_collective(rank, watch):
    _begin(watch)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    dist.barrier()  # the connections of a stopped process stay open, so gloo waits


def test_a_rank_without_life_ends_the_one_in_a_collective(ranks):
    result = ranks(_stopped_within_a_collective, left=(1,))
    assert result.status == [STATUS, None]
    assert f"rank 1 on host {HOST} gave no sign of life" in _alarms(result)[0][0]


def _host_is_gone(number, rank, watch):
    _begin(watch)
    if rank == 0:
        os.kill(os.getpid(), number)
    time.sleep(FOREVER)


@pytest.mark.parametrize(("number", "left"), [(signal.SIGKILL, ()), (signal.SIGSTOP, (0,))])
def test_a_store_that_refuses_or_is_silent_ends_the_rank(ranks, number, left):
    result = ranks(partial(_host_is_gone, number), left=left)
    assert result.status[1] == STATUS
    (alarm,) = _alarms(result)[1]
    assert "the store of rank 0 or its launcher did not answer for 2 s" in alarm
    assert "ending rank 1" in alarm


def _raises(failing, error, rank, watch):
    _begin(watch)
    if rank == failing:
        _fail(watch, error)
    time.sleep(FOREVER)


@pytest.mark.parametrize("failing", [0, 1])
def test_an_exception_is_named_on_the_other_rank(ranks, failing):
    result = ranks(partial(_raises, failing, ValueError("bad  batch\nof many lines")))
    other = 1 - failing
    assert (result.status[failing], result.status[other]) == (1, STATUS)
    alarms = _alarms(result)
    assert alarms[failing] == []
    assert alarms[other] == [
        f"mmretrieval: rank {failing} on host {HOST} failed: ValueError: bad batch; ending rank {other}. "
        "Resume with --ckpt_path last."
    ]


def test_a_rank_that_leaves_alone_ends_the_other(ranks):
    result = ranks(partial(_raises, 1, SystemExit(3)))
    assert result.status == [STATUS, 3]
    assert "left the run 2 s ago (SystemExit: 3), and others still ran" in _alarms(result)[0][0]


def _raises_before_setup(rank, watch):
    if rank == 1:
        _fail(watch, OSError("no such shard"))
    _begin(watch)
    time.sleep(FOREVER)


def test_an_exception_before_the_watch_began_is_told_too(ranks):
    result = ranks(_raises_before_setup)
    assert result.status == [STATUS, 1]
    assert f"rank 1 on host {HOST} failed: OSError: no such shard" in _alarms(result)[0][0]


def _hangs_after_its_exception(failing, rank, watch):
    _begin(watch)
    if rank == failing:
        watch.on_exception(None, None, RuntimeError("CUDA error"))
    time.sleep(FOREVER)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_hangs_after_its_exception_is_ended(ranks, failing):
    result = ranks(partial(_hangs_after_its_exception, failing))
    assert result.status == [STATUS, STATUS]
    (alarm,) = _alarms(result)[failing]
    assert "failed: RuntimeError: CUDA error, and was still there 2 s later" in alarm


def _both_raise(error, rank, watch):
    _begin(watch)
    time.sleep(INTERVAL / 2 * rank)
    _fail(watch, error)


@pytest.mark.parametrize(("error", "status"), [(ValueError("alike"), 1), (SystemExit(143), 143)])
def test_ranks_that_raise_together_end_by_themselves(ranks, error, status):
    result = ranks(partial(_both_raise, error))
    assert result.status == [status, status]
    assert _alarms(result) == [[], []]


def _ends_late(late, rank, watch):
    for _ in range(2):  # as a fit and then a test of the same trainer
        _begin(watch)
        watch.teardown(None, None, "fit")
        assert not _watch_threads()
    dist.barrier()
    _begin(watch)
    until = time.monotonic() + (1.5 * TIMEOUT if rank in late else 0)
    while time.monotonic() < until:
        sum(range(100_000))  # holds the global lock now and then
    watch.teardown(None, None, "fit")


def _watch_threads():
    time.sleep(2 * INTERVAL)
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rank-watch")]


@pytest.mark.parametrize(("late", "method"), [((0, 2), "env://"), ((1, 2), "env://"), ((1, 2), "file")])
def test_regular_ends_at_different_times_raise_no_alarm(ranks, late, method):
    result = ranks(partial(_ends_late, late), method, world=3)
    assert result.status == [0, 0, 0]
    assert _alarms(result) == [[], [], []]


def test_the_last_rank_does_not_miss_the_store_of_the_others(ranks):
    result = ranks(partial(_ends_late, (1,)))
    assert result.status == [0, 0]
    assert result.stderr == ["", ""]


def _lives_through_a_suspension(rank, watch):
    _begin(watch)
    print("ready", flush=True)
    time.sleep(2.5 * TIMEOUT)
    watch.teardown(None, None, "fit")


def _suspend(folder, processes):
    paths = [folder / f"{rank}.1" for rank in range(2)]
    while not all(path.is_file() and path.read_text() for path in paths):
        time.sleep(0.05)
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.5 * TIMEOUT)
    for process in processes:
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(2 * INTERVAL)


def test_a_suspended_job_goes_on_when_it_is_resumed(ranks):
    result = ranks(_lives_through_a_suspension, meanwhile=_suspend)
    assert result.status == [0, 0]
    assert _alarms(result) == [[], []]


def _fit_and_fail(rank, watch):
    import lightning.pytorch as pl
    from lightning.pytorch.demos.boring_classes import BoringModel

    class Model(BoringModel):
        def test_step(self, batch, batch_idx):
            if self.global_rank == 1:
                raise FloatingPointError("loss is nan")
            dist.barrier()

    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar"], False)
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_steps=2, callbacks=[watch], **quiet
    )
    model = Model()
    trainer.fit(model)
    assert not _watch_threads()
    print("fitted", flush=True)
    trainer.test(model, verbose=False)


@pytest.mark.slow
def test_a_trainer_fits_and_names_what_ended_it(ranks):
    result = ranks(_fit_and_fail, method=None, start="spawn")  # autograd refuses to run after a fork
    assert ["fitted" in text for text in result.stdout] == [True, True]
    assert result.status == [STATUS, 1]
    assert f"rank 1 on host {HOST} failed: FloatingPointError: loss is nan; ending" in _alarms(result)[0][0]


def test_one_process_starts_no_thread():
    before = threading.active_count()
    watch = RankWatch()
    watch.setup(None, None, "fit")
    assert threading.active_count() == before
    watch.on_exception(None, None, ValueError())
    watch.teardown(None, None, "fit")
    assert threading.active_count() == before


@pytest.mark.parametrize(("interval", "timeout"), [(0, 20), (-1, 20), (6, 20), (float("nan"), 20)])
def test_a_timeout_of_few_intervals_is_refused(interval, timeout):
    with pytest.raises(ValueError, match=r"timeout >= 4 \* interval"):
        RankWatch(interval, timeout)


@pytest.mark.parametrize("world", [5, 40, 600])
def test_some_running_rank_watches_any_dead_block(world):
    for done, dead in itertools.product((0, 1, world // 3), (1, world // 3 + 1)):
        ends = {world - 1 - rank: "done" for rank in range(done)}
        gone = {world - 1 - done - rank for rank in range(dead)}
        running = [rank for rank in range(world) if rank not in ends and rank not in gone]
        seen = [watched(rank, world, ends) for rank in running]
        assert gone & set().union(*seen)
        assert not {*ends} & set().union(*seen)
        assert all(len(peers) <= 17 and rank not in peers for rank, peers in zip(running, seen, strict=True))


def test_a_cause_is_one_short_line():
    assert _summary(ValueError("a\tb\nc")) == "ValueError: a b"
    assert _summary(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(_summary(ValueError("x" * 999))) == 200
    assert _summary(ValueError("\udcff")).encode() == b"ValueError: \\udcff"
