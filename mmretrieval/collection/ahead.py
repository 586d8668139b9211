"""Work done ahead in threads, given in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def ahead(work: Callable[[S], T], items: Iterable[S], threads: int, window: int) -> Iterator[T]:
    """Results of ``work`` in the order of the items, at most ``window`` of them made before they are taken.

    Reading files and decoding pictures leave Python's lock, so threads overlap them with the model's work.

    Args:
        work: What to do with each item; what it raises is raised here.
        items: The items.
        threads: How many are worked on at a time, at least 1.
        window: How many results may wait, at least 1.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= window:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
