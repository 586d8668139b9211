"""How long data jobs still take."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bar(*, disable: bool) -> Progress:
    """Return a bar with counts and the time that remains, to use as a context.

    Args:
        disable: Show nothing.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, disable=disable)
