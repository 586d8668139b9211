"""A latent attention starts from weights of its own, from NV-Embed's files or from a run's."""

import warnings

import pytest
import torch
from encoders import make, perturb
from safetensors.torch import load_file, save_file

from mmretrieval.encoder.backbone import Loading
from mmretrieval.encoder.latent_attention import PREFIX, LatentAttention, LatentAttentionOptions
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.errors import UserError
from mmretrieval.loss import InfoNCE
from mmretrieval.module import UniversalRetriever

SIZES = {"latents": 4, "heads": 2, "head_width": 8}


def trained_pool():
    torch.manual_seed(7)
    module = LatentAttention(64, LatentAttentionOptions(**SIZES))
    for parameter in module.parameters():
        parameter.data.normal_()
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def encoder_with(base, weights=None, loading=Loading()):  # noqa: B008 - frozen
    options = LatentAttentionOptions(**SIZES, weights=weights)
    return make(base, pooling="latent_attention", latent_attention=options, loading=loading)


def assert_pool(encoder, expected):
    found = encoder.pool.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.fixture
def language_model(tiny_mllm, tmp_path):
    """The base's own language model as a text model, without a latent attention."""
    folder = tmp_path / "text"
    make(tiny_mllm, lora=None).core.language_model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("prefix", "beside"),
    [
        ("", []),
        (PREFIX, []),
        (PREFIX, ["embedding_model.norm.weight"]),
        (PREFIX, ["language_model.model.norm.weight", "vision_tower.x", "image_newline"]),
        ("pool.", ["core.language_model.x.lora_A.default.weight", "head.weight"]),
    ],
)
@pytest.mark.parametrize("as_folder", [False, True])
def test_weights_start_from_a_file_or_a_folder_whatever_their_prefix(
    tiny_mllm, tmp_path, prefix, beside, as_folder
):
    expected = trained_pool()
    state = {prefix + name: tensor for name, tensor in expected.items()}
    save_file(state | {name: torch.zeros(2) for name in beside}, tmp_path / "model.safetensors")
    place = tmp_path if as_folder else tmp_path / "model.safetensors"
    encoder = encoder_with(tiny_mllm, place)
    assert_pool(encoder, expected)
    assert f"latent attention of {place}" in encoder.describe()


def test_weights_start_from_a_run(tiny_mllm, tmp_path):
    first = perturb(encoder_with(tiny_mllm))
    (tmp_path / "run/adapter").mkdir(parents=True)
    first.save_pretrained(tmp_path / "run/adapter")
    assert_pool(encoder_with(tiny_mllm, tmp_path / "run"), first.pool.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(PREFIX + "latents"), "has no latent attention, whose tensors would be named"),
        (
            lambda s: s.pop(PREFIX + "cross_attend_blocks.0.norm.bias"),
            r"missing: cross_attend_blocks\.0\.norm",
        ),
        (lambda s: s.update({PREFIX + "extra": torch.zeros(1)}), "unexpected: extra"),
        (lambda s: s.update({"extra": torch.zeros(1)}), "1 tensors belong neither to .* as extra"),
        (lambda s: s.update({PREFIX + "latents": torch.zeros(5, 64)}), r"\(5, 64\) instead of \(4, 64\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tiny_mllm, tmp_path, change, message):
    state = {PREFIX + name: tensor for name, tensor in trained_pool().items()}
    change(state)
    save_file(state, tmp_path / "latent.safetensors")
    with pytest.raises(UserError, match=rf"latent_attention\.weights .*latent\.safetensors: .*{message}"):
        encoder_with(tiny_mllm, tmp_path / "latent.safetensors")


def test_weights_that_are_not_there_damaged_or_read_by_nothing_are_errors(tiny_mllm, tmp_path):
    with pytest.raises(UserError, match="nowhere: is not there"):
        encoder_with(tiny_mllm, tmp_path / "nowhere")
    (tmp_path / "damaged.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"damaged\.safetensors cannot be read"):
        encoder_with(tiny_mllm, tmp_path / "damaged.safetensors")
    with pytest.raises(UserError, match="nothing reads them with pooling mean"):
        MLLMEncoder(pooling="mean", latent_attention=LatentAttentionOptions(weights=tmp_path))


def test_a_random_latent_attention_beside_a_swapped_language_model_is_said(tiny_mllm, language_model):
    loading = Loading(language_model=str(language_model))
    with pytest.warns(UserWarning, match="no weights of a latent attention: pooling starts from random ones"):
        encoder = encoder_with(tiny_mllm, loading=loading)
    assert "a random latent attention" in encoder.describe()


def test_weights_of_ones_own_go_before_those_of_the_language_model(tiny_mllm, language_model, tmp_path):
    with_pool = {
        f"embedding_model.{n}": t for n, t in load_file(language_model / "model.safetensors").items()
    }
    theirs = {PREFIX + name: torch.zeros_like(tensor) for name, tensor in trained_pool().items()}
    save_file(with_pool | theirs, language_model / "model.safetensors")
    loading = Loading(language_model=str(language_model))
    assert_pool(encoder_with(tiny_mllm, loading=loading), {n: t * 0 for n, t in trained_pool().items()})
    save_file(trained_pool(), tmp_path / "own.safetensors")
    assert_pool(encoder_with(tiny_mllm, tmp_path / "own.safetensors", loading), trained_pool())


def test_what_was_trained_needs_no_first_weights_any_more_and_warns_of_none(
    tiny_mllm, language_model, tmp_path
):
    path = tmp_path / "own.safetensors"
    save_file(trained_pool(), path)
    encoder = perturb(encoder_with(tiny_mllm, path, Loading(language_model=str(language_model))))
    saved = tmp_path / "adapter"
    saved.mkdir()
    encoder.save_pretrained(saved)
    path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_pool(MLLMEncoder.from_pretrained(saved), encoder.pool.state_dict())
        module = UniversalRetriever(None, InfoNCE(), init_from=saved)
        module.configure_model()
    assert_pool(module.encoder, encoder.pool.state_dict())
    assert module.embedding_hash() == encoder.embedding_hash()
