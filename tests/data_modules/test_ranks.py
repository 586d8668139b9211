"""A global batch of a chosen size: the stream does not depend on how many ranks share it."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

import numpy as np
import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from data_modules import EmbeddedDataModule, MBEIRDataModule, RetrievalDataModule
from data_modules.corpus import PackedCorpus
from data_modules.formats.records import DataError
from data_modules.mixture import MixtureBatchSampler
from data_modules.mixture_settings import MixtureSettings
from mmretrieval.mining import NegativeTable, Stamp

GLOBAL = 8
WEIGHTS = {"alpha_task0": 0.5, "alpha_task1": 0.25, "beta_x_task1": 0.25}
SOURCES = {"one": ["alpha_task0"], "rest": ["alpha_task1", "beta_x_task1"]}
STREAMS = {
    "mixed": {},
    "homogeneous": {"homogeneous": True},
    "sources": {"sources": SOURCES, "weights": {"one": 2, "rest": 1}, "batches_per_epoch": 5},
    "weighted": {"weights": WEIGHTS, "batches_per_epoch": 5},
    "homogeneous_and_weighted": {"homogeneous": True, "weights": WEIGHTS, "batches_per_epoch": 5},
}
streams = pytest.mark.parametrize("fields", STREAMS.values(), ids=STREAMS.keys())


@pytest.fixture(scope="module")
def queries(packed):
    return PackedCorpus(packed).queries("train")


@pytest.fixture(scope="module")
def mined(queries):
    """Three mined negatives of each query, of which a sample draws one."""
    ids, corpus = [str(id_) for id_ in queries.ids], queries.corpus
    found = [corpus.candidate_id((5 * n + k) % len(corpus)) for n in range(len(ids)) for k in range(3)]
    counts, ones = np.full(len(ids), 3), np.ones(len(found), np.int64)
    return NegativeTable(Stamp("w", 1, "p", "q", 0), ids, counts, found, ones, ones, ones.astype(float))


@pytest.fixture
def ranks(queries, mined):
    """The samplers of all ranks of a job, which differ in nothing but the rank."""

    def make(world, **fields):
        settings = MixtureSettings(**({"batch_size": 3, "global_batch_size": GLOBAL} | fields))
        samplers = [MixtureBatchSampler(queries, settings, rank, world) for rank in range(world)]
        for sampler in samplers:
            sampler.negatives = mined
        return samplers

    return make


def together(parts):
    return [item for part in parts for item in part]


# --- one stream for any number of ranks


@streams
@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_parts_of_the_ranks_are_the_batch_of_one_rank_in_order(ranks, world, fields):
    (whole,), samplers = ranks(1, **fields), ranks(world, **fields)
    assert {len(sampler) for sampler in samplers} == {len(whole)}
    for epoch in range(3):
        for sampler in (whole, *samplers):
            sampler.set_epoch(epoch)
        steps = list(zip(whole, *samplers, strict=True))  # strict: as many steps on every rank
        assert len(steps) == len(whole) >= 5
        for batch, *parts in steps:
            assert len(batch) == GLOBAL
            assert together(parts) == batch
            sizes = [len(part) for part in parts]
            assert max(sizes) - min(sizes) <= 1
            assert min(sizes) >= 1


def test_a_global_batch_size_is_the_stream_of_that_many_queries_per_rank(ranks):
    for world in (1, 2, 4):
        chosen = ranks(world)
        default = ranks(world, batch_size=GLOBAL // world, global_batch_size=None)
        for one, other in zip(chosen, default, strict=True):
            assert one.state_at(1, 2) == other.state_at(1, 2)
            assert list(one) == list(other)


def test_without_a_global_batch_size_each_rank_has_its_slice_of_batch_size(ranks):
    for rank, sampler in enumerate(ranks(3, batch_size=5, global_batch_size=None)):
        rows = sampler.stream.batch(0, 1)
        assert len(rows) == 15
        assert [item.query for item in sampler.batch(0, 1)] == rows[5 * rank : 5 * (rank + 1)].tolist()


def test_the_digest_of_a_stream_is_the_one_in_earlier_checkpoints(ranks, queries):
    (sampler,) = ranks(1, seed=7)
    sizes = np.bincount(queries.task_of)
    facts = (7, False, GLOBAL, 48 // GLOBAL, (sizes / 48).tolist(), sizes.tolist())
    assert sampler.state_dict()["stream"] == blake2b(repr(facts).encode(), digest_size=8).hexdigest()


# --- another number of ranks in the middle of epochs


def train(job, steps):
    """Run all ranks side by side for some steps, over epoch ends; return batches and state."""
    batches = []
    while len(batches) < steps:
        iterators = [iter(sampler) for sampler in job]
        while len(batches) < steps and (parts := [next(it, None) for it in iterators])[0] is not None:
            assert all(part for part in parts)
            batches.append(together(parts))
        states = [sampler.state_dict() for sampler in job]
        assert all(state == states[0] for state in states)
        for sampler in job:
            sampler.set_epoch(states[0]["epoch"])
    return batches, states[0]


@streams
@pytest.mark.parametrize("worlds", [(1, 2, 1), (2, 3, 1, 2)])
def test_changing_the_number_of_ranks_within_epochs_changes_no_batch(ranks, worlds, fields):
    within = 0
    for seed in range(20):
        (whole,) = ranks(1, seed=seed, **fields)
        total = 4 * len(whole)
        expected = [whole.batch(*divmod(step, len(whole))) for step in range(total)]
        points = np.random.default_rng(seed).choice(np.arange(1, total), len(worlds) - 1, replace=False)
        ends = [0, *sorted(points.tolist()), total]
        found, state = [], None
        for world, start, end in zip(worlds, ends[:-1], ends[1:], strict=True):
            job = ranks(world, seed=seed, **fields)
            for sampler in job if state else ():
                sampler.load_state_dict(state)
                sampler.set_epoch(state["epoch"])  # as Lightning does, after loading
            batches, state = train(job, end - start)
            within += state["samples"] > 0
            found += batches
        assert found == expected
    assert within >= 20


@pytest.mark.parametrize("seed", range(20))
def test_each_query_comes_once_an_epoch_while_ranks_come_and_go(ranks, queries, seed):
    assert len(queries) % GLOBAL == 0  # so that an epoch is one pass
    steps = len(queries) // GLOBAL
    cuts = np.sort(np.random.default_rng(seed).choice(np.arange(1, steps), 2, replace=False))
    for epoch in range(2):
        seen, state = Counter(), {"epoch": epoch, "samples": 0}
        for world, length in zip((1, 2, 1), np.diff([0, *cuts, steps]), strict=True):
            job = ranks(world, seed=seed)
            for sampler in job:
                sampler.load_state_dict(state)
            batches, state = train(job, length)
            seen.update(item.query for item in together(batches))
        assert state["epoch"] == epoch + 1
        assert seen == Counter(range(len(queries)))


# --- through the data modules


class Ranks:
    """What a data module asks of a trainer on several ranks."""

    def __init__(self, rank, world):
        self.distributed_sampler_kwargs = {"rank": rank, "num_replicas": world}
        self._accelerator_connector = type("Connector", (), {"use_distributed_sampler": False})


@pytest.fixture
def ready(packed, fakes):
    """A rank's data module after setup, with a processor."""

    def make(rank=0, world=1, **fields):
        module = RetrievalDataModule(packed, **({"global_batch_size": GLOBAL} | fields))
        module.trainer = Ranks(rank, world)
        module.setup("fit")
        module._processor = fakes.FakeProcessor
        return module

    return make


def read(module):
    assert module.steps_per_epoch == 6
    return [batch.query_rows.tolist() for batch in module.train_dataloader()]


@pytest.mark.slow
def test_workers_change_no_batch_of_a_rank(ready):
    assert read(ready(1, 3, num_workers=2)) == read(ready(1, 3))


def test_ranks_change_no_batch_of_the_data_module(ready):
    whole = read(ready())
    assert len(set(together(whole))) == 48
    thirds = [read(ready(rank, 3)) for rank in range(3)]
    assert [[len(rows) for rows in step] for step in zip(*thirds, strict=True)] == [[3, 3, 2]] * 6
    assert [together(step) for step in zip(*thirds, strict=True)] == whole


def test_all_data_modules_pass_the_global_batch_size_on(tmp_path, monkeypatch):
    monkeypatch.setenv("MMRETRIEVAL_HOME", str(tmp_path))
    for make in (RetrievalDataModule, MBEIRDataModule):
        assert make(tmp_path, global_batch_size=5).mixture == MixtureSettings(64, 5)
        assert make(tmp_path).mixture.global_batch_size is None
    fields = {"seed": 3, "homogeneous": True, "batches_per_epoch": 7, "negatives_per_query": 2}
    module = EmbeddedDataModule(batch_size=4, global_batch_size=9, weights=WEIGHTS, **fields)
    assert module.mixture == MixtureSettings(4, 9, weights=WEIGHTS, **fields)
    with pytest.raises(ValueError, match="global_batch_size must be at least 1, found 0"):
        EmbeddedDataModule(global_batch_size=0)


# --- mistakes

ADVICE = (
    "The checkpoint stands 24 samples into epoch 1, trained with global batches of 8 queries; "
    "here they are 4. Resume with --data.init_args.global_batch_size 8, "
    "or from a checkpoint of an epoch's end."
)


@pytest.mark.parametrize("fields", [{}, {"batches_per_epoch": 9}])
def test_another_number_of_ranks_without_a_global_batch_size_is_refused_with_advice(ranks, fields):
    state = ranks(2, batch_size=4, global_batch_size=None, **fields)[0].state_at(1, 3)
    assert state["global_batch"] == 8
    (one,) = ranks(1, batch_size=4, global_batch_size=None, **fields)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared whole
        one.load_state_dict(state)
    assert str(error.value) == ADVICE
    (advised,) = ranks(1, batch_size=4, global_batch_size=8, **fields)
    advised.load_state_dict(state)
    assert (advised.epoch, advised.position) == (1, 3)
    one.load_state_dict(advised.state_at(1, len(advised)))  # between epochs it may change
    assert (one.epoch, one.position) == (2, 0)


def test_the_advice_reaches_the_user_of_a_data_module(ready):
    state = ready(0, 2, batch_size=4, global_batch_size=None).sampler.state_at(1, 3)
    with pytest.raises(MisconfigurationException) as error:
        ready(batch_size=4, global_batch_size=None).load_state_dict(state)
    assert str(error.value) == ADVICE


def test_other_differences_are_refused_without_that_advice(ranks):
    (one,) = ranks(1)
    state = one.state_at(1, 3)
    earlier = {key: value for key, value in state.items() if key != "global_batch"}
    one.load_state_dict(earlier)  # what a checkpoint of before held is enough where nothing differs
    message = "24 samples into epoch 1 of another stream. Resume with the data, seed, .* batch_size x ranks"
    for other, refused in (
        ({"seed": 1}, state),
        ({"homogeneous": True}, state),
        ({"batches_per_epoch": 5}, state),
        ({"weights": WEIGHTS}, state),
        ({"seed": 1, "global_batch_size": 4}, state),
        ({"global_batch_size": 4}, earlier),
    ):
        with pytest.raises(ValueError, match=message):
            ranks(1, **other)[0].load_state_dict(refused)


def test_a_global_batch_smaller_than_the_world_is_refused(ranks, ready):
    message = "global_batch_size=2 leaves some of 3 ranks without a query; set it to 3 or more, or train"
    with pytest.raises(DataError, match=message):
        ranks(3, global_batch_size=2)
    with pytest.raises(DataError, match=message):
        ready(0, 3, global_batch_size=2)
    assert [len(sampler.batch(0, 0)) for sampler in ranks(3, global_batch_size=3)] == [1, 1, 1]
