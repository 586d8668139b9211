"""All ranks together do each piece of work once, whoever is faster."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmretrieval import shared_work
from mmretrieval.shared_work import SharedWork


@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_free_ranks_claim_each_piece_once(tmp_path, count):
    def work(seed):
        draw, done = random.Random(seed), []
        for number in SharedWork(count, tmp_path):
            time.sleep(draw.random() / 500)
            done.append(number)
        return done

    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(work, range(4)))
    assert sorted(number for share in shares for number in share) == list(range(count))
    assert all(share == sorted(share) for share in shares)


def test_a_slow_rank_does_less(tmp_path):
    def work(pause):
        done = []
        for number in SharedWork(30, tmp_path):
            time.sleep(pause)
            done.append(number)
        return done

    with ThreadPoolExecutor(2) as pool:
        slow, fast = pool.map(work, (0.05, 0.005))
    assert len(slow) < len(fast)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_without_claims_ranks_take_turns(monkeypatch, world):
    monkeypatch.setattr(shared_work, "world_size", lambda: world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(shared_work, "rank", lambda rank=rank: rank)
        shares.append(list(SharedWork(7)))
    assert sorted(number for share in shares for number in share) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_after_stop_nobody_takes_more(tmp_path):
    first, second = SharedWork(9, tmp_path), SharedWork(9, tmp_path)
    pieces = iter(first)
    assert (next(pieces), next(pieces)) == (0, 1)
    assert not first.stopped
    second.stop()
    assert first.stopped
    assert list(pieces) == []
    assert list(second) == []
