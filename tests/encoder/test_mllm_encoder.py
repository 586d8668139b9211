import json

import pytest
import torch
from encoders import make, perturb
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from mmretrieval.content import Candidate, Content
from mmretrieval.encoder.adapters import LoRA, TrainedParts
from mmretrieval.encoder.backbone import Loading
from mmretrieval.encoder.chunks import Chunks
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.pictures import PictureOptions
from mmretrieval.errors import UserError


@pytest.fixture
def contents(picture):
    return [Content("a red star"), Content(None, picture), Content("two blue circles on paper", picture)]


def embed(encoder, contents):
    with torch.no_grad():
        return encoder(encoder.input_processor.candidates([Candidate(content) for content in contents]))


@pytest.mark.parametrize("pooling", ["last_token", "mean"])
def test_embeddings_do_not_depend_on_the_batch(tiny_mllm, contents, pooling):
    encoder = perturb(make(tiny_mllm, pooling=pooling))
    together = embed(encoder, contents)
    alone = torch.cat([embed(encoder, [content]) for content in contents])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together.norm(dim=1), torch.ones(3))
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_chunks_sorted_by_length_change_neither_embeddings_nor_gradients(tiny_mllm, contents, rows):
    encoder = perturb(make(tiny_mllm, pooling="mean"))
    pool = [Candidate(content) for content in [contents[2], contents[0], contents[1], Content("a" * 30)]]
    inputs = encoder.input_processor.candidates(pool)
    weights = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    results = []
    for chunks in (Chunks(), Chunks(rows=rows)):
        encoder.chunks = chunks
        encoder.zero_grad()
        embeddings = encoder(inputs)
        (embeddings * weights).sum().backward()
        gradients = [p.grad.clone() for p in encoder.parameters() if p.requires_grad]
        results.append((embeddings.detach(), gradients))
    (whole, whole_gradients), (chunked, chunked_gradients) = results
    assert torch.allclose(chunked, whole, atol=1e-6)
    for found, expected in zip(chunked_gradients, whole_gradients, strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_untrained_text_embeddings_are_the_base_models_last_hidden_states(tiny_mllm):
    encoder = make(tiny_mllm)
    inputs = encoder.input_processor.candidates([Candidate(Content("a red star"))])
    base = AutoModelForImageTextToText.from_pretrained(tiny_mllm, dtype=torch.float32).eval()
    states = base.model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).last_hidden_state
    expected = torch.nn.functional.normalize(states[:, -1], dim=-1)
    assert torch.allclose(encoder(inputs), expected, atol=1e-6)


def test_what_is_trained_is_what_was_asked_for(tiny_mllm):
    names = set(make(tiny_mllm).trained_state())
    assert all("lora_" in name or name.startswith("core.multi_modal_projector.") for name in names)
    assert any(name.startswith("core.multi_modal_projector.") for name in names)
    adapted = {name.split(".lora_")[0] for name in names if ".lora_" in name}
    assert len(adapted) == 2 * 7  # layers × linear layers of a layer
    assert all(name.startswith("core.language_model.") for name in adapted)
    more = set(make(tiny_mllm, trained=TrainedParts(embeddings=True)).trained_state())
    assert more - names == {"core.language_model.embed_tokens.weight"}


def test_gradients_reach_everything_trained_and_nothing_else(tiny_mllm, contents):
    encoder = perturb(make(tiny_mllm)).train()
    inputs = encoder.input_processor.candidates([Candidate(content) for content in contents])
    encoder(inputs)[:, 0].sum().backward()
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.abs().max() > 0, name


def test_a_saved_encoder_comes_back_exactly(tiny_mllm, contents, tmp_path):
    encoder = perturb(
        make(tiny_mllm, pooling="mean", trained=TrainedParts(embeddings=True), max_text_tokens=5)
    )
    encoder.save_pretrained(tmp_path)
    loaded = MLLMEncoder.from_pretrained(tmp_path).eval()
    assert torch.equal(embed(loaded, contents), embed(encoder, contents))
    assert loaded.weights_hash() == encoder.weights_hash()
    assert loaded.max_text_tokens == 5


def test_the_weights_hash_tells_weights_apart(tiny_mllm):
    encoder = make(tiny_mllm)
    before = encoder.weights_hash()
    assert make(tiny_mllm).weights_hash() == before
    with torch.no_grad():
        encoder.core.multi_modal_projector.linear_1.bias[0] += 1e-3
    assert encoder.weights_hash() != before


def test_weights_that_do_not_fit_are_refused(tiny_mllm, tmp_path):
    make(tiny_mllm).save_pretrained(tmp_path)
    state = load_file(tmp_path / "adapter.safetensors")
    missing = sorted(state)[0]
    save_file(
        {name: tensor for name, tensor in state.items() if name != missing}, tmp_path / "adapter.safetensors"
    )
    with pytest.raises(UserError, match=f"1 weights differ, as .*{missing}"):
        MLLMEncoder.from_pretrained(tmp_path)
    (tmp_path / "adapter.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"adapter\.safetensors: cannot be read"):
        MLLMEncoder.from_pretrained(tmp_path)


def test_a_folder_without_a_retriever_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"retriever\.json: cannot be read"):
        MLLMEncoder.from_pretrained(tmp_path)
    (tmp_path / "retriever.json").write_text(json.dumps({"format_version": 9}))
    with pytest.raises(UserError, match="format_version 9 instead of 2"):
        MLLMEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"typo": 1}, r"retriever\.json: keys are missing or unknown: typo"),
        ({"lora": {"rank": 2, "typo": 1}}, "lora has unknown keys: typo"),
        ({"lora": 3}, "lora must be an object, found 3"),
        ({"pictures": {"backend": "other"}}, "choose one of torchvision, pil"),
        ({"base_fingerprint": "0"}, "was trained from other weights than those of"),
    ],
)
def test_settings_that_cannot_be_used_are_errors(tiny_mllm, tmp_path, change, message):
    make(tiny_mllm).save_pretrained(tmp_path)
    path = tmp_path / "retriever.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        MLLMEncoder.from_pretrained(tmp_path)


def test_a_saved_file_cannot_grant_remote_code(tiny_mllm, tmp_path):
    make(tiny_mllm).save_pretrained(tmp_path)
    path = tmp_path / "retriever.json"
    settings = json.loads(path.read_text())
    settings["loading"]["trust_remote_code"] = True
    path.write_text(json.dumps(settings))
    assert not MLLMEncoder.from_pretrained(tmp_path).loading.trust_remote_code


def test_a_base_with_missing_weights_is_refused(tiny_mllm, tmp_path):
    for path in tiny_mllm.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    name = next(name for name in sorted(state) if "projector" in name)
    save_file({n: t for n, t in state.items() if n != name}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"the weights do not fit the model: .*missing_keys.*projector"):
        MLLMEncoder(base=str(tmp_path)).load()


def test_a_missing_base_is_an_error_that_names_it(tmp_path):
    encoder = MLLMEncoder(base=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere': no configuration can be loaded there"):
        encoder.load()
    with pytest.raises(UserError, match="nowhere': no processor can be loaded there"):
        _ = encoder.input_processor
    with pytest.raises(UserError, match="nowhere': no configuration can be loaded there"):
        _ = encoder.embedding_dim


def test_layers_that_are_not_there_cannot_be_adapted(tiny_mllm):
    encoder = MLLMEncoder(base=str(tiny_mllm), lora=LoRA(modules=("q_proj", "typo")))
    with pytest.raises(UserError, match="no layer named typo"):
        encoder.load()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"pooling": "max"}, "choose one of"),
        ({"projection": 0}, "at least 1"),
        ({"max_text_tokens": 0}, "at least 1"),
    ],
)
def test_arguments_out_of_range_are_errors(option, message):
    with pytest.raises(UserError, match=message):
        MLLMEncoder(**option)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Loading(dtype="int8"), "choose one of float32, bfloat16, float16"),
        (lambda: Loading(quantization="int3"), "choose nf4"),
        (lambda: Loading(quantization="nf4", language_model="folder"), "cannot be combined"),
        (lambda: PictureOptions(max_pixels=0), "at least 1"),
        (lambda: PictureOptions(backend="cv2"), "choose one of torchvision, pil"),
    ],
)
def test_options_out_of_range_are_errors(make, message):
    with pytest.raises(UserError, match=message):
        make()
