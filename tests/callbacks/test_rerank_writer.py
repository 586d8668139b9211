"""Reranked run files: their order and measures, resumption, foreign files, and what is refused."""

import json
from collections import Counter
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from callbacks import RerankWriter
from callbacks.rerank_writer import AVERAGE
from data_modules.formats.records import DataError
from data_modules.reranking import RerankDataModule
from mmretrieval.errors import UserError
from mmretrieval.metrics.per_query import Measure
from mmretrieval.metrics.run_files import measure
from mmretrieval.metrics.trec import read_qrels, read_run
from mmretrieval.rerank.module import Scored

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`"),
]


def score_of(query_id, candidate_id):
    return float(np.random.default_rng([len(query_id), *query_id.encode(), *candidate_id.encode()]).random())


class Scorer(pl.LightningModule):
    """Scores by ids; ends a run after so many queries."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.seen, self.stop_after = [], stop_after

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch

    def predict_step(self, batch, batch_idx):
        if self.stop_after is not None and len(self.seen) >= self.stop_after:
            raise KeyboardInterrupt
        assert batch.query.content.text.startswith("query test")
        assert len(batch.candidates) == len(batch.candidate_ids)
        self.seen += [(batch.query_id, candidate) for candidate in batch.candidate_ids]
        scores = torch.tensor([score_of(batch.query_id, c) for c in batch.candidate_ids])
        return Scored(batch, scores)

    independent = True

    def score_hash(self, task):
        return f"hash of {task}"


class Together(Scorer):
    """Scores that depend on what is scored together."""

    independent = False

    def predict_step(self, batch, batch_idx):
        item, scores = super().predict_step(batch, batch_idx)
        return Scored(item, scores / len(scores))


@pytest.fixture
def runs(packed, fakes, tmp_path):
    """Two pools' run files of both tasks, with ties; twelve candidates a query."""
    folder = tmp_path / "found"
    folder.mkdir()
    module = RerankDataModule(folder, packed)
    module._data.setup("validate")
    queries, corpus = module.queries, module.corpus
    rng = np.random.default_rng(0)
    for name in ("global_alpha_task0", "global_beta_task1", "local_alpha_task0"):
        task = queries.tasks.index(name.split("_", 1)[1])
        lines = []
        for row in np.flatnonzero(queries.task_of == task).tolist():
            rows = rng.permutation(len(corpus))[:12]
            rows[0] = queries.positives(row)[0]
            for rank, candidate in enumerate(dict.fromkeys(rows.tolist())):
                lines.append(
                    f"{queries.ids[row]} Q0 {corpus.candidate_id(candidate)} {rank} {1 - rank // 3} x"
                )
        (folder / f"{name}.trec").write_text("\n".join(lines) + "\n")
    return folder


def predict(fakes, folder, data, module=None, **settings):
    module = module or Scorer()
    writer = RerankWriter(**settings)
    trainer = fakes.make_trainer(folder, [writer], max_epochs=None)
    trainer.predict(module, datamodule=data, return_predictions=False)
    return module, json.loads((folder / "metrics_rerank.json").read_text())


def test_files_have_the_order_of_the_scores_and_measures_are_those_of_the_files(
    fakes, runs, packed, tmp_path, capsys
):
    module, document = predict(fakes, tmp_path / "out", RerankDataModule(runs, packed, top_k=5))
    assert len(module.seen) == len({*module.seen}), "no pair twice, though two files have the same queries"
    for path in sorted(runs.glob("*.trec")):
        new = {one.query: one for one in read_run(tmp_path / "out/runs_rerank" / path.name)}
        for old in read_run(path):
            top = sorted(old.candidates[:5], key=lambda c, q=old.query: -score_of(q, c))
            assert new[old.query].candidates == top + old.candidates[5:]
        qrels = read_qrels(tmp_path / f"out/runs_rerank/{path.stem}.qrels")
        for name in ("hit@1", "mrr", "map@5"):
            for part, file in (("before", path), ("after", tmp_path / "out/runs_rerank" / path.name)):
                values = measure(file, qrels, Measure.named(name), "score").values.values()
                assert document[part][path.stem][name] == pytest.approx(np.mean([*values]))
    averages = [f"{AVERAGE} global", f"{AVERAGE} local"]
    assert [name for name in document["after"] if name.startswith(AVERAGE)] == averages
    means = [document["after"][path.stem]["hit@1"] for path in runs.glob("global_*.trec")]
    assert document["after"][averages[0]]["hit@1"] == pytest.approx(np.mean(means))
    assert document["queries"] == 30, "each once, in however many files"
    assert document["after"] != document["before"]
    assert [point["weight"] for point in document["fusion"]] == [n / 10 for n in range(11)]
    assert document["fusion"][0]["hit@1"] == document["before"][averages[0]]["hit@1"]
    assert document["fusion"][-1]["hit@1"] == document["after"][averages[0]]["hit@1"]
    assert "global_alpha_task0" in capsys.readouterr().out
    text = (tmp_path / "out/report_rerank.md").read_text()
    assert "| average global |" in text
    for name in ("fusion.png", "gallery/helped.png", "gallery/hurt.png"):
        assert (tmp_path / "out" / name).stat().st_size > 1000


def test_a_run_that_was_ended_goes_on_where_it_was(fakes, runs, packed, tmp_path):
    whole, expected = predict(fakes, tmp_path / "whole", RerankDataModule(runs, packed))
    with pytest.raises(SystemExit):
        predict(fakes, tmp_path / "out", RerankDataModule(runs, packed), Scorer(stop_after=25))
    assert not (tmp_path / "out/metrics_rerank.json").exists()
    rest, found = predict(fakes, tmp_path / "out", RerankDataModule(runs, packed))
    assert 0 < len(rest.seen) < len(whole.seen)
    assert found["after"] == expected["after"]
    # Another weight needs no scoring, but for the one query that Lightning wants.
    none, fused = predict(fakes, tmp_path / "out", RerankDataModule(runs, packed), weight=0.5)
    assert len({query for query, _ in none.seen}) == 1
    assert fused["after"][f"{AVERAGE} global"] == {
        name: pytest.approx(value) for name, value in expected["fusion"][5].items() if name != "weight"
    }
    files = [tmp_path / f"{name}/runs_rerank/global_beta_task1.trec" for name in ("whole", "out")]
    assert files[0].read_bytes() != files[1].read_bytes()


def test_scores_that_depend_on_each_other_are_made_anew_for_other_lists(fakes, runs, packed, tmp_path):
    first, _ = predict(fakes, tmp_path, RerankDataModule(runs, packed, top_k=4), Together())
    asked = Counter(query for query, _ in first.seen)
    assert set(asked.values()) == {4, 8}, "a query in two files has two lists"
    again, _ = predict(fakes, tmp_path, RerankDataModule(runs, packed, top_k=4), Together())
    assert len({query for query, _ in again.seen}) == 1, "what Lightning wants"
    more, document = predict(fakes, tmp_path, RerankDataModule(runs, packed, top_k=5), Together())
    assert set(Counter(query for query, _ in more.seen).values()) == {5, 10}, (
        "whole lists, not the fifth alone"
    )
    _, expected = predict(fakes, tmp_path / "new", RerankDataModule(runs, packed, top_k=5), Together())
    assert document["after"] == expected["after"]


def test_other_data_at_the_same_place_are_scored_anew(fakes, runs, packed, tmp_path, monkeypatch):
    predict(fakes, tmp_path, RerankDataModule(runs, packed))
    monkeypatch.setattr("callbacks.rerank_writer.candidates_digest", lambda corpus: "others")
    again, _ = predict(fakes, tmp_path, RerankDataModule(runs, packed, files=["*beta*"]))
    assert len({query for query, _ in again.seen}) > 1
    assert [path.name for path in sorted((tmp_path / "runs_rerank").iterdir())] == [
        "global_beta_task1.qrels",
        "global_beta_task1.trec",
    ]


def test_files_of_another_system_may_leave_queries_out_and_choose_files(fakes, runs, packed, tmp_path):
    path = runs / "global_beta_task1.trec"
    kept = [line for line in path.read_text().splitlines() if not line.startswith("2:1019 ")]
    path.write_text("\n".join(kept) + "\n")
    qrels = {line.split()[0]: line.split()[2] for line in kept[::-1]}
    (runs / "global_beta_task1.qrels").write_text("".join(f"{q} 0 {c} 2\n" for q, c in qrels.items()))
    data = RerankDataModule(runs, packed, files=["*_beta_*"])
    module, document = predict(fakes, tmp_path / "out", data)
    assert {query for query, _ in module.seen} == {*qrels}
    assert document["not_in_run"] == 1
    assert [*document["before"]] == ["global_beta_task1", AVERAGE]
    assert (tmp_path / "out/runs_rerank/global_beta_task1.qrels").read_bytes() == (
        runs / "global_beta_task1.qrels"
    ).read_bytes()


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("9:9 Q0 1:1 1 0.5 x", DataError, r"query '9:9' is not among the test queries of"),
        ("1:1001 Q0 7:7 1 0.5 x", DataError, r"query '1:1001': .*has no candidate '7:7'"),
        ("1:1001 Q0 1:1 1", UserError, r"own.trec:1: has 4 columns"),
        ("", UserError, r"own.trec: holds no ranked list"),
        ("1:1001 Q0 1:1 1 nan x", UserError, r"own.trec:1: score is 'nan'"),
        ("1:1001 Q0 1:1 1 1 x\n1:1001 Q0 1:1 2 0 x", UserError, r"own.trec:2: '1:1' was listed before"),
    ],
)
def test_what_cannot_be_used_is_named(fakes, packed, tmp_path, line, error, message):
    (tmp_path / "own.trec").write_text(line + "\n")
    data = RerankDataModule(tmp_path / "own.trec", packed)
    with pytest.raises(error, match=message):
        predict(fakes, tmp_path / "out", data)


def test_other_mistakes_are_named(fakes, runs, packed, tmp_path, module, data):
    with pytest.raises(DataError, match="no run file is called gamma; there are global_alpha_task0, global"):
        predict(fakes, tmp_path, RerankDataModule(runs, packed, files=["gamma"]))
    with pytest.raises(UserError, match="holds no run file"):
        predict(fakes, tmp_path, RerankDataModule(tmp_path / "none", packed))
    for trainer in (SimpleNamespace(datamodule=data), SimpleNamespace()):
        with pytest.raises(MisconfigurationException, match=r"predict -c configs/rerank\.yaml"):
            RerankWriter().setup(trainer, module, "predict")
    with pytest.raises(ValueError, match="weight must be between 0 and 1"):
        RerankWriter(weight=2)
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        RerankDataModule(runs, packed, top_k=0)


def test_ranks_share_the_queries(runs, packed):
    module = RerankDataModule(runs, packed)
    module.setup("predict")
    work = module.work()
    parts = [work[rank::3] for rank in range(3)]
    counts = Counter(query for part in parts for query, _ in part)
    assert set(counts.values()) == {1}
    assert len(counts) == len(work) == 30
