"""Text data sets are evaluated beside the data of a fit, with the same numbers as by hand."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from callbacks import RetrievalEvaluation, RunReport, TextEvaluation
from callbacks.evaluation_report import _failures
from callbacks.failures import failures_of
from callbacks.text_evaluation import TextSets
from data_modules.formats.records import DataError
from mmretrieval.index import StaleEmbeddingsError
from mmretrieval.metrics.per_query import Measure

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
]


def _set(root, seed, own_document=False):
    """Twenty documents, six queries, grades from 0 to 2."""
    rng = np.random.default_rng(seed)
    documents = [{"_id": f"d{n}", "title": f"T{n}", "text": f"text {seed} {n}"} for n in range(20)]
    queries = [{"_id": f"d{n}" if own_document else f"q{n}", "text": f"query {n}"} for n in range(6)]
    lines = ["query-id\tcorpus-id\tscore"]
    for query in queries:
        picked = [n for n in rng.choice(20, 5, replace=False).tolist() if f"d{n}" != query["_id"]][:4]
        grades = [2, 1, 1, 0]
        lines += [f"{query['_id']}\td{n}\t{grade}" for n, grade in zip(picked, grades, strict=True)]
    (root / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", documents), ("queries", queries)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "qrels/test.tsv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MMRETRIEVAL_HOME", str(tmp_path / "home"))
    return [_set(tmp_path / "one", 1), _set(tmp_path / "Two", 2, own_document=True)]


@pytest.fixture
def fit(fakes, module, data, tmp_path, folders, monkeypatch):
    """Fit with both evaluations; texts are embedded as the module's tokens at their row."""
    text = TextEvaluation(folders, every_n_epochs=2)
    sets = text._sets
    tokens = np.random.default_rng(9).integers(0, fakes.VOCABULARY, (52, fakes.TOKENS))

    def table(kind, own, rows):
        data.tokens[kind] = tokens[rows : rows + len(own)]
        columns = fakes.Columns(own.ids, own.modalities, own.sizes)
        name = "candidates" if kind == "of text" else "test queries"  # those of the other data
        return replace(data._table(kind, name, columns), source=sets.source)

    monkeypatch.setattr(text._sets, "candidate_table", lambda: table("of text", _columns(sets), 0))
    monkeypatch.setattr(text._sets, "query_table", lambda split: table("asked", sets.queries(split), 40))
    evaluation = RetrievalEvaluation("test")
    trainer = fakes.make_trainer(tmp_path, [evaluation, text, RunReport()], max_epochs=3)
    trainer.fit(module, datamodule=data)
    return text, trainer, data


def _columns(sets):
    class Candidates:
        ids = sets.corpus.candidate_ids
        modalities = sets.corpus.candidate_modalities
        sizes = sets.corpus.candidate_sizes

        def __len__(self):
            return len(self.ids)

    return Candidates()


def test_measures_are_those_by_hand(fit, module, tmp_path, folders):
    text, trainer, data = fit
    assert [done.epoch for done in text.history] == [0, 2, 3]
    document = json.loads((tmp_path / "metrics_text.json").read_text())
    assert set(document["local"]) == {"one_task1", "two_task1", "average"}
    assert "global" not in document
    corpus, queries = text._sets.corpus, text._sets.queries("test")
    assert sum(corpus.candidate_record(row).text.startswith("T3 text") for row in range(len(corpus))) == 2
    scores = data.vectors(module, "asked").astype(float) @ data.vectors(module, "of text").T
    for task in ("one_task1", "two_task1"):
        pool, values = corpus.pools[f"local_{task}"], []
        for row in np.flatnonzero(queries.task_of == queries.tasks.index(task)).tolist():
            left = np.setdiff1d(pool, queries.listed("excluded", row))
            assert len(left) == (19 if task == "two_task1" else 20), "a query's own document is left out"
            ranked = sorted(left.tolist(), key=lambda member: (-scores[row, member], member))
            grades = zip(queries.positives(row).tolist(), queries.grades(row).tolist(), strict=True)
            judged = {str(member): grade for member, grade in grades}
            assert sorted(judged.values()) == [1, 1, 2]
            values.append(Measure.named("ndcg@10").of([str(member) for member in ranked], judged))
        assert document["local"][task]["ndcg@10"] == pytest.approx(np.mean(values), abs=1e-6)
    value = document["local"]["average"]["ndcg@10"]
    assert float(trainer.callback_metrics["text/local/average/ndcg@10"]) == pytest.approx(value)
    assert "hit@5" in json.loads((tmp_path / "metrics.json").read_text())["global"]["average"]
    assert (tmp_path / "runs_text/local_one_task1.qrels").is_file()
    report = (tmp_path / "report.md").read_text()
    assert "## Tasks, text" in report
    assert "local ndcg@10" in report


def test_both_data_keep_their_embeddings(fit):
    text, trainer, data = fit
    evaluation = next(callback for callback in trainer.callbacks if type(callback) is RetrievalEvaluation)
    assert len(evaluation.candidates) == len(data.corpus)
    assert len(text.candidates) == len(text._sets.corpus)
    queries, ranking = data.queries("test"), evaluation.rankings["global"]["alpha_task0"]
    failed = failures_of(queries, ranking, evaluation.candidates)
    first = zip(ranking.queries.tolist(), ranking.rows[:, 0].tolist(), strict=True)
    assert len(failed) == sum(row not in queries.positives(query) for query, row in first) > 0
    shutil.rmtree(evaluation.candidates.folder)
    with pytest.raises(StaleEmbeddingsError, match="found first are gone"):
        failures_of(queries, ranking, evaluation.candidates)
    with pytest.raises(StaleEmbeddingsError, match="Evaluate again"):
        list(_failures(evaluation, queries))


def test_the_data_are_packed_once_and_again_after_a_change(folders, tmp_path):
    sets = TextSets(folders)
    sets.prepare_data()
    made = (sets.packed_root / "manifest.json").stat().st_mtime_ns
    again = TextSets(folders)
    again.prepare_data()
    assert (again.packed_root, (again.packed_root / "manifest.json").stat().st_mtime_ns) == (
        sets.packed_root,
        made,
    )
    prompted = TextSets(folders, prompts={"two": "Find the counter-argument."})
    prompted.prepare_data()
    prompted.setup("validate")
    queries = prompted.queries("test")
    row = int(np.flatnonzero(queries.task_of == queries.tasks.index("two_task1"))[0])
    assert queries.instructions(row) == ("Find the counter-argument.",)
    packed = sets.packed_root
    with (folders[0] / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "new", "text": "more"}\n')
    assert TextSets(folders).packed_root != packed
    assert not [path for path in packed.parent.iterdir() if path.name.startswith(".")], "nothing is left"


def test_unusable_settings_are_refused(folders, tmp_path):
    with pytest.raises(DataError, match="no text data are given"):
        TextSets([])
    with pytest.raises(DataError, match="prompts are given for three, the text data sets are one, two"):
        TextSets(folders, prompts={"three": "?"})
    (tmp_path / "home").mkdir()
    with pytest.raises(DataError, match="is not in the BEIR layout"):
        TextSets([tmp_path / "home"])
    with pytest.raises(ValueError, match="label"):
        TextEvaluation(folders, label="a b")


def test_two_evaluations_keep_their_own_states(folders):
    keys = {
        evaluation.state_key
        for evaluation in (
            RetrievalEvaluation(),
            TextEvaluation(folders),
            TextEvaluation(folders, label="more"),
        )
    }
    assert len(keys) == 3


def _fitted(fakes, module, data, tmp_path, text_root, **options):
    """Set up an evaluation without folders beside text data that are trained on."""
    data.texts = TextSets(text_root, "train", "train", prompts=options.pop("prompts", None))
    evaluation = TextEvaluation(**options)
    trainer = fakes.make_trainer(tmp_path, [RetrievalEvaluation(), evaluation])
    trainer.datamodule = data
    evaluation.setup(trainer, module, "fit")
    return evaluation.data(trainer)


def test_without_folders_it_evaluates_what_is_trained_on(fakes, module, data, tmp_path, folders, capsys):
    for folder, splits in ((folders[0], ("train", "dev")), (folders[1], ("train",))):
        for split in splits:
            lines = (folder / "qrels/test.tsv").read_text().splitlines()
            (folder / f"qrels/{split}.tsv").write_text("\n".join(lines[: 5 if split == "dev" else 9]) + "\n")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('["q", "p"]\n')
    roots = [f"first={folders[0]}", str(folders[1]), str(pairs)]
    sets = _fitted(fakes, module, data, tmp_path, roots, prompts={"first": "Answer.", "pairs": "No."})
    queries = sets.queries("test")
    assert queries.tasks == ("first_task1", "two_task1")
    counts = np.bincount(queries.task_of).tolist()
    assert counts == [1, 6], "dev where there is one, else test"
    assert queries.instructions(0) == ("Answer.",)
    said = capsys.readouterr().out
    assert "pairs: no qrels of dev, val, validation, test" in said
    assert "evaluated on first, two" in said
    with pytest.raises(DataError, match=r"pairs: no qrels of .* set the folders of callbacks.TextEvaluation"):
        _fitted(fakes, module, data, tmp_path, str(pairs))
    del data.texts
    trainer = fakes.make_trainer(tmp_path, [TextEvaluation()])
    trainer.datamodule = data
    with pytest.raises(MisconfigurationException, match="no folders, and FakeData has no text data"):
        trainer.callbacks[0].setup(trainer, module, "fit")
