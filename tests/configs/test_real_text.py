"""Stage 2 on real pictures and real definitions: what the command line names is trained on and evaluated."""

import json
from pathlib import Path

import pytest
import yaml

from mmretrieval.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
REAL = Path(__file__).parents[3] / "shared" / "data"
EMOJI, WORDNET = REAL / "emoji_mbeir", REAL / "wordnet_beir"
FEW = ("--data.init_args.num_workers=0", "--data.init_args.batch_size=8")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Multimodal retrieval has fallen"),
    pytest.mark.filterwarnings("ignore:Mining found no negative"),
]


MULTIMODAL = ("RetrievalEvaluation", "ForgettingMonitor", "RunReport", "BestCheckpoint")


def of_parts(folder):
    """Stage 2 with an epoch, rounds of mining that look at little, and text evaluated alone, to be quick."""
    config = yaml.safe_load((CONFIGS / "continual_text.yaml").read_text())
    trainer = config["trainer"]
    trainer["max_epochs"] = 1
    trainer["callbacks"] = [c for c in trainer["callbacks"] if not c["class_path"].endswith(MULTIMODAL)]
    for callback in trainer["callbacks"]:
        if callback["class_path"] == "callbacks.HardNegativeMining":
            callback["init_args"]["subset"] = {"queries": 64, "candidates": 200}
    (folder / "small.yaml").write_text(yaml.safe_dump(config))
    return folder / "small.yaml"


@pytest.mark.slow
@pytest.mark.skipif(not WORDNET.is_dir(), reason="the real data are not here")
def test_the_held_out_definitions_are_evaluated(tmp_path, tiny_mllm):
    stage1 = ["-c", str(CONFIGS / "stage1.yaml"), "-c", str(CONFIGS / "data/mbeir.yaml")]
    adapter = "[{class_path: callbacks.AdapterCheckpoint}]"
    only = [f"--trainer.callbacks={adapter}", "--trainer.max_steps=1", "--trainer.logger=false"]
    start = [f"--model.init_args.encoder.init_args.base={tiny_mllm}", "--data.root", str(EMOJI)]
    main(["fit", *stage1, *only, *start, f"--trainer.default_root_dir={tmp_path / 'one'}", *FEW])

    roots = ["--data.root", str(EMOJI), "--data.text_root", str(WORDNET)]  # as the documented command
    options = ["--data.init_args.batches_per_epoch=3", f"--trainer.default_root_dir={tmp_path / 'two'}"]
    options.append(f"--model.init_args.init_from={tmp_path / 'one'}")
    main(["fit", "-c", str(of_parts(tmp_path)), *roots, *options, *FEW])
    text = json.loads((tmp_path / "two/metrics_text.json").read_text())
    assert text["local"].keys() == {"wordnet_beir_task1", "average"}
    held_out = {line.split("\t")[0] for line in (WORDNET / "qrels/test.tsv").read_text().splitlines()[1:]}
    judged = (tmp_path / "two/runs_text/local_wordnet_beir_task1.qrels").read_text().splitlines()
    assert len({line.split()[0] for line in judged}) == len(held_out) == 500
    shares = json.loads((tmp_path / "two/adapter/training.json").read_text())
    assert "wordnet_beir_task1" in json.dumps(shares)
    assert all(0 <= part["local"]["average"]["ndcg@10"] <= 1 for part in (text, text["start"]))
    assert text["local"] != text["start"]["local"], "three steps have moved the rankings"
    assert [done["step"] for done in text["epochs"]] == [0, 3]
