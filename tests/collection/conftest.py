import pytest
from encoders import make, perturb
from PIL import Image

from mmretrieval import Modality, Retriever
from mmretrieval.collection.collection import Collection
from mmretrieval.collection.settings import Settings
from mmretrieval.encoder.provenance import Asked, Provenance

ASKED = {
    "photos_task0": Asked(Modality.TEXT, Modality.IMAGE, ("Find a picture.", "Another wording.")),
    "news_task0": Asked(Modality.TEXT, Modality.IMAGE, ("Find a press photo.",)),
    "notes_task1": Asked(Modality.TEXT, Modality.TEXT, ("Find a note.",)),
}


@pytest.fixture(scope="session")
def retriever(tiny_mllm):
    provenance = Provenance(dict.fromkeys(ASKED, 1 / 3), 1, ASKED)
    return Retriever(perturb(make(tiny_mllm)), batch_size=8, name="tiny", provenance=provenance)


@pytest.fixture
def paint():
    """``paint(path, colour)`` writes a picture of one colour."""

    def painted(path, colour, size=(40, 24)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path)

    return painted


@pytest.fixture
def files(tmp_path, paint):
    """A folder with a picture, a captioned picture, and a note of two passages."""
    root = tmp_path / "files"
    paint(root / "red.png", "red")
    paint(root / "trip/tower.jpg", "blue")
    (root / "trip/tower.txt").write_text("A tower in the evening.\n")
    (root / "note.md").write_text("# One\n\nA note about stars.\n\n# Two\n\nAnother one.\n")
    return root


@pytest.fixture
def collect(retriever, tmp_path):
    """``collect(source)`` makes a collection, or opens it again."""
    opened = []

    def made(source, out=tmp_path / "index", **changes):
        values = {
            "source": str(source),
            "model": "tiny",
            "embedding_hash": retriever.embedding_hash(),
            "passage_words": 6,
            "precision": "float32",
            "dims": None,
            "milvus": None,
        }
        opened.append(Collection.create_or_open(out, Settings(**values | changes)))
        return opened[-1]

    yield made
    for collection in opened:
        collection.close()
