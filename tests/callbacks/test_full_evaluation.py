"""A full evaluation: its measures, intervals, wordings, own pictures, and the files it leaves."""

import csv
import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import pytrec_eval
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import RetrievalEvaluation, RetrievalGallery, RunReport
from callbacks.evaluation_tables import groups_of
from callbacks.exclusions import Exclusions
from callbacks.failures import KINDS, NEAR_DUPLICATE, OTHER, WRONG_MODALITY, failures_of
from callbacks.uniir_table import COLUMNS
from data_modules.wording import FIRST, Wording
from mmretrieval.content import Modality
from mmretrieval.metrics.bootstrap import Bootstrap
from mmretrieval.metrics.evaluation import AVERAGE, COMPOSED, SINGLE_MODAL, with_average
from mmretrieval.metrics.protocol import HEADLINE, CutOffs, Protocol
from mmretrieval.metrics.ranked import Positives, Ranking

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
]
ALPHA, BETA = "alpha_task0", "beta_task1"
PROTOCOL = Protocol(data_sets={"beta": CutOffs((2, 20), 20)}, map_ks=(5,), bootstrap=Bootstrap(50))


@pytest.fixture
def test(fakes, tmp_path, module, data):
    def test(evaluation, *more, **settings):
        trainer = fakes.make_trainer(tmp_path, [evaluation, *more], **settings)
        trainer.test(module, datamodule=data, verbose=False)
        return evaluation

    return test


def test_each_task_has_the_measures_of_its_data_set(test):
    done = test(RetrievalEvaluation(protocol=PROTOCOL)).latest
    alpha, beta, average = (done.metrics["global"][task] for task in (ALPHA, BETA, "average"))
    common = ["ndcg@10", "mrr", "map@5", "modality_accuracy@1"]
    for values, ks in ((alpha, (1, 5, 10)), (beta, (2, 20))):
        names = [f"{name}@{k}" for name in ("hit", "recall", "wrong_modality") for k in ks]
        assert set(values) == {"headline", *names, *common}
    assert (alpha["headline"], beta["headline"]) == (alpha["hit@5"], beta["hit@20"])
    assert average["headline"] == pytest.approx((alpha["headline"] + beta["headline"]) / 2)
    assert alpha["wrong_modality@1"] == pytest.approx(1 - alpha["modality_accuracy@1"])
    assert done.metrics["global"]["average_single_modal"] == average
    assert "average_composed" not in done.metrics["global"], "no task is composed"


def test_intervals_hold_every_mean_and_come_again(test):
    first = test(RetrievalEvaluation(protocol=PROTOCOL)).latest
    held = [
        low - 1e-9 <= first.metrics[pool][task][name] <= high + 1e-9
        for pool, table in first.intervals.items()
        for task, values in table.items()
        for name, (low, high) in values.items()
    ]
    assert len(held) == sum(len(values) for table in first.metrics.values() for values in table.values())
    assert np.mean(held) > 0.95
    assert test(RetrievalEvaluation(protocol=PROTOCOL)).latest.intervals == first.intervals


def test_trec_eval_reads_the_files_and_finds_the_same_numbers(test, tmp_path):
    done = test(RetrievalEvaluation(protocol=PROTOCOL)).latest
    for pool in ("global", "local"):
        place = tmp_path / "runs_test" / f"{pool}_{ALPHA}"
        with place.with_suffix(".trec").open() as run, place.with_suffix(".qrels").open() as qrels:
            found, known = pytrec_eval.parse_run(run), pytrec_eval.parse_qrel(qrels)
        judged = pytrec_eval.RelevanceEvaluator(
            known, {"success", "ndcg_cut_10", "recip_rank", "recall_10"}
        ).evaluate(found)
        names = {
            "hit@5": "success_5",
            "ndcg@10": "ndcg_cut_10",
            "mrr": "recip_rank",
            "recall@10": "recall_10",
        }
        theirs = {ours: np.mean([v[name] for v in judged.values()]) for ours, name in names.items()}
        assert {name: done.metrics[pool][ALPHA][name] for name in names} == pytest.approx(theirs, abs=1e-6)


def test_uniirs_table_has_its_columns_and_counts_all_queries(fakes, module, data, tmp_path):
    queries, pools = data.corpus.queries("test"), data.corpus.pools
    members = np.flatnonzero(queries.task_of == queries.tasks.index(BETA))
    gone = np.concatenate([queries.positives(row) for row in members[:3]])
    local = np.setdiff1d(pools[f"local_{BETA}"], gone)
    data.corpus.__dict__["pools"] = {**pools, f"local_{BETA}": local}
    evaluation = RetrievalEvaluation(protocol=PROTOCOL)
    with pytest.warns(UserWarning, match="are left out of the local"):
        fakes.make_trainer(tmp_path, [evaluation]).test(module, datamodule=data, verbose=False)
    with (tmp_path / "uniir_test.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert tuple(rows[0]) == COLUMNS
    assert [(r["TaskID"], r["Task"], r["Dataset"], r["Metric"]) for r in rows] == [
        *(("0", "text -> image", ALPHA, f"Recall@{k}") for k in (1, 5, 10)),
        *(("1", "text -> text", BETA, f"Recall@{k}") for k in (2, 20)),
    ]
    known = {q: set(queries.positives(q).tolist()) for q in members.tolist()}
    for kind, column in (("local", "Value"), ("global", "UnionValue")):
        ranking = evaluation.rankings[kind][BETA]
        oracle = np.mean(
            [
                bool(known[q] & set(found[:20].tolist()))
                for q, found in zip(ranking.queries.tolist(), ranking.rows, strict=True)
            ]
        )
        assert float(rows[-1][column]) == pytest.approx(oracle, abs=5e-5)


def test_what_is_compared_between_machines_has_no_times(test, tmp_path):
    test(RetrievalEvaluation(protocol=PROTOCOL), RunReport())
    document = json.loads((tmp_path / "metrics_test.json").read_text())
    assert "epochs" not in document
    assert "seconds" not in json.dumps(document)
    assert document["queries"] == {ALPHA: 18, BETA: 12}
    assert document["evaluation"]["protocol"]["bootstrap"]["samples"] == 50
    assert json.loads((tmp_path / "environment_test.json").read_text())["seconds"] > 0
    text = (tmp_path / "report_test.md").read_text()
    for title in ("Averages", "Tasks, global pool", "Tasks, local pool", "Failures by kind", "Settings"):
        assert f"\n## {title}\n" in text
    assert "torch" not in text


def test_tables_are_in_tensorboard(test, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="log", version="")
    test(RetrievalEvaluation(protocol=PROTOCOL), RunReport(), logger=logger)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {"tables/averages/text_summary", "tables/failures_by_kind/text_summary"} <= tags


PUBLISHED = {
    (0, "text", "image"): {"visualnews": 41.0, "mscoco": 71.3, "fashion200k": 17.1},
    (1, "text", "text"): {"webqa": 95.9},
    (2, "text", "image,text"): {"edis": 68.8, "webqa": 85.0},
    (3, "image", "text"): {"visualnews": 41.3, "mscoco": 90.1, "fashion200k": 18.4},
    (4, "image", "image"): {"nights": 32.4},
    (6, "image,text", "text"): {"oven": 42.1, "infoseek": 42.3},
    (7, "image,text", "image"): {"fashioniq": 25.7, "cirr": 50.0},
    (8, "image,text", "image,text"): {"oven": 64.1, "infoseek": 57.7},
}
"""MM-Embed on M-BEIR, by task id with the modalities of query and target: its hit rates in percent."""


def test_averages_are_those_that_mm_embed_publishes():
    values, asked, wanted = {}, [], []
    for (number, query, target), found in PUBLISHED.items():
        for name, value in found.items():
            values[f"{name}_task{number}"] = {HEADLINE: value}
            asked.append(Modality(query).code)
            wanted.append(Modality(target).code)
    sides = {"modalities": np.array(asked), "target_modality": np.array(wanted)}
    queries = SimpleNamespace(tasks=tuple(values), task_of=np.arange(len(values)), **sides)
    groups = groups_of(queries)
    assert {name: len(tasks) for name, tasks in groups.items()} == {SINGLE_MODAL: 10, COMPOSED: 6}
    table = with_average(values, groups)
    means = [round(table[name][HEADLINE], 1) for name in (AVERAGE, SINGLE_MODAL, COMPOSED)]
    assert means == [52.7, 56.1, 47.0]


def _worded(data, module, monkeypatch):
    """Let each wording embed queries differently, and note what was asked for."""
    asked, usual = [], data.query_table

    def query_table(split, processor=None, wording=FIRST):
        asked.append(wording)
        table = usual(split)
        tokens = np.roll(data.tokens["test"], 3 * wording.prompt, axis=0)

        def loader(batches, count):
            data.tokens["test"], kept = tokens, data.tokens["test"]
            try:
                yield from table.make_loader(batches, count)
            finally:
                data.tokens["test"] = kept

        name = f"test queries{wording.suffix}"
        worded = {"contents": lambda: table.contents() + 10**6 * wording.prompt, "make_loader": loader}
        return replace(table, name=name, digest=name, **worded)

    monkeypatch.setattr(data, "query_table", query_table)
    return asked


def test_the_mean_over_instructions_is_that_of_single_evaluations(fakes, module, data, tmp_path, monkeypatch):
    queries = data.queries("test")
    _worded(data, module, monkeypatch)
    prompts = {ALPHA: 3, BETA: 1}
    monkeypatch.setattr(
        type(queries),
        "instructions",
        lambda self, row: ("Find it.",) * prompts[self.tasks[self.task_of[row]]],
    )
    single = []
    for number in range(3):
        evaluation = RetrievalEvaluation(protocol=PROTOCOL, embeddings=tmp_path / f"e{number}")
        evaluation.wording = Wording(number)
        trainer = fakes.make_trainer(tmp_path / f"single{number}", [evaluation])
        trainer.test(module, datamodule=data, verbose=False)
        single.append(evaluation.latest.metrics["global"])
    evaluation = RetrievalEvaluation(protocol=PROTOCOL, instructions="mean")
    fakes.make_trainer(tmp_path, [evaluation]).test(module, datamodule=data, verbose=False)
    done = evaluation.latest
    values = [table[ALPHA]["mrr"] for table in single]
    assert len(set(values)) == 3
    assert done.metrics["global"][ALPHA]["mrr"] == pytest.approx(np.mean(values))
    assert done.spread["global"][ALPHA]["mrr"] == pytest.approx(np.std(values))
    assert done.metrics["global"][BETA] == pytest.approx(single[0][BETA])
    assert done.spread["global"][BETA]["mrr"] == 0
    names = {path.name for path in (tmp_path / "runs_test").glob("global_*.trec")}
    assert names == {f"global_{ALPHA}{end}.trec" for end in ("", "_prompt2", "_prompt3")} | {
        f"global_{BETA}.trec"
    }


def test_own_pictures_are_taken_out_and_lists_stay_full(data):
    corpus, queries = data.corpus, data.corpus.queries("test")
    images = corpus.candidate_images
    shown = np.full(len(queries), -1)
    picture, count = Counter(images[images >= 0].tolist()).most_common(1)[0]
    shown[:4] = picture
    queries.__dict__["images"] = shown
    positives = Positives.of(queries.positives(row) for row in range(len(queries)))
    own = Exclusions(queries, positives, ("alpha",))
    asked, everything = np.arange(len(queries)), np.arange(len(corpus))
    assert own.most(asked, everything) == count > 1
    assert own.most(asked[4:], everything) == 0
    rng = np.random.default_rng(0)
    rows = np.stack([rng.permutation(len(corpus))[: 20 + count] for _ in asked])
    scores = np.broadcast_to(-np.arange(20.0 + count, dtype=np.float32), rows.shape)
    left = own.removed(Ranking(asked, rows, scores), 20)
    for q in asked.tolist():
        known = set(queries.positives(q).tolist())
        out = {r for r in rows[q].tolist() if images[r] == picture and r not in known} if q < 4 else set()
        expected = [r for r in rows[q].tolist() if r not in out][:20]
        assert left.rows[q].tolist() == expected
        assert left.scores[q].tolist() == [-float(rows[q].tolist().index(r)) for r in expected]
    nobody = Exclusions(queries, positives, ())
    assert np.array_equal(nobody.removed(Ranking(asked, rows, scores), 20).rows, rows[:, :20])


def test_a_data_set_without_queries_here_is_named(test):
    with pytest.warns(UserWarning, match="have no test queries here: cirr; there are alpha, beta"):
        test(RetrievalEvaluation(exclude_own_image=["cirr", "alpha"]))


class _Vectors:
    """Embeddings of all candidates: unit vectors, two of them nearly the same."""

    def __init__(self, count, near):
        self.vectors = np.eye(count, dtype=np.float32)
        self.vectors[near[0]] = self.vectors[near[1]] * 0.99

    def present(self, rows):
        return np.ones(len(rows), bool)

    def vectors_of(self, rows):
        return self.vectors[rows]


def test_failures_are_told_apart(data):
    corpus, queries = data.corpus, data.corpus.queries("test")
    modalities = corpus.candidate_modalities
    query = int(np.flatnonzero(queries.task_of == queries.tasks.index(BETA))[0])
    positive = int(queries.positives(query)[0])
    texts = [r for r in range(len(corpus)) if modalities[r] == 0 and r not in queries.positives(query)]
    same = [r for r in texts if corpus.candidate_record(r).text == corpus.candidate_record(positive).text]
    near, other, *_ = [r for r in texts if r not in same]
    wrong = int(np.flatnonzero(modalities == 1)[0])
    first = [wrong, near, other, positive, *same[:1], -1]
    rows = np.array([[row] for row in first])
    ranking = Ranking(np.full(len(rows), query), rows, np.zeros(rows.shape, np.float32))
    found = failures_of(queries, ranking, _Vectors(len(corpus), (near, positive)))
    kinds = [WRONG_MODALITY, NEAR_DUPLICATE, OTHER, *[NEAR_DUPLICATE] * len(same[:1])]
    assert [failure.kind for failure in found] == kinds
    assert [failure.place for failure in found] == [0, 1, 2, *[4] * len(same[:1])]
    assert found[1].positive == positive


def test_failures_are_drawn_by_kind(test, tmp_path):
    evaluation = test(RetrievalEvaluation(), RetrievalGallery(n_failures_per_kind=2))
    ranked = evaluation.rankings["global"].values()
    assert any((ranking.rows[:, 0] >= 0).any() for ranking in ranked)
    drawn = {path.stem.replace("_", " ") for path in (tmp_path / "gallery/failures").iterdir()}
    assert drawn
    assert drawn <= set(KINDS)
