"""Which layers are compiled. That compiled layers compute the same is tried out on GPUs, by the benchmark."""

import pytest
from encoders import make
from torch import nn

from mmretrieval.encoder.compiling import compile_layers
from mmretrieval.errors import UserError


def test_every_layer_of_tower_and_language_model_is_compiled_for_any_length(tiny_mllm, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compiled.append((self, options)))
    encoder = make(tiny_mllm, compiled=True)
    tower, language = (
        encoder.core.get_submodule(name)
        for name in (encoder.family.vision_tower, encoder.family.language_model)
    )
    layers = {id(layer) for layer, _ in compiled}
    assert len(layers) == len(compiled) == 3  # one in the tower, two in the language model
    assert {id(layer) for layer in language.layers} < layers
    assert layers - {id(layer) for layer in language.layers} <= {id(module) for module in tower.modules()}
    assert all(options == {"dynamic": True} for _, options in compiled)


def test_a_language_model_without_known_layers_is_refused(tiny_mllm):
    encoder = make(tiny_mllm)
    setattr(encoder.core, encoder.family.language_model, nn.Linear(2, 2))
    with pytest.raises(UserError, match="no layers are known of a Linear"):
        compile_layers(encoder.core, encoder.family)
