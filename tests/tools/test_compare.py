"""Two runs are compared query by query; what cannot be compared is refused or counted."""

from __future__ import annotations

import json

import numpy as np
import pytest
import pytrec_eval
from PIL import Image

from mmretrieval.tools.main import main

QUERIES, TASKS = 120, ("global_x_task0", "global_y_task3", "local_x_task0")


def write(folder, skill, seed, *, qrels=True, queries=QUERIES):
    """Write the run files of an evaluation; returns task → run."""
    r = np.random.default_rng(seed)
    (folder / "runs").mkdir(parents=True)
    runs = {}
    for task in TASKS:
        runs[task] = {}
        lines, judged = [], []
        for n in range(queries):
            found = [f"0:{d}" for d in r.choice(5000, 10, replace=False) + 1000]
            if r.random() < skill:
                found[r.integers(10)] = f"0:{n}"
            runs[task][f"0:{n}"] = {d: 1.0 / place for place, d in enumerate(found, 1)}
            lines += [f"0:{n} Q0 {d} {place} {1.0 / place!r} x\n" for place, d in enumerate(found, 1)]
            judged.append(f"0:{n} 0 0:{n} 1 {task[-1]}\n")
        (folder / f"runs/{task}.trec").write_text("".join(lines))
        if qrels:
            (folder / f"runs/{task}.qrels").write_text("".join(judged))
    return runs


@pytest.fixture
def runs(tmp_path):
    return {name: write(tmp_path / name, skill, seed) for name, skill, seed in (("a", 0.4, 1), ("b", 0.8, 2))}


def compare(tmp_path, *options, a="a", b="b"):
    path = tmp_path / "comparison.json"
    main(
        ["compare", str(tmp_path / a), str(tmp_path / b), "--json", str(path), "--resamples", "500", *options]
    )
    return json.loads(path.read_text())


def refused(tmp_path, capsys, *options, a="a", b="b"):
    with pytest.raises(SystemExit) as exit_:
        compare(tmp_path, *options, a=a, b=b)
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_means_are_trec_evals_and_the_better_run_is_found(tmp_path, runs):
    document = compare(tmp_path, "--metric", "ndcg@10")
    assert list(document["tasks"]) == sorted(TASKS)
    assert list(document["averages"]) == ["global average"]
    qrels = {f"0:{n}": {f"0:{n}": 1} for n in range(QUERIES)}
    for task, found in document["tasks"].items():
        for name in ("a", "b"):
            values = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut"}).evaluate(runs[name][task])
            assert found[f"mean_{name}"] == pytest.approx(
                np.mean([v["ndcg_cut_10"] for v in values.values()])
            )
        assert found["difference"] == pytest.approx(found["mean_b"] - found["mean_a"])
        assert found["interval"][0] < found["difference"] < found["interval"][1]
        assert found["p_value"] <= found["p_holm"] < 0.05
    averaged = [document["tasks"][task]["mean_b"] for task in TASKS[:2]]
    assert document["averages"]["global average"]["mean_b"] == pytest.approx(np.mean(averaged))


def test_the_same_seed_gives_the_same_bytes_and_other_tasks_change_no_p_value(tmp_path, runs):
    first = compare(tmp_path)
    assert compare(tmp_path) == first
    task = TASKS[0]
    alone = compare(tmp_path, a=f"a/runs/{task}.trec", b=f"b/runs/{task}.trec")
    assert alone["tasks"][task]["p_value"] == first["tasks"][task]["p_value"]
    assert compare(tmp_path, "--seed", "1") != first


def test_a_run_with_itself_is_no_different(tmp_path, runs):
    document = compare(tmp_path, b="a")
    assert {one["p_value"] for one in document["tasks"].values()} == {1.0}
    assert {tuple(one["interval"]) for one in document["tasks"].values()} == {(0, 0)}


def test_a_table_and_a_plot_are_made(tmp_path, runs, capsys):
    compare(tmp_path, "--out", str(tmp_path / "out"))
    printed = capsys.readouterr().out
    assert all(task in printed for task in TASKS)
    with Image.open(tmp_path / "out/comparison.png") as image:
        assert image.width > 500
    assert json.loads((tmp_path / "out/comparison.json").read_text())["metric"] == "hit@5"


def test_other_queries_are_refused_or_counted(tmp_path, runs, capsys):
    write(tmp_path / "short", 0.4, 3, queries=QUERIES - 20)
    for path in (tmp_path / "a/runs").glob("*.qrels"):
        (tmp_path / "short/runs" / path.name).write_bytes(path.read_bytes())
    assert "20 only in the first, 0 only in the second" in refused(tmp_path, capsys, b="short")
    document = compare(tmp_path, "--intersect=true", b="short")
    assert {one["queries"] for one in document["tasks"].values()} == {QUERIES - 20}
    assert {one["not_shared"] for one in document["tasks"].values()} == {20}
    assert "60 queries are left out: only one of the runs has them" in capsys.readouterr().out


def test_other_tasks_are_refused_or_counted(tmp_path, runs, capsys):
    (tmp_path / f"b/runs/{TASKS[2]}.trec").unlink()
    assert TASKS[2] in refused(tmp_path, capsys)
    document = compare(tmp_path, "--intersect=true")
    assert document["tasks_not_shared"] == [TASKS[2]]
    assert list(document["tasks"]) == list(TASKS[:2])


def test_qrels_are_found_by_m_beirs_names(tmp_path, capsys):
    write(tmp_path / "a", 0.4, 1, qrels=False)
    write(tmp_path / "b", 0.8, 2, qrels=False)
    assert "has no qrels beside it" in refused(tmp_path, capsys)
    (tmp_path / "qrels").mkdir()
    for name, task in (("x_task0", 0), ("y_task3", 3)):
        lines = (f"0:{n} 0 0:{n} 1 {task}\n" for n in range(QUERIES + 5))
        (tmp_path / f"qrels/mbeir_{name}_test_qrels.txt").write_text("".join(lines))
    document = compare(tmp_path, "--qrels", str(tmp_path / "qrels"))
    assert {one["queries"] for one in document["tasks"].values()} == {QUERIES}
    assert {one["in_neither"] for one in document["tasks"].values()} == {5}
    (tmp_path / "qrels/mbeir_y_task3_test_qrels.txt").unlink()
    assert "has no qrels of global_y_task3" in refused(tmp_path, capsys, "--qrels", str(tmp_path / "qrels"))


def test_runs_that_were_judged_differently_are_refused(tmp_path, runs, capsys):
    with (tmp_path / f"b/runs/{TASKS[0]}.qrels").open("a") as file:
        file.write("0:1 0 0:2 1 0\n")
    assert "judge differently" in refused(tmp_path, capsys)
    assert compare(tmp_path, "--qrels", str(tmp_path / f"a/runs/{TASKS[0]}.qrels"))["tasks"]


def test_unusable_arguments_are_one_message(tmp_path, runs, capsys):
    assert "write hit@k" in refused(tmp_path, capsys, "--metric", "accuracy")
    assert "holds no run file" in refused(tmp_path, capsys, b="nothing")
    assert "give at least 1" in refused(tmp_path, capsys, "--resamples", "0")
