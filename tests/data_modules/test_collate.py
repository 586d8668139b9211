from __future__ import annotations

import pickle  # noqa: TID251  # what sends objects to workers

import pytest
import torch

from data_modules.collate import (
    CandidateCollate,
    CandidateDataset,
    ContrastiveCollate,
    QueryCollate,
    QueryDataset,
    TrainingDataset,
)
from data_modules.corpus import PackedCorpus
from data_modules.packing import pack
from data_modules.training_items import TrainingItem


@pytest.fixture
def corpus(data, tmp_path):
    pack(data.root, tmp_path / "out", progress=False)
    return PackedCorpus(tmp_path / "out")


def test_a_batch_holds_queries_positives_and_the_negatives_mined_for_each(corpus, known, fakes):
    queries = corpus.queries("train")
    items = [TrainingItem(0, 1, (3, 4)), TrainingItem(1, 0, ()), TrainingItem(3, 1, (1,))]
    dataset = TrainingDataset(queries)
    batch = ContrastiveCollate(fakes.FakeProcessor())([dataset[item] for item in items])
    texts = fakes.texts_of(batch.inputs)
    assert texts[:3] == [
        f"{known.PROMPTS[1]}|question 3:1", "Find it.|question 3:2", f"{known.PROMPTS[1]}|None",
    ]  # fmt: skip
    columns = [0, 1, 4, 3, 4, 1]  # rows of the labelled positives, then of the negatives
    assert texts[3:] == [str(known.CANDIDATES[row].text) for row in columns]
    assert batch.candidate_keys.tolist() == corpus.candidate_keys[columns].tolist()
    assert batch.positive_columns.tolist() == [0, 1, 2]
    assert batch.negative_of.tolist() == [0, 0, 2]
    assert batch.query_rows.tolist() == [0, 1, 3]
    one, two = corpus.candidate_keys[[0]].tolist(), corpus.candidate_keys[[1, 4]].tolist()
    assert batch.positive_keys.tolist() == [[*one, 0], two, [two[1], 0]]
    assert batch.inputs.pictures.pixels.flatten(1).tolist() == [
        [0, 0, 254],
        [255, 0, 0],
        [255, 0, 0],
    ]
    assert batch.candidate_keys[0] == batch.candidate_keys[3]  # equal contents stay separate columns


def test_a_teachers_scores_stand_at_their_candidates(corpus, fakes):
    dataset = TrainingDataset(corpus.queries("train"))
    items = [TrainingItem(0, 1, (3, 4), (0.9, 0.1, 0.2)), TrainingItem(1, 0, ()), TrainingItem(3, 1, (1,))]
    batch = ContrastiveCollate(fakes.FakeProcessor())([dataset[item] for item in items])
    expected = torch.tensor([0.9, float("nan"), float("nan"), 0.1, 0.2, float("nan")])
    torch.testing.assert_close(batch.targets, expected, equal_nan=True)
    assert ContrastiveCollate(fakes.FakeProcessor())([dataset[items[1]]]).targets is None


def test_a_batch_without_negatives_or_pictures_has_empty_tensors(corpus, fakes):
    dataset = TrainingDataset(corpus.queries("train"))
    batch = ContrastiveCollate(fakes.FakeProcessor())([dataset[TrainingItem(1, 0, ())]])
    assert batch.negative_of.shape == (0,)
    assert batch.inputs.pictures.pixels.shape == (0, 3, 1, 1)
    assert len(batch.candidate_keys) == 1


def test_contents_to_embed_keep_their_rows(corpus, known, fakes):
    processor = fakes.FakeProcessor()
    candidates, queries = CandidateDataset(corpus), QueryDataset(corpus.queries("train"))
    batch = CandidateCollate(processor)([candidates[row] for row in (4, 0, 4)])
    assert batch.rows.tolist() == [4, 0, 4]
    assert fakes.texts_of(batch.inputs) == ["foreign", "None", "foreign"]
    batch = QueryCollate(processor)([queries[row] for row in (1, 0)])
    assert batch.rows.tolist() == [1, 0]
    assert fakes.texts_of(batch.inputs) == ["Find it.|question 3:2", "Find it.|question 3:1"]


def test_what_workers_get_is_small(corpus, fakes):
    dataset, collate = TrainingDataset(corpus.queries("train")), ContrastiveCollate(fakes.FakeProcessor())
    expected = collate([dataset[TrainingItem(0, 0, (1,))]])
    data = pickle.dumps((dataset, collate))
    assert len(data) < 2000
    dataset, collate = pickle.loads(data)
    found = collate([dataset[TrainingItem(0, 0, (1,))]])
    assert (found.inputs.input_ids == expected.inputs.input_ids).all()


def test_instructions_are_known_without_reading_records(corpus):
    for split in ("train", "test"):
        queries = corpus.queries(split)
        for row in range(len(queries)):
            assert queries.instructions(row) == queries.record(row).instructions
            assert queries.asked(row, 1).instruction == queries.record(row).instructions[1]
            assert queries.asked(row, 1).content.text == queries.record(row).text


def test_sizes_are_those_of_the_stored_records(corpus):
    queries = corpus.queries("train")
    for table, sizes in (("candidates", corpus.candidate_sizes), ("queries/train", queries.sizes)):
        shards = corpus.table(table)
        assert sizes.tolist() == [len(shards.read(row)) for row in range(len(shards))]
