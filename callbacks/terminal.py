"""Where tables for the terminal go."""

from __future__ import annotations

from rich.console import Console

_WIDTH = 400  # columns at most where the output is no terminal, so that no row is broken


def console() -> Console:
    """A console that breaks no row of a table where the output is a file."""
    made = Console()
    return made if made.is_terminal else Console(width=_WIDTH)
