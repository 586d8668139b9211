"""What a reranker asks about a query and a candidate."""

from __future__ import annotations

import string
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import yaml

from mmretrieval.errors import UserError

DEFAULT = "default"
_FIELDS = {"query", "candidate", "instruction"}
_LARGEST = 2**20


class RerankPrompts:
    """Prompts by task; ``prompts.yaml`` beside this file has those that ship, and says how they are written.

    Args:
        file: A YAML file whose prompts are added to those that ship, or take their places.

    Raises:
        UserError: If the file cannot be read, or a prompt lacks ``{query}`` or ``{candidate}`` or has other
            fields.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.templates = _checked(
            _read(Path(str(files("mmretrieval.rerank") / "prompts.yaml"))), "prompts.yaml"
        )
        if file is not None:
            self.templates |= _checked(_read(file), str(file))

    def of(self, task: str) -> str:
        """The prompt of a dataset-task: its own, else that of its task's number, else the default one.

        Args:
            task: As ``cirr_task7``.
        """
        _, _, number = task.rpartition("_")
        return next(self.templates[key] for key in (task, number, DEFAULT) if key in self.templates)


def _read(file: Path) -> object:
    try:
        if file.stat().st_size > _LARGEST:
            raise UserError(f"{file}: has more than {_LARGEST} bytes; prompts are a few lines")
        return yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: cannot be read as YAML ({error})") from error


def _checked(found: object, where: str) -> dict[str, str]:
    if not isinstance(found, Mapping) or not found:
        raise UserError(f"{where}: must hold prompts by task, as 'task7: …'")
    for task, prompt in found.items():
        if not isinstance(task, str) or not isinstance(prompt, str):
            raise UserError(f"{where}: {task!r}: a task's name and its prompt must be texts")
        _check_fields(prompt, f"{where}: {task}")
    return dict(found)


def _check_fields(prompt: str, where: str) -> None:
    try:
        fields = [(name, kind, change) for _, name, kind, change in string.Formatter().parse(prompt)]
    except ValueError as error:
        raise UserError(f"{where}: {error}; write {{{{ and }}}} for braces") from error
    names = [name for name, _, _ in fields if name is not None]
    if unknown := sorted({*names} - _FIELDS) or [str(name) for name, *more in fields if any(more)]:
        raise UserError(f"{where}: has {{{unknown[0]}}}; there are {', '.join(sorted(_FIELDS))}")
    for name in ("query", "candidate"):
        if names.count(name) != 1:
            raise UserError(f"{where}: has {{{name}}} {names.count(name)} times; write it once")
