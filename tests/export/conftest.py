import pytest
from encoders import make, perturb
from runs_to_export import EMBEDDED, make_run
from tiny_families import make_tiny

from mmretrieval import Retriever
from mmretrieval.encoder.provenance import Provenance


@pytest.fixture(scope="module")
def retriever(tiny_mllm):
    encoder = perturb(make(tiny_mllm))
    shares = {"mscoco_task0": 0.5, "scenecaptions_task3": 0.5}
    return Retriever(encoder, batch_size=8, name="a run", provenance=Provenance(shares, steps=10))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Make a family's tiny model once."""
    made = {}

    def get(family):
        if family == EMBEDDED:
            return EMBEDDED
        if family not in made:
            made[family] = make_tiny(family, tmp_path_factory.mktemp(family))
        return made[family]

    return get


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A run's folder, and its encoder."""
    return make_run(tmp_path_factory.mktemp("runs") / "stage1", tiny("llava_next"))
