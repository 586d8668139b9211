"""The device under test: a GPU; ``MMRETRIEVAL_TEST_DEVICE=cpu`` tries the tests out without one."""

import os

import pytest
import torch
from tiny_families import make_tiny

from mmretrieval.content import Candidate, Content, Query


@pytest.fixture(scope="session")
def device():
    name = os.environ.get("MMRETRIEVAL_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device(name)


@pytest.fixture(autouse=True)
def full_single_precision(device, monkeypatch):
    """No TF32, which is on for convolutions unless said otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module", params=["llava_next", "qwen2_vl", "qwen3_vl"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return make_tiny(family, tmp_path_factory.mktemp(family))


@pytest.fixture
def contents(picture):
    """Texts, pictures and both, of many lengths."""
    turned = picture.rotate(90, expand=True)
    return {
        "text": [Candidate(Content("a red star")), Candidate(Content("a blue circle, " * 6))],
        "image": [Candidate(Content(None, picture)), Candidate(Content(None, turned))],
        "both": [Candidate(Content("star", turned)), Candidate(Content("a star " * 5, picture))],
    }


@pytest.fixture
def asked(picture):
    """Queries of all modalities; one picture is among the candidates, too."""
    return [
        Query(Content("red star"), "find a picture"),
        Query(Content(None, picture), "find a text"),
        Query(Content("what is it", picture.rotate(180)), "find a text"),
    ]
