"""Evaluation on the way of a fit and alone: trec_eval's numbers, in loggers and in files."""

import json

import numpy as np
import pytest
import pytrec_eval
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import RetrievalEvaluation
from data_modules.formats.records import DataError
from mmretrieval.index import ExactIndex, FaissIndex

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning"
)
ALPHA, BETA = "alpha_task0", "beta_task1"
TREC = {
    "hit@1": "success_1",
    "hit@5": "success_5",
    "hit@10": "success_10",
    "ndcg@10": "ndcg_cut_10",
    "mrr": "recip_rank",
}


def _expected(data, module, depth=100):
    """trec_eval on a brute-force search; nothing is shared with the callback."""
    corpus, queries = data.corpus, data.corpus.queries("test")
    scores = data.vectors(module, "test") @ data.vectors(module, "candidates").T
    tables = {"global": {}, "local": {}}
    for kind, table in tables.items():
        for number, task in enumerate(queries.tasks):
            pool = corpus.pools["global_test" if kind == "global" else f"local_{task}"]
            run, qrels, right = {}, {}, []
            for q in np.flatnonzero(queries.task_of == number).tolist():
                best = pool[np.argsort(-scores[q, pool])][:depth].tolist()
                run[str(q)] = {corpus.candidate_id(row): float(-rank) for rank, row in enumerate(best)}
                qrels[str(q)] = {corpus.candidate_id(int(row)): 1 for row in queries.positives(q)}
                right.append(corpus.candidate_modalities[best[0]] == queries.target_modality[q])
            judged = pytrec_eval.RelevanceEvaluator(qrels, {"success", "ndcg_cut", "recip_rank"}).evaluate(
                run
            )
            table[task] = {
                name: float(np.mean([values[theirs] for values in judged.values()]))
                for name, theirs in TREC.items()
            }
            if kind == "global":
                table[task]["modality_accuracy@1"] = float(np.mean(right))
        table["average"] = {name: (table[ALPHA][name] + table[BETA][name]) / 2 for name in dict(table[ALPHA])}
    return tables


def _flat(tables):
    return {(p, t, n): v for p, table in tables.items() for t, vs in table.items() for n, v in vs.items()}


@pytest.fixture
def fit(fakes, tmp_path, module, data):
    def fit(evaluation, epochs=2, ckpt_path=None, **settings):
        more = settings.pop("more", [])
        trainer = fakes.make_trainer(tmp_path, [evaluation, *more], max_epochs=epochs, **settings)
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return trainer

    return fit


@pytest.mark.parametrize("index", [None, FaissIndex()])
def test_measures_equal_trec_eval_on_a_brute_force_search(fit, module, data, index):
    evaluation = RetrievalEvaluation(index=index)
    untrained = _expected(data, module)
    fit(evaluation)
    assert [(done.epoch, done.step) for done in evaluation.history] == [(0, 0), (1, 3), (2, 6)]
    assert _flat(evaluation.history[0].metrics) == pytest.approx(_flat(untrained), abs=1e-6)
    assert _flat(evaluation.history[-1].metrics) == pytest.approx(_flat(_expected(data, module)), abs=1e-6)
    assert 0 < untrained["global"]["average"]["hit@10"] < 1
    assert untrained["global"] != untrained["local"]


def test_each_candidate_and_query_is_embedded_once_a_round(fit, data):
    fit(RetrievalEvaluation(before_training=False), 1)
    assert [name for name, _ in data.embedded] == ["candidates", "test"]
    for _, rows in data.embedded:
        assert sorted(rows) == list(range(len(rows)))


def test_the_metrics_file_has_the_last_the_first_and_all_rounds(fit, tmp_path):
    evaluation = RetrievalEvaluation()
    fit(evaluation)
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert list(document) == ["global", "local", "start", "epochs"]
    assert {"global": document["global"], "local": document["local"]} == evaluation.history[-1].metrics
    assert document["start"] == evaluation.history[0].metrics
    assert list(document["global"]) == [ALPHA, BETA, "average"]
    assert [(e["epoch"], e["step"]) for e in document["epochs"]] == [(0, 0), (1, 3), (2, 6)]
    assert document["epochs"][1]["global"] == evaluation.history[1].metrics["global"]
    assert "modality_accuracy@1" not in document["local"]["average"]


def test_run_files_hold_the_ranked_lists_of_the_last_round(fit, module, data, tmp_path):
    evaluation = RetrievalEvaluation(depth=12)
    fit(evaluation)
    names = [f"{pool}_{task}" for pool in ("global", "local") for task in (ALPHA, BETA)]
    for suffix in ("trec", "qrels"):
        assert sorted(path.stem for path in (tmp_path / "runs").glob(f"*.{suffix}")) == names
    queries, corpus = data.corpus.queries("test"), data.corpus
    lines = [line.split(" ") for line in (tmp_path / f"runs/local_{BETA}.trec").read_text().splitlines()]
    pool = corpus.pools[f"local_{BETA}"]
    scores = data.vectors(module, "test") @ data.vectors(module, "candidates").T
    expected = []
    for q in np.flatnonzero(queries.task_of == queries.tasks.index(BETA)):
        best = np.sort(pool)[np.argsort(-scores[q, np.sort(pool)], kind="stable")][:12]
        expected += [(queries.ids[q], corpus.candidate_id(int(row)), str(n)) for n, row in enumerate(best, 1)]
    assert [(qid, did, rank) for qid, _, did, rank, _, _ in lines] == expected
    assert {(line[1], line[5]) for line in lines} == {("Q0", "step6")}
    assert evaluation.rankings["local"][BETA].rows.shape == (12, 12)


def test_all_measures_are_logged_at_their_step(fit, tmp_path):
    evaluation = RetrievalEvaluation()
    fit(evaluation, logger=TensorBoardLogger(tmp_path, name="", version=""))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for tag in (f"global/{ALPHA}/hit@5", "global/average/hit@5", "local/average/ndcg@10"):
        pool, task, name = tag.split("/")
        logged = [(event.step, event.value) for event in events.Scalars(tag)]
        assert logged == [
            (done.step, pytest.approx(done.metrics[pool][task][name])) for done in evaluation.history
        ]
    assert [event.step for event in events.Scalars("global/average/modality_accuracy@1")] == [0, 3, 6]


def test_a_checkpoint_can_monitor_an_average(fit, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor="global/average/hit@5", mode="max", save_top_k=-1)
    evaluation = RetrievalEvaluation()
    fit(evaluation, enable_checkpointing=True, more=[checkpoint])
    scores = sorted(float(score) for score in checkpoint.best_k_models.values())
    assert scores == pytest.approx(
        sorted(d.metrics["global"]["average"]["hit@5"] for d in evaluation.history[1:])
    )


@pytest.mark.parametrize("command", ["validate", "test"])
def test_validate_and_test_evaluate_once_and_leave_the_files_of_a_fit_alone(
    fakes, fit, module, data, tmp_path, command
):
    fit(RetrievalEvaluation())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    evaluation = RetrievalEvaluation()
    trainer = fakes.make_trainer(tmp_path, [evaluation], logger=CSVLogger(tmp_path / "csv"))
    (returned,) = getattr(trainer, command)(module, datamodule=data, verbose=False)
    expected = _expected(data, module)
    assert _flat(evaluation.latest.metrics) == pytest.approx(_flat(expected), abs=1e-6)
    assert evaluation.history == []
    assert returned["global/average/hit@5"] == pytest.approx(expected["global"]["average"]["hit@5"])
    assert {path: path.read_bytes() for path in before} == before
    document = json.loads((tmp_path / f"metrics_{command}.json").read_text())
    assert document["global"] == evaluation.latest.metrics["global"]
    assert "start" not in document
    assert (tmp_path / f"runs_{command}/global_{ALPHA}.trec").is_file()


def test_validation_within_a_fit_and_its_sanity_check_evaluate_nothing(fit):
    evaluation = RetrievalEvaluation(every_n_epochs=2)
    fit(evaluation, 3, num_sanity_val_steps=1)
    assert [done.epoch for done in evaluation.history] == [0, 2, 3]


def test_a_resumed_run_keeps_the_round_at_the_start(fit, tmp_path):
    first = RetrievalEvaluation()
    fit(first, 1).save_checkpoint(tmp_path / "one.ckpt")
    second = RetrievalEvaluation()
    fit(second, 2, ckpt_path=tmp_path / "one.ckpt")
    assert [done.epoch for done in second.history] == [0, 1, 2]
    assert second.history[:2] == first.history
    assert json.loads((tmp_path / "metrics.json").read_text())["start"] == first.history[0].metrics


@pytest.mark.filterwarnings("ignore:.*CSVLogger", "ignore:.*fast_dev_run")
def test_fast_dev_run_embeds_little_and_writes_nothing(fit, data, tmp_path):
    evaluation = RetrievalEvaluation()
    fit(evaluation, fast_dev_run=True)
    assert [len(rows) for name, rows in data.embedded if name == "test"] == [4, 4]
    assert max(len(rows) for name, rows in data.embedded if name == "candidates") < 96
    assert len(evaluation.history) == 2
    assert 0 <= evaluation.latest.metrics["global"]["average"]["hit@5"] <= 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["global", "local"])
def test_a_missing_pool_is_named_and_the_others_are_measured(fakes, module, tmp_path, data, missing):
    names = {"global": ["global_test"], "local": [f"local_{ALPHA}", f"local_{BETA}"]}[missing]
    pools = {name: rows for name, rows in data.corpus.pools.items() if name not in names}
    data.corpus.__dict__["pools"] = pools
    evaluation = RetrievalEvaluation()
    trainer = fakes.make_trainer(tmp_path, [evaluation])
    trainer.datamodule = data
    with pytest.warns(UserWarning, match=f"does not have: {', '.join(names)}"):
        done = evaluation.evaluate(trainer, module)
    kept = "local" if missing == "global" else "global"
    assert list(done.metrics) == list(evaluation.rankings) == [kept]
    assert done.metrics[kept].keys() == {ALPHA, BETA, "average"}
    data.corpus.__dict__["pools"] = {}
    with (
        pytest.warns(UserWarning, match="global_test, local_"),
        pytest.raises(MisconfigurationException, match="has no pool for the queries"),
    ):
        evaluation.evaluate(trainer, module)


def test_queries_without_a_positive_in_the_pool_are_left_out_and_counted(fakes, module, data, tmp_path):
    evaluation = RetrievalEvaluation()
    trainer = fakes.make_trainer(tmp_path, [evaluation])
    trainer.datamodule = data
    queries = data.corpus.queries("test")
    members = np.flatnonzero(queries.task_of == queries.tasks.index(BETA))
    gone = np.concatenate([queries.positives(row) for row in members[:3]])
    pools = data.corpus.pools
    local = np.setdiff1d(pools[f"local_{BETA}"], gone)
    without = sum(not np.isin(queries.positives(row), local).any() for row in members)
    data.corpus.__dict__["pools"] = {**pools, f"local_{BETA}": local}
    with pytest.warns(UserWarning, match=rf"^{without} of 12 queries of {BETA} are left out of the local"):
        evaluation.evaluate(trainer, module)
    assert 3 <= without < 12


def test_bad_configurations_are_refused(fakes, module, data, tmp_path):
    for wrong in ({"ks": ()}, {"ks": (0, 5)}, {"depth": 0}, {"every_n_epochs": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            RetrievalEvaluation(**wrong)
    with pytest.raises(
        ValueError, match="headline must be one of hit@1, hit@10, ndcg@10, mrr, found 'hit@5'"
    ):
        RetrievalEvaluation(ks=(1, 10))
    full = ExactIndex()
    full.add(np.eye(2, dtype=np.float32))
    with pytest.raises(MisconfigurationException, match="must be empty, it holds 2"):
        fakes.make_trainer(tmp_path, [RetrievalEvaluation(index=full)]).fit(module, datamodule=data)
    for splits, key in ((("val", None), "split"), (("test", "val"), "final_split")):
        evaluation = RetrievalEvaluation(splits[0], final_split=splits[1])
        advice = rf"has no queries of split 'val'; there are .*; set {key} of callbacks.RetrievalEvaluation"
        with pytest.raises(DataError, match=advice):
            fakes.make_trainer(tmp_path, [evaluation]).fit(module, datamodule=data)
    with pytest.raises(ValueError, match="leave it out, or choose by another split"):
        RetrievalEvaluation("test", final_split="test")


# --- choosing by one split, reporting on another


def test_the_final_split_is_measured_at_both_ends_and_nothing_is_chosen_by_it(fit, module, data, tmp_path):
    untrained = _expected(data, module)
    evaluation = RetrievalEvaluation("train", final_split="test")
    logger = CSVLogger(tmp_path, name="log", version="")
    trainer = fit(evaluation, 3, logger=logger)
    final = evaluation.final
    assert [(done.epoch, done.step) for done in evaluation.history] == [(0, 0), (1, 3), (2, 6), (3, 9)]
    assert [(done.epoch, done.step) for done in final.history] == [(0, 0), (3, 9)]
    assert _flat(final.history[0].metrics) == pytest.approx(_flat(untrained), abs=1e-6)
    assert _flat(final.history[1].metrics) == pytest.approx(_flat(_expected(data, module)), abs=1e-6)
    chosen, reported = (json.loads((tmp_path / f"metrics{n}.json").read_text()) for n in ("_train", ""))
    for document, of in ((chosen, evaluation), (reported, final)):
        assert {pool: document[pool] for pool in ("global", "local")} == of.history[-1].metrics
        assert document["start"] == of.history[0].metrics
        assert len(document["epochs"]) == len(of.history)
    monitored, name = trainer.callback_metrics, "global/average/mrr"
    assert float(monitored[name]) == pytest.approx(chosen["global"]["average"]["mrr"])
    assert chosen["global"]["average"]["mrr"] != pytest.approx(reported["global"]["average"]["mrr"])
    assert not [each for each in monitored if each.startswith("test/")]
    assert f"test/{name}" in (tmp_path / "log/metrics.csv").read_text().splitlines()[0]
    for folder, split in (("runs", "test"), ("runs_train", "train")):
        (line, *_) = (tmp_path / folder / f"global_{ALPHA}.qrels").read_text().splitlines()
        assert line.split()[0] in data.corpus.queries(split).ids


def test_a_fit_that_is_stopped_measures_the_final_split_once(fit):
    class Stop(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = True

    evaluation = RetrievalEvaluation("train", final_split="test")
    fit(evaluation, 3, more=[Stop()])
    assert [(done.epoch, done.step) for done in evaluation.final.history] == [(0, 0), (1, 3)]


def test_a_resumed_run_keeps_what_it_measured_of_the_final_split(fit, tmp_path):
    first, second = (RetrievalEvaluation("train", final_split="test") for _ in range(2))
    fit(first, 1).save_checkpoint(tmp_path / "one.ckpt")
    fit(second, 2, ckpt_path=tmp_path / "one.ckpt")
    assert [done.epoch for done in second.final.history] == [0, 1, 2]
    assert second.final.history[:2] == first.final.history
    assert second.history[:2] == first.history


def test_the_test_command_takes_the_final_split_and_validate_the_other(fakes, module, data, tmp_path):
    evaluation = RetrievalEvaluation("train", final_split="test")
    trainer = fakes.make_trainer(tmp_path, [evaluation])
    trainer.test(module, datamodule=data, verbose=False)
    tested = dict(trainer.callback_metrics)
    assert evaluation.latest is None
    trainer.validate(module, datamodule=data, verbose=False)
    runs = ((tested, "test", evaluation.final), (trainer.callback_metrics, "validate", evaluation))
    for values, command, of in runs:
        document = json.loads((tmp_path / f"metrics_{command}.json").read_text())
        assert document["evaluation"]["split"] == of.split
        assert {pool: document[pool] for pool in ("global", "local")} == of.latest.metrics
        assert float(values["global/average/mrr"]) == pytest.approx(document["global"]["average"]["mrr"])
