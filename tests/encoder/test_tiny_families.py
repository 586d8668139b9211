"""The tiny models that other tests use load and run like any checkpoint of their family."""

import pytest
import torch
from PIL import ImageOps
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from tests.encoder.tiny_families import FAMILIES, RECIPES, make_tiny


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # PaliGemma's processor
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_family_loads_offline_and_sees_its_pictures(family, tmp_path, picture):
    folder = make_tiny(family, tmp_path)
    config = AutoConfig.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    model, loading = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert config.model_type == family
    assert not any(loading.values())  # no key is missing, unexpected or of another shape
    assert len(processor.tokenizer) == config.get_text_config().vocab_size

    def last_states(shown, text=" a red star"):
        inputs = processor(text=[RECIPES[family].markup + text], images=[shown], return_tensors="pt")
        assert config.image_token_id in inputs["input_ids"]
        states = model.eval().model(**inputs).last_hidden_state
        assert states.shape == (*inputs["input_ids"].shape, config.get_text_config().hidden_size)
        assert states.isfinite().all()
        return normalize(states[0, -1], dim=0)

    state = last_states(picture)
    assert torch.equal(last_states(picture.copy()), state)
    assert (last_states(ImageOps.invert(picture)) - state).norm() > 1e-2
    assert (last_states(picture, " a bed star") - state).norm() > 1e-2


def test_another_seed_makes_other_weights_and_the_same_seed_the_same(tmp_path):
    made = [make_tiny("llava", tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    first, again, other = ((folder / "model.safetensors").read_bytes() for folder in made)
    assert first == again
    assert first != other
