"""Pictures in one sequence attend to themselves alone, as in transformers' loop over them."""

import pytest
import torch
from encoders import inputs_of_pictures, make
from tiny_families import make_tiny

from mmretrieval.encoder.backbone import Loading
from mmretrieval.encoder.packed_attention import NAME


@pytest.fixture(params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def folder(request, tmp_path):
    return make_tiny(request.param, tmp_path)


def test_a_tower_computes_what_it_did(folder, picture):
    encoder = make(folder)
    tower = encoder.core.visual
    assert tower.config._attn_implementation == NAME
    pictures = inputs_of_pictures(encoder, picture).pictures
    found = tower(pictures.pixels, grid_thw=pictures.shapes).pooler_output
    tower.config._attn_implementation = "sdpa"
    assert torch.equal(found, tower(pictures.pixels, grid_thw=pictures.shapes).pooler_output)
    assert len(pictures.rows) == 3


def test_other_attention_and_other_towers_stay(folder, tmp_path):
    eager = make(folder, loading=Loading(attention="eager"))
    assert eager.core.visual.config._attn_implementation == "eager"
    llava = make(make_tiny("llava_next", tmp_path / "llava"))
    assert llava.core.vision_tower.config._attn_implementation == "sdpa"
