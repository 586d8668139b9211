"""Queries of a source that have all become one are named, and nothing else is."""

import csv
import warnings
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy

from callbacks import CollapseWatch
from callbacks.collapse_watch import mean_similarities, sums_by_group
from callbacks.training_sources import TrainingSources

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
]
SOURCES = {"multimodal": ["alpha_task0"], "text": ["beta_task1"]}
STEPS = 10


def unit(rng, count):
    vectors = rng.normal(size=(count, 16)) + 0.5
    return torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).float()


def by_pairs(vectors):
    pairs = list(permutations(np.asarray(vectors, dtype=np.float64), 2))
    return np.mean([a @ b for a, b in pairs]) if pairs else np.nan


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_similarity_is_that_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    vectors, groups = unit(rng, 40), torch.from_numpy(rng.integers(0, 4, 40))
    groups[groups == 3] = 2
    groups[0] = 3  # one alone; of group 4 there is none
    found = mean_similarities(sums_by_group(vectors, groups, 5))
    expected = [by_pairs(vectors[groups == group]) for group in range(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.isnan(expected).tolist() == [False, False, False, True, True]
    parts = sum(sums_by_group(vectors[part], groups[part], 5) for part in (slice(0, 13), slice(13, 40)))
    np.testing.assert_allclose(mean_similarities(parts), found, rtol=1e-5, atol=1e-6)


@pytest.fixture
def trained(fakes, module, packed, tmp_path, monkeypatch):
    """A fit whose text queries have one embedding in the steps named; its warnings, and what was logged."""

    def run(watch, collapsed, **mixture):
        data = fakes.RowsOnly(packed, batch_size=8, batches_per_epoch=STEPS)
        data.mixture = replace(
            data.mixture, sources=SOURCES, weights={"multimodal": 0.5, "text": 0.5}, **mixture
        )
        rng, logged = np.random.default_rng(0), []

        def step(batch, batch_idx):
            source = TrainingSources.of(trainer, watch).source_of[batch.query_rows.numpy()]
            vectors = unit(rng, len(source))
            if batch_idx in collapsed:
                vectors[source == 1] = vectors[0].clone()
            module.latest_queries = vectors
            logged.append((source, vectors))
            return module.encoder.tokens.sum()

        monkeypatch.setattr(module, "training_step", step)
        logger = CSVLogger(tmp_path, version=0)
        settings = {"logger": logger, "log_every_n_steps": 2, "max_epochs": 1}
        trainer = fakes.make_trainer(tmp_path, [watch], **settings)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(module, datamodule=data)
        with Path(logger.log_dir, "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        return [str(w.message) for w in caught if "same embedding" in str(w.message)], logged, rows

    return run


def test_it_warns_once_of_the_source_that_collapsed(trained):
    (said,), trained_on, rows = trained(CollapseWatch(steps=3), set(range(4, STEPS)))
    assert "All queries of text have" in said
    assert "multimodal" not in said
    assert "configs/continual/unfamiliar.yaml" in said
    assert [int(row["step"]) for row in rows] == [1, 3, 5, 7, 9]
    for row in rows:
        source, vectors = trained_on[int(row["step"])]
        for number, name in enumerate(SOURCES):
            expected = by_pairs(vectors[source == number])
            assert float(row[f"train/query_similarity/{name}"]) == pytest.approx(expected, abs=1e-5)


def test_a_source_that_is_not_in_a_step_has_no_value_there(trained):
    _, trained_on, rows = trained(CollapseWatch(), set(), homogeneous=True)
    kinds = {int(row["step"]): {n for n in SOURCES if row.get(f"train/query_similarity/{n}")} for row in rows}
    assert kinds == {step: {list(SOURCES)[trained_on[step][0][0]]} for step in (1, 3, 5, 7, 9)}
    assert len({*map(frozenset, kinds.values())}) == 2, "both sources were there"


@pytest.mark.parametrize("collapsed", [set(), {0, 1, 3, 4, 6, 7, 9}])
def test_a_few_steps_are_no_collapse(trained, collapsed):
    said, *_ = trained(CollapseWatch(steps=3), collapsed)
    assert not said


def _similarity(rank, world):
    watch, logged = CollapseWatch(), {}
    logger = SimpleNamespace(log_metrics=lambda values, step: logged.update(values))
    watch._sources = TrainingSources(["multimodal", "text"], [0.5, 0.5], np.array([0, 1, 1]))
    watch._in_row = {"multimodal": 0, "text": 0}
    module = SimpleNamespace(latest_queries=torch.eye(2)[[0, rank]])
    trainer = SimpleNamespace(strategy=DDPStrategy(), loggers=[logger], global_step=1, log_every_n_steps=1)
    rows = torch.tensor([0, 1] if rank else [2, 1])
    watch.on_train_batch_end(trainer, module, None, SimpleNamespace(query_rows=rows), 0)
    return torch.tensor([logged["train/query_similarity/text"]]), sorted(logged)


def test_queries_of_all_ranks_are_compared(run_on_ranks):
    """Text has twice the first axis on rank 0 and once the second on rank 1: one pair of three is alike."""
    for similarity, names in run_on_ranks(_similarity):
        assert similarity.item() == pytest.approx(1 / 3)
        assert names == ["train/query_similarity/text"], "the multimodal query is alone"


def test_bad_settings_and_other_data_are_refused(fakes, data, module, tmp_path):
    for settings in ({"similarity": 1.5}, {"similarity": -1}, {"steps": 0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            CollapseWatch(**settings)
    trainer = fakes.make_trainer(tmp_path, [CollapseWatch()])
    trainer.datamodule = data
    with pytest.raises(MisconfigurationException, match="CollapseWatch looks at what"):
        trainer.callbacks[0].setup(trainer, module, "fit")
