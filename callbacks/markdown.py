"""Tables in Markdown, for reports and for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger


class Section(NamedTuple):
    """A table of a report.

    Args:
        title: What stands above.
        heading: Of each column.
        rows: As many cells each.
    """

    title: str
    heading: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """The title and the table."""
        return f"## {self.title}\n\n{markdown(self.heading, self.rows)}"


def markdown(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines)


def record_tables(trainer: Trainer, sections: Iterable[Section], step: int) -> None:
    """Write tables into TensorBoard, if it is among the loggers, as ``tables/<title>``."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            for section in sections:
                tag = f"tables/{section.title.lower().replace(' ', '_')}"
                logger.experiment.add_text(tag, markdown(section.heading, section.rows), step)


def percent(value: float | None) -> str:
    """A share in percent with one decimal; "-" for none."""
    return "-" if value is None else f"{100 * value:.1f}"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
