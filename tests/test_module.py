import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from mmretrieval.batches import ContrastiveBatch
from mmretrieval.content import Candidate, Content, Query
from mmretrieval.encoder.adapters import LoRA, TrainedParts
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.errors import UserError
from mmretrieval.loss import InfoNCE, RerankerDistillation
from mmretrieval.module import UniversalRetriever
from mmretrieval.schedules import WarmupCosine


@pytest.fixture
def module(tiny_mllm):
    encoder = MLLMEncoder(
        base=str(tiny_mllm), lora=LoRA(rank=4, alpha=8), trained=TrainedParts(embeddings=True)
    )
    retriever = UniversalRetriever(encoder, InfoNCE(temperature=0.1))
    retriever.configure_model()
    return retriever


@pytest.fixture
def batch(module, picture):
    """Text, image and mixed queries with positives of other modalities, and one mined negative."""
    queries = [
        Query(Content("red star"), "find a picture"),
        Query(Content(None, picture), "find a text"),
        Query(Content("what is it", picture.rotate(90)), "find a text"),
    ]
    pool = [
        Candidate(Content(None, picture.rotate(180))),
        Candidate(Content("blue circle")),
        Candidate(Content("a square", picture.rotate(270))),
        Candidate(Content("red star")),
    ]
    return ContrastiveBatch(
        inputs=module.input_processor.together(queries, pool),
        positive_columns=torch.arange(3),
        candidate_keys=torch.tensor([11, 12, 13, 14]),
        positive_keys=torch.tensor([[11], [12], [13]]),
        negative_of=torch.tensor([0]),
        query_rows=torch.arange(3),
    )


def logged(module, monkeypatch):
    values = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: values.update({name: float(value)}))
    monkeypatch.setattr(
        module, "log_dict", lambda many, **_: values.update({k: float(v) for k, v in many.items()})
    )
    return values


def test_a_step_has_the_loss_of_its_embeddings(module, batch, monkeypatch):
    values = logged(module, monkeypatch)
    loss = module.training_step(batch, 0)
    with torch.no_grad():
        embeddings = module.encoder(batch.inputs)
        scores = embeddings[:3] @ embeddings[3:].T / 0.1
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(3))
    assert torch.allclose(loss, expected, atol=1e-6)
    assert {"train/loss", "train/in_batch_accuracy", "train/temperature", "train/negative_similarity"} <= {
        *values
    }


def test_training_learns_a_mixed_batch_of_all_modalities(module, batch, monkeypatch):
    logged(module, monkeypatch)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=3e-3)
    first = float(module.training_step(batch, 0).detach())
    for _ in range(40):
        optimizer.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1 < first


def test_the_frozen_base_is_left_out_of_the_optimizer(module):
    optimizer = module.configure_optimizers()["optimizer"]
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in module.parameters() if p.requires_grad}
    assert not any(id(p) in optimized for p in module.encoder.core.vision_tower.parameters())


class StandInTrainer:
    limit_train_batches = 1.0
    accumulate_grad_batches = 2
    max_epochs = 3
    max_steps = -1

    class datamodule:  # noqa: N801
        steps_per_epoch = 11


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 18),
        ({"max_steps": 5}, 5),
        ({"limit_train_batches": 4}, 6),
        ({"limit_train_batches": 0.5, "accumulate_grad_batches": 1}, 15),
        ({"max_epochs": -1, "max_steps": 7}, 7),
    ],
)
def test_total_steps_follow_from_trainer_and_data(tiny_mllm, changes, steps):
    module = UniversalRetriever(MLLMEncoder(base=str(tiny_mllm)), InfoNCE())
    trainer = StandInTrainer()
    for name, value in changes.items():
        setattr(trainer, name, value)
    module._trainer = trainer
    assert module.total_steps == steps


def test_the_rate_rises_then_falls_to_its_share():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupCosine(optimizer, 20, warmup_share=0.2, final_share=0.1)
    assert isinstance(schedule, LambdaLR)
    rates = []
    for _ in range(21):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[12] == pytest.approx(2.0 * (0.1 + 0.9 / 2))  # half of the cosine
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[20] == pytest.approx(0.2)


def test_a_schedule_of_no_steps_is_an_error():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    with pytest.raises(ValueError, match="total_steps >= 1"):
        WarmupCosine(optimizer, 0)


def checkpoint_of(module):
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


def test_a_checkpoint_holds_what_is_trained_and_names_its_base(module):
    checkpoint = checkpoint_of(module)
    assert set(checkpoint["state_dict"]) == {n for n, p in module.named_parameters() if p.requires_grad}
    assert len(checkpoint["state_dict"]) < len(module.state_dict()) / 2
    module.on_load_checkpoint(checkpoint)


def test_a_checkpoint_of_another_base_or_other_settings_is_refused(module):
    checkpoint = checkpoint_of(module)
    with pytest.raises(UserError, match=r"fingerprint other; .* Give the base it belongs to"):
        module.on_load_checkpoint({**checkpoint, "mmretrieval_base": "other"})
    name = next(iter(checkpoint["state_dict"]))
    fewer = {key: value for key, value in checkpoint["state_dict"].items() if key != name}
    with pytest.raises(UserError, match="1 trained weights differ"):
        module.on_load_checkpoint({**checkpoint, "state_dict": fewer})
    wider = {**checkpoint["state_dict"], name: torch.zeros(1, 1)}
    with pytest.raises(UserError, match="1 trained weights differ"):
        module.on_load_checkpoint({**checkpoint, "state_dict": wider})


class SkippingTrainer(StandInTrainer):
    strategy = None

    class datamodule:  # noqa: N801
        train_split = "train"

        @staticmethod
        def query_ids(split, rows):
            return [f"{split}:{row}" for row in rows]


def test_steps_that_are_not_finite_are_skipped_and_many_end_the_run_with_their_queries(
    module, batch, monkeypatch
):
    values = logged(module, monkeypatch)
    module.max_skipped_steps = 2
    module._trainer = SkippingTrainer()
    with torch.no_grad():
        module.encoder.core.language_model.norm.weight.fill_(math.nan)
    before = {name: value.clone() for name, value in module.encoder.trained_state().items()}
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.1)
    module.training_step(batch, 0).backward()
    module.on_before_optimizer_step(optimizer)
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in module.encoder.trained_state().items())
    assert values["train/skipped_steps"] == 1
    module.training_step(batch, 1).backward()
    with pytest.raises(UserError, match=r"2 steps in a row .* train:0, train:1, train:2"):
        module.on_before_optimizer_step(optimizer)


def test_a_retriever_starts_from_what_another_saved(module, tiny_mllm, tmp_path):
    with torch.no_grad():
        for parameter in module.encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
    (tmp_path / "run/adapter").mkdir(parents=True)
    module.encoder.save_pretrained(tmp_path / "run/adapter")
    same = {"base": str(tiny_mllm), "trained": TrainedParts(embeddings=True)}
    for encoder in (None, MLLMEncoder(lora=LoRA(rank=4, alpha=8), **same)):
        started = UniversalRetriever(encoder, InfoNCE(), init_from=tmp_path / "run")
        started.configure_model()
        assert started.embedding_hash() == module.embedding_hash()
    other = MLLMEncoder(lora=LoRA(rank=4, alpha=8), bidirectional=True, **same)
    refused = UniversalRetriever(other, InfoNCE(), init_from=tmp_path / "run")
    with pytest.raises(UserError, match=r"encoder\.bidirectional: True, saved with False"):
        refused.configure_model()
    with pytest.raises(UserError, match="give one, or init_from"):
        UniversalRetriever(None, InfoNCE())
    with pytest.raises(UserError, match=r"none has no trained.*lightning fit -c configs/stage1.yaml"):
        UniversalRetriever(None, InfoNCE(), init_from=tmp_path / "none")


def test_weights_that_were_loaded_once_are_not_loaded_over_a_training(module, tmp_path):
    module.encoder.save_pretrained(tmp_path)
    started = UniversalRetriever(None, InfoNCE(), init_from=tmp_path)
    started.configure_model()
    with torch.no_grad():
        next(p for p in started.parameters() if p.requires_grad).add_(1.0)
    changed = started.weights_hash()
    started.configure_model()
    assert started.weights_hash() == changed != module.weights_hash()


def test_a_training_is_not_resumed_from_another_start(module, tmp_path):
    module.encoder.save_pretrained(tmp_path)

    def begun(stage=TrainerFn.FITTING):
        started = UniversalRetriever(None, InfoNCE(), init_from=tmp_path)
        started.configure_model()
        started._trainer = SimpleNamespace(state=SimpleNamespace(fn=stage))
        return started

    checkpoint = checkpoint_of(begun())
    begun().on_load_checkpoint(checkpoint)
    with torch.no_grad():
        next(p for p in module.parameters() if p.requires_grad).add_(1.0)
    module.encoder.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has other weights than the run began with; restore that folder"):
        begun().on_load_checkpoint(checkpoint)
    begun(TrainerFn.TESTING).on_load_checkpoint(checkpoint)  # its weights are all that is tested


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.parametrize("run", ["validate", "test", "predict"])
def test_each_sub_command_says_once_what_is_loaded(tiny_mllm, tmp_path, monkeypatch, run):
    said = []
    monkeypatch.setattr("mmretrieval.module.rank_zero_info", said.append)
    module = UniversalRetriever(MLLMEncoder(base=str(tiny_mllm)), InfoNCE())
    monkeypatch.setattr(module, "predict_step", lambda batch, batch_idx: torch.zeros(1))
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **options)
    getattr(trainer, run)(module, DataLoader([0, 1]))
    assert said == [f"Base: {module.encoder.describe()}"]
    for fact in (str(tiny_mllm), "float32", module.encoder.base_fingerprint):
        assert fact in said[0]


def test_validation_within_a_training_says_nothing_again(module, monkeypatch):
    said = []
    monkeypatch.setattr("mmretrieval.module.rank_zero_info", said.append)
    module._trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING))
    module.on_validation_start()
    assert said == []


def test_a_rerankers_targets_add_their_divergence_and_none_adds_nothing(module, batch, monkeypatch):
    values = logged(module, monkeypatch)
    module.eval()
    plain = module.training_step(batch, 0)
    module.reranker_distillation = RerankerDistillation(weight=2.0)
    torch.testing.assert_close(module.training_step(batch, 0), plain)
    assert values["train/divergence_from_reranker"] == 0
    targets = torch.tensor([0.2, float("nan"), float("nan"), 0.9])  # of the first query's two candidates
    queries, candidates = module.encoder(batch.inputs).tensor_split([3])
    divergence = module.reranker_distillation(queries, candidates, batch.negative_of, targets)
    found = module.training_step(batch._replace(targets=targets), 0)
    torch.testing.assert_close(found, plain + 2 * divergence)
    assert float(divergence.detach()) > 0
