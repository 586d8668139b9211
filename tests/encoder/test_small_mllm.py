import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmretrieval.encoder.backbone import EMBEDDED, load_backbone, load_processor, resolve

MIB = 2**20


@pytest.fixture(scope="module")
def processor():
    return load_processor(EMBEDDED)


@given(text=st.text(max_size=40))
@settings(deadline=None, max_examples=50)
def test_the_tokenizer_spells_any_text(processor, text):
    tokenizer = processor.tokenizer
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert tokenizer.decode(ids) == text


def test_the_shipped_model_is_small():
    from pathlib import Path

    assert sum(path.stat().st_size for path in Path(resolve(EMBEDDED)).glob("*.safetensors")) <= 8 * MIB
    core = load_backbone(EMBEDDED, "float32", "sdpa")
    assert sum(parameter.numel() for parameter in core.parameters()) <= 4_000_000
    assert core.config.model_type == "llava_next"


def test_the_chat_template_is_how_dialogues_were_written(processor):
    message = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": "Describe the picture."}],
    }
    text = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    assert text == "<s>USER: <image>\nDescribe the picture. ASSISTANT:"


@torch.inference_mode()
def test_the_shipped_model_describes_a_drawn_scene_through_transformers_alone(processor):
    from transformers import AutoModelForImageTextToText

    from data_modules.synthetic.drawing import draw_scene
    from data_modules.synthetic.scenes import Group, Scene

    scene = Scene("cyan", (Group("star", "red", "large", 1, "top left"),))
    model = AutoModelForImageTextToText.from_pretrained(resolve(EMBEDDED), dtype=torch.float32)
    inputs = processor(
        text="USER: <image>\nDescribe the picture. ASSISTANT:",
        images=draw_scene(scene, 5),
        return_tensors="pt",
    )
    tokens = model.generate(**inputs, max_new_tokens=32, do_sample=False)
    said = processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said.strip() == "cyan background: one large red star top left."


def test_wide_pictures_are_cut_into_two_tiles(processor):
    inputs = processor.image_processor([Image.new("RGB", (256, 128))], return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 3, 96, 96)
