"""What a second stage gains in text retrieval and loses in multimodal retrieval, while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from rich.table import Table
from typing_extensions import override

from callbacks.collaborators import is_dry_run, listed_before
from callbacks.evaluation_files import write_json
from callbacks.markdown import percent
from callbacks.retrieval_evaluation import RetrievalEvaluation
from callbacks.terminal import console
from data_modules.atomic import staged_file
from mmretrieval.metrics.evaluation import AVERAGE, EvaluationRound, is_average

_NAMED_TASKS = 3
_LAYOUT = {"stage 2": {"forgetting": ["Multiline", ["forgetting/(multimodal|text|mean)$"]]}}
"""A chart with all lines, under TensorBoard's custom scalars."""


@dataclass(frozen=True, slots=True)
class Check:
    """Both evaluations of the same weights.

    Args:
        epoch: How many epochs were finished, 0 before training.
        step: How many optimizer steps were done.
        multimodal: Average over the multimodal tasks, between 0 and 1.
        text: Average over the text data sets, between 0 and 1.
    """

    epoch: int
    step: int
    multimodal: float
    text: float

    @property
    def mean(self) -> float:
        """The mean of both, by which the best state is chosen."""
        return (self.multimodal + self.text) / 2


class ForgettingMonitor(Callback):
    """Shows multimodal and text retrieval side by side, and warns when the first falls.

    Reads the headline averages of a :class:`~callbacks.RetrievalEvaluation` (in the global pool where the
    data has one) and of a :class:`~callbacks.TextEvaluation`, which are listed before it and evaluate at the
    same epochs, and before training as well: the first values are what later ones are compared with. After
    each evaluation it prints a table, writes ``forgetting.json`` and ``forgetting.png``, and logs
    ``forgetting/multimodal``, ``/text``, ``/mean`` and both changes; TensorBoard's custom scalars show them
    in one chart. ``forgetting/mean`` is what :class:`~callbacks.BestCheckpoint` may monitor.

    Args:
        margin: Warn when multimodal retrieval is lower than at the start by more than this; 0.01 is one
            point of a percentage.
        label: Of the text evaluation.
        folder: Where the files go, beside the evaluation's ``metrics.json`` by default.

    Raises:
        ValueError: If the margin is negative.
        MisconfigurationException: From ``setup``, if one of the evaluations is missing, is listed later, or
            does not evaluate before training.
    """

    def __init__(self, margin: float = 0.01, label: str = "text", folder: Path | None = None) -> None:
        super().__init__()
        if not margin >= 0:
            raise ValueError(f"margin must be at least 0, found {margin}.")
        self.margin, self.label, self.folder = margin, label, folder

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        for evaluation in (self._multimodal(trainer), self._text(trainer)):
            if not evaluation.before_training:
                raise MisconfigurationException(
                    f"ForgettingMonitor compares with the start: set before_training of "
                    f"{type(evaluation).__name__} to true."
                )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment.add_custom_scalars(_LAYOUT)
        checks = self.checks(trainer)
        if trainer.global_step == 0 and checks:
            self._record(trainer, checks)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        checks = self.checks(trainer)
        if not checks or checks[-1].epoch != trainer.current_epoch + 1:
            return  # an epoch without evaluation
        self._record(trainer, checks)
        for name, value in _scalars(checks).items():  # what other callbacks monitor
            pl_module.log(name, value, on_step=False, on_epoch=True, logger=False, sync_dist=True)
        fallen = checks[0].multimodal - checks[-1].multimodal
        if fallen > self.margin:
            rank_zero_warn(
                f"Multimodal retrieval has fallen by {100 * fallen:.1f} points since the start, more than "
                f"the margin of {100 * self.margin:g}; most in {self._losers(trainer)}. More multimodal data "
                "(data.text_share), a lower learning rate, distillation or souping keep more of it."
            )

    def checks(self, trainer: Trainer) -> list[Check]:
        """All moments at which both were evaluated, those before a resumption as well."""
        multimodal, text = self._multimodal(trainer), self._text(trainer)
        texts = {done.step: done for done in text.history}
        return [
            Check(done.epoch, done.step, _headline(multimodal, done), _headline(text, texts[done.step]))
            for done in multimodal.history
            if done.step in texts
        ]

    def _record(self, trainer: Trainer, checks: Sequence[Check]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(_scalars(checks), step=trainer.global_step)
        if not trainer.is_global_zero:
            return
        multimodal, text = self._multimodal(trainer), self._text(trainer)
        table = comparison(checks, multimodal.headline, text.headline)
        screen = console()
        with screen.capture() as rendered:
            screen.print(table)
        trainer.print(rendered.get())
        if is_dry_run(trainer):
            return
        folder = self.folder if self.folder is not None else multimodal.output_folder(trainer)
        names = {"multimodal": multimodal.headline, "text": text.headline, "margin": self.margin}
        write_json(folder / "forgetting.json", {**names, "checks": [asdict(check) for check in checks]})
        figure = curves(checks, multimodal.headline, text.headline)
        with staged_file(folder / "forgetting.png") as path:
            figure.savefig(path, format="png", dpi=120)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("forgetting", figure, trainer.global_step)

    def _losers(self, trainer: Trainer) -> str:
        """The tasks that fell most, with how far."""
        history = self._multimodal(trainer).history
        name = self._multimodal(trainer).headline
        before, now = (done.pool_table() for done in (history[0], history[-1]))
        falls = {
            task: before[task][name] - values[name]
            for task, values in now.items()
            if not is_average(task) and name in values and name in before.get(task, {})
        }
        worst = sorted(falls, key=lambda task: -falls[task])[:_NAMED_TASKS]
        return ", ".join(f"{task} ({-100 * falls[task]:+.1f})" for task in worst)

    def _multimodal(self, trainer: Trainer) -> RetrievalEvaluation:
        return listed_before(trainer, self, RetrievalEvaluation)

    def _text(self, trainer: Trainer) -> RetrievalEvaluation:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set by a connector
        for found in callbacks[: callbacks.index(self)]:
            if isinstance(found, RetrievalEvaluation) and found.label == self.label:
                return found
        raise MisconfigurationException(
            f"ForgettingMonitor found no text evaluation with the label {self.label!r}: list a "
            "callbacks.TextEvaluation of that label before it."
        )


def _headline(evaluation: RetrievalEvaluation, done: EvaluationRound) -> float:
    return done.pool_table()[AVERAGE][evaluation.headline]


def _scalars(checks: Sequence[Check]) -> dict[str, float]:
    first, last = checks[0], checks[-1]
    return {
        "forgetting/multimodal": last.multimodal,
        "forgetting/text": last.text,
        "forgetting/mean": last.mean,
        "forgetting/multimodal_change": last.multimodal - first.multimodal,
        "forgetting/text_change": last.text - first.text,
    }


def comparison(checks: Sequence[Check], multimodal: str, text: str) -> Table:
    """The table for the terminal: a check a row, in percent, with the changes since the first.

    Args:
        checks: At least one.
        multimodal: Name of the multimodal measure.
        text: Name of the text measure.
    """
    table = Table(title="Multimodal and text retrieval, in percent")
    for heading in ("after", "step", f"multimodal {multimodal}", "change", f"text {text}", "change", "mean"):
        table.add_column(heading, justify="right", no_wrap=True)
    first = checks[0]
    for check in checks:
        changes = (check.multimodal - first.multimodal, check.text - first.text)
        multimodal_change, text_change = ("" if check is first else f"{100 * c:+.1f}" for c in changes)
        table.add_row(
            f"epoch {check.epoch}" if check.step else "start",
            str(check.step),
            percent(check.multimodal),
            multimodal_change,
            percent(check.text),
            text_change,
            percent(check.mean),
        )
    return table


def curves(checks: Sequence[Check], multimodal: str, text: str) -> Figure:
    """Both averages over optimizer steps, and where each began.

    Args:
        checks: At least one.
        multimodal: Name of the multimodal measure.
        text: Name of the text measure.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    steps = [check.step for check in checks]
    for name, kind in (("multimodal", multimodal), ("text", text)):
        values = [100 * getattr(check, name) for check in checks]
        (line,) = axes.plot(steps, values, marker="o", label=f"{name} {kind}")
        axes.axhline(values[0], color=line.get_color(), linestyle=":", alpha=0.6)
    axes.set(xlabel="optimizer steps", ylabel="average over tasks, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
