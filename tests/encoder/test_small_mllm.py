import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_modules.synthetic.drawing import draw_scene
from data_modules.synthetic.scenes import SceneSampler
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
    assert sum(path.stat().st_size for path in Path(resolve(EMBEDDED)).glob("*.safetensors")) <= 8 * MIB
    core = load_backbone(EMBEDDED)
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
def test_the_shipped_model_answers_about_drawn_scenes_through_transformers_alone(processor):
    from transformers import AutoModelForImageTextToText

    rng = random.Random(7)
    scenes = [SceneSampler(rng, held_out=True).scene(2) for _ in range(20)]
    model = AutoModelForImageTextToText.from_pretrained(resolve(EMBEDDED), dtype=torch.float32)
    inputs = processor(
        text=["USER: <image>\nWhat colour is the background? ASSISTANT:"] * len(scenes),
        images=[draw_scene(scene, seed) for seed, scene in enumerate(scenes)],
        return_tensors="pt",
    )
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    said = processor.tokenizer.batch_decode(
        tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    right = [answer.strip() == scene.background for answer, scene in zip(said, scenes, strict=True)]
    assert sum(right) >= 18


@torch.inference_mode()
def test_the_shipped_model_describes_a_drawn_scene(processor):
    from transformers import AutoModelForImageTextToText

    scene = SceneSampler(random.Random(3), held_out=False).scene(1)
    model = AutoModelForImageTextToText.from_pretrained(resolve(EMBEDDED), dtype=torch.float32)
    prompt = "USER: <image>\nDescribe the picture. ASSISTANT:"
    inputs = processor(text=[prompt], images=[draw_scene(scene, 0)], return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=40, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    said = processor.tokenizer.decode(tokens, skip_special_tokens=True)
    group = scene.groups[0]
    for fact in (scene.background, group.colour, group.shape, group.size):
        assert fact in said


def test_wide_pictures_are_cut_into_two_tiles(processor):
    inputs = processor.image_processor([Image.new("RGB", (256, 128))], return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 3, 96, 96)
