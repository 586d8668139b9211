"""Embeddings stay near those of the start: what is compared, and with which weights."""

import pytest
import torch

from mmretrieval.batches import ContrastiveBatch
from mmretrieval.content import Candidate, Content, Query
from mmretrieval.distillation import Distillation, StartingPoint, rows_of_queries
from mmretrieval.encoder.adapters import LoRA, TrainedParts
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.errors import UserError
from mmretrieval.loss import InfoNCE
from mmretrieval.module import UniversalRetriever


@pytest.fixture
def encoder(tiny_mllm):
    made = MLLMEncoder(
        base=str(tiny_mllm), lora=LoRA(rank=4, alpha=8, dropout=0.5), trained=TrainedParts(embeddings=True)
    )
    made.load()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return made


@pytest.fixture
def inputs(encoder, picture):
    queries = [Query(Content("red star"), "find a picture"), Query(Content(None, picture), "find a text")]
    pool = [Candidate(Content(None, picture.rotate(180))), Candidate(Content("a square", picture))]
    return encoder.input_processor.together(queries, [*pool, Candidate(Content("blue circle"))])


def shifted(encoder):
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)


def test_the_start_embeds_as_it_did(encoder, inputs):
    encoder.eval()
    with torch.no_grad():
        before = encoder(inputs)
    start = StartingPoint(encoder)
    encoder.train()
    shifted(encoder)
    now = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    found = start.embed(encoder, inputs)
    assert torch.equal(found, before), "old weights, without dropout"
    assert encoder.training
    assert all(torch.equal(p, now[name]) for name, p in encoder.named_parameters())
    assert not torch.allclose(encoder.eval()(inputs), before, atol=1e-3)


def test_the_distance_is_the_mean_over_the_rows_that_count(encoder, inputs):
    encoder.eval()
    start = StartingPoint(encoder)
    before = start.embed(encoder, inputs)
    assert float(start.distance(encoder, inputs, before, torch.arange(5))) == pytest.approx(0, abs=1e-6)
    shifted(encoder)
    embeddings = encoder(inputs)
    rows = torch.tensor([0, 3, 4])
    distance = start.distance(encoder, inputs, embeddings, rows)
    expected = (1 - (embeddings * before).sum(dim=1))[rows].mean()
    torch.testing.assert_close(distance, expected)
    distance.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    none = start.distance(encoder, inputs, encoder(inputs), torch.zeros(0, dtype=torch.long))
    assert float(none.detach()) == 0
    none.backward()


def test_negatives_go_with_the_query_they_were_mined_for(inputs):
    none = torch.zeros(0)
    batch = ContrastiveBatch(inputs, none, none, none, torch.tensor([2, 0, 0, 1]), none)
    chosen = torch.tensor([True, False, True])
    # Rows: queries 0-2, positives 3-5, negatives 6-9 of queries 2, 0, 0 and 1.
    assert rows_of_queries(batch, chosen).tolist() == [0, 2, 3, 5, 6, 7, 8]


class Data:
    def rehearsed(self, rows):
        return [row < 10 for row in rows]


def test_a_step_adds_the_distance_of_rehearsed_samples(encoder, inputs, tmp_path, monkeypatch):
    encoder.save_pretrained(tmp_path)
    module = UniversalRetriever(None, InfoNCE(), init_from=tmp_path, distillation=Distillation(weight=3.0))
    module.configure_model()
    module.eval()
    shifted(module.encoder)
    values = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: values.update({name: float(value)}))
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    module._trainer = type("Trainer", (), {"datamodule": Data()})()
    batch = ContrastiveBatch(
        inputs,
        torch.arange(2),
        torch.tensor([1, 2, 3]),
        torch.tensor([[1], [2]]),
        torch.tensor([1]),
        torch.tensor([12, 7]),
    )
    total = module.training_step(batch, 0)
    before = module.start.embed(module.encoder, inputs)
    distance = (1 - (module.encoder(inputs) * before).sum(dim=1))[[1, 3, 4]].mean()
    module.distillation = module.start = None
    alone = module.training_step(batch, 0)
    torch.testing.assert_close(total, alone + 3 * distance)
    assert values["train/distance_to_start"] == pytest.approx(float(distance.detach()), rel=1e-5)


def test_a_resumed_run_keeps_to_the_first_start(encoder, inputs, tmp_path):
    encoder.save_pretrained(tmp_path)
    module = UniversalRetriever(None, InfoNCE(), init_from=tmp_path, distillation=Distillation())
    module.configure_model()
    expected = module.start.embed(module.encoder, inputs)
    shifted(module.encoder)
    resumed = UniversalRetriever(None, InfoNCE(), init_from=tmp_path, distillation=Distillation())
    resumed.configure_model()
    resumed.load_state_dict({n: p for n, p in module.named_parameters() if p.requires_grad}, strict=False)
    assert torch.equal(resumed.start.embed(resumed.encoder, inputs), expected)
    assert not any("start" in name for name in resumed.state_dict())


def test_what_cannot_be_is_refused(tiny_mllm):
    with pytest.raises(UserError, match=r"model\.distillation\.weight 0: must be positive"):
        Distillation(0)
    with pytest.raises(UserError, match="give init_from"):
        UniversalRetriever(MLLMEncoder(base=str(tiny_mllm)), InfoNCE(), distillation=Distillation())
