"""Reranking through both commands, on the embedded benchmark in small and with the model that ships."""

import json
from pathlib import Path

import pytest

from data_modules import EmbeddedDataModule
from mmretrieval.cli import main
from mmretrieval.tools.main import main as tools

CONFIG = Path(__file__).parents[2] / "configs/rerank.yaml"
pytestmark = [
    pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as 'lightning test' leaves it: three candidates for a few queries of each task."""
    folder = tmp_path_factory.mktemp("run")
    data = EmbeddedDataModule(size=64)
    data.prepare_data()
    data.setup("validate")
    queries, pool = data.queries("test"), data.pool("global_test")
    (folder / "runs_test").mkdir()
    for number, task in enumerate(queries.tasks):
        lines = []
        for row in [row for row in range(len(queries)) if queries.task_of[row] == number][:2]:
            ids = [
                data.corpus.candidate_id(int(c)) for c in (queries.positives(row)[0], *pool[row : row + 2])
            ]
            lines += [f"{queries.ids[row]} Q0 {c} {n} {3 - n} x" for n, c in enumerate(dict.fromkeys(ids))]
        (folder / f"runs_test/global_{task}.trec").write_text("\n".join(lines) + "\n")
    (folder / "config_test.yaml").write_text("data: {init_args: {size: 64, data_seed: 0, num_workers: 0}}")
    return folder


def test_both_commands_rerank_alike(run, tmp_path, capsys):
    options = [
        f"--data.runs={run}",
        "--data.init_args.size=64",
        f"--trainer.default_root_dir={tmp_path / 'one'}",
    ]
    main(["predict", "-c", str(CONFIG), *options])
    tools(["rerank", str(run), str(tmp_path / "two"), "--weight=0.2"])
    one, two = (json.loads((tmp_path / f"{name}/metrics_rerank.json").read_text()) for name in ("one", "two"))
    assert {**one, "seconds": 0} == {**two, "seconds": 0}
    assert len(one["after"]) == 16 + 1
    assert one["queries"] == 32
    assert one["scored"] > 64
    for file in sorted((tmp_path / "one/runs_rerank").iterdir()):
        assert file.read_bytes() == (tmp_path / "two/runs_rerank" / file.name).read_bytes()


def test_a_dry_run_writes_nothing(run, tmp_path):
    options = [f"--data.runs={run}", "--data.init_args.size=64", f"--trainer.default_root_dir={tmp_path}"]
    main(["predict", "-c", str(CONFIG), *options, "--trainer.fast_dev_run=1"])
    assert not list(tmp_path.iterdir())


def test_mistakes_are_one_line(run, tmp_path, capsys):
    for words, message in (
        ([str(tmp_path), str(tmp_path / "out")], "holds no run file"),
        ([str(run), str(tmp_path / "out"), "--weight=2"], "weight must be between 0 and 1"),
        ([str(run), str(tmp_path / "out"), f"--model={tmp_path}"], "there is no config.json"),
    ):
        with pytest.raises(SystemExit) as stopped:
            tools(["rerank", *words])
        assert stopped.value.code == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("mmretrieval: ")
        assert message in error
    (tmp_path / "config_test.yaml").write_text("- 1")
    with pytest.raises(SystemExit):
        tools(["rerank", str(tmp_path), str(tmp_path / "out")])
    assert "does not say which data were searched" in capsys.readouterr().err


@pytest.mark.slow
def test_stage_1_trains_towards_a_rerankers_scores(tmp_path):
    few = ["--data.init_args.num_workers=0", "--data.init_args.batch_size=8", "--data.init_args.size=64"]
    overlay = CONFIG.with_name("reranker_distillation.yaml")
    words = ["fit", "-c", str(CONFIG.with_name("stage1.yaml")), "-c", str(overlay), *few]
    main([*words, "--trainer.max_epochs=2", f"--trainer.default_root_dir={tmp_path}"])
    lines = (tmp_path / "targets/scores-0.jsonl").read_text().splitlines()
    assert len(lines) > 32, "most queries have negatives"
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").rglob("events*"))
    assert b"train/divergence_from_reranker" in events
