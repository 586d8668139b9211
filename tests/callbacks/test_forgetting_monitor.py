"""Multimodal and text retrieval side by side: tables, files, what is logged, and the warning."""

import json
import warnings
from dataclasses import replace

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import BestCheckpoint, ForgettingMonitor, RetrievalEvaluation
from callbacks.forgetting_monitor import Check
from mmretrieval.metrics.evaluation import EvaluationRound, with_average

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
]
FALLEN = "default:Multimodal retrieval has fallen:UserWarning"
MULTIMODAL, TEXT = [0.60, 0.58, 0.62, 0.50], [0.02, 0.10, 0.30, 0.40]


class Scripted(RetrievalEvaluation):
    """Says what a script has for each epoch; a text evaluation has a label and local pools only."""

    def __init__(self, values, label="", **settings):
        super().__init__(headline="hit@5", **settings)
        self.values, self.label = values, label

    @property
    def state_key(self):
        return self._generate_state_key(label=self.label)

    def evaluate(self, trainer, module, epoch=0):
        tasks = {"easy": {"hit@5": self.values[epoch] + 0.1}, "hard": {"hit@5": self.values[epoch] - 0.1}}
        pool = "local" if self.label else "global"
        self.latest = EvaluationRound(epoch, trainer.global_step, 0.0, {pool: with_average(tasks)})
        return self.latest

    def _write(self, *_):
        pass


@pytest.fixture
def fit(fakes, module, data, tmp_path):
    def run(*callbacks, **settings):
        trainer = fakes.make_trainer(tmp_path, callbacks, **settings)
        trainer.fit(module, datamodule=data)
        return trainer

    return run


def evaluations():
    return Scripted(MULTIMODAL), Scripted(TEXT, "text")


@pytest.mark.filterwarnings(FALLEN)
def test_each_check_is_recorded(fit, tmp_path, capsys):
    logger = TensorBoardLogger(tmp_path, "board", "")
    monitor = ForgettingMonitor()
    with pytest.warns(UserWarning, match="Multimodal retrieval has fallen") as caught:
        trainer = fit(*evaluations(), monitor, logger=logger)
    said = [str(warning.message) for warning in caught if "fallen" in str(warning.message)]
    assert [text.split("since")[0] for text in said] == [
        f"Multimodal retrieval has fallen by {points} points " for points in ("2.0", "10.0")
    ]
    assert "more than the margin of 1; most in easy (-10.0), hard (-10.0)." in said[-1]
    expected = [Check(n, 3 * n, m, t) for n, (m, t) in enumerate(zip(MULTIMODAL, TEXT, strict=True))]
    found = monitor.checks(trainer)
    assert [(c.epoch, c.step) for c in found] == [(c.epoch, c.step) for c in expected]
    assert [c.mean for c in found] == pytest.approx([0.31, 0.34, 0.46, 0.45])
    document = json.loads((tmp_path / "forgetting.json").read_text())
    assert document["margin"] == 0.01
    assert [check["text"] for check in document["checks"]] == pytest.approx(TEXT)
    assert (tmp_path / "forgetting.png").stat().st_size > 1000
    shown = capsys.readouterr().out
    assert "│ epoch 3 │    9 │             50.0 │  -10.0 │       40.0 │  +38.0 │ 45.0 │" in shown
    board = EventAccumulator(str(tmp_path / "board"), {"images": 0}).Reload()
    assert [(e.step, e.value) for e in board.Scalars("forgetting/multimodal_change")] == [
        (0, 0.0), (3, pytest.approx(-0.02)), (6, pytest.approx(0.02)), (9, pytest.approx(-0.1)),
    ]  # fmt: skip
    assert len(board.Images("forgetting")) == 4
    assert "custom_scalars__config__" in board.Tags()["tensors"]


def test_the_best_state_is_that_of_the_best_mean(fit, tmp_path):
    best = BestCheckpoint("forgetting/mean")
    best.on_train_epoch_end = lambda trainer, module: means.append(
        float(trainer.callback_metrics["forgetting/mean"])
    )
    means = []
    fit(*evaluations(), ForgettingMonitor(margin=1), best, enable_checkpointing=True)
    assert means == pytest.approx([0.34, 0.46, 0.45])


def test_within_the_margin_nobody_is_warned(fit):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(*evaluations(), ForgettingMonitor(margin=0.11))
    assert not [w for w in caught if "Multimodal retrieval" in str(w.message)]


def test_epochs_without_both_evaluations_have_no_check(fit):
    monitor = ForgettingMonitor(margin=1)
    text = Scripted(TEXT, "text", every_n_epochs=2)
    trainer = fit(Scripted(MULTIMODAL), text, monitor)
    assert [check.epoch for check in monitor.checks(trainer)] == [0, 2, 3]


def test_what_is_missing_is_said_before_training(fit):
    multimodal, text = evaluations()
    with pytest.raises(MisconfigurationException, match=r"list callbacks\.RetrievalEvaluation before"):
        fit(ForgettingMonitor(), multimodal, text)
    with pytest.raises(MisconfigurationException, match="no text evaluation with the label 'text'"):
        fit(multimodal, ForgettingMonitor())
    with pytest.raises(MisconfigurationException, match="set before_training of Scripted to true"):
        fit(multimodal, Scripted(TEXT, "text", before_training=False), ForgettingMonitor())
    with pytest.raises(ValueError, match="margin must be at least 0, found -1"):
        ForgettingMonitor(margin=-1)


def test_a_dry_run_writes_nothing(fit, tmp_path):
    fit(*evaluations(), ForgettingMonitor(margin=1), fast_dev_run=True)
    assert not list(tmp_path.glob("forgetting*"))


def test_a_resumed_run_compares_with_its_first_start(fit, fakes, module, data, tmp_path):
    fit(*evaluations(), ForgettingMonitor(margin=1), max_epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    monitor = ForgettingMonitor(margin=1)
    trainer = fakes.make_trainer(tmp_path, [*evaluations(), monitor], max_epochs=2)
    trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "one.ckpt", weights_only=False)
    assert [replace(c, text=0, multimodal=0) for c in monitor.checks(trainer)] == [
        Check(0, 0, 0, 0), Check(1, 3, 0, 0), Check(2, 6, 0, 0),
    ]  # fmt: skip
