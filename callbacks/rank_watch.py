"""Ends a run on all ranks, with a named cause, when one of them fails."""

from __future__ import annotations

import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.distributed_c10d import _get_default_store
from typing_extensions import override

from mmretrieval.distributed import rank, world_size

STATUS = 70
"""Exit status of a rank that this watch ended; EX_SOFTWARE of sysexits.h."""

_WINDOW = 16  # watched ranks for each rank: the load of the store grows with the ranks, not their square
_CAUSE = 200  # characters of an exception's message at most
_ALARM = "alarm"
_DONE, _LEFT, _FAILED, _ENDED = "done", "left", "failed", "ended"
_numbers = itertools.count()  # of this process's watches: all ranks start the same ones in the same order


class RankWatch(Callback):
    """Ends the run on all ranks when one dies or raises, instead of leaving the others in a collective.

    From ``setup`` to ``teardown``, a thread of each rank counts up a heartbeat in the rendezvous store and
    looks at those of others. A rank whose heartbeat stands still for ``timeout`` is dead, by the clock of the
    rank that looks. A store that is silent for so long is gone, with rank 0 or the launcher, which host it.
    The cause goes to stderr, and the process ends with status :data:`STATUS`.

    An exception is told to the others, which end within about three intervals. A rank that made others end
    and is still there ``timeout`` later is ended too: what it saves on an exception has to be done by then.
    ``SystemExit`` and ``KeyboardInterrupt`` are a regular end where all ranks stop together, as on SIGTERM; a
    rank that still runs ``timeout`` after another one left so is ended.

    Put it first in ``trainer.callbacks``: watching starts in its ``setup``. With one rank it does nothing.

    Args:
        interval: Seconds between heartbeats, > 0.
        timeout: Seconds without a sign of life after which a rank is dead, at least four intervals. Has to be
            longer than extension code ever holds Python's global lock, as that stops the heartbeat.

    Raises:
        ValueError: If ``interval`` is not positive or ``timeout`` is below four intervals.
    """

    def __init__(self, interval: float = 2.0, timeout: float = 20.0) -> None:
        super().__init__()
        if not 0 < interval <= timeout / 4:
            raise ValueError(
                f"RankWatch needs interval > 0 and timeout >= 4 * interval, found interval={interval}, "
                f"timeout={timeout}: raise the timeout or lower the interval."
            )
        self.interval, self.timeout = interval, timeout
        self._watch: _Watch | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._start()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end(_DONE, "")

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._start()  # the exception may be older than the watch: from the data module's setup
        # A signal raises these on all ranks, so they end nobody at once; a lone sys.exit() is no regular end.
        leaves = isinstance(exception, SystemExit | KeyboardInterrupt)
        self._end(_LEFT if leaves else _FAILED, _summary(exception))

    def _start(self) -> None:
        if self._watch is None and world_size() > 1:
            self._watch = _Watch(self.interval, self.timeout)
            self._watch.start()

    def _end(self, state: str, reason: str) -> None:
        if self._watch is not None:
            self._watch.end(state, reason)
            self._watch = None


class _Watch:
    """Two threads: one talks with the store, and as that can block for ever, one sees that it still talks.

    Keys of the store: a rank's number holds its heartbeat, or how it ended; ``host/<rank>`` its machine;
    ``alarm`` why the run has to end, written once.
    """

    def __init__(self, interval: float, timeout: float) -> None:
        self._interval, self._timeout = interval, timeout
        self._rank, self._world = rank(), world_size()
        self._prefix = f"rank_watch/{next(_numbers)}"
        self._default = _get_default_store()
        self._store: Store | None = None
        self._states: dict[int, str] = {}
        self._silence: dict[int, float] = {}
        self._talks, self._trouble = 0, "no answer"
        self._final, self._reason = _DONE, ""
        self._stop, self._settled = threading.Event(), threading.Event()

    def start(self) -> None:
        for work in (self._talk, self._guard):
            threading.Thread(target=work, name=f"rank-watch{work.__name__}", daemon=True).start()

    def end(self, state: str, reason: str) -> None:
        self._final, self._reason = state, reason
        self._stop.set()
        self._settled.wait(4 * self._interval)

    def _talk(self) -> None:
        laps = _laps(self._timeout / 4)
        for beat in itertools.count():
            try:
                self._exchange(self._connection(), beat, laps)
                self._talks += 1
            except (RuntimeError, OSError) as error:  # those of c10d are RuntimeErrors
                self._trouble, self._store = _summary(error), None
                if self._states.get(0) == _DONE:
                    self._stop.set()  # rank 0 ended regularly and took the store along
            if self._stop.wait(self._interval):
                break
        try:
            self._say_goodbye(self._connection())
        except (RuntimeError, OSError):
            self._states[0] = _ENDED  # with the store, which the others find gone as well
        self._settled.set()
        if self._final == _FAILED and _ENDED in self._states.values():
            time.sleep(self._timeout)  # a daemon thread: the process mostly ends meanwhile
            self._exit(f"{self._own_failure()}, and was still there {self._timeout:g} s later")

    def _connection(self) -> Store:
        if self._store is None:
            base = self._default
            while isinstance(base, PrefixStore):
                base = base.underlying_store
            if isinstance(base, TCPStore):
                # c10d retries for half an hour and writes a page of frames each time; this one fails quietly.
                socket.create_connection((base.host, base.port), self._interval).close()
            # A connection serves one call at a time: a second thread on the process group's would block it.
            self._store = PrefixStore(self._prefix, self._default.clone())
            self._store.set(f"host/{self._rank}", socket.gethostname())
        return self._store

    def _exchange(self, store: Store, beat: int, laps: Iterator[float]) -> None:
        store.set(str(self._rank), str(beat))
        if store.check([_ALARM]):
            if not self._stop.wait(self._interval):  # ranks that fail alike end with their own errors
                self._exit(store.get(_ALARM).decode(), store)
            return
        passed, before = next(laps), dict(self._states)
        peers = watched(self._rank, self._world, self._states)
        self._read(store, peers)
        if all(self._states.get(peer) == _DONE for peer in peers):
            self._stop.set()  # before the store goes, on which c10d writes a page of frames
        for peer, state in self._states.items():
            moved = state != before.get(peer) or state == _DONE
            self._silence[peer] = 0.0 if moved else self._silence[peer] + passed
            if self._silence[peer] > self._timeout:
                cause = _silent(peer, store.get(f"host/{peer}").decode(), state, self._timeout)
                self._exit(store.compare_set(_ALARM, "", cause).decode(), store)

    def _read(self, store: Store, peers: Sequence[int]) -> None:
        """Read what peers wrote last, without those that never wrote: a get would wait for them."""
        new = [peer for peer in peers if peer not in self._states]
        if new and not store.check([str(peer) for peer in new]):
            new = [peer for peer in new if store.check([str(peer)])]
        known = [peer for peer in peers if peer in self._states or peer in new]
        values = store.multi_get([str(peer) for peer in known]) if known else []
        self._states.update((peer, value.decode()) for peer, value in zip(known, values, strict=True))

    def _say_goodbye(self, store: Store) -> None:
        """Publish how this rank ended, and stay until the others know: with rank 0 the store goes."""
        if self._final == _FAILED:
            store.compare_set(_ALARM, "", self._own_failure())
        store.set(str(self._rank), f"{self._final} {self._reason}".strip())
        self._read(store, [peer for peer in range(self._world) if peer != self._rank])
        before, until = dict(self._states), time.monotonic() + 3 * self._interval
        while time.monotonic() < until and any(_unaware(before[p], self._states[p]) for p in before):
            time.sleep(self._interval / 4)
            self._read(store, list(before))

    def _guard(self) -> None:
        laps, silence, talks = _laps(self._timeout / 4), 0.0, -1
        while not self._stop.wait(self._interval):
            passed = next(laps)
            silence, talks = 0.0 if talks != self._talks else silence + passed, self._talks
            if silence > self._timeout:
                found = f"did not answer for {self._timeout:g} s ({self._trouble})"
                self._exit(f"the store of rank 0 or its launcher {found}: killed, or its machine is gone")

    def _own_failure(self) -> str:
        return f"rank {self._rank} on host {socket.gethostname()} failed: {self._reason}"

    def _exit(self, cause: str, store: Store | None = None) -> None:
        message = f"mmretrieval: {cause}; ending rank {self._rank}. Resume with --ckpt_path last.\n"
        # Past sys.stderr and with a limit, as the main thread may hold the lock of a stream for ever.
        os.write(2, message.encode())
        if store is not None:
            store.set(str(self._rank), _ENDED)
        flush = threading.Timer(0, sys.stdout.flush)
        flush.start()
        flush.join(1)
        # The main thread waits in a collective, where no exception or signal handler of Python reaches it.
        os._exit(STATUS)


def _laps(limit: float) -> Iterator[float]:
    """Seconds since the last one, with a limit: a stop of this very process (SIGSTOP) must count little."""
    last = time.monotonic()
    while True:
        now = time.monotonic()
        yield min(now - last, limit)
        last = now


def watched(rank: int, world: int, states: dict[int, str]) -> list[int]:
    """Rank 0 and the next ranks in a ring without a regular end: some running rank watches any dead block."""
    ring = ((rank + step) % world for step in range(1, world))
    following = itertools.islice((peer for peer in ring if states.get(peer) != _DONE), _WINDOW)
    return sorted({0, *following} - {rank})


def _unaware(before: str, now: str) -> bool:
    """Whether a rank may not have read what was there before; the second of two new beats is after a read."""
    return now.isdigit() and int(now) < int(before) + 2


def _silent(peer: int, host: str, state: str, timeout: float) -> str:
    if state.isdigit():
        found = f"gave no sign of life for {timeout:g} s (killed, out of memory, or its machine is gone)"
    else:
        found = f"left the run {timeout:g} s ago ({state.removeprefix(_LEFT).strip()}), and others still ran"
    return f"rank {peer} on host {host} {found}"


def _summary(exception: BaseException) -> str:
    first = next(iter(str(exception).strip().splitlines()), "")
    line = f"{type(exception).__name__}: {' '.join(first.split())}".removesuffix(": ")
    return line[:_CAUSE].encode(errors="backslashreplace").decode()
