"""The projector's files: readable, their rows aligned, the sample always the same, written by one rank."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageChops
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from training_runs import as_rank

from callbacks.embedding_projector import HEADER, EmbeddingProjector
from callbacks.projector_tiles import PAPER, QUERY_FRAME, tile
from callbacks.retrieval_evaluation import RetrievalEvaluation
from data_modules.corpus import PackedCorpus
from mmretrieval.content import MODALITIES, Content, Modality

SIDE = 24
BLUE, PAPER_RGB = (31, 111, 214), (244, 241, 230)


def fit(tmp_path, fakes, module, data, projector, **settings):
    evaluation = RetrievalEvaluation(embeddings=tmp_path / "embeddings", before_training=False)
    logger = TensorBoardLogger(tmp_path, name="log", version="")
    trainer = fakes.make_trainer(tmp_path, [evaluation, projector], logger=logger, **settings)
    trainer.fit(module, datamodule=data)
    return trainer, evaluation


def read(folder: Path):
    """Name, vectors, labels and tiles of each embedding that the projector's list names."""
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    for info in config.embeddings:
        vectors = np.loadtxt(folder / info.tensor_path, delimiter="\t", ndmin=2)
        header, *labels = [
            line.split("\t") for line in (folder / info.metadata_path).read_text("utf-8").splitlines()
        ]
        assert tuple(header) == HEADER
        width, height = info.sprite.single_image_dim
        with Image.open(folder / info.sprite.image_path) as sprite:
            across = sprite.width // width
            tiles = [
                sprite.convert("RGB").crop((x * width, y * height, (x + 1) * width, (y + 1) * height))
                for y in range(sprite.height // height)
                for x in range(across)
            ]
        yield info.tensor_name, vectors, labels, tiles[: len(labels)]


def test_vectors_labels_and_tiles_are_those_of_the_same_contents(tmp_path, fakes, module, data):
    projector = EmbeddingProjector(n_queries_per_task=3, n_candidates_per_modality=5, tile_side=SIDE)
    trainer, _ = fit(tmp_path, fakes, module, data, projector)
    ((name, vectors, labels, tiles),) = read(tmp_path / "log")
    assert name == f"retrieval:{trainer.global_step:05}"
    assert len(vectors) == len(labels) == len(tiles) > 2 * 3 + 3 * 5 - 1
    corpus, queries = data.corpus, data.queries("test")
    expected = {"query": data.vectors(module, "test"), "candidate": data.vectors(module, "candidates")}
    rows = {"query": queries.ids.astype(str).tolist().index, "candidate": corpus.candidate_row}
    for vector, (id_, what, task, modality, text), shown in zip(vectors, labels, tiles, strict=True):
        row = rows[what](id_)
        np.testing.assert_allclose(vector, expected[what][row], atol=2e-6)
        content = (queries.asked(row, 0) if what == "query" else corpus.candidate(row)).content
        assert (modality, text) == (content.modality.value, content.text or "-")
        drawn = tile(content, SIDE, query=what == "query")
        assert np.abs(np.subtract(shown, drawn, dtype=int)).max() <= 1  # of 255, by rounding
        if what == "query":
            assert task == queries.tasks[queries.task_of[row]]
        else:
            own = [t for t in queries.tasks if row in corpus.pools[queries.local_pool(t)]]
            assert task == (own[0] if own else "-")


def test_the_sample_has_every_task_with_positives_and_every_modality(packed):
    queries = PackedCorpus(packed).queries("test")
    sample = EmbeddingProjector(4, 7).sample(queries)
    again = EmbeddingProjector(4, 7).sample(PackedCorpus(packed).queries("test"))
    assert sample.queries.tolist() == again.queries.tolist()
    assert sample.candidates.tolist() == again.candidates.tolist()
    tasks, counts = np.unique(queries.task_of[sample.queries], return_counts=True)
    assert len(tasks) == len(queries.tasks)
    assert set(counts.tolist()) == {4}
    positives = {int(queries.positives(int(row))[0]) for row in sample.queries}
    assert positives <= set(sample.candidates.tolist())
    kinds = queries.corpus.candidate_modalities[sample.candidates]
    assert all((kinds == modality.code).sum() >= 7 for modality in MODALITIES)


def test_a_fit_is_written_at_its_end_and_a_second_command_replaces_it(tmp_path, fakes, module, data):
    trainer, _ = fit(tmp_path, fakes, module, data, EmbeddingProjector(1, 2), max_epochs=2)
    folders = [path.name for path in (tmp_path / "log").iterdir() if path.is_dir()]
    assert folders == [f"{trainer.global_step:05}"], "only the last round"
    (left := tmp_path / "log" / folders[0] / "retrieval/left_over").touch()
    trainer.test(module, datamodule=data, verbose=False)
    assert not left.exists()
    assert len([*read(tmp_path / "log")][-1][2]) > 0


@pytest.mark.parametrize("command", ["validate", "test"])
def test_single_evaluations_are_written_too(tmp_path, fakes, module, data, command):
    logger = TensorBoardLogger(tmp_path, name="log", version="")
    callbacks = [RetrievalEvaluation(), EmbeddingProjector(2, 2)]
    getattr(fakes.make_trainer(tmp_path, callbacks, logger=logger), command)(
        module, datamodule=data, verbose=False
    )
    assert len([*read(tmp_path / "log")]) == 1


@pytest.mark.filterwarnings("ignore:.*global_test")
def test_without_a_global_pool_the_tasks_own_are_shown(tmp_path, fakes, module):
    fakes.pack(fakes.write(tmp_path / "raw", global_test=False), tmp_path / "packed", progress=False)
    data = fakes.FakeData(fakes.PackedCorpus(tmp_path / "packed"))
    fit(tmp_path, fakes, module, data, EmbeddingProjector(2, 4), max_epochs=1)
    ((_, _, labels, _),) = read(tmp_path / "log")
    shown = {modality for _, what, _, modality, _ in labels if what == "candidate"}
    assert shown == {Modality.TEXT.value, Modality.IMAGE.value}, "no pool has the third one"


def test_a_text_is_written_a_picture_shown_and_a_query_framed():
    blank = Image.new("RGB", (32, 32), PAPER)
    assert ImageChops.difference(tile(Content("words"), 32, query=False), blank).getbbox()
    assert tile(Content("words"), 32, query=False) != tile(Content("other"), 32, query=False)
    picture = tile(Content("words", Image.new("RGB", (64, 16), (9, 200, 30))), 32, query=False)
    assert picture.getpixel((16, 16)) == (9, 200, 30)
    assert picture.getpixel((16, 1)) == PAPER_RGB  # its shape is kept
    framed = tile(Content("words"), 32, query=True)
    assert framed.getpixel((0, 0)) == BLUE
    assert "#{:02x}{:02x}{:02x}".format(*BLUE) == QUERY_FRAME


@pytest.mark.parametrize("text", ["x" * 4000, "語 " * 300, "a\nb\tc", "   "])
def test_any_text_can_be_drawn(text):
    assert tile(Content(text), 8, query=False).size == (8, 8)


@pytest.mark.filterwarnings("ignore:EmbeddingProjector writes nothing")
def test_a_dry_run_writes_nothing_and_a_missing_logger_is_said(tmp_path, fakes, module, data):
    callbacks = [RetrievalEvaluation(), EmbeddingProjector()]
    fakes.make_trainer(tmp_path, callbacks, fast_dev_run=True).fit(module, datamodule=data)
    assert list(tmp_path.iterdir()) == []
    with pytest.warns(UserWarning, match="no TensorBoardLogger"):
        fakes.make_trainer(tmp_path, callbacks).test(module, datamodule=data, verbose=False)


def test_it_must_be_listed_after_the_evaluation(tmp_path, fakes, module, data):
    trainer = fakes.make_trainer(tmp_path, [EmbeddingProjector(), RetrievalEvaluation()])
    with pytest.raises(MisconfigurationException, match=r"before callbacks\.EmbeddingProjector"):
        trainer.test(module, datamodule=data)


@pytest.mark.parametrize("numbers", [(0, 1, 48), (1, 0, 48), (1, 1, 7)])
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(ValueError, match="at least 1"):
        EmbeddingProjector(*numbers)


def test_other_ranks_write_nothing(tmp_path, fakes, module, data, monkeypatch):
    projector = EmbeddingProjector(1, 1)
    trainer, _ = fit(tmp_path, fakes, module, data, projector, max_epochs=1)
    (written,) = (path for path in (tmp_path / "log").iterdir() if path.is_dir())
    shutil.rmtree(written)
    monkeypatch.setattr(type(trainer), "is_global_zero", False)
    projector.on_test_start(trainer, module)
    assert not written.exists()


def _test_on_rank(packed, folder, rank, world):
    # Only the spawned processes have the repository's root on their path.
    from lightning.pytorch.strategies import DDPStrategy

    from tests.callbacks import conftest as fakes

    as_rank(rank, world)
    evaluation = RetrievalEvaluation(embeddings=folder / "embeddings", before_training=False)
    logger = TensorBoardLogger(folder, name=f"log of {rank}", version="")
    trainer = fakes.make_trainer(
        folder,
        [evaluation, EmbeddingProjector(2, 2)],
        logger=logger,
        devices=world,
        strategy=DDPStrategy(),
        use_distributed_sampler=False,
    )
    trainer.test(fakes.FakeModule(), datamodule=fakes.FakeData(PackedCorpus(packed)), verbose=False)
    return rank


@pytest.mark.slow
def test_of_two_ranks_one_writes(run_on_ranks, packed, tmp_path):
    folder = tmp_path / "run"
    run_on_ranks(partial(_test_on_rank, packed, folder))
    assert len([*read(folder / "log of 0")]) == 1
    assert not list((folder).glob("log of 1/**/*.tsv"))
