"""What a class takes, in Markdown: each argument's type, default and description, from its source."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from docstring_parser import DocstringStyle, parse

PACKAGES = ("mmretrieval", "data_modules", "callbacks")
_ROLE = re.compile(r":(?:class|meth|func|attr|data|mod):`~?(?:[\w.]*\.)?(\w+)`")


@dataclasses.dataclass(frozen=True)
class Argument:
    """An argument of a class.

    Args:
        name: Its name.
        annotation: Its type as the source has it.
        default: Its default as YAML has it, ``None`` for an argument without one.
        text: What the docstring says of it.
        classes: Classes of this project that its type names.
    """

    name: str
    annotation: str
    default: str | None
    text: str
    classes: tuple[type, ...]


def arguments_of(cls: type) -> tuple[Argument, ...]:
    """What a class is made from.

    Raises:
        ValueError: If an argument has no type, is not described, or takes whatever it is given.
    """
    described = {param.arg_name: param.description or "" for param in _docstring(cls).params}
    hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc] # a class is asked, no instance
    found = []
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(f"{cls.__qualname__} takes any {name}: spell its arguments out.")
        text = " ".join(described.get(name, "").split())
        if not text or name not in hints:
            raise ValueError(f"{cls.__qualname__}: {name} needs a type and a line under Args.")
        written = parameter.annotation
        type_ = written if isinstance(written, str) else inspect.formatannotation(written)
        own = tuple(dict.fromkeys(_classes(hints[name])))
        found.append(Argument(name, type_, _default(cls, parameter), markdown(text), own))
    return tuple(found)


def description(cls: type) -> str:
    """What the docstring says of the class itself, in paragraphs; attributes are for programs."""
    doc = _docstring(cls)
    whole = "\n\n".join(part for part in (doc.short_description, doc.long_description) if part)
    paragraphs = [" ".join(part.split()) for part in whole.split("\n\n")]
    return "\n\n".join(markdown(part) for part in paragraphs if part and not part.startswith("Attributes:"))


def rows(arguments: tuple[Argument, ...], links: Mapping[type, str]) -> Iterator[str]:
    """Lines of a table.

    Args:
        arguments: What to show.
        links: Class → a link to where it is described; others are not linked.
    """
    yield "| argument | type | default | what |"
    yield "|---|---|---|---|"
    for one in arguments:
        named = [links[cls] for cls in one.classes if cls in links]
        text = one.text + (f" → {', '.join(named)}" if named else "")
        default = "required" if one.default is None else f"`{one.default}`"
        cells = (f"`{one.name}`", f"`{one.annotation}`", default, text)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def markdown(text: str) -> str:
    """The same text with names in Markdown's code instead of reStructuredText's."""
    return _ROLE.sub(r"`\1`", text).replace("``", "`")


def _docstring(cls: type) -> Any:  # noqa: ANN401 - docstring_parser.Docstring, which exports no types
    return parse(inspect.cleandoc(cls.__doc__ or ""), style=DocstringStyle.GOOGLE)


def _classes(hint: Any) -> Iterator[type]:  # noqa: ANN401 - whatever a type can be
    """The project's own classes in a type, with those inside of containers and unions."""
    if isinstance(hint, type) and hint.__module__.split(".")[0] in PACKAGES:
        yield hint
    for part in typing.get_args(hint):
        yield from _classes(part)


def _default(cls: type, parameter: inspect.Parameter) -> str | None:
    if parameter.default is parameter.empty:
        return None
    for one in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if one.name == parameter.name and one.default_factory is not dataclasses.MISSING:
            return "{}" if one.default_factory is dict else f"{one.default_factory.__name__}()"  # type: ignore[attr-defined]
    return _yaml(parameter.default)


def _yaml(value: Any) -> str:  # noqa: ANN401 - any default
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = (f for f in dataclasses.fields(value) if getattr(value, f.name) != _usual(f))
        return f"{type(value).__name__}({', '.join(f'{f.name}={getattr(value, f.name)!r}' for f in changed)})"
    if isinstance(value, type):
        return f"{value.__module__.removesuffix('.' + value.__name__.lower())}.{value.__qualname__}"
    if isinstance(value, str):
        return value if value and value.isprintable() and value == value.strip() else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)


def _usual(field: dataclasses.Field[Any]) -> Any:  # noqa: ANN401 - any default
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()
