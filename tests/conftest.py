import pytest
import torch
from hypothesis import settings
from PIL import Image

from mmretrieval.encoder.small_mllm import SmallMLLM

settings.register_profile("default", deadline=None)  # a busy machine is no failure
settings.load_profile("default")

TINY = SmallMLLM(
    vocabulary=300, image_side=32, patch_side=16, vision_width=32, vision_layers=1, width=64, layers=2
)
TEXTS = ("a red star on white paper", "Instruct: find a picture", "Query: two blue circles") * 5


@pytest.fixture(scope="session")
def tiny_mllm(tmp_path_factory):
    """Folder of a LLaVA-NeXT of a few thousand parameters, with its real processor and tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_mllm")
    tokenizer = TINY.tokenizer(TEXTS)
    TINY.model(tokenizer, seed=0).save_pretrained(folder)
    TINY.processor(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def picture():
    """A 40 × 24 picture of noise."""
    pixels = torch.randint(0, 256, (24, 40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())
