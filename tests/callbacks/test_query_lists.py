"""Groups, grades and exclusions that lie beside a data set reach its evaluation."""

import json
import re

import numpy as np
import pytest

from callbacks import RetrievalEvaluation
from callbacks.pool_search import positives_of
from data_modules.corpus import PackedCorpus
from data_modules.formats.records import DataError
from data_modules.packing import pack
from mmretrieval.metrics.per_query import Measure
from mmretrieval.metrics.protocol import Protocol

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
]
ALPHA, BETA = "alpha_task0", "beta_task1"


def _beside(root, name, lists):
    lines = (json.dumps({"query": query, "candidates": rows}) for query, rows in lists.items())
    (root / name).write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def evaluated(fakes, module, tmp_path):
    """Evaluate the small data set with other files beside it."""

    def evaluated(change=lambda root, queries: None):
        root = fakes.write(tmp_path / "raw")
        pack(root, tmp_path / "plain", progress=False)
        change(root, PackedCorpus(tmp_path / "plain").queries("test"))
        pack(root, tmp_path / "packed", progress=False)
        data = fakes.FakeData(PackedCorpus(tmp_path / "packed"))
        evaluation = RetrievalEvaluation(protocol=Protocol(bootstrap=None))
        fakes.make_trainer(tmp_path, [evaluation]).test(module, datamodule=data, verbose=False)
        scores = data.vectors(module, "test").astype(float) @ data.vectors(module, "candidates").T
        return evaluation, data, scores

    return evaluated


def test_groups_are_ranked_by_themselves(evaluated):
    rng, groups = np.random.default_rng(0), {}

    def change(root, queries):
        for row in np.flatnonzero(queries.task_of == queries.tasks.index(ALPHA)).tolist():
            others = rng.choice(96, 5, replace=False)
            rows = dict.fromkeys([int(queries.positives(row)[0]), *others.tolist()])
            groups[str(queries.ids[row])] = [queries.corpus.candidate_id(member) for member in rows]
        _beside(root, "groups.jsonl", groups)

    evaluation, data, scores = evaluated(change)
    queries, found = data.queries("test"), {1: [], 2: [], 3: []}
    for row, id_ in enumerate(queries.ids.tolist()):
        if id_ in groups:
            members = [data.corpus.candidate_row(member) for member in groups[id_]]
            ranked = sorted(members, key=lambda member: (-scores[row, member], member))
            for k, hits in found.items():
                hits.append(bool({*ranked[:k]} & {*queries.positives(row).tolist()}))
    local = evaluation.latest.metrics["local"]
    assert {k: local[ALPHA][f"subset_hit@{k}"] for k in found} == {
        k: pytest.approx(np.mean(hits)) for k, hits in found.items()
    }
    assert "subset_hit@1" not in {**local[BETA], **evaluation.latest.metrics["global"][ALPHA]}


def test_incomplete_groups_are_said(evaluated):
    with pytest.warns(UserWarning, match=f"17 of 18 queries of {ALPHA} have no group"):
        evaluation, *_ = evaluated(
            lambda root, queries: _beside(root, "groups.jsonl", {str(queries.ids[0]): ["1:1"]})
        )
    assert "subset_hit@1" not in evaluation.latest.metrics["local"][ALPHA]


def test_what_the_benchmark_excludes_is_in_no_list_and_lists_stay_full(evaluated):
    excluded = {}

    def change(root, queries):
        for row in range(0, len(queries), 2):
            kept = {*queries.positives(row).tolist()}
            others = [member for member in range(96) if member % 3 < 2 and member not in kept]
            excluded[row] = others[: 4 + row]
        ids = {str(queries.ids[row]): rows for row, rows in excluded.items()}
        id_of = queries.corpus.candidate_id
        _beside(root, "excluded.jsonl", {q: [id_of(member) for member in rows] for q, rows in ids.items()})

    evaluation, _, scores = evaluated(change)
    everything = evaluation.rankings["global"]
    for task in (ALPHA, BETA):
        for query, rows in zip(everything[task].queries.tolist(), everything[task].rows, strict=True):
            left = [member for member in range(96) if member not in excluded.get(query, ())]
            expected = sorted(left, key=lambda member: (-np.float32(scores[query, member]), member))
            assert set(rows[rows >= 0].tolist()) == set(expected)
            assert int(rows[0]) == expected[0]


def test_grades_reach_the_measure_and_the_qrels(evaluated, tmp_path):
    def change(root, queries):
        for path in sorted((root / "qrels/test").glob("*.txt")):
            lines = [line.split() for line in path.read_text().splitlines()]
            graded = [[q, z, d, str(1 + number % 3), t] for number, (q, z, d, _, t) in enumerate(lines)]
            path.write_text("".join(" ".join(line) + "\n" for line in graded))

    evaluation, data, _ = evaluated(change)
    queries = data.queries("test")
    assert {*positives_of(queries).grades.tolist()} == {1, 2, 3}
    for task in (ALPHA, BETA):
        qrels = {}
        for line in (tmp_path / f"runs_test/global_{task}.qrels").read_text().splitlines():
            query, _, candidate, grade = line.split()
            qrels.setdefault(query, {})[candidate] = int(grade)
        ranking, values = evaluation.rankings["global"][task], []
        for query, rows in zip(ranking.queries, ranking.rows, strict=True):
            ranked = [data.corpus.candidate_id(int(row)) for row in rows if row >= 0]
            values.append(Measure.named("ndcg@10").of(ranked, qrels[str(queries.ids[query])]))
        found = evaluation.latest.metrics["global"][task]["ndcg@10"]
        assert found == pytest.approx(np.mean(values), abs=1e-6)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"1:1": ["1:999"]}, "line of groups.jsonl, '1:999' of query '1:1' is in no pool"),
        ({"7:7": ["1:1"]}, "has a line for query '7:7', and 0 more, that no split has"),
        ({"1:1": ["1"]}, "groups.jsonl:1"),
    ],
)
def test_dangling_lists_are_refused(fakes, tmp_path, lists, message):
    root = fakes.write(tmp_path / "raw")
    _beside(root, "groups.jsonl", lists)
    with pytest.raises(DataError, match=re.escape(message)):
        pack(root, tmp_path / "packed", progress=False)


def test_two_grades_of_one_pair_are_refused(fakes, tmp_path):
    root = fakes.write(tmp_path / "raw")
    path = root / f"qrels/test/mbeir_{ALPHA}_test_qrels.txt"
    first = path.read_text().splitlines()[0].split()
    path.write_text(path.read_text() + " ".join([*first[:3], "2", first[4]]) + "\n")
    with pytest.raises(DataError, match="was judged 1 before; keep one of the lines"):
        pack(root, tmp_path / "packed", progress=False)
