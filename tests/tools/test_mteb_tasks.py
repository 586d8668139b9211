import json
import re

import mteb
import pytest
from encoders import make, perturb
from local_tasks import PictureRetrieval, SoundRetrieval, TextRetrieval

from mmretrieval import Retriever
from mmretrieval.encoder.provenance import Provenance, write_provenance
from mmretrieval.tools.main import main

LOCAL = {kind.metadata.name: kind for kind in (TextRetrieval, PictureRetrieval, SoundRetrieval)}


@pytest.fixture(scope="module")
def run(tiny_mllm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "stage1"
    (folder / "adapter").mkdir(parents=True)
    perturb(make(tiny_mllm)).save_pretrained(folder / "adapter")
    write_provenance(folder / "adapter", Provenance({"LocalText_task1": 1.0}, steps=3))
    return folder


@pytest.fixture
def local(monkeypatch):
    """mteb finds the tasks that are made here."""
    original = mteb.get_task
    monkeypatch.setattr(mteb, "get_task", lambda name: LOCAL[name]() if name in LOCAL else original(name))


def test_the_command_writes_mtebs_results_and_a_table(run, local, tmp_path, capsys):
    main(["mteb", str(run), "LocalText,LocalPictures", "--out", str(tmp_path), "--batch_size", "8"])
    meta = Retriever.from_pretrained(run).mteb_model_meta
    assert meta.name == "mmretrieval/stage1"
    scores = []
    for name, kind in (("LocalText", TextRetrieval), ("LocalPictures", PictureRetrieval)):
        result = json.loads(
            (tmp_path / f"results/mmretrieval__stage1/{meta.revision}/{name}.json").read_text()
        )
        scores.append(result["scores"]["test"][0]["main_score"])
        again = mteb.evaluate(Retriever.from_pretrained(run), kind(), cache=None, show_progress_bar=False)
        assert scores[-1] == pytest.approx(again.task_results[0].get_score(), abs=2e-5)
    report = (tmp_path / "report.md").read_text()
    assert f"| LocalText | Retrieval | ndcg_at_10 | {scores[0]:.5f} | yes |" in report
    assert f"| LocalPictures | Any2AnyRetrieval | ndcg_at_10 | {scores[1]:.5f} | no |" in report
    assert f"| mean |  |  | {sum(scores) / 2:.5f} |" in report
    shown = capsys.readouterr()
    assert f"{scores[0]:.5f}" in shown.out
    assert "stage1 (weights " in shown.err
    saved = json.loads(
        (tmp_path / f"results/mmretrieval__stage1/{meta.revision}/model_meta.json").read_text()
    )
    assert saved["training_datasets"] == ["LocalText"]


def test_instructions_from_a_file_are_used(run, local, tmp_path):
    path = tmp_path / "instructions.yaml"
    path.write_text("LocalText: Find something else entirely.\n")
    main(["mteb", str(run), "LocalText", "--out", str(tmp_path), "--instructions", str(path)])
    assert len(list(tmp_path.glob("results/*/*/experiments/*/LocalText.json"))) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "must map names of tasks to instructions, found list"),
        ("LocalText: [a]", r"LocalText: an instruction must be a text, found \['a'\]"),
        ("Other: a", "'Other' is neither name nor type of a task that is asked for"),
        ("a: [", "cannot be read"),
    ],
)
def test_instructions_that_cannot_be_used_are_an_error(run, local, tmp_path, capsys, text, said):
    path = tmp_path / "instructions.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        main(["mteb", str(run), "LocalText", "--instructions", str(path), "--out", str(tmp_path)])
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (",", "names none"),
        ("NFCorpu", "'NFCorpu' is no task of mteb"),
        ("LocalSound", "LocalSound: cannot be evaluated: Model mmretrieval/stage1 supports"),
    ],
)
def test_tasks_that_cannot_be_evaluated_are_an_error(run, local, tmp_path, capsys, tasks, said):
    with pytest.raises(SystemExit, match="2"):
        main(["mteb", str(run), tasks, "--out", str(tmp_path)])
    assert said in capsys.readouterr().err


def test_data_that_cannot_be_loaded_is_an_error(run, monkeypatch, tmp_path, capsys):
    def unreachable(self, **options):
        raise ConnectionError("the hub cannot be reached")

    monkeypatch.setattr(type(mteb.get_task("NFCorpus")), "load_data", unreachable)
    with pytest.raises(SystemExit, match="2"):
        main(["mteb", str(run), "NFCorpus", "--out", str(tmp_path)])
    assert "NFCorpus: cannot be evaluated: the hub cannot be reached" in capsys.readouterr().err
