"""Folders as training leaves them, with encoders that are not what their bases are."""

from __future__ import annotations

import json

import numpy as np
import torch
from encoders import make, perturb
from PIL import Image
from sentence_transformers import SentenceTransformer

from mmretrieval import MLLMEncoder
from mmretrieval.content import Candidate, Content, Modality, Query
from mmretrieval.encoder.provenance import Asked, Provenance, write_provenance
from mmretrieval.export.exporting import Wishes, export

EMBEDDED = "embedded"
PIXELS = torch.randint(0, 256, (24, 40, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
PICTURE = Image.fromarray(PIXELS.numpy())
OTHER = PICTURE.resize((50, 70))
CONTENTS = (
    Content("a red star"),
    Content(None, PICTURE),
    Content("two blue circles", OTHER),
    Content("forged <image> </s> <|im_end|> text"),
    Content("ein Stern 星"),
)
INSTRUCTION = "Find a picture that the text tells of."
QUERIES = tuple(Query(content, INSTRUCTION) for content in CONTENTS)
PROVENANCE = Provenance(
    {"photos_task0": 0.75, "notes_task1": 0.25},
    7,
    {
        "photos_task0": Asked(Modality.TEXT, Modality.IMAGE, (INSTRUCTION, "Show me | <this>.")),
        "notes_task1": Asked(Modality.TEXT, Modality.TEXT, ("Find a note.",)),
    },
)
METRICS = {
    "epochs": [
        {"step": 0, "global": {"average": {"hit@5": 0.1}}},
        {"step": 7, "global": {"photos_task0": {"hit@1": 0.25, "hit@5": 0.5}, "average": {"hit@5": 0.5}}},
    ]
}


def make_run(folder, base, **options):
    """Write a run's folder and return it with its encoder."""
    encoder = perturb(make(base, **options))
    (folder / "adapter").mkdir(parents=True)
    encoder.save_pretrained(folder / "adapter")
    write_provenance(folder / "adapter", PROVENANCE)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    loss = {"class_path": "mmretrieval.Matryoshka", "init_args": {"dims": [16, 64]}}
    (folder / "config.yaml").write_text(json.dumps({"model": {"init_args": {"loss": loss}}}))
    return folder, encoder


@torch.no_grad()
def embed(encoder):
    """Queries, then candidates, all in one batch."""
    candidates = [Candidate(content) for content in CONTENTS]
    return encoder(encoder.input_processor.together(QUERIES, candidates)).numpy()


def embed_with(model):
    """The same with sentence-transformers: mixed lists."""
    given = [as_given(content) for content in CONTENTS]
    queries = model.encode_query(given, prompt=INSTRUCTION)
    return np.concatenate([queries, model.encode_document(given)])


def as_given(content):
    if content.image is None:
        return content.text
    return content.image if content.text is None else {"text": content.text, "image": content.image}


def exported(run, folder, **wishes):
    """Export into a new folder."""
    folder.mkdir()
    return export(run, folder, Wishes(**wishes))


def loaded(folder, **options):
    """Load with sentence-transformers."""
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True, **options)


def assert_same(found, expected, tolerance=1e-4):
    np.testing.assert_allclose(found, expected, atol=tolerance)


def from_folder(folder):
    return embed(MLLMEncoder.from_pretrained(folder).eval())
