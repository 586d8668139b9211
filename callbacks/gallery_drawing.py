"""Draws queries with cards of what belongs to them, and records the picture."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from callbacks.collaborators import is_dry_run
from data_modules.atomic import staged_file
from mmretrieval.content import Content, Query

GREEN, RED, ORANGE, GREY = "#2a9d3a", "#d62728", "#e07b00", "#888888"
_PIXELS = 224  # the longer side of a picture as it is drawn
_LINE, _LINES, _CAPTION_LINES = 24, 11, 3  # characters a line, lines of a text, lines below a picture
_CELL_INCHES, _GAP_INCHES, _ROW_INCHES = 2.1, 0.2, 3.3
_TITLE_INCHES, _ABOVE_INCHES = 0.4, 0.45  # of the figure; and above each cell, for its own


@dataclass(frozen=True, slots=True)
class Card:
    """A candidate as it is shown.

    Args:
        content: What it is.
        title: What stands above.
        color: Of its frame and title.
    """

    content: Content
    title: str
    color: str


@dataclass(frozen=True, slots=True)
class Row:
    """A query and what belongs to it.

    Args:
        query: With the instruction it was asked with.
        cards: From left to right; possibly fewer than others have.
    """

    query: Query
    cards: tuple[Card, ...]


def draw_rows(title: str, rows: Sequence[Row]) -> Figure:
    """Draw queries, one a row, with their cards.

    Args:
        title: What stands above.
        rows: At least one query.
    """
    columns = 1 + max(len(row.cards) for row in rows)
    height = _TITLE_INCHES + _ROW_INCHES * len(rows)
    figure = Figure(figsize=(_CELL_INCHES * columns, height), dpi=100)
    figure.suptitle(title, fontsize=10, y=1 - 0.3 * _TITLE_INCHES / height, va="center", parse_math=False)
    axes = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw=_margins(len(rows), columns))
    for row, cells in zip(rows, axes, strict=True):
        _draw_content(cells[0], row.query.content, row.query.instruction or "")
        _draw_frame(cells[0], "query", GREY)
        for card, cell in zip(row.cards, cells[1:], strict=False):
            _draw_content(cell, card.content)
            _draw_frame(cell, card.title, card.color)
        for cell in cells[1 + len(row.cards) :]:
            cell.set_axis_off()
    return figure


def _margins(rows: int, columns: int) -> dict[str, float]:
    """Fixed ones: to find them by drawing, as matplotlib's layouts do, takes half of the time."""
    width, height = _CELL_INCHES * columns, _TITLE_INCHES + _ROW_INCHES * rows
    cell = _CELL_INCHES - _GAP_INCHES  # a square for the picture; its caption is below
    return {
        "left": _GAP_INCHES / 2 / width,
        "right": 1 - _GAP_INCHES / 2 / width,
        "wspace": _GAP_INCHES / cell,
        "top": 1 - (_TITLE_INCHES + _ABOVE_INCHES) / height,
        "bottom": (_ROW_INCHES - _ABOVE_INCHES - cell) / height,
        "hspace": (_ROW_INCHES - cell) / cell,
    }


def rendered(figure: Figure) -> NDArray[np.uint8]:
    """Render a figure without any display.

    Shape:
        - output: ``(H, W, 3)``.
    """
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # drawn as boxes
        canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()  # type: ignore[no-untyped-call]


def record(trainer: Trainer, tag: str, path: Path, figure: Figure) -> None:
    """Write a picture into TensorBoard, if it is among the loggers, and but for dry runs into a file.

    Args:
        trainer: Its loggers and step are used.
        tag: Of the picture in TensorBoard.
        path: Of the PNG file, which is replaced.
        figure: What to write.
    """
    picture = rendered(figure)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, picture, trainer.global_step, dataformats="HWC")
    if not is_dry_run(trainer):
        with staged_file(path) as staged:
            Image.fromarray(picture).save(staged, format="PNG")


def _draw_content(cell: Axes, content: Content, instruction: str = "") -> None:
    """Draw a picture with its text below, or a text alone; an instruction stands in brackets before it."""
    told = [f"[{instruction}]"] if instruction else []
    text = "\n".join(_wrapped(part) for part in (*told, content.text or "") if part)
    if content.image is None:
        shown = _shortened(text, _LINES)
        cell.text(0.5, 0.5, shown, ha="center", va="center", fontsize=7, parse_math=False)
        cell.set_xlim(0, 1)
        cell.set_ylim(0, 1)
        return
    image = content.image.convert("RGB")
    image.thumbnail((_PIXELS, _PIXELS))
    cell.imshow(np.asarray(image))
    lines = _CAPTION_LINES + 2 * bool(instruction)
    cell.set_xlabel(_shortened(text, lines), fontsize=7, parse_math=False)


def _draw_frame(cell: Axes, title: str, color: str) -> None:
    cell.set_title(title, fontsize=8, color=color, parse_math=False)
    cell.set_xticks([])
    cell.set_yticks([])
    for spine in cell.spines.values():
        spine.set_color(color)
        spine.set_linewidth(3)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _LINE)


def _shortened(text: str, lines: int) -> str:
    parts = text.split("\n")
    return text if len(parts) <= lines else "\n".join([*parts[: lines - 1], "…"])
