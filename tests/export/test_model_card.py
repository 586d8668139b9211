"""The card of an exported retriever says what its run knows, in metadata that the hub takes."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from runs_to_export import INSTRUCTION, exported

from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.errors import UserError
from mmretrieval.export.run_facts import read_facts

IDENTIFIERS = {"license", "library_name", "pipeline_tag", "base_model_relation"}


@pytest.fixture
def folder(run, tmp_path):
    return shutil.copytree(run[0], tmp_path / "stage1")


def card_of(run, tmp_path, **wishes):
    exported(run, tmp_path / "out", **wishes)
    return ModelCard.load(tmp_path / "out/README.md")


def test_the_metadata_is_valid_and_has_the_measures(folder, tmp_path):
    card = card_of(folder, tmp_path, licence="apache-2.0")
    metadata = yaml.safe_load(card.data.to_yaml())
    assert metadata["license"] == "apache-2.0"
    assert metadata["library_name"] == "sentence-transformers"
    assert metadata["tags"] == ["mmretrieval", "multimodal", "retrieval", "sentence-transformers"]
    assert all(isinstance(metadata[name], str) for name in IDENTIFIERS & metadata.keys())
    assert "base_model" not in metadata, "a folder here is no name on the hub"
    results = {(one.dataset_name, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert results == {
        ("photos_task0", "hit@1"): 0.25,
        ("photos_task0", "hit@5"): 0.5,
        ("average over all tasks", "hit@5"): 0.5,
    }
    assert card.data.model_name == "stage1"


def test_what_the_hub_would_check_is_what_was_written(folder, tmp_path, monkeypatch):
    posted = []

    class Session:
        def post(self, address, json, headers):
            posted.append(json)
            return self

        def raise_for_status(self):
            pass

    monkeypatch.setattr("huggingface_hub.repocard.get_session", Session)
    monkeypatch.setattr("huggingface_hub.repocard.hf_raise_for_status", Session.raise_for_status)
    card_of(folder, tmp_path).validate()
    assert posted[0]["repoType"] == "model"
    assert posted[0]["content"] == (tmp_path / "out/README.md").read_text()


def test_the_text_has_data_instructions_measures_and_use(folder, tmp_path, tiny):
    text = card_of(folder, tmp_path).text
    assert "| photos_task0 | 75.00% |" in text
    assert f"| photos_task0 | text → image | {INSTRUCTION}<br>Show me \\| &lt;this>. |" in text
    assert "| photos_task0 | 25.0 | 50.0 |" in text
    assert "7 steps on" in text
    assert 'SentenceTransformer("FOLDER_OR_NAME")' in text
    assert "sentence-transformers reads them whole" in text
    assert "first 16, 64 dimensions" in text
    assert "| adapters | LoRA of rank 2, alpha 4, on q_proj, " in text
    assert "| pooling | last_token |" in text
    assert "| dimensions | 64 |" in text
    assert "| licence of the base | not known |" in text
    assert str(tiny("llava_next").parent) not in text, "no folder of this machine"


def test_the_adapters_card_says_what_else_is_needed(folder, tmp_path):
    card = card_of(folder, tmp_path, form="adapter")
    assert card.data.library_name == "mmretrieval"
    assert "trust_remote_code=True" in card.text
    assert "the base model is needed as well" in card.text


def test_the_licence_is_that_of_the_bases_card(run, tiny, tmp_path):
    readme = tiny("llava_next") / "README.md"
    readme.write_text("---\nlicense: mit\n---\n\n# A model\n")
    try:
        assert card_of(run[0], tmp_path, modules="none").data.license == "mit"
    finally:
        readme.unlink()


def test_a_run_that_recorded_nothing_gets_a_card_that_says_so(folder, tmp_path):
    for name in ("metrics.json", "config.yaml", "adapter/training.json"):
        (folder / name).unlink()
    card = card_of(folder, tmp_path, modules="none")
    assert card.data.eval_results is None
    assert card.text.count("Not recorded.") == 2
    assert "None are known of these weights." in card.text


def test_measures_are_those_of_the_same_weights_only(folder, tmp_path):
    encoder = MLLMEncoder.from_pretrained(folder / "adapter")
    tested = {
        "global": {"average": {"hit@5": 0.9}},
        "evaluation": {"embedding_hash": encoder.embedding_hash()},
    }
    (tmp_path / "metrics_test.json").write_text(json.dumps(tested))
    facts = read_facts(folder / "adapter", encoder.embedding_hash(), tmp_path / "metrics_test.json")
    assert facts.pools == {"global": {"average": {"hit@5": 0.9}}}
    assert facts.measured_in == "metrics_test.json"
    with pytest.raises(UserError, match="was measured on other weights"):
        read_facts(folder / "adapter", "other", tmp_path / "metrics_test.json")
    shutil.copy(tmp_path / "metrics_test.json", folder)
    assert read_facts(folder / "adapter", "other").measured_in == "metrics.json", "of the same step"
    best = folder / "checkpoints/best-step3"
    shutil.copytree(folder / "adapter", best)
    record = json.loads((best / "training.json").read_text())
    (best / "training.json").write_text(json.dumps({**record, "steps": 3}))
    earlier = read_facts(best, "other")
    assert earlier.name == "stage1"
    assert earlier.pools == {}, "the run's end was at step 7"
