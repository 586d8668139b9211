"""Stage 2 through the command, in small: after stage 1, with its overlays, and text before stage 1."""

import json
from pathlib import Path

import pytest
import yaml

from data_modules.synthetic.text_benchmark import write_text_benchmark
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
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Multimodal retrieval has fallen"),
    pytest.mark.filterwarnings("ignore:Mining found no negative"),
]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMRETRIEVAL_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts") / "sets"
    write_text_benchmark(root, size=50)
    return root


def fit(*files, out, options=()):
    configs = [word for file in files for word in ("-c", str(CONFIGS / file))]
    main(["fit", *configs, f"--trainer.default_root_dir={out}", *FEW, *options])


def own_texts(name, texts, folder):
    """The configuration with other texts to evaluate on."""
    config = yaml.safe_load((CONFIGS / name).read_text())
    for callback in config["trainer"]["callbacks"]:
        if callback["class_path"] == "callbacks.TextEvaluation":
            callback["init_args"]["folders"] = str(texts)
    config["data"]["init_args"]["text_root"] = str(texts)
    (folder / name).write_text(yaml.safe_dump(config))
    return folder / name


def test_text_first_runs_dry(texts, tmp_path):
    config = own_texts("text_first.yaml", texts, tmp_path)
    fit(config, out=tmp_path / "out", options=["--trainer.fast_dev_run=1"])
    assert not (tmp_path / "out/metrics.json").exists()


@pytest.mark.slow
def test_texts_are_learnt_first_then_stage_1_and_stage_2_with_its_options(texts, tmp_path, capsys):
    config = own_texts("text_first.yaml", texts, tmp_path)
    fit(config, out=tmp_path / "first", options=["--data.init_args.batches_per_epoch=2"])
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

    config = own_texts("continual_text.yaml", texts, tmp_path)
    options = ["--data.init_args.batches_per_epoch=2", f"--model.init_args.init_from={tmp_path / 'one'}"]
    options.append("--trainer.log_every_n_steps=1")
    fit(config, "continual/soup.yaml", out=tmp_path / "two", options=options)
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
    assert (tmp_path / "two/negatives/round_0.npz").is_file(), "mined before the first step"
    assert "distance_to_start" in "".join(
        str(path.read_bytes()) for path in (tmp_path / "two/tensorboard").rglob("events*")
    )
    assert "Mixes of start and end" in capsys.readouterr().out
