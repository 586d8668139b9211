"""docs/configuration.md is what the docstrings say, and lacks nothing that a configuration can name."""

import re
from importlib import import_module
from pathlib import Path

import lightning.pytorch as pl
import pytest
import yaml

from mmretrieval.tools.class_reference import arguments_of, description, markdown, rows
from mmretrieval.tools.configuration_reference import reference
from mmretrieval.tools.configuration_sections import SECTIONS
from mmretrieval.tools.main import main

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/configuration.md"
NAMED = {name for section in SECTIONS for name in section.names}
BASES = {"data_modules.RetrievalDataModule", "data_modules.TextSets"}  # what the others are built on


class Part:
    pass


class Whole:
    """A class with a :class:`~some.where.Part`.

    More about ``it``.

    Args:
        part: What is in it | or not,
            on two lines.
        names: Any.
    """

    def __init__(self, part: Part | None, names: tuple[str, ...] = ("a", "b"), mark: str = "\n") -> None:
        pass


class Open:
    """Takes anything."""

    def __init__(self, **anything: int) -> None:
        pass


def class_paths(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "class_path":
                yield inner
            yield from class_paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from class_paths(inner)


def test_the_committed_file_is_what_the_command_writes(tmp_path, capsys):
    main(["docs", "configuration", str(tmp_path / "out.md")])
    written = (tmp_path / "out.md").read_text("utf-8")
    assert DOCUMENT.read_text("utf-8") == written, (
        "run 'mmretrieval docs configuration docs/configuration.md' and commit the file"
    )
    assert f"{len(NAMED)} classes" in capsys.readouterr().out


def test_every_class_that_a_shipped_configuration_names_is_there():
    found = set()
    for path in (ROOT / "configs").rglob("*.yaml"):
        found |= set(class_paths(yaml.safe_load(path.read_text("utf-8"))))
    own = {name for name in found if name.split(".")[0] in {"mmretrieval", "data_modules", "callbacks"}}
    assert len(own) > 20
    assert own <= NAMED


@pytest.mark.parametrize("package", ["mmretrieval", "data_modules", "callbacks", "mmretrieval.mining"])
def test_everything_public_of_these_kinds_is_there(package):
    from mmretrieval.mining import Filter, Selection

    kinds = (pl.LightningModule, pl.LightningDataModule, pl.Callback)
    module = import_module(package)
    public = {name: getattr(module, name) for name in module.__all__}
    found = set()
    for name, one in public.items():
        if isinstance(one, type) and one not in (Filter, Selection):
            plan = package.endswith("mining") and bool({Filter, Selection} & set(one.__mro__))
            found |= {f"{package}.{name}"} if plan or issubclass(one, kinds) else set()
    assert found
    assert found - BASES <= NAMED


def test_links_lead_to_headings_and_every_cell_is_filled():
    text = DOCUMENT.read_text("utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}
    linked = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert len(linked) > 30
    assert linked <= anchors
    assert len(headings) == len(set(headings))
    table = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(table) > 200
    for line in table:
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        assert len(cells) == 4, line
        assert all(cell.strip() for cell in cells), line


def test_a_class_is_told_by_its_source_and_docstring(monkeypatch):
    monkeypatch.setattr("mmretrieval.tools.class_reference.PACKAGES", (Part.__module__.split(".")[0],))
    monkeypatch.setattr(Whole, "__doc__", f"{Whole.__doc__.rstrip()}\n        mark: A mark.\n")
    assert description(Whole) == "A class with a `Part`.\n\nMore about `it`."
    part, names, mark = arguments_of(Whole)
    assert (part.default, part.classes) == (None, (Part,))
    assert part.text == "What is in it | or not, on two lines."
    assert (names.default, mark.default) == ('["a", "b"]', r'"\n"')
    lines = list(rows((part, names), {Part: "[here](#part)"}))
    assert lines[2].endswith(r"| required | What is in it \| or not, on two lines. → [here](#part) |")
    assert lines[3].count("|") == 5


def test_what_is_not_described_is_an_error():
    with pytest.raises(ValueError, match="mark needs a type and a line under Args"):
        arguments_of(Whole)
    with pytest.raises(ValueError, match="takes any anything"):
        arguments_of(Open)


def test_an_argument_leads_to_all_that_can_be_given():
    lines = [line for line in reference().splitlines() if line.startswith(("| `index` |", "| `reranker` |"))]
    assert len(lines) == 5
    for line in lines:
        both = ("ExactIndex", "FaissIndex") if "`index`" in line else ("ZeroShotReranker", "ListwiseReranker")
        assert all(f"[`{name}`](#mmretrieval" in line for name in both)


def test_names_are_code():
    assert markdown(":meth:`~a.b.load` of ``x`` and :func:`run`") == "`load` of `x` and `run`"


def test_the_reference_does_not_depend_on_the_run():
    assert reference() == reference()
