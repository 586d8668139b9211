import pytest
from encoders import make, perturb

from mmretrieval import Retriever
from mmretrieval.encoder.provenance import Provenance


@pytest.fixture(scope="module")
def retriever(tiny_mllm):
    encoder = perturb(make(tiny_mllm))
    shares = {"mscoco_task0": 0.5, "scenecaptions_task3": 0.5}
    return Retriever(encoder, batch_size=8, name="a run", provenance=Provenance(shares, steps=10))
