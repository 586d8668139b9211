"""``mmretrieval export``: the folder appears whole or not at all, and nothing leaves the machine unasked."""

from __future__ import annotations

import pytest
from encoders import make, perturb

from mmretrieval import Retriever
from mmretrieval.tools.main import main


@pytest.fixture(scope="module")
def run(tiny_mllm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "stage1"
    (folder / "adapter").mkdir(parents=True)
    perturb(make(tiny_mllm)).save_pretrained(folder / "adapter")
    return folder


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    """No test may reach the hub; what would be sent is kept."""
    sent = []

    class Hub:
        def create_repo(self, repo_id, **options):
            sent.append((repo_id, options["private"]))

        def upload_folder(self, *, folder_path, **options):
            sent.append(sorted(path.name for path in folder_path.iterdir()))

    monkeypatch.setattr("mmretrieval.export.hub.HfApi", Hub)
    return sent


def test_a_run_is_exported_and_found_again(run, tmp_path, capsys, hub):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is no obstacle
    main(["export", str(run), str(out), "--dtype", "bfloat16", "--license", "mit"])
    said = capsys.readouterr().out
    assert f"{out}: merged, bfloat16; largest difference from the trained retriever: Retriever " in said
    assert Retriever.from_pretrained(out).encoder.loading.dtype == "bfloat16"
    assert hub == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing is left beside it"


def test_it_is_uploaded_when_asked(run, tmp_path, hub):
    words = ["--form", "adapter", "--push_to_hub", "someone/retriever", "--private", "false"]
    main(["export", str(run), str(tmp_path / "out"), *words])
    assert hub[0] == ("someone/retriever", False)
    assert hub[1] == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert {"README.md", "adapter.safetensors", "retriever.json"} <= set(hub[1])


def failed(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(["export", *map(str, words)])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_a_failed_export_leaves_nothing_behind(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mmretrieval.export.verification.TOLERANCE", -1.0)
    said = failed(capsys, run, tmp_path / "out")
    assert "Retriever.from_pretrained embeds otherwise than the trained retriever" in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_kept(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    assert "exists already" in failed(capsys, run, tmp_path / "out")
    assert (tmp_path / "out/mine.txt").read_text() == "mine"


def test_bad_names_and_runs_are_one_line(run, tmp_path, capsys, hub):
    said = failed(capsys, run, tmp_path / "out", "--push_to_hub", "a/b/c")
    assert "--push_to_hub 'a/b/c'" in said
    assert "give the 'adapter' folder of a training run" in failed(capsys, tmp_path, tmp_path / "out")
    assert hub == []
    assert not (tmp_path / "out").exists()
