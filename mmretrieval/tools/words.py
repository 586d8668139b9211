"""Short spellings on the command line, which jsonargparse does not know."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

SHORT = {"-k": "--k"}
"""Short names of options."""
_VALUES = {"true", "false"}


def spelled_out(words: Sequence[str], commands: Mapping[str, Any]) -> list[str]:
    """Spell options out: ``-k 5`` as ``--k 5``, and ``--json`` as ``--json=true``.

    Args:
        words: The command line without the program's name.
        commands: Sub-commands by name: functions, and sub-commands of their own.
    """
    switches = _switches(words, commands)
    found = []
    for number, word in enumerate(words):
        following = words[number + 1] if number + 1 < len(words) else ""
        if word in switches and following.lower() not in _VALUES:
            found.append(f"{word}=true")
        else:
            found.append(SHORT.get(word, word))
    return found


def _switches(words: Sequence[str], commands: Mapping[str, Any]) -> set[str]:
    """Options of the named sub-command that are true or false."""
    command: Any = commands
    for word in words:
        if not isinstance(command, Mapping):
            break
        command = command.get(word, command)
    if isinstance(command, Mapping):
        return set()
    signature = inspect.signature(command, eval_str=False)
    return {f"--{name}" for name, one in signature.parameters.items() if one.annotation == "bool"}
