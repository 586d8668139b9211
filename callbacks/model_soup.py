"""Weights between those that training started from and those that it ended with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor, nn
from typing_extensions import override

from callbacks.adapter_checkpoint import save_adapter
from callbacks.collaborators import is_dry_run
from callbacks.evaluation_files import write_json
from callbacks.markdown import percent
from callbacks.retrieval_evaluation import RetrievalEvaluation
from callbacks.terminal import console
from data_modules.atomic import staged_file
from mmretrieval.encoder.saving import weights_digest
from mmretrieval.errors import UserError
from mmretrieval.metrics.evaluation import AVERAGE

Weights = dict[str, Tensor]
Measured = dict[str, float]
"""Headline average of each evaluation by its label, ``multimodal`` for that without one, and ``mean``."""


class Startable(Protocol):
    """What is needed of a module; :class:`~mmretrieval.module.UniversalRetriever` has it.

    Args:
        encoder: Has ``load_saved(folder)``.
        init_from: The folder that training started from, if any.
        start_hash: Digest of the file of weights that was there, if known.
    """

    encoder: Any
    init_from: Path | None
    start_hash: str | None


class ModelSoup(Callback):
    """When training ends, measures weights between the start and the end, and saves the best mix.

    Each trained weight is ``(1 - share) * start + share * end`` (WiSE-FT, https://arxiv.org/abs/2109.01903):
    a few mixes often keep nearly all of what was learnt and forget much less. Every
    :class:`~callbacks.RetrievalEvaluation` of the trainer measures each mix, so its ``split`` should not be
    that of the final report; its ``final_split`` is measured with the best mix only. Writes ``soup.json``,
    ``soup.png`` (the curve over the mix), and the best mix as a folder like that of
    :class:`~callbacks.AdapterCheckpoint`; the run's own weights stay those
    of its end. Under ``fast_dev_run`` nothing is done.

    LoRA's two factors are mixed each for itself: the second stage moves those of the first, so they are one
    model's weights at two times.

    Args:
        shares: Shares of the end's weights, between 0 and 1; those at 0 and 1 are not measured again if the
            run has measured them.
        folder: Where the best mix is saved, ``soup`` in the trainer's ``default_root_dir`` by default.

    Raises:
        ValueError: If a share is out of range or there are fewer than two.
        MisconfigurationException: From ``setup``, if there is no RetrievalEvaluation, or training does not
            start from saved weights.
        UserError: When training ends, if others are there by now.
    """

    def __init__(
        self, shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0), folder: Path | None = None
    ) -> None:
        super().__init__()
        if len(set(shares)) < 2 or not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"shares must be at least two numbers between 0 and 1, found {tuple(shares)}.")
        self.shares, self.folder = tuple(sorted(set(shares))), folder
        self.found: dict[float, Measured] = {}
        """Share → what was measured, after the training."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not _evaluations(trainer):
            raise MisconfigurationException(
                "ModelSoup chooses by what callbacks.RetrievalEvaluation measures, and the trainer has none."
            )
        if getattr(pl_module, "init_from", None) is None:
            raise MisconfigurationException(
                "ModelSoup mixes the weights that training starts from: give a run's folder as "
                "model.init_from, or leave ModelSoup out."
            )

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_dry_run(trainer):
            return
        with _mixable(pl_module) as mix:
            self.found = {}
            for share in self.shares:
                known = _known(trainer, share)
                if known is None:
                    mix(share)
                    known = _measured(trainer, pl_module, _evaluations(trainer))
                self.found[share] = _with_mean(known)
            best = max(self.found, key=lambda share: self.found[share]["mean"])
            mix(best)
            save_adapter(trainer, pl_module, self._folder(trainer))
            finals = [found.final for found in _evaluations(trainer) if found.final is not None]
            reported = _measured(trainer, pl_module, finals)
        if trainer.is_global_zero:
            self._report(trainer, best, reported)

    def _folder(self, trainer: Trainer) -> Path:
        return self.folder if self.folder is not None else Path(trainer.default_root_dir, "soup")

    def _report(self, trainer: Trainer, best: float, reported: Measured) -> None:
        table, figure = comparison(self.found, best), curve(self.found)
        with (screen := console()).capture() as rendered:
            screen.print(table)
        trainer.print(rendered.get() + f"The mix with the share {best:g} is in {self._folder(trainer)}")
        for name, value in reported.items():
            trainer.print(f"On its final split, {name}: {percent(value)}")
        root = Path(trainer.default_root_dir)
        mixes = [{"share": share, **values} for share, values in self.found.items()]
        final = {"final": reported} if reported else {}
        write_json(root / "soup.json", {"best": best, **final, "mixes": mixes})
        with staged_file(root / "soup.png") as path:
            figure.savefig(path, format="png", dpi=120)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("soup", figure, trainer.global_step)


def interpolated(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> Weights:
    """Mix weights of the same names and shapes.

    Args:
        start: Weights of share 0.
        end: Weights of share 1.
        share: Between 0 and 1.

    Returns:
        ``(1 - share) * start + share * end``; exactly ``start`` and ``end`` at the ends.
    """
    return {name: torch.lerp(start[name], weight, share) for name, weight in end.items()}


@contextmanager
def _mixable(module: nn.Module) -> Iterator[Any]:
    """Yields what sets the weights to a mix; afterwards they are those of the end again."""
    retriever = cast(Startable, module)
    trained = {name: p for name, p in retriever.encoder.named_parameters() if p.requires_grad}

    def put(weights: Weights) -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                trained[name].copy_(weight)

    end = {name: p.detach().clone() for name, p in trained.items()}
    assert retriever.init_from is not None  # as setup has made sure
    _check_start(retriever.init_from, retriever.start_hash)
    retriever.encoder.load_saved(retriever.init_from)
    start = {name: p.detach().clone() for name, p in trained.items()}
    try:
        yield lambda share: put(interpolated(start, end, share))
    finally:
        put(end)


def _check_start(folder: Path, known: str | None) -> None:
    if known is not None and known != weights_digest(folder):
        raise UserError(
            f"{folder} has other weights now than when training started from them, so there is "
            "nothing to mix with; the run's own weights are in its adapter folder"
        )


def _evaluations(trainer: Trainer) -> list[RetrievalEvaluation]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set by a connector
    return [callback for callback in callbacks if isinstance(callback, RetrievalEvaluation)]


def _known(trainer: Trainer, share: float) -> Measured | None:
    """What the run has measured of its start or its end."""
    if share not in (0, 1):
        return None
    step = 0 if share == 0 else trainer.global_step
    rounds = {
        _name(evaluation): (evaluation, done)
        for evaluation in _evaluations(trainer)
        for done in evaluation.history
        if done.step == step
    }
    if len(rounds) < len(_evaluations(trainer)):
        return None
    return {
        name: done.pool_table()[AVERAGE][evaluation.headline] for name, (evaluation, done) in rounds.items()
    }


def _measured(
    trainer: Trainer, module: LightningModule, evaluations: Sequence[RetrievalEvaluation]
) -> Measured:
    values = {}
    for evaluation in evaluations:
        latest = evaluation.latest
        done = evaluation.evaluate(trainer, module, trainer.current_epoch)
        values[_name(evaluation)] = done.pool_table()[AVERAGE][evaluation.headline]
        evaluation.latest = latest
    return values


def _with_mean(values: Measured) -> Measured:
    return {**values, "mean": sum(values.values()) / len(values)}


def _name(evaluation: RetrievalEvaluation) -> str:
    return evaluation.label or "multimodal"


def comparison(found: Mapping[float, Measured], best: float) -> Table:
    """The table for the terminal: a mix a row, in percent.

    Args:
        found: Share → measures.
        best: The share to point out.
    """
    table = Table(title="Mixes of start and end, in percent")
    for heading in ("share of the end", *next(iter(found.values()))):
        table.add_column(heading, justify="right", no_wrap=True)
    for share, values in found.items():
        row = (f"{share:g}", *(percent(value) for value in values.values()))
        table.add_row(*row, style="bold" if share == best else None)
    return table


def curve(found: Mapping[float, Measured]) -> Figure:
    """The measures over the share of the end's weights.

    Args:
        found: Share → measures.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name in next(iter(found.values())):
        style = "--" if name == "mean" else "-"
        axes.plot([*found], [100 * values[name] for values in found.values()], style, marker="o", label=name)
    axes.set(xlabel="share of the weights at the end", ylabel="average over tasks, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
