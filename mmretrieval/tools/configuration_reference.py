"""``mmretrieval docs configuration``: every class that a configuration may name, with all its arguments."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from data_modules.atomic import staged_file
from mmretrieval.tools.class_reference import Argument, arguments_of, description, rows
from mmretrieval.tools.configuration_sections import SECTIONS, Section

_TITLE = """\
# Configuration

Every class of this project that a configuration may name, with its arguments. The file is made from the
docstrings by `mmretrieval docs configuration docs/configuration.md`, and a test compares them.

A configuration is a YAML file for `lightning fit`, `validate`, `test` or `predict`. Several `-c FILE` are
laid over each other, and options come last: `--model.init_args.loss.init_args.temperature 0.02`. A class
is written as `class_path` with `init_args`, or as its path alone where all defaults are meant; where only
one class can be meant, as for `lora`, its arguments stand there directly. `callbacks+:` appends to the
list of earlier files. The keys of `trainer` are those of
[Lightning's](https://lightning.ai/docs/pytorch/stable/common/trainer.html). At the top stand
`seed_everything`, `float32_matmul_precision` (`highest`, `high`, `medium`) and `ckpt_path`, too."""


def configuration(out: Path) -> None:
    """Write the reference of all classes that a configuration may name.

    Args:
        out: Markdown file to write.
    """
    with staged_file(out) as stage:
        stage.write_text(reference(), encoding="utf-8")
    print(f"{out}: {sum(len(section.names) for section in SECTIONS)} classes and what they take")


def reference() -> str:
    """The whole document.

    Raises:
        ValueError: If an argument of a class has no type or no description.
    """
    chapters = [_Chapter(section) for section in SECTIONS]
    roots = {cls for chapter in chapters for cls in chapter.roots}
    seen = set(roots)
    for chapter in chapters:
        chapter.take_nested(seen)
    titles = {cls: title for chapter in chapters for cls, title in chapter.titles.items()}
    links = {cls: f"[`{cls.__name__}`](#{_anchor(title)})" for cls, title in titles.items()}
    links |= _choices(chapters, links)
    contents = [f"- [{section.title}](#{_anchor(section.title)})" for section in SECTIONS]
    blocks = [_TITLE, "\n".join(contents), *(chapter.text(links) for chapter in chapters)]
    return "\n\n".join(blocks) + "\n"


class _Chapter:
    """The classes of a section, each followed by those that only it takes."""

    def __init__(self, section: Section) -> None:
        self.section = section
        self.roots = [_named(path) for path in section.names]
        self.titles: dict[type, str] = {}
        self.arguments: dict[type, tuple[Argument, ...]] = {}

    def take_nested(self, seen: set[type]) -> None:
        """Find the classes in order; those in ``seen`` stand elsewhere or have a place already."""
        for cls, path in zip(self.roots, self.section.names, strict=True):
            self._take(cls, path, seen)

    def _take(self, cls: type, title: str, seen: set[type]) -> None:
        self.titles[cls], self.arguments[cls] = title, arguments_of(cls)
        for argument in self.arguments[cls]:
            for nested in argument.classes:
                if nested not in seen and not _is_interface(nested):
                    seen.add(nested)
                    self._take(nested, nested.__name__, seen)

    def text(self, links: dict[type, str]) -> str:
        blocks = [f"## {self.section.title}", self.section.intro]
        for cls, title in self.titles.items():
            blocks += [f"### {title}", description(cls)]
            if self.arguments[cls]:
                blocks.append("\n".join(rows(self.arguments[cls], links)))
        return "\n\n".join(blocks)


def _named(path: str) -> type:
    module, _, name = path.rpartition(".")
    found = getattr(import_module(module), name)
    assert isinstance(found, type), path
    return found


def _is_interface(cls: type) -> bool:
    return bool(getattr(cls, "__abstractmethods__", None)) or getattr(cls, "_is_protocol", False)


def _choices(chapters: list[_Chapter], links: dict[type, str]) -> dict[type, str]:
    """Classes that arguments are typed with → links to all that can be given."""
    given = (one for chapter in chapters for own in chapter.arguments.values() for one in own)
    asked = {cls for argument in given for cls in argument.classes}
    return {base: ", ".join(found) for base in asked if (found := list(_implementing(base, chapters, links)))}


def _implementing(base: type, chapters: list[_Chapter], links: dict[type, str]) -> Iterator[str]:
    for chapter in chapters:
        for cls in chapter.titles:
            if base in cls.__mro__:
                yield links[cls]


def _anchor(title: str) -> str:
    """GitHub's anchor of a heading."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")
