"""A sentence-transformers model teaches what it knows about texts, and embeds each of them once."""

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny_text_model import make_text_model

from callbacks import HardNegativeMining
from data_modules import ContinualTextDataModule
from mmretrieval.content import Modality
from mmretrieval.encoder.text_encoder import TextEncoder
from mmretrieval.mining import MiningPlan, TopK
from tests.data_modules.fakes import FakeProcessor

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning"
)
PROMPTS = {"query": "query: ", "passage": "passage: "}


class Processor(FakeProcessor):
    """Its tokens are few enough for the fake encoder."""

    def together(self, queries, candidates):
        inputs = super().together(queries, candidates)
        inputs.input_ids.remainder_(50)
        return inputs


@pytest.fixture
def data(packed, tmp_path, monkeypatch):
    """The multimodal data of these tests, and 24 pairs of texts."""
    monkeypatch.setenv("MMRETRIEVAL_HOME", str(tmp_path / "home"))
    pairs = (json.dumps([f"question {n}", f"answer {n} of {n % 5}"]) + "\n" for n in range(24))
    (tmp_path / "pairs.jsonl").write_text("".join(pairs))
    return ContinualTextDataModule(
        tmp_path / "pairs.jsonl", packed, batch_size=8, encoding_batch_size=7, batches_per_epoch=2
    )


@pytest.fixture
def module(fakes):
    class Module(fakes.FakeModule):
        input_processor = Processor()

        def training_step(self, batch, batch_idx):
            return super().training_step(torch.arange(8), batch_idx)

    return Module()


@pytest.fixture
def taught(fakes, tmp_path, data, module, monkeypatch):
    """A run whose text queries a text model mines for; with the teacher, and what it embedded in all."""
    words = [
        f"{kind} {n} of" for kind in ("question", "answer", "text", *PROMPTS.values()) for n in range(96)
    ]
    teacher = make_text_model(tmp_path / "teacher", words, 16, PROMPTS)
    embedded, forward = [], TextEncoder.forward

    def count(encoder, inputs):
        embedded.append(len(inputs.input_ids))
        return forward(encoder, inputs)

    class Noting(HardNegativeMining):
        def mine(self, trainer, module):
            report = super().mine(trainer, module)
            rounds.append((self.latest, sum(embedded)))
            return report

    monkeypatch.setattr(TextEncoder, "forward", count)
    rounds, plan = [], MiningPlan(top_k=12, negatives_per_query=3, selection=TopK())
    mining = Noting(plan, teacher=teacher, teacher_tasks=["text:*"])
    fakes.make_trainer(tmp_path, [mining]).fit(module, datamodule=data)
    return teacher, rounds


def test_a_text_model_mines_as_brute_force_with_its_own_embeddings_and_embeds_once(taught, data):
    folder, rounds = taught
    (first, embedded), (second, in_all) = rounds
    queries, corpus = data.queries("train"), data.corpus
    sources = np.array(queries.task_sources)[queries.task_of]
    rows = np.flatnonzero(sources == "text")
    pool = corpus.pools[data.train_pool]
    texts = pool[corpus.candidate_modalities[pool] == Modality.TEXT.code]
    assert (len(rows), len(texts) > 24) == (24, True), "texts of the multimodal data are searched, too"
    assert in_all == embedded == len(rows) + len(texts), "the second round embeds nothing again"

    model = SentenceTransformer(str(folder), device="cpu")
    asked = [queries.asked(int(row), 0).content.text for row in rows]
    answers = [corpus.candidate(int(row)).content.text for row in texts]
    vectors = model.encode(answers, prompt=PROMPTS["passage"], normalize_embeddings=True)
    scores = model.encode_query(asked, normalize_embeddings=True) @ vectors.T
    for table in (first, second):
        for row, own in zip(rows.tolist(), scores, strict=True):
            contents = {int(corpus.candidate_keys[known]) for known in queries.positives(row)}
            expected = []
            for candidate in texts[np.argsort(-own, kind="stable")][:12].tolist():
                if int(corpus.candidate_keys[candidate]) not in contents and len(expected) < 3:
                    expected.append(corpus.candidate_id(candidate))
                    contents.add(int(corpus.candidate_keys[candidate]))
            assert table.negatives_of(str(queries.ids[row])) == tuple(expected)


def test_the_trained_retriever_mines_for_the_other_tasks(taught, data):
    _, ((first, _), (second, _)) = taught
    queries = data.queries("train")
    sources = np.array(queries.task_sources)[queries.task_of]
    changed = np.array([first.negatives_of(id_) != second.negatives_of(id_) for id_ in queries.ids.tolist()])
    assert changed[sources != "text"].any()
    assert not changed[sources == "text"].any()
