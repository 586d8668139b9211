"""A saved encoder whose base has moved, or comes with code of its own."""

import json
import shutil
import sys

import pytest
import torch
import transformers.dynamic_module_utils as dynamic_modules
from encoders import make, perturb
from safetensors.torch import load_file, save_file
from tiny_families import make_tiny

from mmretrieval import Candidate, Content, Retriever
from mmretrieval.encoder.backbone import Loading
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.errors import UserError
from mmretrieval.loss import InfoNCE
from mmretrieval.module import UniversalRetriever

CODE = """
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration


class OwnConfig(LlavaNextConfig):
    model_type = "somebodys_own"


class OwnModel(LlavaNextForConditionalGeneration):
    config_class = OwnConfig
"""


@pytest.fixture
def models(tmp_path):
    """A folder with the base x, and one to save into."""
    make_tiny("llava_next", tmp_path / "models/x")
    (tmp_path / "adapter").mkdir()
    return tmp_path


def saved(encoder, folder):
    encoder.save_pretrained(folder / "adapter")
    return folder / "adapter"


def test_a_relative_base_is_found_from_another_working_directory(models, monkeypatch):
    monkeypatch.chdir(models)
    encoder = perturb(make("models/x"))
    adapter = saved(encoder, models)
    (models / "elsewhere").mkdir()
    monkeypatch.chdir(models / "elsewhere")
    loaded = MLLMEncoder.from_pretrained(adapter)
    assert loaded.embedding_hash() == encoder.embedding_hash()
    assert json.loads((adapter / "retriever.json").read_text())["base"] == str(models / "models/x")


def test_a_base_that_has_moved_is_named_and_recognised(models):
    encoder = perturb(make(models / "models/x"))
    adapter = saved(encoder, models)
    (models / "models/x").rename(models / "y")
    make_tiny("llava_next", models / "other", seed=1)
    with pytest.raises(
        UserError, match=r"its base .*models/x is not there; .* \(--base on the command line\)"
    ):
        MLLMEncoder.from_pretrained(adapter)
    with pytest.raises(UserError, match=r"other weights than those of '.*other'.* \(--base"):
        Retriever.from_pretrained(models, base=str(models / "other"))
    retriever = Retriever.from_pretrained(models, base=str(models / "y"))
    assert retriever.embedding_hash() == encoder.embedding_hash()  # so that an index of it still opens
    module = UniversalRetriever(None, InfoNCE(), init_from=models, base=str(models / "y"))
    module.configure_model()
    assert module.embedding_hash() == encoder.embedding_hash()


def test_a_language_model_that_has_moved_is_named_and_recognised(models):
    text = models / "text"
    make(make_tiny("llava_next", models / "donor", seed=2), lora=None).core.language_model.save_pretrained(
        text
    )
    encoder = make(models / "models/x", loading=Loading(language_model=str(text)))
    adapter = saved(encoder, models)
    text.rename(models / "moved")
    with pytest.raises(UserError, match=r"its language_model .*text is not there"):
        MLLMEncoder.from_pretrained(adapter)
    loaded = MLLMEncoder.from_pretrained(adapter, language_model=str(models / "moved"))
    assert loaded.embedding_hash() == encoder.embedding_hash()


def test_only_what_is_there_can_be_elsewhere(models):
    adapter = saved(make(models / "models/x"), models)
    with pytest.raises(UserError, match="was trained without another language model"):
        MLLMEncoder.from_pretrained(adapter, language_model="text")
    for options in ({"base": "x"}, {"trust_remote_code": True}):
        with pytest.raises(UserError, match="the one that is given has"):
            UniversalRetriever(MLLMEncoder(), InfoNCE(), init_from=adapter, **options)


def test_all_that_decides_an_embedding_is_in_the_hash_and_places_are_not(models):
    encoder = make(models / "models/x")
    copied = make(shutil.copytree(models / "models/x", models / "copy"))
    assert copied.embedding_hash() == encoder.embedding_hash()
    for options in ({"max_text_tokens": 9}, {"loading": Loading(attention="eager")}, {"pooling": "mean"}):
        assert make(models / "models/x", **options).embedding_hash() != encoder.embedding_hash()


@pytest.fixture
def with_code(models, monkeypatch):
    """The base as a model of a type that transformers does not know, with its code beside it."""
    base = models / "models/x"
    config = json.loads((base / "config.json").read_text())
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForImageTextToText": "own.OwnModel"}
    config |= {"model_type": "somebodys_own", "architectures": ["OwnModel"], "auto_map": classes}
    (base / "config.json").write_text(json.dumps(config))
    (base / "own.py").write_text(CODE)
    state = load_file(base / "model.safetensors")  # transformers renames what a known type calls otherwise
    state["lm_head.weight"] = state.pop("language_model.lm_head.weight")
    save_file(state, base / "model.safetensors", {"format": "pt"})
    modules = models / "modules"
    monkeypatch.setattr(dynamic_modules, "HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield base
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def test_code_that_comes_with_a_base_runs_only_for_whoever_asks(with_code, models, picture):
    untrusted = "comes with Python code of its own, which is not executed unless you ask for it"
    for use in (MLLMEncoder.load, lambda encoder: encoder.input_processor):
        with pytest.raises(UserError, match=untrusted):
            use(MLLMEncoder(base=str(with_code)))
    assert not (models / "modules").exists()

    encoder = perturb(make(with_code, loading=Loading(trust_remote_code=True)))
    assert type(encoder.core.config).__name__ == "OwnConfig"
    adapter = saved(encoder, models)
    assert "trust_remote_code" not in (adapter / "retriever.json").read_text()
    with pytest.raises(UserError, match=rf"{untrusted}.*--trust_remote_code true on the command line"):
        Retriever.from_pretrained(models)
    untrusting = UniversalRetriever(None, InfoNCE(), init_from=models)
    with pytest.raises(UserError, match=untrusted):
        untrusting.configure_model()

    retriever = Retriever.from_pretrained(models, trust_remote_code=True)
    content = Content("a red star", picture)
    found = torch.tensor(retriever.encode_candidates([content]))
    with torch.no_grad():
        expected = encoder(encoder.input_processor.candidates([Candidate(content)]))
    assert torch.allclose(found, expected, atol=1e-5)
    module = UniversalRetriever(None, InfoNCE(), init_from=models, trust_remote_code=True)
    module.configure_model()
    assert module.embedding_hash() == retriever.embedding_hash() == encoder.embedding_hash()
