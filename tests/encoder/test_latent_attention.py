"""Latent attention equals NV-Embed's formulas, takes its weights, and starts as the mean."""

import math

import numpy as np
import pytest
import torch

from mmretrieval.encoder.latent_attention import (
    LatentAttention,
    LatentAttentionOptions,
    load_latent_attention,
)
from mmretrieval.encoder.pooling import masked_mean
from mmretrieval.errors import UserError

WIDTH, HEADS, HEAD_WIDTH, LATENTS, RATIO = 6, 2, 4, 5, 3
OPTIONS = LatentAttentionOptions(LATENTS, HEADS, HEAD_WIDTH, RATIO)
# Instructions before, padding after what may be read.
MASK = torch.tensor([[0, 0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0, 0]])
RELEASED = {
    "latent_attention_model.latents": (512, 4096),
    "latent_attention_model.cross_attend_blocks.0.norm.weight": (4096,),
    "latent_attention_model.cross_attend_blocks.0.norm.bias": (4096,),
    "latent_attention_model.cross_attend_blocks.0.norm_context.weight": (4096,),
    "latent_attention_model.cross_attend_blocks.0.norm_context.bias": (4096,),
    "latent_attention_model.cross_attend_blocks.0.fn.to_q.weight": (32768, 4096),
    "latent_attention_model.cross_attend_blocks.0.fn.to_kv.weight": (65536, 4096),
    "latent_attention_model.cross_attend_blocks.0.fn.to_out.weight": (4096, 32768),
    "latent_attention_model.cross_attend_blocks.1.norm.weight": (4096,),
    "latent_attention_model.cross_attend_blocks.1.norm.bias": (4096,),
    "latent_attention_model.cross_attend_blocks.1.fn.net.0.weight": (32768, 4096),
    "latent_attention_model.cross_attend_blocks.1.fn.net.0.bias": (32768,),
    "latent_attention_model.cross_attend_blocks.1.fn.net.2.weight": (4096, 16384),
    "latent_attention_model.cross_attend_blocks.1.fn.net.2.bias": (4096,),
}
"""Names in the released weights of NV-Embed and MM-Embed; shapes by their configuration (8 heads of 4096)."""


def _hidden(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*MASK.shape, WIDTH, generator=generator, dtype=torch.float64).to(dtype)


def _trained(dtype=torch.float64):
    """Weights away from all special values."""
    generator = torch.Generator().manual_seed(2)
    module = LatentAttention(WIDTH, OPTIONS).to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.4 * noise + (parameter.ndim == 1))
    return module


def _normalised(x, weight, bias):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * weight + bias


def _reference(module, hidden, mask):
    """The formulas in float64 on whole padded arrays, latents repeated for each row."""
    w = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    a, m = "cross_attend_blocks.0.", "cross_attend_blocks.1."
    x, mask = hidden.double().numpy(), mask.numpy()
    latents = np.repeat(w["latents"][None], len(x), axis=0)
    context = _normalised(latents, w[a + "norm_context.weight"], w[a + "norm_context.bias"])
    q_weight = w[a + "fn.to_q.weight"].reshape(HEADS, HEAD_WIDTH, WIDTH)
    k_weight, v_weight = w[a + "fn.to_kv.weight"].reshape(2, HEADS, HEAD_WIDTH, WIDTH)
    out_weight = w[a + "fn.to_out.weight"].reshape(WIDTH, HEADS, HEAD_WIDTH)
    q = np.einsum("ntd,hwd->nhtw", _normalised(x, w[a + "norm.weight"], w[a + "norm.bias"]), q_weight)
    k = np.einsum("nrd,hwd->nhrw", context, k_weight)
    v = np.einsum("nrd,hwd->nhrw", context, v_weight)
    attention = np.exp(np.einsum("nhtw,nhrw->nhtr", q, k) / np.sqrt(HEAD_WIDTH))
    attention /= attention.sum(axis=-1, keepdims=True)
    x = x + np.einsum("nhtr,nhrw,dhw->ntd", attention, v, out_weight)
    inner = _normalised(x, w[m + "norm.weight"], w[m + "norm.bias"]) @ w[m + "fn.net.0.weight"].T
    inner = inner + w[m + "fn.net.0.bias"]
    values, gates = inner[..., : RATIO * WIDTH], inner[..., RATIO * WIDTH :]
    gated = values * gates * 0.5 * (1 + np.vectorize(math.erf)(gates / np.sqrt(2)))
    x = x + gated @ w[m + "fn.net.2.weight"].T + w[m + "fn.net.2.bias"]
    return np.einsum("ntd,nt->nd", x, mask) / mask.sum(axis=1, keepdims=True)


def test_it_equals_the_formulas():
    expected = _reference(_trained(), _hidden(), MASK)
    assert np.abs(expected - masked_mean(_hidden(), MASK).numpy()).max() > 0.1, "the paths add something"
    np.testing.assert_allclose(_trained()(_hidden(), MASK).detach().numpy(), expected, rtol=0, atol=1e-12)


def test_an_untrained_one_is_the_mean():
    torch.manual_seed(0)
    hidden = _hidden(torch.float32)
    pooled = LatentAttention(WIDTH, OPTIONS)(hidden, MASK)
    torch.testing.assert_close(pooled, masked_mean(hidden, MASK), rtol=0, atol=1e-6)


def test_training_opens_the_residual_paths_of_an_untrained_one():
    torch.manual_seed(0)
    module = LatentAttention(WIDTH, OPTIONS).double()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        module(_hidden(), MASK).square().sum().backward()
        optimizer.step()
    assert [name for name, parameter in module.named_parameters() if not bool(parameter.grad.any())] == []


@pytest.mark.parametrize("value", [1e4, float("nan")])
def test_padding_and_instruction_never_leak(value):
    module = _trained()
    changed = torch.where(MASK[..., None].bool(), _hidden(), value)
    assert torch.equal(module(changed, MASK), module(_hidden(), MASK))
    shorter = module(_hidden()[:1, 2:5], MASK[:1, 2:5])
    torch.testing.assert_close(shorter, module(_hidden(), MASK)[:1], rtol=0, atol=1e-12)


def test_gradients_are_those_of_the_formulas():
    module = _trained()
    assert torch.autograd.gradcheck(lambda hidden: module(hidden, MASK), _hidden().requires_grad_())


@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
def test_half_precision_tokens_are_attended_in_half_and_averaged_in_single_precision(parameters):
    module, hidden = _trained(parameters), _hidden(torch.bfloat16)
    seen = []
    module.cross_attend_blocks[0].fn.to_q.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    pooled = module(hidden, MASK)
    assert seen == [torch.bfloat16]
    assert pooled.dtype == torch.float32
    expected = _reference(_trained(), hidden, MASK)
    assert np.abs(pooled.detach().numpy() - expected).max() < 0.02 * np.abs(expected).max()
    pooled.sum().backward()
    assert module.latents.grad.dtype == parameters


def test_names_and_shapes_are_those_of_the_released_weights():
    with torch.device("meta"):
        module = LatentAttention(4096)
    found = {f"latent_attention_model.{name}": tuple(p.shape) for name, p in module.state_dict().items()}
    assert found == RELEASED


@pytest.mark.parametrize("prefix", ["", "latent_attention_model."])
def test_weights_load_with_and_without_the_prefix(prefix):
    trained, fresh = _trained(), LatentAttention(WIDTH, OPTIONS)
    load_latent_attention(fresh, {prefix + name: value for name, value in trained.state_dict().items()})
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name].float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("latents"), r"missing: latents$"),
        (lambda s: s.update(extra=torch.zeros(1)), r"unexpected: extra$"),
        (lambda s: s.update(latents=torch.zeros(7, 6)), r"latents \(7, 6\) instead of \(5, 6\)$"),
        (
            lambda s: s.update({"latent_attention_model.latents": s.pop("latents")}),
            r"missing: latent_attention_model\.cross.*; unexpected: cross",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name_and_change_nothing(change, message):
    state = _trained().state_dict()
    change(state)
    module = LatentAttention(WIDTH, OPTIONS)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(UserError, match=message):
        load_latent_attention(module, state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("name", ["latents", "heads", "head_width", "mlp_ratio"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"latent_attention.{name} 0: must be at least 1"):
        LatentAttentionOptions(**{name: 0})
