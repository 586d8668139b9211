from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader

import data_modules
from data_modules import EmbeddedDataModule, MBEIRDataModule, RetrievalDataModule, corpus
from data_modules.cached_packing import cache_home
from data_modules.formats.mbeir_writer import MBEIRWriter
from data_modules.formats.records import DataError
from data_modules.packing import pack
from mmretrieval.content import MODALITIES
from mmretrieval.mining import NegativeTable, Stamp

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",  # the data is tiny
    "ignore:.*treespec, LeafSpec:FutureWarning",  # lightning 2.6 with torch 2.15
    "ignore:.*have no `validation_step`:UserWarning",  # the plain recorder
    "ignore:.*callbacks used to create the checkpoint need to be provided:UserWarning",  # not wanted again
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MMRETRIEVAL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


class Recorder(LightningModule):
    """Trains one number and notes which queries it saw."""

    def __init__(self, processor):
        super().__init__()
        self.input_processor = processor
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        texts = batch.inputs.input_ids.tolist()
        self.seen.append((self.current_epoch, batch_idx, batch.query_rows.tolist(), texts))
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Validated(Recorder):
    """Also runs a validation loop."""

    def validation_step(self, batch, batch_idx):
        pass


class ValidatedData(RetrievalDataModule):
    """Also has something to validate on."""

    def val_dataloader(self):
        return DataLoader([0])


def fit(module, datamodule, folder, *, epochs=3, ckpt=None, callbacks=(), **fields):
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, callbacks=[*callbacks],
        enable_model_summary=False, default_root_dir=folder, enable_checkpointing=bool(callbacks),
        num_sanity_val_steps=0, **fields,
    )  # fmt: skip
    trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt, weights_only=False if ckpt else None)
    return trainer


@pytest.fixture
def ready(packed, fakes):
    """A data module after setup, with a trainer that has a processor."""

    def make(stage="fit", root=packed, **fields):
        module = RetrievalDataModule(root, **({"batch_size": 6, "encoding_batch_size": 5} | fields))
        module.prepare_data()
        module.setup(stage)
        module._processor = fakes.FakeProcessor
        return module

    return make


def rows_of(loader):
    return [batch.query_rows.tolist() for batch in loader]


def flat(tree):
    if tree is None:  # a batch without a teacher's targets
        return []
    return [tree] if isinstance(tree, torch.Tensor) else [leaf for part in tree for leaf in flat(part)]


def equal(batches, others):
    pairs = list(zip(batches, others, strict=True))
    return pairs and all(torch.equal(a, b) for x, y in pairs for a, b in zip(flat(x), flat(y), strict=True))


def table(queries, count):
    """The next candidate but one as a mined negative of each of the first queries."""
    corpus = queries.corpus
    mined = [corpus.candidate_id((int(queries.positives(row)[0]) + 2) % len(corpus)) for row in range(count)]
    ones = np.ones(count, np.int64)
    ids = [str(id_) for id_ in queries.ids[:count]]
    return NegativeTable(Stamp("w", 1, "p", "q", 0), ids, ones, mined, ones, ones, ones.astype(float))


# --- the stream


def test_batches_are_the_same_whatever_the_number_of_workers(ready):
    streams = []
    for workers in (0, 2):
        module = ready(num_workers=workers)
        module.set_negatives(table(module.queries("train"), 40))
        loader = module.train_dataloader()
        assert loader.persistent_workers == (workers > 0)
        streams.append([])
        for epoch in range(2):
            module.sampler.set_epoch(epoch)
            streams[-1] += list(loader)
        assert len(loader) == module.steps_per_epoch == 8
    assert len(streams[0]) == 16
    assert equal(*streams)
    assert not equal(streams[0][:8], streams[0][8:])


def test_mined_negatives_are_columns_of_the_batch_that_holds_their_query(ready):
    module = ready(batch_size=48)
    queries, corpus = module.queries("train"), module.corpus
    assert all(len(batch.negative_of) == 0 for batch in module.train_dataloader())
    mined = table(queries, 30)
    module.set_negatives(mined)
    (batch,) = module.train_dataloader()
    assert len(batch.negative_of) == 30
    for column, number in enumerate(batch.negative_of.tolist(), start=48):
        row = int(batch.query_rows[number])
        (candidate,) = mined.negatives_of(str(queries.ids[row]))
        assert batch.candidate_keys[column] == corpus.candidate_keys[corpus.candidate_row(candidate)]
    for number, row in enumerate(batch.query_rows.tolist()):
        keys = corpus.candidate_keys[queries.positives(row)].tolist()
        assert batch.candidate_keys[batch.positive_columns[number]] == keys[0]
        assert set(batch.positive_keys[number].tolist()) == set(keys)


@pytest.mark.parametrize("workers", [0, 1])
def test_negatives_that_change_at_a_pause_are_in_the_next_batch(ready, workers):
    module = ready(num_workers=workers)
    queries = module.queries("train")
    usual = [batch.query_rows.tolist() for batch in module.train_dataloader()]
    new, asked = table(queries, len(queries)), []

    def pause(position):
        asked.append(position)
        return position + 3

    module.set_pause(pause)
    loader, found = module.train_dataloader(), []
    for number, batch in enumerate(loader):
        found.append(batch)
        if number == 2:
            module.set_negatives(new)
        if number == 5:
            module.set_negatives(None)
    assert asked == [0, 3, 6]
    assert [batch.query_rows.tolist() for batch in found] == usual
    counts = [len(batch.negative_of) for batch in found]
    assert counts == [0] * 3 + [6] * 3 + [0] * (len(usual) - 6)
    module.set_negatives(new)
    module.sampler.set_epoch(1)
    assert [len(batch.negative_of) for batch in loader] == [6] * len(usual), "persistent workers go on"
    state = module.sampler.state_at(1, 4)
    module.sampler.load_state_dict(state)
    asked.clear()
    assert len(list(loader)) == len(usual) - 4
    assert asked[0] == 4


def test_homogeneous_batches_hold_one_task(ready):
    module = ready(homogeneous=True)
    task_of = module.queries("train").task_of
    tasks = [set(task_of[rows]) for rows in rows_of(module.train_dataloader())]
    assert all(len(found) == 1 for found in tasks)
    assert len(set.union(*tasks)) == 3


def test_weights_and_epoch_length_are_those_asked_for(ready):
    weights = {"alpha_task0": 0.5, "alpha_task1": 0.25, "beta_x_task1": 0.25}
    module = ready(weights=weights, batches_per_epoch=4)
    rows = np.concatenate(rows_of(module.train_dataloader()))
    queries = module.queries("train")
    counts = np.bincount(queries.task_of[rows], minlength=3)
    assert dict(zip(queries.tasks, counts.tolist(), strict=True)) == {
        "alpha_task0": 12, "alpha_task1": 6, "beta_x_task1": 6,
    }  # fmt: skip


def test_the_shares_of_training_leave_out_what_was_not_sampled(ready):
    weights = {"alpha_task0": 3.0, "alpha_task1": 1.0, "beta_x_task1": 0.0}
    assert ready(weights=weights).training_shares == {"alpha_task0": 0.75, "alpha_task1": 0.25}
    assert sum(ready().training_shares.values()) == pytest.approx(1)


def test_how_training_queries_are_asked_is_known(ready):
    module = ready(weights={"alpha_task0": 3.0, "alpha_task1": 1.0, "beta_x_task1": 0.0})
    queries = module.queries("train")
    assert module.training_questions.keys() == {"alpha_task0", "alpha_task1"}
    for task, asked in module.training_questions.items():
        rows = np.flatnonzero(queries.task_of == queries.tasks.index(task))
        assert {MODALITIES[code] for code in queries.modalities[rows]} == {asked.query}
        assert {MODALITIES[code] for code in queries.target_modality[rows]} == {asked.target}
        assert all(queries.instructions(int(row)) == asked.instructions for row in rows)


# --- contents to embed


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_embed_the_rows_asked_for_and_no_others(ready, fakes, workers):
    module = ready("validate", num_workers=workers)
    rows = np.random.default_rng(0).permutation(len(module.corpus))[:33]
    loader = module.candidate_table().loader(rows)
    batches = list(loader)
    assert len(batches) == len(loader) == 7
    found = {int(r): t for b in batches for r, t in zip(b.rows, fakes.texts_of(b.inputs), strict=True)}
    assert found == {int(row): str(module.corpus.candidate_record(row).text) for row in rows}
    queries = module.queries("test")
    batches = list(module.query_table("test").loader(np.arange(len(queries))))
    found = {int(r): t for b in batches for r, t in zip(b.rows, fakes.texts_of(b.inputs), strict=True)}
    assert found == {r: f"{module.query_instruction('test', r)}|{queries.record(r).text}" for r in range(5)}


def test_each_picture_is_decoded_once(known, tmp_path, fakes, monkeypatch):
    candidates = [
        known.CandidateRecord(f"3:{n + 1}", f"{n}" if n % 2 else None, f"pics/{n % 7}.png",
                              known.BOTH if n % 2 else known.IMAGE)
        for n in range(40)
    ]  # fmt: skip
    with MBEIRWriter(tmp_path / "data") as writer:
        writer.write_instructions(known.INSTRUCTIONS)
        writer.write_queries("train", [known.query("3:1", ("3:1",))])
        writer.write_pool("global_train", candidates)
        for number in range(7):
            writer.write_image(f"pics/{number}.png", known.png("red", (number + 1, 2)))
    pack(tmp_path / "data", tmp_path / "packed", progress=False)
    decoded, decode = [], corpus.decode_image
    monkeypatch.setattr(corpus, "decode_image", lambda data: decoded.append(data) or decode(data))
    for size in (16, 2):  # a picture of six rows fits a batch, or does not
        decoded.clear()
        module = RetrievalDataModule(tmp_path / "packed", encoding_batch_size=size)
        module.setup("validate")
        module._processor = fakes.FakeProcessor
        batches = list(module.predict_dataloader())
        assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(40))
        assert len(decoded) == len({*decoded}) == 7


def test_a_picture_that_was_changed_is_read_as_it_was(packed):
    data = corpus.PackedCorpus(packed)
    row = int(data.candidate_images.max())
    data.image(row).putpixel((0, 0), (1, 2, 3))
    assert data.image(row).getpixel((0, 0)) == (255, 0, 0)


def test_sorting_reads_no_record(ready, monkeypatch):
    module = ready("validate")
    rows = np.arange(len(module.corpus))
    monkeypatch.setattr("data_modules.shards.Shard.read", None)
    assert len(module.candidate_table().loader(rows)) == 20
    assert len(module.query_table("train").loader(np.arange(48))) == 10


def test_no_rows_give_no_batches_and_unknown_rows_are_refused(ready):
    module = ready("validate", num_workers=2)
    assert list(module.candidate_table().loader(np.empty(0, np.int64))) == []
    with pytest.raises(ValueError, match="rows go from 0 to 96, there are 96 candidates"):
        module.candidate_table().loader(np.array([0, 96]))
    with pytest.raises(ValueError, match="rows go from -1 to 3, there are 5 test queries"):
        module.query_table("test").loader(np.array([-1, 3]))


# --- resume under Lightning


class Snapshots(Callback):
    """Keeps checkpoints of many moments, by name."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"batch_{trainer.current_epoch}_{batch_idx}.ckpt")

    def on_validation_end(self, trainer, module):
        trainer.save_checkpoint(self.folder / f"val_{trainer.current_epoch}_{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer, module):
        trainer.save_checkpoint(self.folder / f"end_{trainer.current_epoch}.ckpt")


MOMENTS = {
    "batch_0_0": 1, "batch_0_5": 6, "batch_0_7": 8, "val_0_4": 4, "val_0_8": 8, "end_0": 8, "batch_1_2": 11,
    "val_1_12": 12, "batch_1_7": 16, "val_1_16": 16, "end_1": 16, "batch_2_3": 20,
}  # fmt: skip


@pytest.mark.parametrize(("workers", "validates"), [(0, False), (0, True), (2, True)])
def test_training_resumes_with_exactly_the_next_batch(packed, fakes, tmp_path, workers, validates):
    def run(ckpt=None, callbacks=()):
        recorder = (Validated if validates else Recorder)(fakes.FakeProcessor())
        data = ValidatedData if validates else RetrievalDataModule
        module = data(packed, batch_size=6, num_workers=workers, seed=4)
        fit(
            recorder,
            module,
            tmp_path,
            ckpt=ckpt,
            callbacks=callbacks,
            val_check_interval=4 if validates else 1.0,
        )
        return [seen[2:] for seen in recorder.seen]

    folder = tmp_path / "checkpoints"
    whole = run(callbacks=[Snapshots(folder)])
    assert len(whole) == len({str(rows) for rows, _ in whole}) == 24
    moments = [moment for moment in MOMENTS if (folder / f"{moment}.ckpt").exists()]
    assert len(moments) == (12 if validates else 8)
    for moment in moments if workers == 0 else ("batch_0_5", "val_0_8"):
        assert run(folder / f"{moment}.ckpt") == whole[MOMENTS[moment] :], moment


@pytest.mark.parametrize("at_end", [True, False])
def test_training_resumes_from_what_model_checkpoint_saves(packed, fakes, tmp_path, at_end):
    saver = ModelCheckpoint(
        tmp_path / "saved", save_top_k=-1, filename="{step}", save_on_train_epoch_end=at_end,
        every_n_epochs=1 if at_end else None, every_n_train_steps=None if at_end else 5,
    )  # fmt: skip
    whole = Recorder(fakes.FakeProcessor())
    fit(whole, RetrievalDataModule(packed, batch_size=6), tmp_path, callbacks=[saver])
    saved = sorted((tmp_path / "saved").iterdir(), key=lambda p: int(p.stem.split("=")[1]))
    steps = [int(path.stem.split("=")[1]) for path in saved]
    assert steps == ([8, 16, 24] if at_end else [5, 10, 15, 20])
    for path, step in zip(saved, steps, strict=True):
        rest = Recorder(fakes.FakeProcessor())
        fit(rest, RetrievalDataModule(packed, batch_size=6), tmp_path, ckpt=path)
        assert [s[2:] for s in rest.seen] == [s[2:] for s in whole.seen[step:]], step


def test_fitting_twice_with_one_data_module_begins_anew(packed, fakes, tmp_path):
    module = RetrievalDataModule(packed, batch_size=6)
    runs = [Recorder(fakes.FakeProcessor()) for _ in range(2)]
    for run in runs:
        fit(run, module, tmp_path, epochs=2)
    assert runs[0].seen == runs[1].seen
    assert len(runs[0].seen) == 16


def test_limited_epochs_begin_where_whole_ones_would(packed, fakes, tmp_path):
    whole, limited = (Recorder(fakes.FakeProcessor()) for _ in range(2))
    fit(whole, RetrievalDataModule(packed, batch_size=6), tmp_path, epochs=2)
    fit(limited, RetrievalDataModule(packed, batch_size=6), tmp_path, epochs=2, limit_train_batches=3)
    assert limited.seen == whole.seen[:3] + whole.seen[8:11]


def test_a_checkpoint_of_another_stream_is_refused(ready):
    first = ready()
    first.load_state_dict({})
    next(iter(first.train_dataloader()))
    state = first.state_dict()
    assert state["samples"] == 6
    with pytest.raises(MisconfigurationException, match="6 samples into epoch 0 of another stream"):
        ready(seed=1).load_state_dict(state)
    with pytest.raises(MisconfigurationException, match=r"use datamodule\.steps_per_epoch"):
        first.load_state_dict(state)
    assert ready("validate").state_dict() == {}


# --- ranks


class TwoRanks:
    """What a data module asks of a trainer on two ranks."""

    def __init__(self, rank, replaces):
        self.distributed_sampler_kwargs = {"rank": rank, "num_replicas": 2}
        self._accelerator_connector = type("Connector", (), {"use_distributed_sampler": replaces})


def test_ranks_share_the_global_batch(packed, ready):
    whole = rows_of(ready().train_dataloader())
    halves = []
    for rank in range(2):
        module = ready("validate", batch_size=3)
        module.trainer = TwoRanks(rank, replaces=False)
        module.setup("fit")
        assert module.steps_per_epoch == 8
        halves.append(rows_of(module.train_dataloader()))
    assert whole == [left + right for left, right in zip(*halves, strict=True)]


def test_lightning_may_not_replace_the_sampler(ready):
    module = ready("validate")
    module.trainer = TwoRanks(0, replaces=True)
    with pytest.raises(MisconfigurationException, match="use_distributed_sampler=False"):
        module.setup("fit")


# --- packing on first use


def test_a_release_folder_is_packed_once_and_again_when_it_changes(data, known, home, monkeypatch):
    module = MBEIRDataModule(data.root, batch_size=2)
    module.prepare_data()
    module.setup("fit")
    assert module.corpus.root.parent == home / "packed"
    assert len(module.queries("train")) == 4
    before = module.corpus.root.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr("data_modules.cached_packing.pack", None)
        module.prepare_data()
        MBEIRDataModule(data.root).prepare_data()
    assert module.corpus.root.stat().st_mtime_ns == before
    data.set(known.POOL.format("train"), 2, txt="ZWEI\u2028Zeilen 🙂")  # as many bytes as before
    data.set(known.POOL.format("test"), 2, txt="ZWEI\u2028Zeilen 🙂")
    again = MBEIRDataModule(data.root, batch_size=2)
    again.prepare_data()
    again.setup("fit")
    assert again.corpus.root != module.corpus.root
    assert again.corpus.candidate_record(1).text == "ZWEI\u2028Zeilen 🙂"


def test_a_packed_folder_is_used_as_it_is(packed, home):
    module = RetrievalDataModule(packed)
    module.prepare_data()
    module.setup("test")
    assert module.corpus.root == packed
    assert not home.exists()


def test_another_process_may_pack_first(data, tmp_path, monkeypatch):
    module = RetrievalDataModule(data.root)

    def slower(root, out):
        pack(root, out, progress=False)
        raise DataError("exists already")

    monkeypatch.setattr("data_modules.cached_packing.pack", slower)
    module.prepare_data()
    module.setup("test")
    assert len(module.corpus) == 5


def test_a_failed_packing_is_reported_and_leaves_nothing(data, home):
    (data.root / "pics/red.png").unlink()
    module = RetrievalDataModule(data.root)
    with pytest.raises(DataError, match=r"image 'pics/red\.png' of '3:1' cannot be read"):
        module.prepare_data()
    assert [*(home / "packed").iterdir()] == []


def test_the_embedded_benchmark_is_drawn_and_packed_once(home, monkeypatch):
    module = EmbeddedDataModule(size=32, batch_size=8)
    module.prepare_data()
    module.setup("fit")
    assert len(module.queries("train").tasks) == 16
    assert module.steps_per_epoch > 0
    assert module.root.parent == home / "embedded"
    with monkeypatch.context() as patch:
        patch.setattr("data_modules.synthetic.benchmark.write_benchmark", None)
        patch.setattr("data_modules.cached_packing.pack", None)
        EmbeddedDataModule(size=32).prepare_data()
    assert EmbeddedDataModule(size=32, data_seed=1).root != module.root


def test_the_cache_folder(monkeypatch, tmp_path):
    assert cache_home() == tmp_path / "home"
    monkeypatch.delenv("MMRETRIEVAL_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_home() == tmp_path / ".cache/mmretrieval"


# --- mistakes


def test_a_missing_or_foreign_root_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        RetrievalDataModule(tmp_path / "nowhere").prepare_data()
    with pytest.raises(DataError, match="is not in the M-BEIR layout"):
        RetrievalDataModule(tmp_path).prepare_data()


def test_a_missing_split_or_pool_is_named(ready, packed, tmp_path):
    with pytest.raises(DataError, match="no queries of split 'val'; there are train, test"):
        ready(train_split="val")
    with pytest.raises(DataError, match="no pool 'global_val'; there are global_train, global_test"):
        ready(train_pool="global_val")
    with pytest.raises(DataError, match="no queries of split 'val'"):
        ready("validate").query_table("val")


def test_an_empty_split_is_named(data, known):
    path = data.edit(known.TRAIN, lambda lines: [])
    with pytest.raises(DataError) as error:
        RetrievalDataModule(data.root).prepare_data()
    assert str(path) in str(error.value)


def test_evaluation_needs_no_training_split(packed, tmp_path):
    root = shutil.copytree(packed, tmp_path / "only_test")
    manifest = json.loads((root / "manifest.json").read_text())
    del manifest["tasks"]["train"]
    (root / "manifest.json").write_text(json.dumps(manifest))
    module = RetrievalDataModule(root)
    module.setup("test")
    assert len(module.queries("test")) == 5
    with pytest.raises(MisconfigurationException, match=r"before setup\('fit'\)"):
        _ = module.steps_per_epoch
    with pytest.raises(DataError, match="no queries of split 'train'"):
        module.setup("fit")


def test_an_unknown_task_in_weights_is_named(ready):
    with pytest.raises(ValueError, match="unknown task nights_task4; the data has alpha_task1, alpha_task0"):
        ready(weights={"nights_task4": 1.0})


def test_a_loader_needs_a_retriever(packed):
    module = RetrievalDataModule(packed, batch_size=6)
    module.setup("fit")
    with pytest.raises(MisconfigurationException, match=r"trainer\.lightning_module\.input_processor"):
        module.train_dataloader()


@pytest.mark.parametrize("fields", [{"encoding_batch_size": 0}, {"num_workers": -1}, {"batch_size": 0}])
def test_numbers_out_of_range_are_named(packed, fields):
    with pytest.raises(ValueError, match=rf"{next(iter(fields))} must be at least"):
        RetrievalDataModule(packed, **fields)


def test_the_package_gives_the_data_modules_by_name():
    assert all(getattr(data_modules, name).__name__ == name for name in data_modules.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = data_modules.Nothing
