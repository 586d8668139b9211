"""Who may import whom: the directions of the packages, read from the source without running it."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mmretrieval", "data_modules", "callbacks")

LAYERS = (
    {"content", "batches", "errors", "distributed", "image_bytes", "reproducible_products"},
    {"encoder", "loss", "metrics", "index", "schedules", "health", "shared_work"},
    {"mining", "rerank", "sharding", "export", "distillation"},
    {"module", "pretraining", "retriever"},
    {"collection"},
    {"demo"},
    {"cli", "tools", "__main__"},
)
"""Rooms of mmretrieval; each may import itself and earlier layers, of its own layer only as below."""

NEIGHBOURS = {
    ("image_bytes", "errors"),
    ("__main__", "tools"),
    ("tools", "cli"),
    ("retriever", "module"),
    ("pretraining", "module"),
}
FACADE = ""
"""The room of ``mmretrieval/__init__.py``: what users import, and no room below the last layer."""


class Import(NamedTuple):
    importer: str
    imported: str
    where: str


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(root: Path) -> list[Import]:
    """All imports of the packages, those inside functions and under ``TYPE_CHECKING`` as well."""
    known = {name for name, _ in modules(root)}
    found = []
    for importer, path in modules(root):
        for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
            where = f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                found += [Import(importer, alias.name, where) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{where}: a relative import"
                base = node.module or ""
                full = [f"{base}.{alias.name}" for alias in node.names]
                found += [Import(importer, name if name in known else base, where) for name in full]
    return found


def room(module: str) -> str:
    return [*module.split("."), FACADE][1]


def layer(name: str) -> int:
    if name == FACADE:
        return len(LAYERS) - 1
    found = [number for number, rooms in enumerate(LAYERS) if name in rooms]
    assert found, f"mmretrieval/{name} has no layer yet: add it to LAYERS and to the architecture"
    return found[0]


def may_import(importer: str, imported: str) -> bool:
    """Whether the directions allow an import; any package that is not ours may be imported, except tests."""
    package, target = importer.split(".")[0], imported.split(".")[0]
    if target not in PACKAGES:
        return target not in {"tests", "conftest", "benchmarks"}
    if package == "mmretrieval":
        if target != "mmretrieval":
            return room(importer) == "tools"
        source, wanted = room(importer), room(imported)
        if source == FACADE:
            return layer(wanted) < len(LAYERS) - 1
        if source == wanted or (source, wanted) in NEIGHBOURS:
            return True
        return layer(wanted) < layer(source)
    if target == "mmretrieval":
        # The data knows the vocabulary, not the model; nobody needs the commands.
        return layer(room(imported)) < (3 if package == "data_modules" else len(LAYERS) - 1)
    return (package, target) != ("data_modules", "callbacks")


def violations(root: Path) -> list[str]:
    return [
        f"{where}: {importer} may not import {imported}"
        for importer, imported, where in imports(root)
        if not may_import(importer, imported)
    ]


def test_imports_follow_the_directions() -> None:
    assert violations(ROOT) == []


def test_the_check_sees_the_packages() -> None:
    names = {name for name, _ in modules(ROOT)}
    assert {"mmretrieval.content", "data_modules.corpus", "callbacks", "mmretrieval.tools.main"} <= names
    edges = {(importer, imported) for importer, imported, _ in imports(ROOT)}
    assert ("mmretrieval.tools.data", "data_modules.packing") in edges, "from package import module"
    assert ("data_modules.corpus", "mmretrieval.content") in edges, "from module import class"
    assert ("mmretrieval.distributed", "torch.distributed") in edges, "import module"
    assert {room(name) for name in names if name.startswith("mmretrieval.")} <= set().union(*LAYERS)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("mmretrieval/content.py", "import torch.nn, mmretrieval.encoder.pooling"),
        ("mmretrieval/loss/functional.py", "from mmretrieval.metrics import functional"),
        ("mmretrieval/loss/functional.py", "from mmretrieval import metrics"),
        ("mmretrieval/index/exact.py", "from mmretrieval.mining.negatives import NegativeTable"),
        ("mmretrieval/mining/filters.py", "from mmretrieval.rerank.prompts import TEMPLATE"),
        ("mmretrieval/export/mteb_encoder.py", "from mmretrieval.retriever import Retriever"),
        ("mmretrieval/encoder/backbone.py", "from mmretrieval import Retriever"),
        ("mmretrieval/module.py", "from mmretrieval.cli import main"),
        ("mmretrieval/module.py", "def late():\n    import data_modules.corpus"),
        ("mmretrieval/module.py", "from callbacks import RetrievalGallery"),
        ("mmretrieval/cli.py", "from data_modules import MBEIRDataModule"),
        ("mmretrieval/__init__.py", "from mmretrieval.tools.main import main"),
        ("data_modules/retrieval.py", "if False:\n    from callbacks.embedding import embed"),
        ("data_modules/retrieval.py", "from mmretrieval.module import UniversalRetriever"),
        ("callbacks/report.py", "from mmretrieval.tools.data import stats"),
        ("callbacks/report.py", "from tests.conftest import packed"),
    ],
)
def test_the_check_finds_an_import_against_the_directions(tmp_path: Path, module: str, line: str) -> None:
    for name in ("mmretrieval/metrics/functional.py", "mmretrieval/__init__.py", module):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "mmretrieval/metrics/__init__.py").touch()
    assert violations(tmp_path) == []
    (tmp_path / module).write_text(f"import os\n{line}\n")
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("mmretrieval.module", "mmretrieval.encoder.pooling"),
        ("mmretrieval.tools.data", "data_modules.packing"),
        ("mmretrieval", "mmretrieval.retriever"),
        ("mmretrieval.retriever", "mmretrieval.export.mteb_encoder"),
        ("callbacks.hard_negative_mining", "mmretrieval.module"),
        ("callbacks.hard_negative_mining", "data_modules.corpus"),
        ("data_modules.collate", "mmretrieval.encoder.prompts"),
        ("data_modules.corpus", "numpy"),
    ],
)
def test_the_directions_allow_what_is_built_on_them(importer: str, imported: str) -> None:
    assert may_import(importer, imported)


def test_no_module_is_a_drawer_for_anything() -> None:
    drawers = {"util", "utils", "helper", "helpers", "common", "misc"}
    names = [name for name, _ in modules(ROOT)]
    assert len(names) > 20
    assert [name for name in names if drawers & set(name.split("."))] == []
