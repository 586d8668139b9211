"""Mined negatives are shown beside the positive that they were mined for."""

import numpy as np
import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import HardNegativeMining, MiningSchedule, NegativesGallery
from callbacks.gallery_drawing import GREEN, ORANGE, RED
from mmretrieval.mining import MiningPlan

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning"
)


def test_each_round_is_drawn_for_each_task(fakes, tmp_path, module, data):
    mining, gallery = HardNegativeMining(MiningPlan(negatives_per_query=2)), NegativesGallery()
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer = fakes.make_trainer(tmp_path, [mining, gallery], logger=logger)
    trainer.fit(module, datamodule=data)
    names = sorted(path.name for path in (tmp_path / "gallery/negatives").iterdir())
    assert names == [f"{task}.png" for task in sorted(data.queries("train").tasks)]
    picture = np.asarray(Image.open(tmp_path / "gallery/negatives" / names[0]).convert("RGB"))
    colors = {tuple(color) for color in picture.reshape(-1, 3).tolist()}
    assert tuple(bytes.fromhex(GREEN[1:])) in colors
    assert {tuple(bytes.fromhex(color[1:])) for color in (RED, ORANGE)} & colors
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = [tag for tag in events.Tags()["images"] if tag.startswith("negatives/")]
    assert [image.step for tag in tags[:1] for image in events.Images(tag)] == [3, 6]
    assert len(tags) == len(names)


def test_rounds_before_and_within_epochs_are_drawn_once_each_with_their_own_step(
    fakes, tmp_path, module, data, monkeypatch
):
    drawn = []

    def note(trainer, tag, path, figure):
        drawn.append((tag.removeprefix("negatives/"), figure.get_suptitle(), trainer.global_step))

    monkeypatch.setattr("callbacks.negatives_gallery.record", note)
    schedule = MiningSchedule(before_training=True, every_n_steps=2)
    mining = HardNegativeMining(schedule=schedule)
    trainer = fakes.make_trainer(tmp_path, [mining, NegativesGallery()], max_epochs=2)
    trainer.fit(module, datamodule=data)
    steps = [done.step for done in mining.reports]
    assert steps == [0, 2, 4], "before the first step, in the first epoch and in the second"
    expected = [(task, step) for step in steps for task in data.queries("train").tasks]
    assert [(task, step) for task, _, step in drawn] == expected
    assert [title for _, title, _ in drawn] == [
        f"{task} · negatives of step {step}" for task, step in expected
    ]


def test_rows_hold_the_positive_and_the_negatives_in_order(fakes, tmp_path, module, data):
    mining = HardNegativeMining(MiningPlan(negatives_per_query=3))
    trainer = fakes.make_trainer(tmp_path, [mining])
    trainer.datamodule = data
    mining.mine(trainer, module)
    queries, table = data.queries("train"), mining.latest
    rows = dict(NegativesGallery(n_queries_per_task=2)._rows(queries, table))
    assert [len(part) for part in rows.values()] == [2, 2]
    for task, shown in rows.items():
        members = np.flatnonzero(queries.task_of == queries.tasks.index(task))[:2]
        for query, row in zip(members.tolist(), shown, strict=True):
            positive, *negatives = row.cards
            expected = data.corpus.candidate(int(queries.positives(query)[0])).content
            assert (positive.content.text, positive.color) == (expected.text, GREEN)
            entries = table.entries_of(str(queries.ids[query]))
            assert [card.title.split("\n")[1] for card in negatives] == [
                f"rank {entry.rank} · {entry.score:.3f}" for entry in entries
            ]


def test_it_needs_mining_before_it(fakes, tmp_path, module, data):
    for callbacks in ([NegativesGallery()], [NegativesGallery(), HardNegativeMining()]):
        with pytest.raises(MisconfigurationException, match=r"before callbacks\.NegativesGallery"):
            fakes.make_trainer(tmp_path, callbacks).fit(module, datamodule=data)
    with pytest.raises(ValueError, match="n_queries_per_task must be at least 1, found 0"):
        NegativesGallery(0)
