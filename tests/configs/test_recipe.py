"""The paper's recipe: its overlays say what the paper says, on top of what they are for."""

import json
from pathlib import Path

import pytest
import yaml

from data_modules.synthetic.benchmark import write_benchmark
from data_modules.synthetic.text_benchmark import write_text_benchmark
from mmretrieval.cli import RetrievalCLI, main, restrict_imports

CONFIGS = Path(__file__).parents[2] / "configs"
ON_CPU = (
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.strategy=auto",
    "--trainer.precision=32-true",
)
SMALL = {
    "global_batch_size": 8,
    "encoding_batch_size": 64,
    "num_workers": 0,
}
MODEL = "model/nvembed_llava_next.yaml"
STAGES = {
    "random": (
        "paper_random.yaml",
        MODEL,
        "data/mbeir.yaml",
        "recipe/random.yaml",
        "hardware/fsdp_8gpu.yaml",
    ),
    "hard": ("paper_hard.yaml", MODEL, "data/mbeir.yaml", "recipe/hard.yaml", "hardware/fsdp_8gpu.yaml"),
    "text": ("continual_text.yaml", MODEL, "recipe/text.yaml", "hardware/fsdp_8gpu.yaml"),
    "evaluate": ("evaluate.yaml", MODEL, "data/mbeir.yaml", "recipe/evaluate.yaml", "hardware/ddp.yaml"),
}

pytestmark = pytest.mark.filterwarnings("ignore:Mining found no negative")


def words(files):
    return [word for file in files for word in ("-c", str(CONFIGS / file))]


def printed(capsys, command, files, *options):
    with pytest.raises(SystemExit) as ended:
        main([command, *words(files), *options, "--print_config"])
    assert ended.value.code in (0, None)
    return yaml.safe_load(capsys.readouterr().out)


def test_every_overlay_has_a_stage():
    overlays = {path.stem for path in (CONFIGS / "recipe").glob("*.yaml")}
    assert overlays == STAGES.keys()
    for name, files in STAGES.items():
        said = (CONFIGS / f"recipe/{name}.yaml").read_text()
        assert all(f"-c configs/{file}" in said for file in files)


@pytest.mark.parametrize(("stage", "batch"), [("random", 1024), ("hard", 512)])
def test_both_models_are_trained_with_the_papers_numbers(stage, batch, capsys):
    whole = printed(capsys, "fit", STAGES[stage], "--data.root=MBEIR")
    assert whole["trainer"]["max_epochs"] == 2
    assert whole["data"]["class_path"] == "data_modules.MBEIRDataModule"
    data = whole["data"]["init_args"]
    assert (data["root"], data["global_batch_size"]) == ("MBEIR", batch)
    model = whole["model"]["init_args"]
    assert model["optimizer"]["init_args"]["lr"] == 1e-4
    encoder = model["encoder"]["init_args"]
    assert encoder["max_text_tokens"] == 128
    assert (encoder["lora"]["rank"], encoder["lora"]["alpha"]) == (8, 64)
    assert encoder["pictures"]["tiles"] is False
    assert encoder["trained"] == {"projector": True, "embeddings": False, "vision_tower": False}
    assert model["init_from"] is None, "from the backbone"
    names = [callback["class_path"] for callback in whole["trainer"]["callbacks"]]
    assert names[-1] == "callbacks.RankWatch", "appended to what the recipe lists"
    (mining,) = [c["init_args"] for c in whole["trainer"]["callbacks"] if "Mining" in c["class_path"]]
    assert mining["schedule"]["after_training"] == (stage == "random")
    assert mining["start"] == {"random": None, "hard": "outputs/mm_embed_random/negatives/round_0.npz"}[stage]


def test_the_negatives_of_the_second_model_are_where_the_first_one_leaves_them(capsys):
    first = printed(capsys, "fit", STAGES["random"], "--data.root=MBEIR")
    assert first["trainer"]["default_root_dir"] == "outputs/mm_embed_random"
    assert first["trainer"]["logger"]["init_args"]["save_dir"] == "outputs/mm_embed_random"
    text = printed(capsys, "fit", STAGES["text"], "--data.root=MBEIR", "--data.text_root=TEXTS")
    second = printed(capsys, "fit", STAGES["hard"], "--data.root=MBEIR")
    assert text["model"]["init_args"]["init_from"] == second["trainer"]["default_root_dir"]


def test_stage_2_has_the_papers_numbers(capsys):
    whole = printed(capsys, "fit", STAGES["text"], "--data.root=MBEIR", "--data.text_root=TEXTS")
    data, model = whole["data"]["init_args"], whole["model"]["init_args"]
    assert (data["batches_per_epoch"], data["max_text_tokens"], data["text_root"]) == (4500, 512, "TEXTS")
    assert (whole["trainer"]["max_epochs"], whole["trainer"]["max_steps"]) == (1, -1)
    assert model["optimizer"]["init_args"]["lr"] == 2e-5
    assert model["distillation"] is None
    assert model["encoder"]["init_args"]["chunks"]["tokens"] == 2048  # no saved adapter has them


def test_all_stages_have_one_encoder(capsys):
    """Settings that decide what an adapter computes: it loads with the same ones only."""
    text = ["--data.text_root=TEXTS"]
    encoders = {
        stage: printed(
            capsys,
            "test" if stage == "evaluate" else "fit",
            files,
            "--data.root=MBEIR",
            *(text if stage == "text" else ()),
        )["model"]["init_args"]["encoder"]
        for stage, files in STAGES.items()
    }
    first = encoders.pop("random")
    assert first["init_args"]["loading"]["language_model"] == "nvidia/NV-Embed-v1"
    for stage, encoder in encoders.items():
        assert encoder == first, stage


@pytest.mark.parametrize("stage", ["random", "hard"])
def test_everything_that_a_stage_names_is_made(stage, tmp_path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    restrict_imports()
    options = ["--data.root=MBEIR", f"--trainer.default_root_dir={tmp_path}", *ON_CPU]
    cli = RetrievalCLI([*words(STAGES[stage]), *options], run=False)
    assert cli.datamodule.mixture.global_batch_size in (512, 1024)
    assert cli.model.encoder.core is None, "nothing was loaded"


def cut_down(name, folder, negatives=None):
    """The overlay for a CPU and data of a few queries."""
    overlay = yaml.safe_load((CONFIGS / f"recipe/{name}.yaml").read_text())
    overlay["trainer"] |= {"default_root_dir": str(folder / name), "max_epochs": 1}
    data = overlay["data"]["init_args"]
    data |= {key: value for key, value in SMALL.items() if key != "global_batch_size" or key in data}
    if "batches_per_epoch" in data:
        data["batches_per_epoch"] = 2
    for callback in overlay["trainer"]["callbacks"]:
        arguments = callback.get("init_args", {})
        if "index" in arguments:
            arguments["index"]["init_args"]["device"] = "cpu"
        if "start" in arguments:
            arguments["start"] = str(negatives)
    if name == "text":
        overlay["model"]["init_args"]["init_from"] = str(folder / "hard")
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(overlay))
    return folder / f"{name}.yaml"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gpu")
def test_the_whole_recipe_runs_in_small(tmp_path):
    """With the embedded model in place of the paper's, on data of a few queries."""
    root, texts = tmp_path / "mbeir", tmp_path / "texts"
    write_benchmark(root, seed=1, size=64, progress=False)
    write_text_benchmark(texts, size=50)
    data = [f"--data.root={root}"]

    def run(command, *files, options=()):
        main([command, *words(files), *ON_CPU, *data, *options])

    run("fit", "paper_random.yaml", "data/mbeir.yaml", cut_down("random", tmp_path))
    negatives = tmp_path / "random/negatives/round_0.npz"
    run("fit", "paper_hard.yaml", "data/mbeir.yaml", cut_down("hard", tmp_path, negatives))
    text = [f"--data.text_root={texts}"]
    run("fit", "continual_text.yaml", cut_down("text", tmp_path), options=text)
    start = [f"--model.init_args.init_from={tmp_path / 'text'}", "--model.init_args.encoder=null"]
    run("test", "evaluate.yaml", "data/mbeir.yaml", cut_down("evaluate", tmp_path), options=start)
    found = json.loads((tmp_path / "evaluate/metrics_test.json").read_text())
    assert found["evaluation"]["weights"] == "adapter"
    assert len(found["global"]) > 16
    assert (tmp_path / "text/negatives/round_0.npz").is_file()
