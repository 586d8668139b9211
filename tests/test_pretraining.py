import shutil
from pathlib import Path

import pytest
import torch
from encoders import SMALLEST
from lightning import Trainer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from callbacks import GenerativeEvaluation
from data_modules import DialogueDataModule
from data_modules.synthetic.phases import SEEING, TALKING, Phase
from data_modules.synthetic.pretraining import DialogueCollator, DialogueDataset
from mmretrieval import GenerativePretraining
from mmretrieval.encoder.backbone import load_processor, resolve
from mmretrieval.errors import UserError


def trainer_of(evaluation, folder):
    return Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, callbacks=[evaluation],
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        default_root_dir=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretraining")
    data = DialogueDataModule(
        SMALLEST,
        batch_size=8,
        phases=[Phase(6, SEEING), Phase(6, TALKING)],
        validation_batches=1,
        num_workers=0,
    )
    module = GenerativePretraining(lambda p: torch.optim.AdamW(p, lr=3e-3), warmup_steps=2)
    evaluation = GenerativeEvaluation(folder / "assets", dialogues=4, batch_size=4)
    trainer = trainer_of(evaluation, folder)
    losses = []
    step = module.training_step
    module.training_step = lambda batch, batch_idx: losses.append(loss := step(batch, batch_idx)) or loss
    trainer.fit(module, data)
    return module, evaluation, folder / "assets", [float(loss.detach()) for loss in losses]


def test_the_loss_falls(fitted):
    *_, losses = fitted
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_what_is_saved_loads_with_transformers_alone(fitted):
    module, _, folder, _ = fitted
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    expected = module.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert loaded.dtype == torch.bfloat16
    assert load_processor(str(folder)).tokenizer.eos_token == "</s>"


def test_the_card_tells_what_was_measured(fitted):
    _, evaluation, folder, _ = fitted
    card = (folder / "README.md").read_text()
    assert "12 steps of 8 dialogues" in card
    assert evaluation.accuracies
    for kind, (share, asked) in evaluation.accuracies.items():
        assert f"| {kind} | {share:.3f} | {asked} |" in card
    assert "nan" not in card


def test_dialogues_in_parts_have_the_loss_and_gradient_of_the_whole_batch(fitted):
    module, *_ = fitted
    data = DialogueDataModule(SMALLEST, batch_size=8, num_workers=0)
    data.setup("fit")
    samples = [DialogueDataset(3, held_out=False)[index, False] for index in range(8)]
    batch = DialogueCollator(data.processor)(samples)
    whole, parts = (gradients(module, batch, rows) for rows in (8, 3))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def gradients(module, batch, rows):
    trained = GenerativePretraining(lambda p: torch.optim.SGD(p, lr=1), rows=rows)
    trained.model = module.model.float()
    trained.zero_grad()
    loss, _ = trained._loss_and_accuracy(batch)
    loss.backward()
    found = [p.grad.clone() for p in trained.model.parameters() if p.grad is not None]
    return [loss.detach(), *found]


def test_going_on_keeps_tokenizer_and_frozen_tower_and_trains_the_rest(fitted, tmp_path):
    _, _, folder, _ = fitted
    before = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()
    data = going_on(folder)
    module = GenerativePretraining(lambda p: torch.optim.AdamW(p, lr=1e-2), warmup_steps=1, frozen_tower=True)
    evaluation = GenerativeEvaluation(tmp_path / "further", dialogues=2, batch_size=2)
    trainer_of(evaluation, tmp_path).fit(module, data)
    after = module.model.float().state_dict()
    moved = {name for name in before if not torch.allclose(before[name], after[name], atol=1e-3)}
    assert any("language_model" in name for name in moved)
    assert not any("vision_tower" in name for name in moved)
    old, new = (load_processor(str(place)).tokenizer.get_vocab() for place in (folder, tmp_path / "further"))
    assert old == new
    card = (tmp_path / "further/README.md").read_text()
    made, _, before_that = card.partition("Before that, last first: by ")
    assert "2 steps of 4 dialogues" in made
    assert "judged_simply" in made
    assert "12 steps of 8 dialogues" in before_that.partition("\n\n")[0]


def test_going_on_from_a_mix_takes_each_weight_from_both(fitted, tmp_path):
    _, _, folder, _ = fitted
    earlier = load(folder)
    further = tmp_path / "further"
    shutil.copytree(folder, further)
    moved = {name: weight + 1 for name, weight in earlier.items()}
    save_file(moved, further / "model.safetensors", metadata={"format": "pt"})
    data = going_on(further, earlier=folder, start_share=0.25)
    module = GenerativePretraining(lambda p: torch.optim.SGD(p, lr=0.0), warmup_steps=1)
    evaluation = GenerativeEvaluation(tmp_path / "mixed", dialogues=2, batch_size=2)
    trainer_of(evaluation, tmp_path).fit(module, data)
    mixed = load(tmp_path / "mixed")
    for name, weight in earlier.items():
        expected = 0.75 * weight.float() + 0.25 * moved[name].float()
        torch.testing.assert_close(mixed[name], expected.bfloat16())
    card = (tmp_path / "mixed/README.md").read_text()
    assert "from 0.25 of weights with a history and 0.75 of the earlier ones" in card


def load(folder):
    return load_file(folder / "model.safetensors")


def going_on(start, **others):
    phases = [Phase(2, {"judged_simply": 1})]
    return DialogueDataModule(
        batch_size=4, phases=phases, validation_batches=1, num_workers=0, start=start, **others
    )


def test_a_mix_with_another_architecture_is_refused(fitted, tmp_path):
    _, _, folder, _ = fitted
    data = going_on(folder, earlier=Path(resolve("embedded")))
    module = GenerativePretraining(lambda p: torch.optim.SGD(p, lr=0.0), warmup_steps=1)
    with pytest.raises(UserError, match=r"data\.earlier .*other names or sizes"):
        trainer_of(GenerativeEvaluation(tmp_path / "mixed"), tmp_path).fit(module, data)


@pytest.mark.parametrize(
    ("others", "says"),
    [({"earlier": "b"}, "data.start, which is not given"), ({"start_share": 1.5}, "between 0 and 1")],
)
def test_a_mix_of_nothing_or_with_a_wrong_share_is_refused(others, says):
    with pytest.raises(UserError, match=says):
        DialogueDataModule(**others)
