from pathlib import Path

import numpy as np
import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.gallery_drawing import rendered
from callbacks.retrieval_evaluation import RetrievalEvaluation
from callbacks.retrieval_gallery import (
    WRONG_MODALITY,
    Found,
    Hit,
    RetrievalGallery,
    draw_gallery,
    found_by,
)
from data_modules.corpus import PackedCorpus
from mmretrieval.content import Content, Query
from mmretrieval.metrics.ranked import Ranking

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
]

GREEN, RED = (42, 157, 58), (214, 39, 40)


def hit(text="some text", color=None, *, relevant=True, asked_modality=True):
    image = Image.new("RGB", (20, 10), color) if color else None
    return Hit(Content(text, image), 0.5, relevant, asked_modality)


def found(*hits, instruction="Find it."):
    return Found(Query(Content("a question"), instruction), hits)


def has(picture, color):
    return bool((np.abs(picture.astype(int) - color).sum(axis=-1) <= 3).any())


def titles(figure):
    return [cell.get_title() for cell in figure.axes]


@pytest.mark.parametrize(("relevant", "frame", "other"), [(True, GREEN, RED), (False, RED, GREEN)])
def test_the_frame_says_whether_a_candidate_is_relevant(relevant, frame, other):
    picture = rendered(draw_gallery("task", [found(hit(relevant=relevant))]))
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert has(picture, frame)
    assert not has(picture, other)


def test_only_candidates_of_another_modality_are_marked():
    figure = draw_gallery("task", [found(hit(), hit(asked_modality=False), hit(relevant=False))])
    assert [WRONG_MODALITY in title for title in titles(figure)] == [False, False, True, False]
    assert titles(figure)[0] == "query"
    assert titles(figure)[1].startswith("1 ")


def test_pictures_and_texts_are_shown():
    row = found(hit(None, (1, 200, 250)), hit("an answer", (250, 240, 3)), hit("only words"))
    figure = draw_gallery("task", [row])
    picture = rendered(figure)
    assert has(picture, (1, 200, 250))
    assert has(picture, (250, 240, 3))
    query, first, second, third = figure.axes
    assert query.texts[0].get_text() == "[Find it.]\na question"
    assert not first.texts
    assert second.get_xlabel() == "an answer"
    assert third.texts[0].get_text() == "only words"


def test_rows_with_fewer_hits_leave_cells_empty():
    figure = draw_gallery("task", [found(hit(), hit()), found(hit())])
    assert [cell.axison for cell in figure.axes] == [True] * 5 + [False]


@pytest.mark.parametrize(
    "text", ["costs $5 or $x^", "x" * 4000, "語 " * 300, "a\nb\tc", "{}", "\\frac{", "   "]
)
def test_any_text_can_be_drawn(text):
    row = Found(Query(Content(text), text), (hit(text), hit(text, (9, 9, 9))))
    picture = rendered(draw_gallery(text[:40], [row]))
    assert has(picture, GREEN)


def test_found_reads_the_corpus_and_knows_positives_and_modalities(packed):
    queries = PackedCorpus(packed).queries("test")
    corpus = queries.corpus
    positive = int(queries.positives(3)[0])
    target = int(queries.target_modality[3])
    wrong = int(np.flatnonzero(corpus.candidate_modalities != target)[0])
    others = set(np.flatnonzero(corpus.candidate_modalities == target)) - set(queries.positives(3))
    rows = np.array([[wrong, positive, int(min(others)), -1]])
    ranking = Ranking(np.array([3]), rows, np.array([[0.9, 0.8, 0.7, -np.inf]], dtype=np.float32))

    (row,) = found_by(queries, ranking, n_queries=2, top_k=4)
    assert row.query.content.text == queries.record(3).text
    assert row.query.instruction == "Find it."
    assert [(each.relevant, each.asked_modality) for each in row.hits] == [
        (False, False),
        (True, True),
        (False, True),
    ]
    assert [each.score for each in row.hits] == pytest.approx([0.9, 0.8, 0.7])
    assert row.hits[1].content.text == corpus.candidate(positive).content.text
    (cut,) = found_by(queries, ranking, n_queries=1, top_k=2)
    assert len(cut.hits) == 2


def test_the_same_queries_are_shown_whatever_was_found(packed):
    queries = PackedCorpus(packed).queries("test")
    asked = np.arange(10)
    shown = []
    for shift in (0, 7):
        rows = (np.arange(20).reshape(10, 2) + shift) % 90
        ranking = Ranking(asked, rows, np.zeros((10, 2), dtype=np.float32))
        shown.append([each.query.content.text for each in found_by(queries, ranking, n_queries=3, top_k=2)])
    assert shown[0] == shown[1]
    assert len(set(shown[0])) == 3


def pictures(folder: Path) -> dict[str, list[int]]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}


def test_each_round_is_drawn_once_for_each_task(tmp_path, fakes, module, data):
    callbacks = [RetrievalEvaluation(every_n_epochs=2), RetrievalGallery(n_queries_per_task=2)]
    logger = TensorBoardLogger(tmp_path, name="log", version="")
    trainer = fakes.make_trainer(tmp_path, callbacks, logger=logger, max_epochs=4)
    trainer.fit(module, datamodule=data)
    steps = [done.step for done in callbacks[0].history]
    assert len(steps) == 3
    assert pictures(tmp_path / "log") == {"gallery/alpha_task0": steps, "gallery/beta_task1": steps}
    files = sorted(path.name for path in (tmp_path / "gallery").iterdir())
    assert files == ["alpha_task0.png", "beta_task1.png"]
    with Image.open(tmp_path / "gallery/alpha_task0.png") as image:
        assert image.format == "PNG"
        assert image.width > image.height > 200


@pytest.mark.parametrize("command", ["validate", "test"])
def test_single_evaluations_are_drawn_too(tmp_path, fakes, module, data, command):
    trainer = fakes.make_trainer(
        tmp_path, [RetrievalEvaluation(), RetrievalGallery(folder=tmp_path / "seen")]
    )
    getattr(trainer, command)(module, datamodule=data, verbose=False)
    assert len(list((tmp_path / "seen").glob("*.png"))) == 2


@pytest.mark.filterwarnings("ignore:.*global_test")
def test_without_a_global_pool_the_local_ones_are_shown(tmp_path, fakes, module):
    fakes.pack(fakes.write(tmp_path / "raw", global_test=False), tmp_path / "packed", progress=False)
    data = fakes.FakeData(fakes.PackedCorpus(tmp_path / "packed"))
    trainer = fakes.make_trainer(tmp_path, [RetrievalEvaluation(), RetrievalGallery()])
    trainer.test(module, datamodule=data, verbose=False)
    assert len(list((tmp_path / "gallery").glob("*.png"))) == 2


def test_a_dry_run_writes_no_file(tmp_path, fakes, module, data):
    gallery = RetrievalGallery()
    trainer = fakes.make_trainer(tmp_path, [RetrievalEvaluation(), gallery], fast_dev_run=True)
    trainer.fit(module, datamodule=data)
    assert gallery._shown is not None, "it was drawn"
    assert list(tmp_path.iterdir()) == []


def test_it_must_be_listed_after_the_evaluation(tmp_path, fakes, module, data):
    for callbacks in ([RetrievalGallery()], [RetrievalGallery(), RetrievalEvaluation()]):
        trainer = fakes.make_trainer(tmp_path, callbacks)
        with pytest.raises(MisconfigurationException, match=r"before callbacks\.RetrievalGallery"):
            trainer.fit(module, datamodule=data)


@pytest.mark.parametrize("arguments", [{"n_queries_per_task": 0}, {"top_k": 0}])
def test_numbers_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        RetrievalGallery(**arguments)
