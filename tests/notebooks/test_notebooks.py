"""The notebooks run from their first cell to their last, and are kept without outputs."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
SEQUENCES = [
    ["01_quickstart.ipynb", "04_search_and_rerank.ipynb"],  # the second takes the first one's run
    ["02_your_own_data.ipynb"],
    ["03_modality_bias_and_hard_negatives.ipynb"],
]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jupyter's own libraries


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_valid_and_kept_without_outputs(name):
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert notebook.cells[0].cell_type == "markdown"
    assert json.loads((NOTEBOOKS / name).read_text())["metadata"]["kernelspec"]["name"] == "python3"


def test_all_notebooks_are_run():
    assert sorted(name for sequence in SEQUENCES for name in sequence) == NAMES


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("names", SEQUENCES, ids=lambda names: names[0][:2])
def test_notebooks_run(names, tmp_path, monkeypatch):
    monkeypatch.setenv("MMRETRIEVAL_HOME", str(tmp_path / "home"))
    for name in names:
        notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
        said = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert any("image/png" in output.get("data", {}) for output in said), "a picture is shown"
        assert not [output for output in said if output.output_type == "error"]
