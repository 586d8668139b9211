import json

import pytest
from encoders import make, perturb
from PIL import Image, ImageDraw

from mmretrieval import Retriever
from mmretrieval.collection.collection import Collection
from mmretrieval.collection.searching import Searcher
from mmretrieval.collection.settings import Settings
from mmretrieval.demo.mistakes import read_mistakes
from mmretrieval.demo.page import Page

SCRIPT = "<script>window.stolen = 1</script><img src=x onerror='window.stolen = 2'>"


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Pictures, notes, and a caption with a script in it."""
    root = tmp_path_factory.mktemp("demo") / "files"
    root.mkdir()
    for number, colour in enumerate(("red", "green", "blue")):
        image = Image.new("RGB", (60, 40), colour)
        ImageDraw.Draw(image).ellipse((5 + 10 * number, 5, 25 + 10 * number, 25), fill="white")
        image.save(root / f"{colour}.png")
    (root / "red.txt").write_text(SCRIPT)
    for number in range(5):
        (root / f"note-{number}.txt").write_text(f"Note number {number}.")
    (root.parent / "secret.txt").write_text("secret")
    return root


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """What the page reads of a training run."""
    folder = tmp_path_factory.mktemp("run")
    measures = {"hit@1": 0.25, "hit@5": 0.5, "modality_accuracy@1": 0.75}
    tasks = {
        "easy_task0": measures | {"modality_accuracy@1": 1.0},
        "hard_task7": measures,
        "average": measures,
    }
    (folder / "metrics.json").write_text(json.dumps({"global": tasks}))
    (folder / "gallery").mkdir()
    Image.new("RGB", (50, 30), "orange").save(folder / "gallery/hard_task7.png")
    return folder


@pytest.fixture(scope="session")
def searcher(files, tiny_mllm, tmp_path_factory):
    retriever = Retriever(perturb(make(tiny_mllm)), batch_size=8, name="tiny")
    settings = Settings(str(files), "tiny", retriever.embedding_hash(), 100, "float32", None, None)
    with Collection.create_or_open(tmp_path_factory.mktemp("demo") / "index", settings) as collection:
        collection.update(retriever)
        yield Searcher(collection, retriever)


class Backwards:
    """A reranker that prefers what comes last."""

    def score(self, query, candidates, task):
        import torch

        return torch.arange(len(candidates)) / len(candidates)


@pytest.fixture(scope="session")
def page(searcher, run):
    return Page(searcher, Backwards, read_mistakes(run))
