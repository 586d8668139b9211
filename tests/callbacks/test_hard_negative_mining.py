"""Mining between epochs: the paper's negatives, in a stamped file, in the hands of the data module."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import HardNegativeMining, MiningSchedule, RoundSubset, mining_search
from callbacks.searching import usual_index
from callbacks.teacher import lent
from data_modules.formats.records import DataError, id_key
from mmretrieval.index import ExactIndex, FaissIndex
from mmretrieval.mining import (
    MiningPlan,
    ModalityAware,
    NegativeTable,
    PercentOfPositive,
    StaleNegativesError,
    TopK,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning"
)
MASK = 2**64 - 1


def _mix(value):
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def _oracle(data, module, mining, round_=0):
    """Query id → (candidate id, kind, rank), by a literal reading of the paper; one negative a query."""
    of_round = _mix((_mix(mining.plan.seed) + round_) & MASK) if round_ else _mix(mining.plan.seed)
    corpus, queries, s = data.corpus, data.corpus.queries("train"), mining.plan
    k_prime = s.selection.k_prime
    pool, of_queries = data.vectors(module, "candidates"), data.vectors(module, "train")
    mined = {}
    for q, id_ in enumerate(queries.ids.tolist()):
        ranking = np.argsort(-(pool @ of_queries[q]), kind="stable")[: s.top_k].tolist()
        known = queries.positives(q).tolist()
        contents = {int(corpus.candidate_keys[row]) for row in known}
        positive_rank = ranking.index(known[0]) + 1 if known[0] in ranking else s.top_k
        kinds = {1: [], 2: []}
        for rank, row in enumerate(ranking, 1):
            right = corpus.candidate_modalities[row] == queries.target_modality[q]
            kind = 1 if not right and rank < positive_rank else 2 if right and rank > k_prime else 0
            if kind and int(corpus.candidate_keys[row]) not in contents:
                kinds[kind].append((row, rank))
        base = _mix(id_key(id_) ^ of_round)
        first, second = ((_mix((base + part) & MASK) >> 11) / 2**53 for part in (0, 1))
        kind = 1 if first < s.selection.probability_c1 else 2
        kind = kind if kinds[kind] else 3 - kind
        members = kinds[kind]
        chosen = [members[int(second * len(members))]] if members else []
        mined[id_] = [(corpus.candidate_id(row), kind, rank) for row, rank in chosen]
    return mined


def _as_dict(table, queries):
    return {
        id_: [(n.candidate_id, int(n.kind), n.rank) for n in table.entries_of(id_)]
        for id_ in queries.ids.tolist()
    }


class Spy(HardNegativeMining):
    """Notes what the oracle says at the moment of mining."""

    def mine(self, trainer, module):
        if not hasattr(self, "expected"):
            self.expected = []
        found = _oracle(trainer.datamodule, module, self, len(self.expected))
        self.expected.append((found, module.weights_hash(), trainer.global_step))
        return super().mine(trainer, module)


@pytest.fixture
def fitted(fakes, tmp_path, module, data):
    def fit(mining, epochs=3, ckpt_path=None, **settings):
        trainer = fakes.make_trainer(
            tmp_path, [mining, *settings.pop("more", [])], max_epochs=epochs, **settings
        )
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return trainer

    return fit


def test_mined_negatives_equal_a_brute_force_oracle_and_reach_the_data_module(fitted, data, tmp_path):
    mining = Spy(MiningPlan(seed=4))
    fitted(mining)
    queries = data.corpus.queries("train")
    assert len(data.tables) == len(mining.expected) == 2
    for table, (expected, _, _) in zip(data.tables, mining.expected, strict=True):
        assert _as_dict(table, queries) == expected
    kinds = [entry[1] for entries in mining.expected[0][0].values() for entry in entries]
    assert set(kinds) == {1, 2}
    assert mining.expected[0][0] != mining.expected[1][0], "training changed nothing, so the test is vacuous"


def test_mining_searches_exactly_on_the_ranks_own_device_by_default(fitted, data, monkeypatch):
    indexes, ranked = [], mining_search.rank
    monkeypatch.setattr(mining_search, "rank", lambda *a: (indexes.append(a[6]), ranked(*a))[1])
    fitted(HardNegativeMining(), epochs=2)
    (index,) = indexes
    assert (type(index), index.device.type) == (ExactIndex, "cpu")
    assert data.tables[0].stamp.settings["index"] == ExactIndex().method
    assert usual_index(torch.device("cuda:3")).device == torch.device("cuda:3")


@pytest.mark.parametrize("index", [FaissIndex(device="cpu"), ExactIndex()])
def test_the_file_is_stamped_with_weights_step_pool_and_settings(fitted, data, tmp_path, index):
    mining = Spy(MiningPlan(selection=ModalityAware(k_prime=40)), index=index)
    fitted(mining)
    assert sorted(path.name for path in (tmp_path / "negatives").iterdir()) == ["round_0.npz", "round_1.npz"]
    for round_, (table, (_, weights, step)) in enumerate(zip(data.tables, mining.expected, strict=True)):
        stamp = table.stamp
        assert (stamp.round, stamp.weights_hash, stamp.step) == (round_, weights, step)
        assert stamp.pool_hash == data.corpus.pool_digest("global_train")
        assert '"k_prime":40' in stamp.settings["selection"]
        assert stamp.settings["pool"] == "global_train"
    assert mining.expected[0][1] != mining.expected[1][1]
    assert [step for _, _, step in mining.expected] == [3, 6]


@pytest.mark.parametrize(
    ("epochs", "settings", "rounds"),
    [(1, {}, 0), (2, {}, 1), (-1, {"max_steps": 6}, 1), (5, {"max_steps": 3}, 0)],
)
def test_nothing_is_mined_after_the_last_epoch(fitted, data, epochs, settings, rounds):
    fitted(HardNegativeMining(), epochs, **settings)
    assert len(data.tables) == rounds


def test_every_second_epoch_only(fitted, data):
    mining = HardNegativeMining(schedule=MiningSchedule(every_n_epochs=2))
    fitted(mining, 5)
    assert [done.epoch for done in mining.reports] == [2, 4]


def test_queries_are_counted_logged_and_printed(fitted, tmp_path, capsys):
    mining = HardNegativeMining(MiningPlan(negatives_per_query=2))
    fitted(mining, 2, logger=TensorBoardLogger(tmp_path, name="", version=""))
    report = mining.reports[0].report
    assert report.queries == 40
    assert report.wrong_modality + report.unsatisfactory > 0
    assert "Mined round 0 at step 3" in capsys.readouterr().out
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    logged = {tag: events.Scalars(tag)[-1] for tag in events.Tags()["scalars"] if tag.startswith("mining/")}
    assert {f"mining/{name}" for name in ("incomplete", "without_kind", "without_known", "seconds")} <= set(
        logged
    )
    assert logged["mining/wrong_modality"].value == report.wrong_modality
    assert logged["mining/wrong_modality"].step == 3
    assert 0 < logged["mining/share_of_time"].value <= 1


def test_mining_can_be_called_directly(fakes, tmp_path, module, data):
    mining = HardNegativeMining(folder=tmp_path / "elsewhere")
    trainer = fakes.make_trainer(tmp_path, [mining])
    trainer.datamodule = data
    report = mining.mine(trainer, module)
    assert report.queries == 40
    assert report == mining.reports[-1].report
    assert (tmp_path / "elsewhere/round_0.npz").is_file()


class _Stop(Exception):  # noqa: N818
    pass


class _Interrupt(ModelCheckpoint):
    """Saves a checkpoint in the second epoch, and stops."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 4:
            trainer.save_checkpoint(self.path)
            raise _Stop


class _InterruptAtEnd(ModelCheckpoint):
    """Saves a checkpoint at the end of the first epoch, after mining, and stops."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)
        raise _Stop


class _InterruptBefore(Callback):
    """Does so as a callback that is not called last."""

    def __init__(self, path):
        self.path = path

    on_train_batch_end = _Interrupt.on_train_batch_end


@pytest.fixture
def interrupted(fitted, data, tmp_path):
    """A checkpoint of a run that was training with mined negatives."""
    path = tmp_path / "middle.ckpt"
    with pytest.raises(_Stop):
        fitted(HardNegativeMining(), more=[_Interrupt(path)], enable_checkpointing=True)
    assert len(data.tables) == 1
    return path


RESUMED = pytest.mark.filterwarnings(
    "ignore:.*callbacks used to create the checkpoint", "ignore:.*mid-epoch", "ignore:.*not resumable"
)


@RESUMED
def test_a_resumed_run_goes_on_with_the_negatives_of_the_checkpoint(fitted, data, interrupted):
    before = data.tables.pop()
    order = []
    loader = data.train_dataloader
    data.train_dataloader = lambda: (order.append(len(data.tables)), loader())[1]
    mining = HardNegativeMining()
    fitted(mining, ckpt_path=interrupted)
    assert order == [1], "the negatives must be there before the first loader is made"
    queries = data.corpus.queries("train")
    assert data.tables[0].stamp == before.stamp
    assert _as_dict(data.tables[0], queries) == _as_dict(before, queries)
    assert [done.round for done in mining.reports] == [0, 1]
    assert mining.reports[1].step == 6


@RESUMED
@pytest.mark.parametrize("starts", [False, True])
def test_a_resumed_run_draws_what_an_uninterrupted_one_does(fitted, fakes, data, tmp_path, begun, starts):
    """Draws depend on the round's number, which a checkpoint keeps; a file to begin with is no round."""
    plan = MiningPlan(selection=ModalityAware(probability_none=1 / 3))

    def run(more=(), ckpt_path=None):
        mining = HardNegativeMining(plan, start=begun[0] if starts else None)
        trainer = fakes.make_trainer(tmp_path, [mining, *more], max_epochs=4, enable_checkpointing=bool(more))
        data.tables.clear()
        trainer.fit(fakes.FakeModule(), datamodule=data, ckpt_path=ckpt_path)
        return mining

    run()
    whole = data.tables[starts:]
    with pytest.raises(_Stop):
        run([_InterruptAtEnd(tmp_path / "middle.ckpt")])
    resumed = run(ckpt_path=tmp_path / "middle.ckpt")
    assert [done.round for done in resumed.reports] == [0, 1, 2]
    queries = data.corpus.queries("train")
    found = [_as_dict(table, queries) for table in data.tables[starts:]]
    assert found == [_as_dict(table, queries) for table in whole]
    without = [{id_ for id_, own in table.items() if not own} for table in found]
    assert without[0] != without[1] != without[2]


@RESUMED
@pytest.mark.parametrize("case", ["other settings", "mined again", "gone"])
def test_stale_negatives_are_refused_on_resume(fitted, fakes, module, data, interrupted, tmp_path, case):
    path = tmp_path / "negatives/round_0.npz"
    mining, error, message = HardNegativeMining(), StaleNegativesError, "round_0.npz"
    if case == "other settings":
        mining, message = (
            HardNegativeMining(MiningPlan(selection=ModalityAware(k_prime=30))),
            "settings: found",
        )
    elif case == "gone":
        path.unlink()
        error, message = DataError, "the file is gone"
    else:
        table = data.tables[0]
        table._arrays["scores"] = table._arrays["scores"] + 1  # the same stamp, other contents
        table.save(path)
        message = "not the file that the checkpoint was training with"
    with pytest.raises(error, match=message):
        fitted(mining, ckpt_path=interrupted)


@RESUMED
def test_a_run_may_go_on_with_another_exhaustive_index_and_no_other(fitted, interrupted):
    """As on a machine without the GPU that the first index was for."""
    other = HardNegativeMining(index=FaissIndex("HNSW8", device="cpu"))
    with pytest.raises(StaleNegativesError, match=r"'index': 'exhaustive'.* 'index': 'HNSW8'"):
        fitted(other, ckpt_path=interrupted)
    resumed = HardNegativeMining(index=ExactIndex())
    fitted(resumed, ckpt_path=interrupted)
    assert [done.round for done in resumed.reports] == [0, 1]


@RESUMED
def test_a_run_folder_can_be_moved(fitted, fakes, module, data, interrupted, tmp_path):
    (tmp_path / "moved").mkdir()
    (tmp_path / "negatives").rename(tmp_path / "moved/negatives")
    mining = HardNegativeMining()
    fitted(mining, ckpt_path=interrupted, default_root_dir=tmp_path / "moved")
    assert len(mining.reports) == 2
    assert (
        torch.load(interrupted, weights_only=True)["callbacks"]["HardNegativeMining"]["reports"][0]["round"]
        == 0
    )


def test_bad_configurations_are_refused(fakes, tmp_path, module, data):
    with pytest.raises(ValueError, match="rounds_kept must be at least 1, found 0"):
        HardNegativeMining(rounds_kept=0)
    full = ExactIndex()
    full.add(np.eye(2, dtype=np.float32))
    with pytest.raises(MisconfigurationException, match="must be empty, it holds 2"):
        fakes.make_trainer(tmp_path, [HardNegativeMining(index=full)]).fit(module, datamodule=data)
    data.train_pool = "global_tain"
    with pytest.raises(DataError, match="has no pool 'global_tain'"):
        fakes.make_trainer(tmp_path, [HardNegativeMining()]).fit(module, datamodule=data)


# --- rounds that look at a part, several rounds, and negatives to begin with


def test_rounds_of_subsets_take_turns_and_older_ones_stay(fitted, data):
    mining = HardNegativeMining(subset=RoundSubset(queries=20, candidates=60), rounds_kept=2)
    fitted(mining, 3)
    assert [done.report.queries for done in mining.reports] == [20, 20]
    first, both = (
        {id_ for id_ in data.corpus.queries("train").ids.tolist() if table.negatives_of(id_)}
        for table in data.tables
    )
    assert 0 < len(first) <= 20 < len(both)
    assert first < both


def test_older_rounds_are_mixed_in(fitted, data, tmp_path):
    fitted(HardNegativeMining(rounds_kept=2), 4)
    one, two, three = data.tables
    ids = data.corpus.queries("train").ids.tolist()
    assert any(len(two.negatives_of(id_)) == 2 for id_ in ids)
    rounds = [_load(tmp_path / f"negatives/round_{n}.npz", data, two) for n in range(3)]
    for id_ in ids:
        newest_first = dict.fromkeys(rounds[2].negatives_of(id_) + rounds[1].negatives_of(id_))
        assert three.negatives_of(id_) == tuple(newest_first)
        assert one.negatives_of(id_) == rounds[0].negatives_of(id_)


def _load(path, data, like):
    from mmretrieval.mining import ExpectedStamp

    return NegativeTable.load(path, ExpectedStamp(like.stamp.pool_hash, like.stamp.queries_hash))


@RESUMED
def test_mixed_rounds_are_there_again_after_a_resume(fitted, data, tmp_path):
    path = tmp_path / "middle.ckpt"

    class Interrupt(_Interrupt):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 7:
                trainer.save_checkpoint(self.path)
                raise _Stop

    mining = HardNegativeMining(rounds_kept=2)
    with pytest.raises(_Stop):
        fitted(mining, more=[Interrupt(path)], enable_checkpointing=True)
    before = data.tables[-1]
    data.tables.clear()
    fitted(HardNegativeMining(rounds_kept=2), ckpt_path=path)
    queries = data.corpus.queries("train")
    assert data.tables[0].stamp == before.stamp
    assert _as_dict(data.tables[0], queries) == _as_dict(before, queries)


def test_a_run_begins_with_the_negatives_of_another(fitted, data, tmp_path, fakes, module):
    schedule = MiningSchedule(after_training=True)
    fitted(HardNegativeMining(schedule=schedule, folder=tmp_path / "first"), 1)
    (mined,) = data.tables
    data.tables.clear()
    mining = HardNegativeMining(start=tmp_path / "first/round_0.npz")
    fitted(mining, 2)
    queries = data.corpus.queries("train")
    assert _as_dict(data.tables[0], queries) == _as_dict(mined, queries)
    assert [done.round for done in mining.reports] == [0]
    data.train_split = "test"
    with pytest.raises(StaleNegativesError, match="queries_hash"):
        fitted(HardNegativeMining(start=tmp_path / "first/round_0.npz"), 2)


@pytest.fixture
def begun(fitted, data, tmp_path):
    """A file that another run has mined, and a function that mines it again with another seed."""

    def mine(seed):
        schedule = MiningSchedule(after_training=True)
        fitted(HardNegativeMining(MiningPlan(seed=seed), schedule, folder=tmp_path / "first"), 1)
        data.tables.clear()

    mine(0)
    return tmp_path / "first/round_0.npz", mine


@RESUMED
@pytest.mark.parametrize("case", ["mined again", "none"])
def test_a_resumed_run_refuses_other_negatives_to_begin_with(fitted, data, tmp_path, begun, case):
    start, mine_again = begun
    never, path = MiningSchedule(every_n_epochs=None), tmp_path / "middle.ckpt"
    with pytest.raises(_Stop):
        fitted(
            HardNegativeMining(schedule=never, start=start),
            more=[_Interrupt(path)],
            enable_checkpointing=True,
        )
    (before,) = data.tables
    data.tables.clear()
    fitted(HardNegativeMining(schedule=never, start=start), ckpt_path=path)
    queries = data.corpus.queries("train")
    assert _as_dict(data.tables[0], queries) == _as_dict(before, queries)
    mine_again(1)
    with pytest.raises(StaleNegativesError, match=r"the checkpoint was training with negatives of the hash"):
        fitted(HardNegativeMining(schedule=never, start=None if case == "none" else start), ckpt_path=path)


def test_what_a_run_begins_with_is_a_round_to_mix(fitted, data, tmp_path, begun):
    start, _ = begun
    fitted(HardNegativeMining(rounds_kept=2, start=start), 4)
    first, one, two, _ = data.tables
    queries = data.corpus.queries("train")
    rounds = [_load(tmp_path / f"negatives/round_{n}.npz", data, first) for n in range(2)]
    assert any(rounds[0].negatives_of(id_) != first.negatives_of(id_) for id_ in queries.ids.tolist())
    for id_ in queries.ids.tolist():
        mixed = dict.fromkeys(rounds[0].negatives_of(id_) + first.negatives_of(id_))
        assert one.negatives_of(id_) == tuple(mixed)
        mixed = dict.fromkeys(rounds[1].negatives_of(id_) + rounds[0].negatives_of(id_))
        assert two.negatives_of(id_) == tuple(mixed), "the oldest round is left out"


@RESUMED
def test_a_start_that_is_no_longer_in_use_may_change(fitted, data, tmp_path, begun):
    start, mine_again = begun
    path = tmp_path / "middle.ckpt"
    with pytest.raises(_Stop):
        fitted(HardNegativeMining(start=start), more=[_Interrupt(path)], enable_checkpointing=True)
    mine_again(1)
    mining = HardNegativeMining(start=start)
    fitted(mining, ckpt_path=path)
    assert [done.round for done in mining.reports] == [0, 1]
    with pytest.raises(StaleNegativesError, match="start is"):
        fitted(HardNegativeMining(rounds_kept=2, start=start), ckpt_path=path)


def test_trained_weights_may_mine_before_the_first_step(fitted, data, module):
    at_first = _oracle(data, module, HardNegativeMining())
    mining = HardNegativeMining(schedule=MiningSchedule(before_training=True))
    fitted(mining, 2)
    queries = data.corpus.queries("train")
    assert [done.step for done in mining.reports] == [0, 3]
    assert [done.round for done in mining.reports] == [0, 1]
    found = data.tables[0]
    first = {id_: [found.negatives_of(id_)[0]] for id_ in queries.ids.tolist() if id_ in found}
    assert first == {id_: [own[0][0]] for id_, own in at_first.items() if own}


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_does_not_mine_before_its_first_step_again(fitted, data, tmp_path):
    schedule = MiningSchedule(before_training=True, every_n_epochs=None)
    mining = HardNegativeMining(schedule=schedule)
    kept = {"more": [ModelCheckpoint(tmp_path / "kept", save_last=True)], "enable_checkpointing": True}
    fitted(mining, 1, **kept)
    assert len(mining.reports) == 1
    resumed = HardNegativeMining(schedule=schedule)
    fitted(resumed, 2, **kept, ckpt_path=tmp_path / "kept/last.ckpt")
    assert len(resumed.reports) == 1


def test_filters_see_the_score_of_a_positive_that_was_not_found(fitted, data, module):
    mining = HardNegativeMining(
        MiningPlan(top_k=30, selection=ModalityAware(k_prime=0), filters=[PercentOfPositive()])
    )
    fitted(mining, 2)
    report = mining.reports[0].report
    assert report.positives_missed > 0
    assert report.positives_unscored == 0
    assert report.dropped["percent_of_positive"] > 0
    assert mining.reports[0].scalars()["mining/dropped/percent_of_positive"] > 0
    assert "percent_of_positive dropped" in str(mining.reports[0])


@pytest.fixture
def taught(fakes, module, data, tmp_path, monkeypatch):
    """Mine once, with a teacher of other vectors for the tasks of a pattern."""

    class Teacher(torch.nn.Module):
        reads_pictures, input_processor = True, None
        moves: ClassVar[list[str]] = []

        def __init__(self, folder):
            super().__init__()
            self.encoder = fakes.FakeEncoder()
            with torch.no_grad():
                self.encoder.tokens.copy_(self.encoder.tokens.roll(1, dims=0))

        def to(self, device):
            self.moves.append(str(device))
            return super().to(device)

        def embedding_hash(self):
            return "teacher"

        weights_hash = embedding_hash

    monkeypatch.setattr("callbacks.mining_search.Teacher", Teacher)

    def run(plan=None, **settings):
        mining = HardNegativeMining(plan, teacher=tmp_path, **settings)
        trainer = fakes.make_trainer(tmp_path, [mining])
        trainer.fit(module, datamodule=data)
        mining.mine(trainer, module)
        return mining, Teacher

    run.teacher = Teacher
    return run


def test_a_teacher_may_mine_for_some_tasks_only(taught, module, data):
    mining, teacher = taught(teacher_tasks=["beta_*"])
    number = mining.reports[-1].round
    own, other = _oracle(data, module, mining, number), _oracle(data, teacher(None), mining, number)
    queries = data.corpus.queries("train")
    tasks = [queries.tasks[code] for code in queries.task_of]
    for id_, task in zip(queries.ids.tolist(), tasks, strict=True):
        expected = (other if task.startswith("beta") else own)[id_]
        found = [(e.candidate_id, e.kind, e.rank) for e in mining.latest.entries_of(id_)]
        assert found == expected
    assert own != other
    assert mining.latest.stamp.settings["teacher_tasks"] == "beta_*"


def test_a_teacher_is_on_the_device_only_while_it_embeds(taught, monkeypatch):
    """In training, its memory is needed; where all is kept from an earlier round, it need not come at all."""
    monkeypatch.setattr("callbacks.mining_search.lent", lambda teacher, _: lent(teacher, "cpu:0"))
    _, teacher = taught(teacher_tasks=["beta_*"])
    assert teacher.moves == ["cpu:0", "cpu"] * 2, "for candidates and queries"
    teacher.moves.clear()
    taught(teacher_tasks=["beta_*"])
    assert teacher.moves == []


def test_a_teacher_leaves_the_device_after_an_error(taught, fakes, monkeypatch):
    class Broken(fakes.FakeEncoder):
        def forward(self, inputs):
            raise RuntimeError("out of memory")

    monkeypatch.setattr(fakes, "FakeEncoder", Broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        taught()
    assert len(taught.teacher.moves) == 2
    assert taught.teacher.moves[-1] == "cpu"


def test_a_teacher_of_texts_searches_texts(taught, data, monkeypatch):
    def run(reads):
        plan = MiningPlan(selection=TopK(sample=True), negatives_per_query=3)
        monkeypatch.setattr("callbacks.mining_search.Teacher.reads_pictures", reads)
        mining, _ = taught(plan, teacher_tasks=["alpha_task0"])
        ids = [i for q in data.corpus.queries("train").ids.tolist() for i in mining.latest.negatives_of(q)]
        return {int(data.corpus.candidate_modalities[data.corpus.candidate_row(i)]) for i in ids[:60]}

    assert run(False) == {0}
    assert len(run(True)) == 3


def test_unknown_tasks_of_a_teacher_are_named_before_training(taught, fakes):
    with pytest.raises(
        ValueError, match=r"teacher_tasks names gamma_\*; the data has alpha_task0, beta_task1"
    ):
        taught(teacher_tasks=["gamma_*", "alpha*"])
    with pytest.raises(ValueError, match="but there is no teacher"):
        HardNegativeMining(teacher_tasks=["alpha*"])


# --- rounds within epochs


def test_rounds_by_steps_come_within_epochs_and_say_how_far_to_read_ahead(fitted, data):
    mining = Spy(schedule=MiningSchedule(every_n_steps=2, first_step=3))
    fitted(mining, 3)
    assert [done.step for done in mining.reports] == [3, 5, 7]
    assert [done.epoch for done in mining.reports] == [0, 1, 2]
    hashes = [weights for _, weights, _ in mining.expected]
    assert [table.stamp.weights_hash for table in data.tables] == hashes
    trainer = type("Trainer", (), {"global_step": 8, "accumulate_grad_batches": 3})
    assert mining._next_round(trainer, 4) == 6, "one step, of which a batch is done"


def test_given_steps_are_mined_at_within_epochs_at_their_ends_and_at_the_last(fitted, data):
    mining = Spy(schedule=MiningSchedule(every_n_steps=2, before_training=True, at_steps=[9, 2, 3, 7]))
    fitted(mining, 3)  # of three steps
    assert [done.step for done in mining.reports] == [2, 3, 7, 9]
    assert [done.epoch for done in mining.reports] == [0, 1, 2, 3]
    assert [table.stamp.weights_hash for table in data.tables] == [
        weights for _, weights, _ in mining.expected
    ]
    trainer = type("Trainer", (), {"global_step": 3, "accumulate_grad_batches": 1})
    mining.reports = mining.reports[:2]
    assert mining._next_round(trainer, 0) == 4, "the negatives of step 7 are for the fifth batch on"
    assert data.pause is not None


def test_given_steps_that_training_does_not_come_to_are_named_at_its_end(fitted, data):
    mining = HardNegativeMining(schedule=MiningSchedule(at_steps=[0, 3, 12, 11]))
    with pytest.warns(UserWarning, match=r"ended at step 6 without a round of mining at 11, 12 of"):
        fitted(mining, 2)
    assert [done.step for done in mining.reports] == [0, 3]


def test_a_given_step_is_mined_at_once_though_several_batches_make_a_step(fitted, data):
    mining = HardNegativeMining(schedule=MiningSchedule(at_steps=[1, 2]))
    fitted(mining, 2, accumulate_grad_batches=2)  # after the first batch of epoch 2 it is step 2 still
    assert [done.step for done in mining.reports] == [1, 2]


@RESUMED
@pytest.mark.parametrize("mined_first", [True, False])
def test_a_resumed_run_mines_at_the_given_steps_of_an_uninterrupted_one(
    fakes, fitted, data, tmp_path, mined_first
):
    path, schedule = tmp_path / "middle.ckpt", MiningSchedule(at_steps=[3, 4, 6])
    mining = HardNegativeMining(schedule=schedule)
    saves = _Interrupt(path) if mined_first else _InterruptBefore(path)  # Lightning calls checkpoints last
    callbacks = [mining, saves] if mined_first else [saves, mining]
    with pytest.raises(_Stop):
        fakes.make_trainer(tmp_path, callbacks, enable_checkpointing=True).fit(
            fakes.FakeModule(), datamodule=data
        )
    assert [done.step for done in mining.reports] == ([3, 4] if mined_first else [3])
    resumed = HardNegativeMining(schedule=schedule)
    fitted(resumed, ckpt_path=path)
    assert [done.step for done in resumed.reports] == [3, 4, 6]


@RESUMED
@pytest.mark.parametrize("mined_first", [True, False])
def test_a_resumed_run_mines_at_the_steps_of_an_uninterrupted_one(fakes, fitted, data, tmp_path, mined_first):
    path, schedule = tmp_path / "middle.ckpt", MiningSchedule(every_n_steps=2)
    whole = HardNegativeMining(schedule=schedule)
    fitted(whole)
    assert [done.step for done in whole.reports] == [2, 4, 6, 8]
    mining = HardNegativeMining(schedule=schedule)
    saves = _Interrupt(path) if mined_first else _InterruptBefore(path)  # Lightning calls checkpoints last
    trainer = fakes.make_trainer(
        tmp_path, [mining, saves] if mined_first else [saves, mining], enable_checkpointing=True
    )
    with pytest.raises(_Stop):
        trainer.fit(fakes.FakeModule(), datamodule=data)
    assert [done.step for done in mining.reports] == ([2, 4] if mined_first else [2])
    resumed = HardNegativeMining(schedule=schedule)
    fitted(resumed, ckpt_path=path)
    assert [done.step for done in resumed.reports] == [2, 4, 6, 8]
