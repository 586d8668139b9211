"""Multimodal data and text data in one stream: shares, passes, workers, ranks and resumption."""

import copy
import json
import re
from collections import Counter

import numpy as np
import pytest

from data_modules import ContinualTextDataModule
from data_modules.continual import MULTIMODAL, sources_of
from data_modules.formats.records import DataError
from data_modules.mixture import MixtureBatchSampler
from data_modules.text_sets import TextSets
from data_modules.text_sources import text_sources

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",
    "ignore:This DataLoader will create 3 worker processes:UserWarning",  # two cores will do
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MMRETRIEVAL_HOME", str(tmp_path / "home"))


def beir(root, count):
    (root / "qrels").mkdir(parents=True)
    for name, kind in (("corpus", "d"), ("queries", "q")):
        rows = ({"_id": f"{kind}{n}", "text": f"{kind} {root.name} {n}"} for n in range(count))
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = "".join(f"q{n}\td{n}\t1\n" for n in range(count))
    (root / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)


@pytest.fixture
def texts(tmp_path):
    """Two text data sets: one in the BEIR layout, one of pairs."""
    root = tmp_path / "texts"
    beir(root / "large", 32)
    rows = (json.dumps([f"pair {n}", f"answer {n}"]) + "\n" for n in range(8))
    (root / "small.jsonl").write_text("".join(rows))
    return root


@pytest.fixture
def ready(packed, fakes, texts):
    def make(stage="fit", text_root=texts, **fields):
        values = {"root": packed, "batch_size": 8, "encoding_batch_size": 5, "batches_per_epoch": 10}
        module = ContinualTextDataModule(text_root, **(values | fields))
        module.prepare_data()
        module.setup(stage)
        module._processor = fakes.FakeProcessor
        return module

    return make


def drawn(module, epochs):
    """Names of the tasks of all samples, in order."""
    queries, sampler = module.queries("train"), module.sampler
    positions = [(epoch, number) for epoch in range(epochs) for number in range(len(sampler))]
    rows = [item.query for place in positions for item in sampler.batch(*place)]
    return [queries.tasks[queries.task_of[row]] for row in rows], rows


def test_sources_get_the_shares_that_were_asked_for(ready):
    module = ready(text_share=0.25)
    tasks, rows = drawn(module, 16)
    counts, total = Counter(tasks), len(tasks)
    assert sum(share for task, share in module.training_shares.items() if "task" in task) == pytest.approx(1)
    assert (counts["large_task1"] + counts["small_task1"]) / total == pytest.approx(0.25, abs=0.005)
    assert counts["large_task1"] / counts["small_task1"] == pytest.approx(4, rel=0.05), "in proportion"
    queries = module.queries("train")
    for members in (
        range(48),
        np.flatnonzero(queries.task_of == queries.tasks.index("large_task1")).tolist(),
    ):
        order = [row for row in rows if row in {*members}]
        assert len(order) >= 2 * len(members)
        assert sorted(order[: len(members)]) == sorted(members), "each once in a pass"
        assert sorted(order[len(members) : 2 * len(members)]) == sorted(members)


def test_temperature_and_weights_blend_the_text_data_sets(ready):
    flat = ready(temperature=1e9).training_shares
    assert flat["large_task1"] == pytest.approx(flat["small_task1"]) == pytest.approx(0.25)
    proportional = ready(text_share=None).training_shares
    multimodal = sum(
        share for task, share in proportional.items() if "large" not in task and "small" not in task
    )
    assert multimodal == pytest.approx(48 / 88), "as one source"
    assert proportional["large_task1"] == pytest.approx(32 / 88)
    assert ready(text_share=None, temperature=1e9).training_shares["large_task1"] == pytest.approx(1 / 3)
    weights = {MULTIMODAL: 1.0, "large_task1": 0.0, "small_task1": 3.0}
    shares = ready(weights=weights).training_shares
    assert shares["small_task1"] == 0.75
    assert "large_task1" not in shares


def test_a_step_may_be_of_one_source(ready):
    module = ready(homogeneous=True)
    unit = {task: name for name, tasks in sources_of(module.queries("train")).items() for task in tasks}
    tasks, _ = drawn(module, 3)
    steps = [{unit[task] for task in tasks[n : n + 8]} for n in range(0, len(tasks), 8)]
    assert all(len(step) == 1 for step in steps)
    assert {name for step in steps for name in step} == {MULTIMODAL, "large_task1", "small_task1"}


@pytest.mark.parametrize("world", [1, 2])
def test_ranks_share_the_stream_and_resume_in_its_middle(ready, world):
    module = ready(global_batch_size=8)
    queries, settings = module.queries("train"), module.sampler.settings
    whole = [module.sampler.batch(1, n) for n in range(len(module.sampler))]
    ranks = [MixtureBatchSampler(queries, settings, rank, world) for rank in range(world)]
    state = module.sampler.state_at(1, 4)
    for sampler in ranks:
        sampler.load_state_dict(state)
    rest = [[item for part in parts for item in part] for parts in zip(*ranks, strict=True)]
    assert rest == whole[4:]


def test_batches_are_the_same_for_all_numbers_of_workers_and_texts_have_their_own_limit(ready):
    streams = []
    for workers in (0, 3):
        module = ready(num_workers=workers, max_text_tokens=2)
        loader = module.train_dataloader()
        streams.append([(b.query_rows.tolist(), b.inputs.input_ids.tolist()) for b in loader])
    assert streams[0] == streams[1]
    corpus, queries = module.corpus, module.queries("train")
    limits = {queries.content(row).max_text_tokens for row in range(48)}
    assert limits == {None}
    assert queries.content(len(queries) - 1).max_text_tokens == 2
    assert corpus.candidate(len(corpus) - 1).content.max_text_tokens == 2


def test_evaluation_is_that_of_the_multimodal_data_alone(ready, packed):
    module = ready("validate")
    alone = module.multimodal
    assert module.queries("test").ids.tolist() == alone.queries("test").ids.tolist()
    assert module.query_table("test").digest == alone.query_table("test").digest
    assert np.array_equal(module.pool("global_test"), alone.pool("global_test"))
    assert len(module.pool("global_train")) == len(alone.pool("global_train")) + 32 + 8


def test_tasks_say_which_kind_of_data_they_are_from(ready):
    queries = ready().queries("train")
    assert dict(zip(queries.tasks, queries.task_sources, strict=True)) == {
        "alpha_task1": "multimodal", "alpha_task0": "multimodal", "beta_x_task1": "multimodal",
        "large_task1": "text", "small_task1": "text",
    }  # fmt: skip
    assert copy.deepcopy(queries).task_sources == queries.task_sources
    assert ready().multimodal.queries("train").task_sources == ("",) * 3


def test_multimodal_samples_are_rehearsed(ready):
    module = ready()
    rows = [0, len(module.queries("train")) - 1, 1]
    assert module.rehearsed(rows) == [True, False, True]
    assert module.multimodal.rehearsed([3, 4]) == [True, True]


def test_text_sources_are_found(texts, tmp_path):
    both = [("large", texts / "large"), ("small", texts / "small.jsonl")]
    assert text_sources(texts) == both
    assert text_sources(str(texts / "large")) == both[:1]
    assert text_sources([texts / "large", texts / "small.jsonl"]) == both
    with pytest.raises(DataError, match="no text data are given"):
        text_sources([])
    assert text_sources(tmp_path) == both, "also a folder further in"
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="is not in the BEIR layout"):
        ContinualTextDataModule(tmp_path / "images")
    with pytest.raises(DataError, match="no such folder"):
        ContinualTextDataModule(tmp_path / "none")
    for fields in ({"text_share": 1.5}, {"temperature": 0.5}):
        with pytest.raises(ValueError, match="temperature must be at least 1"):
            ContinualTextDataModule(texts, **fields)


def test_nothing_that_looks_like_text_data_is_passed_over_silently(texts, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("data_modules.text_sources.rank_zero_info", said.append)
    (texts / "nli").mkdir()
    (texts / "nli/train.jsonl").write_text('["q", "p"]\n')
    for name in ("README.md", ".hidden.tsv", "collection.tsv", "passages.parquet"):
        (texts / name).write_text("")
    (texts / "pictures").mkdir()
    assert [source.name for source in text_sources(texts)] == ["large", "nli", "small"]
    assert said == [
        f"{texts}: in no layout of text data, left alone: collection.tsv, passages.parquet, pictures"
    ]
    (texts / "fever").mkdir()
    for name in ("queries.jsonl", "corpus.jsonl.gz"):
        (texts / "fever" / name).write_text("")
    with pytest.raises(DataError, match=r"fever: is not in the BEIR layout, corpus\.jsonl and qrels missing"):
        ContinualTextDataModule(texts)


def test_a_name_that_cannot_be_one_is_told_with_the_path_and_the_remedy(tmp_path):
    (tmp_path / "my data.jsonl").write_text('["q", "p"]\n')
    with pytest.raises(DataError, match=r"my data\.jsonl: 'my data' is no name of a data set .*\[name="):
        text_sources(tmp_path)
    assert text_sources({"mine": str(tmp_path / "my data.jsonl")})[0].name == "mine"


def test_what_is_left_out_is_counted_and_told_and_empty_texts_only_where_allowed(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("data_modules.text_sets.rank_zero_info", said.append)
    beir(tmp_path / "FiQA", 3)
    with (tmp_path / "FiQA/corpus.jsonl").open("a") as file:
        file.write('{"_id": "empty", "title": "", "text": ""}\n')
    nli = [{"sentence1": "a", "sentence2": "b", "gold_label": gold} for gold in ("entailment", "neutral")]
    (tmp_path / "snli.jsonl").write_text("".join(json.dumps(row) + "\n" for row in nli))
    with pytest.raises(DataError, match=r"corpus\.jsonl:4: has no text; .* allow empty texts"):
        TextSets(str(tmp_path), "train", "train").prepare_data()
    with pytest.raises(DataError, match=r"snli\.jsonl: allow_empty is for folders in the BEIR layout"):
        TextSets(str(tmp_path), "train", "train", allow_empty=["snli"])
    said.clear()
    sets = ContinualTextDataModule(str(tmp_path), allow_empty=["fiqa"]).texts
    sets.prepare_data()
    assert sorted(said) == [
        f"{tmp_path / 'FiQA'}: left out 1 documents without title and text",
        f"{tmp_path / 'snli.jsonl'}: left out 1 pairs of sentences without entailment",
    ]


def test_a_set_of_which_nothing_is_left_is_named_by_its_own_path(tmp_path):
    row = {"sentence1": "a", "sentence2": "b", "gold_label": "neutral"}
    (tmp_path / "snli.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'snli.jsonl'}: no query is left")):
        TextSets(str(tmp_path), "train", "train").prepare_data()


def test_files_whose_names_say_nothing_are_called_as_their_folders_and_any_can_be_named(tmp_path):
    files = [tmp_path / name for name in ("nli/train.jsonl", "SQuAD/train-v1.1.json", "all/AllNLI.jsonl.gz")]
    for file in files:
        file.parent.mkdir()
        file.write_bytes(b"")
    assert text_sources(list(map(str, files))) == list(zip(("nli", "squad", "allnli"), files, strict=True))
    given = text_sources([f"One={files[0]}", f"two={files[1]}"])
    assert given == [("one", files[0]), ("two", files[1])]
    assert text_sources({"One": str(files[0]), "two": str(files[1])}) == given
    (tmp_path / "b/nli").mkdir(parents=True)
    other = tmp_path / "b/nli/train.jsonl"
    other.write_bytes(b"")
    with pytest.raises(
        DataError, match=re.escape(f"{files[0]} and {other} are both the text data set 'nli'")
    ):
        text_sources([str(files[0]), str(other)])
    assert len(text_sources([str(files[0]), str(files[0])])) == 1
    with pytest.raises(DataError, match="holds 2 text data sets, which cannot all be called 'x'"):
        text_sources(f"x={two_files(tmp_path / 'two')}")


def two_files(folder):
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.jsonl").write_text('["q", "p"]\n')
    return folder


def test_names_are_given_in_any_case_and_only_to_what_can_have_them(tmp_path):
    (tmp_path / "AllNLI.jsonl").write_text('["q", "p"]\n')
    beir(tmp_path / "Fever", 3)
    options = {"symmetric": ["AllNLI"], "prompts": {"Fever": "Given a claim, find evidence."}}
    sets = TextSets(str(tmp_path), "train", "train", **options)
    sets.prepare_data()
    sets.setup("validate")
    queries = sets.queries("train")
    assert len(queries) == 2 + 3, "the pair is asked both ways"
    (claim,) = {queries.instructions(row) for row in range(5) if queries.record(row).dataset == "fever"}
    assert claim == ("Given a claim, find evidence.",)
    with pytest.raises(DataError, match=r"Fever: only files of pairs can be symmetric; leave fever out"):
        TextSets(str(tmp_path), "train", "train", symmetric=["FEVER"])
    with pytest.raises(DataError, match="symmetric are given for nli, the text data sets are fever, allnli"):
        TextSets([str(tmp_path / "Fever"), str(tmp_path / "AllNLI.jsonl")], symmetric=["NLI"])
