"""Scores are there again after a kill, from all processes, and damage is named."""

import json

import pytest

from mmretrieval.errors import UserError
from mmretrieval.rerank.score_cache import ScoreCache


def test_scores_of_all_processes_are_known_afterwards(tmp_path):
    for rank in range(2):
        with ScoreCache(tmp_path / "scores", str(rank)) as cache:
            assert cache.known("key", f"q{rank}") == {}
            cache.add("key", f"q{rank}", {"c1": 0.1 + rank, "c2": 1 / 3})
            cache.add("key", f"q{rank}", {"c3": 2.0})
            cache.add("other", "q0", {"c1": 9.0})
            assert cache.known("key", f"q{rank}") == {"c1": 0.1 + rank, "c2": 1 / 3, "c3": 2.0}
    again = ScoreCache(tmp_path / "scores", "0")
    assert again.known("key", "q1") == {"c1": 1.1, "c2": 1 / 3, "c3": 2.0}
    assert again.known("other", "q0") == {"c1": 9.0}
    assert again.known("another", "q0") == {}


@pytest.mark.parametrize("cut", range(1, 50, 7))
def test_a_kill_loses_at_most_the_line_that_was_written(tmp_path, cut):
    with ScoreCache(tmp_path, "0") as cache:
        cache.add("key", "q0", {"c": 0.5})
        cache.add("key", "q1", {"c": 0.25})
    path = tmp_path / "scores-0.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with ScoreCache(tmp_path, "0") as cache:
        assert cache.known("key", "q0") == {"c": 0.5}
        assert cache.known("key", "q1") == {}
        cache.add("key", "q1", {"c": 0.25})
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        '{"key": 1, "query": "q", "scores": {}}',
        '{"key": "k", "query": "q", "scores": []}',
        '{"key": "k", "query": "q", "scores": {"c": NaN}}',
        '{"key": "k", "query": "q", "scores": {"c": "x"}}',
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    good = json.dumps({"key": "k", "query": "q", "scores": {"c": 1.0}})
    (tmp_path / "scores-3.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(UserError, match=r"scores-3.jsonl:2: is no line of scores; remove the file"):
        ScoreCache(tmp_path, "0")


def test_scores_that_are_not_finite_are_refused(tmp_path):
    with ScoreCache(tmp_path, "0") as cache, pytest.raises(ValueError, match="JSON"):
        cache.add("key", "q", {"c": float("nan")})
