"""Stage 2 through the command, in small: after stage 1, with its overlays, and text before stage 1."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from callbacks import TextEvaluation
from data_modules.synthetic.text_benchmark import NAMES, write_text_benchmark
from mmretrieval.cli import main
from mmretrieval.encoder.provenance import read_provenance

CONFIGS = Path(__file__).parents[2] / "configs"
FEW = (
    "--data.init_args.num_workers=0",
    "--data.init_args.batch_size=8",
    "--data.init_args.encoding_batch_size=64",
    "--data.init_args.size=64",
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Multimodal retrieval has fallen"),
    pytest.mark.filterwarnings("ignore:Mining found no negative"),
]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts") / "sets"
    write_text_benchmark(root, size=50)
    return root


def fit(*files, out, options=()):
    configs = [word for file in files for word in ("-c", str(CONFIGS / file))]
    main(["fit", *configs, f"--trainer.default_root_dir={out}", *FEW, *options])


@pytest.fixture
def evaluations(monkeypatch):
    """The tasks that each text evaluation was set up with."""
    found, setup = [], TextEvaluation.setup

    def spy(evaluation, trainer, module, stage):
        setup(evaluation, trainer, module, stage)
        found.append(list(evaluation.data(trainer).queries("test").tasks))

    monkeypatch.setattr(TextEvaluation, "setup", spy)
    return found


def test_text_first_runs_dry_and_evaluates_what_it_trains_on(texts, tmp_path, evaluations):
    options = ["--trainer.fast_dev_run=1", "--data.text_root", str(texts)]
    fit("text_first.yaml", out=tmp_path / "out", options=options)
    assert not (tmp_path / "out/metrics.json").exists()
    assert sorted(evaluations[-1]) == sorted(f"{name}_task1" for name in NAMES)


def test_the_documented_names_and_prompts_are_understood(texts, tmp_path, evaluations, capsys):
    """As in docs/text_data.md."""
    root = tmp_path / "TEXTS"
    root.mkdir()
    for name in ("AllNLI", "stackexchange_duplicate_questions_title_title"):
        rows = [[f"{name} {n}", f"same {name} {n}", f"not {name} {n}"] for n in range(4)]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(texts / "riddles", root / "fever")
    options = ["--data.text_root", str(root), "--trainer.fast_dev_run=1"]
    options += ["--data.symmetric", "[AllNLI, stackexchange_duplicate_questions_title_title]"]
    options += ["--data.prompts", '{fever: "Given a claim, retrieve documents that support or refute it."}']
    fit("text_first.yaml", out=tmp_path / "out", options=options)
    assert evaluations[-1] == ["fever_task1"]
    assert "allnli, stackexchange_duplicate_questions_title_title: no qrels of" in capsys.readouterr().out


def composed(capsys, *files):
    """What the command makes of some configurations."""
    configs = [word for file in files for word in ("-c", str(CONFIGS / file))]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *configs, "--print_config"])
    assert ended.value.code in (0, None)
    return yaml.safe_load(capsys.readouterr().out)


def test_the_papers_settings_replace_those_of_the_small_model(capsys):
    config = composed(capsys, "continual_text.yaml", "continual/paper.yaml")
    data, model = config["data"]["init_args"], config["model"]["init_args"]
    assert config["trainer"]["max_epochs"] * data["batches_per_epoch"] == 4500
    assert (data["max_text_tokens"], data["max_multimodal_tokens"], data["text_share"]) == (512, 128, 0.5)
    assert model["optimizer"]["init_args"]["lr"] == 2e-5
    assert model["distillation"] is None
    assert model["loss"]["init_args"]["temperature"] == 0.05, "the rest stays"


def test_unfamiliar_text_changes_what_makes_it_collapse_and_nothing_else(capsys):
    staged = composed(capsys, "continual_text.yaml")
    config = composed(capsys, "continual_text.yaml", "continual/unfamiliar.yaml")
    data, model = config["data"]["init_args"], config["model"]["init_args"]
    assert (data.pop("homogeneous"), data.pop("text_share")) == (True, 0.7)
    assert config["trainer"].pop("max_epochs") * data.pop("batches_per_epoch") == 1200
    assert model.pop("distillation") is None
    assert model["loss"]["init_args"].pop("temperature") == 0.3
    assert model["optimizer"]["init_args"].pop("lr") == 0.0015
    for name in ("homogeneous", "text_share", "batches_per_epoch"):
        staged["data"]["init_args"].pop(name)
    of_stage, of_model = staged["trainer"], staged["model"]["init_args"]
    of_stage.pop("max_epochs")
    of_model.pop("distillation")
    of_model["loss"]["init_args"].pop("temperature")
    of_model["optimizer"]["init_args"].pop("lr")
    (text,) = (c for c in config["trainer"]["callbacks"] if "TextEvaluation" in c["class_path"])
    assert text["init_args"].pop("ks") == [1, 5, 10, 100]
    (text,) = (c for c in of_stage["callbacks"] if "TextEvaluation" in c["class_path"])
    text["init_args"].pop("ks")
    of_stage["callbacks"] = [c for c in of_stage["callbacks"] if "HardNegativeMining" not in c["class_path"]]
    assert config == staged


@pytest.mark.slow
def test_texts_are_learnt_first_then_stage_1_and_stage_2_with_its_options(texts, tmp_path, capsys):
    own = ["--data.text_root", str(texts), "--data.init_args.batches_per_epoch=2"]
    fit("text_first.yaml", out=tmp_path / "first", options=own)
    shares = json.loads((tmp_path / "first/adapter/training.json").read_text())
    assert "riddles_task1" in json.dumps(shares)
    assert "visualnews" not in json.dumps(shares)

    start = [f"--model.init_args.init_from={tmp_path / 'first'}", "--model.init_args.encoder=null"]
    fit("stage1.yaml", out=tmp_path / "one", options=["--trainer.max_epochs=1", *start])
    first, second = (json.loads((tmp_path / f"{run}/metrics.json").read_text()) for run in ("first", "one"))
    learnt = read_provenance(tmp_path / "one/adapter")
    assert learnt is not None
    assert {"riddles", "scenenews"} <= learnt.data_sets, "both stages"
    assert second["start"] == {pool: first[pool] for pool in ("global", "local")}

    options = [*own, f"--model.init_args.init_from={tmp_path / 'one'}", "--trainer.log_every_n_steps=1"]
    fit("continual_text.yaml", "continual/soup.yaml", out=tmp_path / "two", options=options)
    forgetting = json.loads((tmp_path / "two/forgetting.json").read_text())
    chosen = json.loads((tmp_path / "one/metrics_val.json").read_text())
    assert forgetting["checks"][0]["multimodal"] == chosen["global"]["average"]["hit@5"]
    soup = json.loads((tmp_path / "two/soup.json").read_text())
    assert [mix["share"] for mix in soup["mixes"]] == [0, 0.25, 0.5, 0.75, 1]
    assert soup["final"].keys() == {"multimodal", "text"}
    for mix, check in ((soup["mixes"][0], 0), (soup["mixes"][-1], -1)):
        assert {n: mix[n] for n in ("multimodal", "text")} == {
            n: forgetting["checks"][check][n] for n in ("multimodal", "text")
        }
    assert (tmp_path / "two/soup/retriever.json").is_file()
    assert any((tmp_path / "two/checkpoints").glob("best-step*/retriever.json"))
    rounds = sorted(path.name for path in (tmp_path / "two/negatives").glob("*.npz"))
    assert rounds == ["round_0.npz", "round_1.npz"], "mined before each epoch"
    events = b"".join(path.read_bytes() for path in (tmp_path / "two/tensorboard").rglob("events*"))
    for name in (b"distance_to_start", b"blend/share/multimodal", b"blend/share/riddles_task1"):
        assert name in events
    said = capsys.readouterr().out
    assert "Mixes of start and end" in said
    assert "Samples trained on: multimodal" in said
    assert "## Blend" in (tmp_path / "two/report.md").read_text()
