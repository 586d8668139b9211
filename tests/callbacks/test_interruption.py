"""Signals ask a run to end; a SLURM job is queued again."""

import os
import signal

import pytest
import torch

from callbacks.interruption import STOPPED, Interruption

CPU = torch.device("cpu")


@pytest.fixture
def listening(monkeypatch):
    """Makes interruptions that listen, and gives the signals back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}

    def listen():
        interruption = Interruption()
        interruption.listen()
        return interruption

    yield listen
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A stand-in for SLURM's command; its calls are lines of the file."""
    calls, status = tmp_path / "calls", tmp_path / "status"
    status.write_text("0")
    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexit $(cat {status})\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return calls, status


def test_sigterm_is_a_wish_that_ends_the_run_with_its_status(listening):
    interruption = listening()
    assert not interruption.asked(CPU)
    signal.raise_signal(signal.SIGTERM)
    assert interruption.asked(CPU)
    with pytest.raises(SystemExit) as ended:
        interruption.end("saved")
    assert ended.value.code == STOPPED == 128 + signal.SIGTERM


def test_a_slurm_job_before_its_time_limit_is_queued_again(listening, scontrol):
    interruption = listening()
    signal.raise_signal(signal.SIGUSR1)
    assert interruption.asked(CPU)
    with pytest.raises(SystemExit, match="143"):
        interruption.end("saved")
    assert scontrol[0].read_text() == "requeue 4711\n"


def test_a_slurm_job_that_is_cancelled_is_not_queued_again(listening, scontrol):
    interruption = listening()
    signal.raise_signal(signal.SIGTERM)
    assert interruption.asked(CPU)
    with pytest.raises(SystemExit):
        interruption.end("saved")
    assert not scontrol[0].exists()


def test_a_job_that_cannot_be_queued_again_says_so(listening, scontrol):
    scontrol[1].write_text("3")
    interruption = listening()
    signal.raise_signal(signal.SIGUSR1)
    with pytest.warns(UserWarning, match="status 3; submit the job again"), pytest.raises(SystemExit):
        interruption.end("saved")


def test_without_scontrol_the_job_says_so(listening, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("PATH", "")
    interruption = listening()
    signal.raise_signal(signal.SIGUSR1)
    with pytest.warns(UserWarning, match="scontrol is not there"), pytest.raises(SystemExit):
        interruption.end("saved")
