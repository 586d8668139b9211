import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_modules.synthetic.benchmark import write_benchmark
from mmretrieval import Content, Query, Retriever
from mmretrieval.cli import main
from mmretrieval.metrics.per_query import Measure
from mmretrieval.metrics.run_files import measure
from mmretrieval.metrics.trec import read_qrels
from mmretrieval.tools.main import main as tools

CONFIGS = Path(__file__).parents[2] / "configs"
EMOJI = Path(__file__).parents[3] / "shared" / "data" / "emoji_mbeir"
FEW = (
    "--data.init_args.num_workers=0",
    "--data.init_args.batch_size=8",
    "--data.init_args.encoding_batch_size=64",
)

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


def fit(*files, out, options=()):
    configs = [word for file in files for word in ("-c", str(CONFIGS / file))]
    main(["fit", *configs, f"--trainer.default_root_dir={out}", *options])


def test_stage1_runs_dry(tmp_path):
    fit("stage1.yaml", out=tmp_path, options=["--trainer.fast_dev_run=2", "--data.init_args.size=64", *FEW])
    assert not (tmp_path / "metrics.json").exists()


def test_pretraining_runs_dry(tmp_path):
    options = ["--trainer.fast_dev_run=1", "--data.init_args.batch_size=4", "--data.init_args.num_workers=0"]
    options.append("--data.init_args.validation_batches=1")
    assets = {
        path: path.stat().st_mtime_ns for path in (CONFIGS.parent / "mmretrieval/encoder/assets").iterdir()
    }
    fit("pretrain_small_mllm.yaml", out=tmp_path, options=options)
    assert assets
    assert all(path.stat().st_mtime_ns == time for path, time in assets.items())


def test_the_overlay_for_ones_own_data_runs_dry(tmp_path):
    root = tmp_path / "own"
    write_benchmark(root, seed=1, size=32, progress=False)
    options = ["--data.root", str(root), "--trainer.fast_dev_run=1", *FEW]
    fit("stage1.yaml", "data/mbeir.yaml", out=tmp_path / "out", options=options)
    assert not (tmp_path / "out/metrics.json").exists()


@pytest.mark.skipif(not EMOJI.is_dir(), reason="the real pictures are not here")
def test_the_overlay_takes_real_pictures(tmp_path):
    options = ["--data.root", str(EMOJI), "--trainer.fast_dev_run=1", *FEW]
    fit("stage1.yaml", "data/mbeir.yaml", out=tmp_path / "out", options=options)
    assert not (tmp_path / "out/metrics.json").exists()


def test_a_missing_root_is_one_readable_message(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        fit(
            "stage1.yaml", "data/mbeir.yaml", out=tmp_path, options=["--data.root", str(tmp_path / "nowhere")]
        )
    assert stopped.value.code == 2
    assert str(tmp_path / "nowhere") in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole stage 1 in small: two epochs, one mining, and a text data set to measure beside."""
    out, texts = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("texts") / "shapes"
    (texts / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{number}", "text": f"{number} red stars"} for number in range(9)]
    queries = [{"_id": f"q{number}", "text": f"find {number} stars"} for number in range(3)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (texts / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = "".join(f"q{number}\td{number}\t1\n" for number in range(3))
    (texts / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    options = ["--trainer.max_epochs=2", "--data.init_args.size=64", *FEW]
    options += ["--trainer.callbacks+=callbacks.TextEvaluation", f"--trainer.callbacks.folders=[{texts}]"]
    fit("stage1.yaml", out=out, options=options)
    return out


def test_text_sets_are_measured_beside(run):
    document = json.loads((run / "metrics_text.json").read_text())
    assert document["local"].keys() == {"shapes_task1", "average"}
    assert [done["epoch"] for done in document["epochs"]] == [0, 1, 2]
    assert "## Averages, text" in (run / "report.md").read_text()
    assert (run / "runs_text/local_shapes_task1.trec").is_file()


def test_a_run_leaves_everything_it_promises(run):
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    promised = {
        "config.yaml",
        "metrics.json",
        "metrics_val.json",
        "report.md",
        "curves.png",
        "negatives/round_0.npz",
        "adapter/adapter.safetensors",
        "adapter/retriever.json",
        "adapter/training.json",
        "runs/global_scenenews_task0.trec",
        "runs/local_twinscenes_task4.trec",
        "runs_val/global_scenenews_task0.trec",
        "gallery/shapeiq_task7.png",
    }
    assert promised <= files
    assert any(name.startswith("tensorboard/") for name in files)
    for name in ("metadata.tsv", "sprite.png", "tensors.tsv"):
        assert any(file.startswith("tensorboard/") and file.endswith(f"/retrieval/{name}") for file in files)


@pytest.mark.parametrize(("file", "epochs"), [("metrics.json", [0, 2]), ("metrics_val.json", [0, 1, 2])])
def test_metrics_have_all_tasks_in_both_pools_and_those_at_the_start(run, file, epochs):
    metrics = json.loads((run / file).read_text())
    assert {"global", "local", "start", "epochs"} <= set(metrics)
    for table in (metrics["global"], metrics["local"], metrics["start"]["global"]):
        assert len(table) == 17  # 16 dataset-tasks and their average
        tasks = [values["hit@5"] for name, values in table.items() if name != "average"]
        assert table["average"]["hit@5"] == pytest.approx(np.mean(tasks))
    assert [done["epoch"] for done in metrics["epochs"]] == epochs


def test_the_best_epoch_is_that_of_the_val_split(run):
    epochs = json.loads((run / "metrics_val.json").read_text())["epochs"][1:]
    best = max(epochs, key=lambda done: done["global"]["average"]["hit@5"])
    assert (run / f"checkpoints/best-step{best['step']}.ckpt").is_file()
    text = (run / "report.md").read_text()
    assert "## Averages, val" in text
    assert "## Averages, test" in text


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_nothing_is_chosen_by_the_test_split(path):
    callbacks = (yaml.safe_load(path.read_text()).get("trainer") or {}).get("callbacks", [])
    chosen = any(c["class_path"].endswith(("BestCheckpoint", "ModelSoup")) for c in callbacks)
    for callback in callbacks:
        if chosen and callback["class_path"].endswith(("RetrievalEvaluation", "TextEvaluation")):
            arguments = callback["init_args"]
            assert arguments["final_split"] == "test"
            if callback["class_path"].endswith("RetrievalEvaluation"):
                assert arguments["split"] == "val"
            else:  # the data module's texts, which are evaluated on dev or val if they have it
                assert not {"folders", "released_split"} & set(arguments)


def test_interpolated_paths_follow_an_override(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["default_root_dir"] == str(run)
    assert (run / "checkpoints/last.ckpt").is_file()
    assert next((run / "tensorboard").rglob("events.*"))


def test_scalars_and_galleries_are_in_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next((run / "tensorboard").iterdir())), {"scalars": 0, "images": 0})
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    expected = {
        "train/loss",
        "train/in_batch_accuracy",
        "train/temperature",
        "train/gradient_norm",
        "train/queries_per_second",
        "mining/wrong_modality",
        "mining/seconds",
        "global/average/hit@5",
        "text/local/average/ndcg@10",
        "global/average/modality_accuracy@1",
        "local/average/ndcg@10",
        "test/global/average/hit@5",
    }
    assert expected <= scalars
    assert any(name.startswith("lr-") for name in scalars)
    assert events.Tags()["images"]


def test_the_trained_retriever_loads_and_embeds_as_in_the_run(run):
    retriever = Retriever.from_pretrained(run)
    embeddings = retriever.encode_queries([Query(Content("a red star"), "Find a picture.")])
    assert embeddings.shape == (1, 192)
    saved = json.loads((run / "adapter/retriever.json").read_text())
    assert saved["base"] == "embedded"
    assert retriever.provenance is not None
    assert {"scenenews", "twinscenes"} <= retriever.provenance.data_sets


@pytest.mark.filterwarnings("ignore:Multimodal retrieval has fallen")  # one step at chance says nothing of it
def test_stage2_starts_from_a_run_and_says_so_where_there_is_none(run, tmp_path, capsys):
    options = ["--trainer.fast_dev_run=1", "--data.init_args.size=64", "--data.init_args.batch_size=8"]
    options.append("--data.init_args.encoding_batch_size=64")
    fit("continual_text.yaml", out=tmp_path, options=[*options, f"--model.init_args.init_from={run}"])
    missing = f"--model.init_args.init_from={tmp_path}"
    assert not (tmp_path / "metrics_text.json").exists()
    with pytest.raises(SystemExit) as stopped:
        fit("continual_text.yaml", out=tmp_path, options=[*options, missing])
    assert stopped.value.code == 2
    assert "train one first, as with 'lightning fit -c configs/stage1.yaml'" in capsys.readouterr().err


def test_a_saved_configuration_runs_again(run, tmp_path):
    options = ["--trainer.fast_dev_run=1", f"--trainer.default_root_dir={tmp_path}"]
    main(["fit", "-c", str(run / "config.yaml"), *options])
    assert (run / "metrics.json").is_file()


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # texts are not evaluated again
def test_a_trained_checkpoint_is_tested_with_the_metrics_of_its_run(run):
    main(
        [
            "test",
            "-c",
            str(CONFIGS / "stage1.yaml"),
            f"--trainer.default_root_dir={run}",
            f"--ckpt_path={run}/checkpoints/last.ckpt",
            "--data.init_args.size=64",
            *FEW,
        ]
    )
    tested = json.loads((run / "metrics_test.json").read_text())
    trained = json.loads((run / "metrics.json").read_text())
    assert tested["global"]["average"] == pytest.approx(trained["global"]["average"], abs=1e-6)


# --- evaluation alone


def evaluate(*files, out, options=()):
    configs = [word for file in ("evaluate.yaml", *files) for word in ("-c", str(CONFIGS / file))]
    main(["test", *configs, f"--trainer.default_root_dir={out}", *options])
    return json.loads((out / "metrics_test.json").read_text())


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # mining's state is not needed
@pytest.mark.parametrize("form", ["checkpoint", "adapter"])
def test_a_trained_retriever_is_evaluated_in_full_with_the_numbers_of_its_run(run, tmp_path, form):
    options = ["--data.init_args.size=64", "--data.init_args.encoding_batch_size=64"]
    if form == "checkpoint":
        options.append(f"--ckpt_path={run}/checkpoints/last.ckpt")
    else:
        options += [f"--model.init_args.init_from={run}", "--model.init_args.encoder=null"]
    found = evaluate(out=tmp_path, options=options)
    trained = json.loads((run / "metrics.json").read_text())
    for pool in ("global", "local"):
        for task, values in trained[pool].items():
            assert {name: found[pool][task][name] for name in values} == pytest.approx(values, abs=1e-6)
        assert {"average_single_modal", "average_composed"} < found[pool].keys()
    steps = trained["epochs"][-1]["step"]
    assert found["evaluation"]["weights"] == (f"step {steps}" if form == "checkpoint" else "adapter")
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    promised = {"report_test.md", "uniir_test.tsv", "environment_test.json", "config_test.yaml"}
    promised |= {f"runs_test/global_scenenews_task0.{end}" for end in ("trec", "qrels")}
    assert promised <= files
    assert any(name.startswith("gallery/failures/") for name in files)
    assert "Untrained" not in (tmp_path / "report_test.md").read_text()


@pytest.mark.slow
def test_instructions_may_be_averaged_or_drawn_as_uniir_does(run, tmp_path):
    options = [f"--model.init_args.init_from={run}", "--model.init_args.encoder=null"]
    options += ["--data.init_args.size=64", "--data.init_args.encoding_batch_size=64"]

    def asked(name, **arguments):
        config = yaml.safe_load((CONFIGS / "evaluate.yaml").read_text())
        (own,) = [
            c for c in config["trainer"]["callbacks"] if c["class_path"].endswith("RetrievalEvaluation")
        ]
        own["init_args"] |= arguments
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
        main(
            [
                "test",
                "-c",
                str(tmp_path / f"{name}.yaml"),
                f"--trainer.default_root_dir={tmp_path / name}",
                *options,
            ]
        )
        return json.loads((tmp_path / name / "metrics_test.json").read_text())

    mean = asked("mean", instructions="mean")
    assert mean["evaluation"]["instructions"] == "mean"
    spread = mean["instruction_spread"]["global"]
    assert any(value > 0 for values in spread.values() for value in values.values())
    folder, task = tmp_path / "mean/runs_test", "global_scenenews_task0"
    qrels, mrr = read_qrels(folder / f"{task}.qrels"), Measure.named("mrr")
    runs = [folder / f"{task}{prompt}.trec" for prompt in ("", "_prompt2", "_prompt3", "_prompt4")]
    values = [np.mean([*measure(run_file, qrels, mrr, "score").values.values()]) for run_file in runs]
    assert mean["global"]["scenenews_task0"]["mrr"] == pytest.approx(np.mean(values), abs=1e-6)
    assert spread["scenenews_task0"]["mrr"] == pytest.approx(np.std(values), abs=1e-6)
    drawn = asked("drawn", instructions="uniir", instruction_seed=1)
    again = asked("again", instructions="uniir", instruction_seed=1)
    other = asked("other", instructions="uniir", instruction_seed=2)
    assert drawn == again
    assert drawn["global"] != other["global"]
    assert drawn["evaluation"]["queries_digest"] != other["evaluation"]["queries_digest"]


@pytest.mark.filterwarnings("ignore:The weights that are evaluated are untrained")
@pytest.mark.skipif(not EMOJI.is_dir(), reason="the real pictures are not here")
def test_real_pictures_get_a_complete_report_which_says_that_nothing_was_trained(tmp_path):
    options = ["--data.root", str(EMOJI)]
    found = evaluate("data/mbeir.yaml", out=tmp_path, options=options)
    tasks = {"emojiname_task0", "emojiname_task3", "emojiwords_task1", "average", "average_single_modal"}
    assert found["global"].keys() == found["local"].keys() == tasks
    text = (tmp_path / "report_test.md").read_text()
    assert "**Untrained**" in text
    assert "| emojiwords_task1 | 517 | 0 |" in text
    assert len((tmp_path / "uniir_test.tsv").read_text().splitlines()) == 1 + 3 * 3


# --- the paper's two models, and mining apart from training


@pytest.fixture(scope="module")
def random_run(tmp_path_factory):
    """The paper's first model in small, which mines at its end."""
    out = tmp_path_factory.mktemp("random")
    fit("paper_random.yaml", out=out, options=["--data.init_args.size=64", *FEW])
    return out


@pytest.mark.slow
def test_the_papers_second_model_begins_with_what_the_first_one_mined(random_run, tmp_path):
    config = yaml.safe_load((CONFIGS / "paper_hard.yaml").read_text())
    (mining,) = [c for c in config["trainer"]["callbacks"] if c["class_path"].endswith("HardNegativeMining")]
    assert mining["init_args"]["start"] == "outputs/paper_random/negatives/round_0.npz"
    mining["init_args"]["start"] = str(random_run / "negatives/round_0.npz")
    (tmp_path / "paper_hard.yaml").write_text(yaml.safe_dump(config))
    fit(tmp_path / "paper_hard.yaml", out=tmp_path / "hard", options=["--data.init_args.size=64", *FEW])
    assert "None were mined" in (tmp_path / "hard/report.md").read_text()
    assert (tmp_path / "hard/metrics.json").is_file()


@pytest.mark.slow
def test_a_round_can_be_mined_apart_from_training(random_run, tmp_path, capsys):
    # Neither what its rounds leave out nor that it did not validate matters.
    config = yaml.safe_load((random_run / "config.yaml").read_text())
    config["trainer"]["limit_val_batches"] = 0
    (mining,) = [c for c in config["trainer"]["callbacks"] if c["class_path"].endswith("HardNegativeMining")]
    mining["init_args"]["subset"] = {"queries": 3, "candidates": 9}
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(config))
    weights = f"--checkpoint={random_run}/checkpoints/last.ckpt"
    tools(["mine", str(tmp_path / "run"), str(tmp_path / "negatives"), weights])
    assert "round_0.npz: weights " in capsys.readouterr().out
    found, expected = (
        np.load(folder / "round_0.npz") for folder in (tmp_path / "negatives", random_run / "negatives")
    )
    for name in ("query_ids", "offsets", "candidate_ids", "kinds", "ranks"):
        assert np.array_equal(found[name], expected[name])
    assert len(found["candidate_ids"]) > 0


def test_mining_without_a_run_is_one_readable_message(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        tools(["mine", str(tmp_path), str(tmp_path / "negatives")])
    assert stopped.value.code == 2
    assert f"{tmp_path / 'config.yaml'}: is not there" in capsys.readouterr().err


@pytest.mark.slow
def test_another_retriever_can_be_the_teacher(random_run, tmp_path):
    config = yaml.safe_load((CONFIGS / "stage1.yaml").read_text())
    (mining,) = [c for c in config["trainer"]["callbacks"] if c["class_path"].endswith("HardNegativeMining")]
    mining["init_args"]["teacher"] = str(random_run)
    (tmp_path / "taught.yaml").write_text(yaml.safe_dump(config))
    options = ["--trainer.max_epochs=2", "--data.init_args.size=64", *FEW]
    fit(tmp_path / "taught.yaml", out=tmp_path / "out", options=options)
    stores = [path.name.rsplit("-", 2)[0] for path in (tmp_path / "out/embeddings/teacher").glob("[!.]*")]
    assert sorted(stores) == ["candidates", "train-queries"]
    # The teacher's own round has the same candidates at the same ranks: same weights, pool and plan.
    found, expected = (np.load(run / "negatives/round_0.npz") for run in (tmp_path / "out", random_run))
    for name in ("query_ids", "offsets", "candidate_ids", "kinds", "ranks"):
        assert np.array_equal(found[name], expected[name])
    stamp = json.loads(str(found["stamp"]))
    assert stamp["settings"]["teacher"] is not None
    assert json.loads(str(expected["stamp"]))["settings"]["teacher"] is None
