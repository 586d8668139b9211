import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)

from mmretrieval.encoder.language_swap import swap_language_model
from mmretrieval.errors import UserError

IDS = torch.tensor([[1, 40, 7, 90, 200, 2], [1, 9, 60, 61, 2, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-3,
    "rope_theta": 123.0,
    "vocab_size": 300,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def tokenizer(tiny_mllm):
    found = AutoTokenizer.from_pretrained(tiny_mllm)
    assert len(found) == 300
    return found


def load_core(folder, dtype="float32", attention="sdpa"):
    return AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention
    ).model


@pytest.fixture
def core(tiny_mllm):
    return load_core(tiny_mllm)


def text_config(model_type="mistral", **changes):
    head = {"head_dim": 16, "sliding_window": None} if model_type == "mistral" else {}
    return AutoConfig.for_model(model_type, **{**SIZES, **head, **changes})


def text_model(config, make=AutoModel):
    """A text model whose every weight is noise, norms and biases too."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = make.from_config(config)
        for parameter in model.parameters():
            parameter.data.normal_(std=0.2)
    return model.eval()


@pytest.fixture
def saved(tmp_path):
    """Folder of a tiny Mistral, as AutoModel saves it."""
    text_model(text_config()).save_pretrained(tmp_path / "text")
    return tmp_path / "text"


def rewrite(folder, state=None, **fields):
    """Change some fields of the configuration, and the tensors."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    if state is not None:
        save_file(state, folder / "model.safetensors")


def state_of(folder):
    return load_file(folder / "model.safetensors")


def as_nv_embed(folder, prefix="embedding_model."):
    """Rewrite a saved Mistral as NV-Embed's files are: nested configuration, prefixed names, a pooling."""
    tensors = {prefix + name: tensor for name, tensor in state_of(folder).items()}
    tensors["latent_attention_model.latents"] = torch.ones(4, 64)
    tensors["latent_attention_model.cross_attend_blocks.0.fn.to_q.weight"] = torch.ones(8, 64)
    text = json.loads((folder / "config.json").read_text())
    rotary = text.pop("rope_parameters")
    text |= {
        "_name_or_path": "nvidia/NV-Embed-v2",
        "_attn_implementation": "somebody/kernel",
        "architectures": ["MistralModel"],
        "auto_map": {"AutoModel": "modeling_nvembed.BidirectionalMistralModel"},
        "model_type": "bidir_mistral",
        "rope_theta": rotary["rope_theta"],
        "torch_dtype": "float16",
    }
    outer = {
        "architectures": ["NVEmbedModel"],
        "auto_map": {"AutoModel": "modeling_nvembed.NVEmbedModel"},
        "hidden_size": 64,
        "latent_attention_config": {"model_type": "latent_attention", "num_latents_value": 4},
        "model_type": "nvembed",
        "text_config": text,
    }
    (folder / "config.json").write_text(json.dumps(outer))
    (folder / "modeling_nvembed.py").write_text("raise RuntimeError('remote code ran')")
    save_file(tensors, folder / "model.safetensors")


@torch.no_grad()
def hidden_states(model):
    return model(input_ids=IDS, attention_mask=MASK, use_cache=False).last_hidden_state[MASK.bool()]


def assert_swapped(core, before, reference):
    after = hidden_states(core)
    torch.testing.assert_close(after, hidden_states(reference), atol=1e-6, rtol=0)
    assert (after - before).abs().max() > 0.1
    assert core.get_input_embeddings() is core.language_model.get_input_embeddings()
    assert core.config.get_text_config() is core.language_model.config
    assert not any(module.training for module in core.modules())


@pytest.mark.parametrize("model_type", ["mistral", "qwen2"])
@pytest.mark.parametrize("form", ["plain", "sharded", "causal"])
def test_the_core_reads_text_like_the_text_model_alone(core, tokenizer, tmp_path, model_type, form):
    before = hidden_states(core)
    model = text_model(text_config(model_type), AutoModelForCausalLM if form == "causal" else AutoModel)
    model.save_pretrained(tmp_path, max_shard_size="100KB" if form == "sharded" else "1GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (form == "sharded")

    report = swap_language_model(core, "language_model", tmp_path, tokenizer)

    reference = AutoModel.from_pretrained(tmp_path)
    assert type(core.language_model) is type(reference)
    assert_swapped(core, before, reference)
    assert (report.model_type, report.bidirectional_suggested) == (model_type, False)
    assert report.loaded == len(reference.state_dict())
    assert report.ignored == (("lm_head.weight",) if form == "causal" else ())
    assert (report.kept_rows, report.latent_attention, report.tokenizer_compared) == (0, {}, False)


@pytest.mark.parametrize("prefix", ["embedding_model.", "embedding_model.model."])
def test_nv_embed_files_are_read_without_their_code(core, tokenizer, saved, prefix):
    before, reference = hidden_states(core), AutoModel.from_pretrained(saved)
    as_nv_embed(saved, prefix)

    report = swap_language_model(core, "language_model", saved, tokenizer)

    assert_swapped(core, before, reference)
    assert (report.model_type, report.bidirectional_suggested) == ("mistral", True)
    assert core.config.get_text_config().rope_parameters["rope_theta"] == 123.0
    assert core.language_model.config._attn_implementation == "sdpa"
    assert core.dtype == core.language_model.dtype == torch.float32
    assert report.latent_attention.keys() == {"latents", "cross_attend_blocks.0.fn.to_q.weight"}
    assert report.latent_attention["latents"].equal(torch.ones(4, 64))


@torch.no_grad()
def test_the_swapped_core_reads_pictures_as_the_text_model_reads_their_features(core, tokenizer, saved):
    swap_language_model(core, "language_model", saved, tokenizer)
    pixels = torch.rand((1, 2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[32, 32]])
    features = torch.cat(core.get_image_features(pixels, sizes, return_dict=True).pooler_output)
    ids = torch.tensor([[1, *[core.config.image_token_id] * len(features), 40]])
    seen = core(input_ids=ids, pixel_values=pixels, image_sizes=sizes).last_hidden_state

    text = AutoModel.from_pretrained(saved)
    words = text.get_input_embeddings()(ids)
    words[0, 1:-1] = features
    torch.testing.assert_close(seen, text(inputs_embeds=words).last_hidden_state, atol=1e-6, rtol=0)


def test_attention_and_type_are_those_of_the_core(tiny_mllm, tokenizer, saved):
    core = load_core(tiny_mllm, "bfloat16", "eager").train()
    swap_language_model(core, "language_model", saved, tokenizer)
    assert {parameter.dtype for parameter in core.parameters()} == {torch.bfloat16}
    assert core.language_model.config._attn_implementation == "eager"
    assert core.language_model.training
    expected = state_of(saved)["layers.1.mlp.up_proj.weight"].bfloat16()
    assert core.language_model.layers[1].mlp.up_proj.weight.equal(expected)


def test_tokens_beyond_the_text_model_keep_their_embeddings(core, tokenizer, tmp_path):
    text_model(text_config(vocab_size=280)).save_pretrained(tmp_path)
    before, old = hidden_states(core), core.get_input_embeddings().weight.detach().clone()

    report = swap_language_model(core, "language_model", tmp_path, tokenizer)

    table = core.get_input_embeddings().weight
    assert report.kept_rows == 20
    assert table[:280].equal(state_of(tmp_path)["embed_tokens.weight"])
    assert table[280:].equal(old[280:])
    assert core.config.get_text_config().vocab_size == table.shape[0] == 300
    assert_swapped(core, before, AutoModel.from_pretrained(tmp_path))


def test_a_larger_table_is_used_as_it_is(core, tokenizer, tmp_path):
    text_model(text_config(vocab_size=310)).save_pretrained(tmp_path)
    report = swap_language_model(core, "language_model", tmp_path, tokenizer)
    assert (report.kept_rows, core.get_input_embeddings().weight.shape[0]) == (0, 310)


def tokenizer_json(tokenizer, **renamed):
    """The tokenizer's file with some tokens of other names."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    for old, new in renamed.items():
        vocabulary[new] = vocabulary.pop(old)
    content["model"]["merges"] = []
    return content


def test_the_tokenizers_agree_where_both_have_tokens(core, tokenizer, saved):
    content = tokenizer_json(tokenizer)
    image = core.config.image_token_id
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] != image]
    del content["model"]["vocab"]["<image>"]  # a special token that only the MLLM has
    (saved / "tokenizer.json").write_text(json.dumps(content))
    assert swap_language_model(core, "language_model", saved, tokenizer).tokenizer_compared


def test_a_foreign_tokenizer_is_refused_at_its_first_disagreement(core, tokenizer, saved):
    before = core.language_model
    number = tokenizer.get_vocab()["c"]
    (saved / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokenizer, c="other", d="another")))
    with pytest.raises(UserError, match=rf"tokenizer\.json: id {number} is 'other', but 'c' in the multi"):
        swap_language_model(core, "language_model", saved, tokenizer)

    content = tokenizer_json(tokenizer)
    del content["model"]["vocab"]["c"]
    (saved / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"id {number} is None, but 'c'"):
        swap_language_model(core, "language_model", saved, tokenizer)

    (saved / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: is no tokenizer"):
        swap_language_model(core, "language_model", saved, tokenizer)
    assert core.language_model is before


def test_a_foreign_token_beyond_the_text_model_does_not_matter(core, tokenizer, tmp_path):
    number = tokenizer.get_vocab()["c"]
    assert number < 290
    text_model(text_config(vocab_size=number)).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokenizer, c="other")))
    assert swap_language_model(core, "language_model", tmp_path, tokenizer).kept_rows == 300 - number


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 128}, r"config\.json: hidden_size 128, but .* projector writes 64"),
        ({"model_type": "nvembed"}, r"config\.json: model_type 'nvembed' is none that transformers knows"),
        ({"model_type": None}, "model_type 'None' is none"),
        ({"model_type": ["mistral"]}, "is none that transformers knows"),
        ({"model_type": "siglip_vision_model"}, "missing, as "),
        ({"num_hidden_layers": "many"}, "no mistral configuration"),
        ({"vocab_size": 0}, "vocab_size 0; a text model has at least one token"),
        ({"pad_token_id": 100_000}, "no mistral model with sdpa attention can be made"),
        ({"num_hidden_layers": 4}, r"9 missing, as layers\.3\.input_layernorm\.weight, "),
        ({"num_hidden_layers": 2}, r"9 unexpected, as layers\.2\.input_layernorm\.weight, "),
        ({"head_dim": 32}, r"of another shape, as .*k_proj\.weight \(\[32, 64\] instead of \[64, 64\]\)"),
        ({"vocab_size": 310}, r"1 of another shape, as embed_tokens\.weight \(\[300, 64\] instead of \[310"),
        ({"model_type": "qwen2"}, r"9 missing, as layers\.0\.self_attn\.k_proj\.bias, "),
    ],
)
def test_a_configuration_that_does_not_fit_leaves_the_core_alone(core, tokenizer, saved, changes, message):
    before = hidden_states(core)
    rewrite(saved, **changes)
    with pytest.raises(UserError, match=message):
        swap_language_model(core, "language_model", saved, tokenizer)
    assert hidden_states(core).equal(before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("norm.weight"), r"1 missing, as norm\.weight"),
        (lambda state: state.update(score=torch.ones(1)), "1 unexpected, as score"),
        (
            lambda state: state.update({"norm.weight": torch.ones(63)}),
            r"norm\.weight \(\[63\] instead of \[64\]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(core, tokenizer, saved, change, message):
    state = state_of(saved)
    change(state)
    rewrite(saved, state)
    with pytest.raises(UserError, match=message):
        swap_language_model(core, "language_model", saved, tokenizer)


def test_rotary_frequencies_of_old_files_are_ignored_and_told(core, tokenizer, saved):
    name = "layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(saved, state_of(saved) | {name: torch.ones(8)})
    assert swap_language_model(core, "language_model", saved, tokenizer).ignored == (name,)


def test_a_text_model_that_says_it_is_not_causal_is_reported(core, tokenizer, saved):
    rewrite(saved, is_causal=False)
    assert swap_language_model(core, "language_model", saved, tokenizer).bidirectional_suggested


def test_the_image_token_needs_no_embedding_but_every_other_token_does(core, tiny_mllm, tmp_path):
    text_model(text_config(vocab_size=280)).save_pretrained(tmp_path)
    larger = AutoTokenizer.from_pretrained(tiny_mllm)
    larger.add_tokens(["<extra>"])
    with pytest.raises(UserError, match=r"280 embeddings, and 300 of the multimodal model, .* needs 301"):
        swap_language_model(core, "language_model", tmp_path, larger)
    core.config.image_token_id = 300
    assert swap_language_model(core, "language_model", tmp_path, larger).kept_rows == 20


def test_missing_files_are_named(core, tokenizer, saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors file"):
        swap_language_model(core, "language_model", saved, tokenizer)
    (saved / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        swap_language_model(core, "language_model", saved, tokenizer)
