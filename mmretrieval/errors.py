"""What users are told without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """A user's mistake: the message says what was found, where (file, line, key) and what to do.

    The commands print it as one message and exit with status 2; in Python it is an ordinary ``ValueError``.
    """
