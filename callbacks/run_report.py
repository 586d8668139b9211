"""What a run achieved: a table in the terminal, and a report to keep."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from rich.table import Table
from typing_extensions import override

from callbacks.blend_shares import BlendShares
from callbacks.collaborators import is_dry_run
from callbacks.environment import environment
from callbacks.evaluation_report import report_of
from callbacks.hard_negative_mining import HardNegativeMining
from callbacks.markdown import Section, percent, record_tables
from callbacks.mining_round import MiningRound
from callbacks.retrieval_evaluation import RetrievalEvaluation
from callbacks.terminal import console
from data_modules.atomic import staged_file
from mmretrieval.metrics.evaluation import AVERAGE, GLOBAL, LOCAL, MODALITY_ACCURACY, EvaluationRound

_SHOWN_ROUNDS = 4  # in a cell of the terminal's table
Column = tuple[str, str, str]
"""Heading, pool, name of the measure."""


class RunReport(Callback):
    """Shows a summary when a fit ends, and writes ``report.md`` with ``curves.png``.

    Tables and curves are of the split that each round measures; a final split has tables of its own.

    After ``validate`` and ``test`` it writes ``report_<command>.md``, in which nothing differs between
    machines. TensorBoard has the same tables. Reads every :class:`~callbacks.RetrievalEvaluation` and, if
    there is one, :class:`~callbacks.HardNegativeMining` of the same trainer. Under ``fast_dev_run`` no file
    is written.

    Args:
        folder: Where to write, beside the evaluation's ``metrics.json`` by default.

    Raises:
        MisconfigurationException: From ``setup``, if the trainer has no RetrievalEvaluation.
    """

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.folder = folder
        self._started = time.perf_counter()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._started = time.perf_counter()
        _evaluations_of(trainer)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        evaluation, *others = _evaluations_of(trainer)
        if not trainer.is_global_zero or not evaluation.history:
            return
        shown_all = [
            part for shown in (evaluation, *others) for part in shown.of_stage("fit") if part.history
        ]
        for shown in shown_all:
            console().print(summary_table(shown))
        if is_dry_run(trainer):
            return
        folder = self.folder if self.folder is not None else evaluation.output_folder(trainer)
        with staged_file(folder / "curves.png") as path:
            curves(evaluation).savefig(path, format="png", dpi=120)
        with staged_file(folder / "report.md") as path:
            path.write_text(self._text(trainer, pl_module, shown_all), "utf-8")
        for shown in shown_all:
            record_tables(trainer, _results(shown), trainer.global_step)
        trainer.print(f"Report: {folder / 'report.md'}")

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._report_single(trainer, "validate")

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report_single(trainer, "test")

    def _report_single(self, trainer: Trainer, command: str) -> None:
        if not trainer.is_global_zero or is_dry_run(trainer):
            return
        asked = (part for found in _evaluations_of(trainer) for part in found.of_stage(command))
        for evaluation in asked:
            if evaluation.latest is None:
                continue
            queries = evaluation.data(trainer).queries(evaluation.split)
            what = f"{evaluation.label} {evaluation.shown_split}".strip()
            text, sections = report_of(f"Evaluation of {what}", evaluation, queries)
            folder = self.folder if self.folder is not None else evaluation.output_folder(trainer)
            file = folder / f"report{evaluation.file_suffix}_{command}.md"
            with staged_file(file) as path:
                path.write_text(text, "utf-8")
            record_tables(trainer, [_labelled(evaluation, part) for part in sections], evaluation.latest.step)
            console().print(transposed(_labelled(evaluation, sections[0])))
            trainer.print(f"Report: {file}")

    def _text(
        self,
        trainer: Trainer,
        module: LightningModule,
        evaluations: Sequence[RetrievalEvaluation],
    ) -> str:
        evaluation, mining = evaluations[0], _mining_of(trainer)
        seconds = time.perf_counter() - self._started
        splits = dict.fromkeys(_values_of(shown) for shown in evaluations if not shown.label)
        settings = list(_settings(trainer, module, evaluation, mining))
        machine = [*environment(trainer), ("wall time", _duration(seconds))]
        parts = [
            f"# {Path(trainer.default_root_dir).name}",
            f"{type(module).__name__}, {trainer.global_step:,} steps, {_duration(seconds)} in all. Values "
            f"are percentages of {' and of '.join(splits)}.",
            "![Averages over steps](curves.png)",
            *(section.text() for shown in evaluations for section in _results(shown)),
            Section("Mined negatives", *_mined(mining.reports)).text()
            if mining and mining.reports
            else "## Mined negatives\n\nNone were mined.",
            *(shares.section().text() for shares in _callbacks(trainer) if isinstance(shares, BlendShares)),
            Section("Settings", ["setting", "value"], settings).text(),
            Section("Environment", ["part", "version"], machine).text(),
        ]
        return "\n\n".join(parts) + "\n"


def _results(evaluation: RetrievalEvaluation) -> tuple[Section, ...]:
    heading = ["task", *(heading for heading, _, _ in _columns(evaluation))]
    return (
        _labelled(evaluation, Section("Tasks", heading, _rows(evaluation))),
        _labelled(evaluation, Section("Averages", *_averages(evaluation.history))),
    )


def _values_of(evaluation: RetrievalEvaluation) -> str:
    names = " → ".join(_name(done) for done in evaluation.history)
    return f"the {evaluation.shown_split} queries: {names}"


def _labelled(evaluation: RetrievalEvaluation, section: Section) -> Section:
    several = evaluation.final is not None or evaluation.is_final
    names = [section.title, evaluation.label, evaluation.shown_split if several else ""]
    return section._replace(title=", ".join(name for name in names if name))


def summary_table(evaluation: RetrievalEvaluation) -> Table:
    """The table for the terminal: a task a row, and the rounds within a cell, in percent.

    Args:
        evaluation: With at least one round in its history.
    """
    names = " → ".join(_shortened([_name(done) for done in evaluation.history]))
    what = f"{evaluation.label} {evaluation.shown_split}".strip()
    table = Table(title=f"Retrieval on {what}, in percent: {names}")
    table.add_column("task", no_wrap=True)
    for heading, _, _ in _columns(evaluation):
        table.add_column(heading, justify="right")
    *tasks, average = _rows(evaluation, limit=True)
    for row in tasks:
        table.add_row(*row)
    table.add_section()
    table.add_row(*average, style="bold")
    return table


def transposed(section: Section) -> Table:
    """A table of a report for the terminal, transposed: its columns are many and its rows few."""
    table = Table(title=section.title)
    for cell in (section.heading[0], *(" ".join(row[:2]) for row in section.rows)):
        table.add_column(cell, no_wrap=True)
    for number, name in enumerate(section.heading[2:], start=2):
        table.add_row(name, *(row[number] for row in section.rows))
    return table


def curves(evaluation: RetrievalEvaluation) -> Figure:
    """The averages of the headline and of modality accuracy over optimizer steps.

    Args:
        evaluation: With at least one round in its history.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    lines = ((GLOBAL, evaluation.headline), (LOCAL, evaluation.headline), (GLOBAL, MODALITY_ACCURACY))
    for pool, name in lines:
        points = [(done.step, done.value(pool, AVERAGE, name)) for done in evaluation.history]
        known = [(step, 100 * value) for step, value in points if value is not None]
        if known:
            axes.plot(*zip(*known, strict=True), marker="o", label=f"{pool} {name}")
    axes.set(xlabel="optimizer steps", ylabel="average over tasks, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _evaluations_of(trainer: Trainer) -> list[RetrievalEvaluation]:
    """That of the trainer's own data, and then those with labels."""
    found = [callback for callback in _callbacks(trainer) if isinstance(callback, RetrievalEvaluation)]
    found.sort(key=lambda evaluation: bool(evaluation.label))
    if not found or found[0].label:
        raise MisconfigurationException(
            "RunReport reports what callbacks.RetrievalEvaluation measures, and the trainer has none: add it "
            "to trainer.callbacks, or leave RunReport out."
        )
    return found


def _mining_of(trainer: Trainer) -> HardNegativeMining | None:
    found = (callback for callback in _callbacks(trainer) if isinstance(callback, HardNegativeMining))
    return next(found, None)


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = getattr(trainer, "callbacks", [])  # an attribute that Trainer sets untyped
    return callbacks


def _columns(evaluation: RetrievalEvaluation) -> list[Column]:
    if not any(GLOBAL in done.metrics for done in evaluation.history):
        hits = [f"hit@{k}" for k in evaluation.ks]
        return [(f"{LOCAL} {n}", LOCAL, n) for n in dict.fromkeys([evaluation.headline, *hits])]
    names = [*(f"hit@{k}" for k in evaluation.ks), MODALITY_ACCURACY]
    columns = [(f"{GLOBAL} {name}", GLOBAL, name) for name in names]
    return [*columns, (f"{LOCAL} {evaluation.headline}", LOCAL, evaluation.headline)]


def _rows(evaluation: RetrievalEvaluation, *, limit: bool = False) -> list[list[str]]:
    """A row of cells for each task and, last, the average."""
    rounds = evaluation.history
    tables = [table for done in rounds for table in done.metrics.values()]
    tasks = [task for task in dict.fromkeys(task for table in tables for task in table) if task != AVERAGE]
    rows = []
    for task in [*tasks, AVERAGE]:
        cells = [
            [percent(done.value(pool, task, n)) for done in rounds] for _, pool, n in _columns(evaluation)
        ]
        rows.append([task, *(" → ".join(_shortened(cell) if limit else cell) for cell in cells)])
    return rows


def _shortened(values: list[str]) -> list[str]:
    """The first and the last values, where all of them would be too wide."""
    if len(values) <= _SHOWN_ROUNDS:
        return values
    return [values[0], "…", *values[-(_SHOWN_ROUNDS - 2) :]]


def _averages(rounds: list[EvaluationRound]) -> tuple[list[str], list[list[str]]]:
    names = [(pool, name) for pool, table in rounds[-1].metrics.items() for name in table[AVERAGE]]
    rows = [
        [
            _name(done),
            str(done.step),
            *(percent(done.value(pool, AVERAGE, name)) for pool, name in names),
            _duration(done.seconds),
        ]
        for done in rounds
    ]
    return ["after", "step", *(f"{pool} {name}" for pool, name in names), "evaluation took"], rows


def _mined(rounds: list[MiningRound]) -> tuple[list[str], list[list[str]]]:
    """A column for each round, as there are many figures and few rounds."""
    columns = [mined.scalars() for mined in rounds]
    rows = [
        [
            name.removeprefix("mining/"),
            *(f"{column[name]:,.4g}" if column[name] % 1 else f"{column[name]:,.0f}" for column in columns),
        ]
        for name in columns[0]
    ]
    return ["figure", *(f"round {mined.round}, step {mined.step}" for mined in rounds)], rows


def _settings(
    trainer: Trainer,
    module: LightningModule,
    evaluation: RetrievalEvaluation,
    mining: HardNegativeMining | None,
) -> Iterator[tuple[str, str]]:
    """What the run was configured with, as far as it is known by name."""
    for name in ("max_epochs", "max_steps", "precision", "world_size", "accumulate_grad_batches"):
        yield f"trainer.{name}", str(getattr(trainer, name))
    yield from _flat("model", module.hparams)
    yield from _flat("data", getattr(getattr(trainer, "datamodule", None), "hparams", {}))
    for name in ("split", "ks", "ndcg_k", "depth"):
        yield f"evaluation.{name}", str(getattr(evaluation, name))
    yield "evaluation.final_split", str(evaluation.final and evaluation.final.split)
    if mining is not None:
        yield from _flat("mining", {**mining.plan.stamp(), "rounds_kept": mining.rounds_kept})
        yield from _flat("mining.schedule", asdict(mining.schedule))
        yield from _flat("mining.subset", asdict(mining.search.subset))


def _flat(prefix: str, values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if name.startswith("_"):  # Lightning's own notes
            continue
        if hasattr(value, "items"):
            yield from _flat(f"{prefix}.{name}", dict(value.items()))
        elif value is None or isinstance(value, str | int | float | Path | Sequence):
            yield f"{prefix}.{name}", str(value)
        else:
            yield f"{prefix}.{name}", type(value).__name__


def _name(done: EvaluationRound) -> str:
    return "start" if done.at_start else f"epoch {done.epoch}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
