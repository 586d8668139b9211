import random
from collections import Counter

import pytest
import torch
from encoders import SMALLEST

from data_modules.synthetic.dialogues import KINDS, DialogueSampler
from data_modules.synthetic.phases import SEEING, TALKING, Phase
from data_modules.synthetic.pretraining import (
    IGNORED,
    DialogueBatches,
    DialogueCollator,
    DialogueDataModule,
    DialogueDataset,
)
from data_modules.synthetic.scenes import HELD_OUT_PAIRS
from mmretrieval.errors import UserError


@pytest.fixture(scope="module")
def data():
    phases = [Phase(2, SEEING), Phase(2, TALKING)]
    module = DialogueDataModule(SMALLEST, batch_size=6, phases=phases, tiled_every=2, num_workers=0)
    module.setup("fit")
    return module


def batch(data, start, *, tiled):
    dataset = DialogueDataset(0, held_out=False)
    samples = [dataset[index, tiled] for index in range(start, start + 12)]
    return [dialogue for dialogue, _ in samples], DialogueCollator(data.processor)(samples)


@pytest.mark.parametrize("tiled", [False, True])
def test_exactly_the_answers_are_learnt(data, tiled):
    dialogues, found = batch(data, 0, tiled=tiled)
    for dialogue, ids, labels in zip(dialogues, found.inputs.input_ids, found.labels, strict=True):
        answers = "".join(f" {turn.answer}</s>" for turn in dialogue.turns)
        assert data.tokenizer.decode(labels[labels != IGNORED]) == answers
        assert torch.equal(labels[labels != IGNORED], ids[labels != IGNORED])


def test_each_picture_has_its_image_tokens(data):
    for tiled, tokens in ((False, 2 * 2 + 1), (True, 2 * 2 + 2 * 3)):
        dialogues, found = batch(data, 0, tiled=tiled)
        images = (found.inputs.input_ids == data.processor.image_token_id).sum(dim=1) / tokens
        assert images.tolist() == [len(dialogue.images) for dialogue in dialogues]
        assert len(found.inputs.picture_of) == images.sum()
        assert found.inputs.pictures.shapes.shape[1] == (2 if tiled else 0)
        assert found.inputs.pictures.tokens.eq(tokens).all()


def test_a_dialogue_is_a_function_of_seed_and_index():
    first, again, other = (DialogueDataset(seed, held_out=False)[7, False][0] for seed in (0, 0, 1))
    assert first.turns == again.turns
    assert [image.tobytes() for image in first.images] == [image.tobytes() for image in again.images]
    assert first.turns != other.turns


def kinds_of(dataset, indices):
    return Counter(turn.kind for index in indices for turn in dataset[index, False][0].turns)


def test_phases_show_their_kinds_one_after_another():
    dataset = DialogueDataset(0, held_out=False, parts=[(40, SEEING), (300, TALKING)])
    assert set(kinds_of(dataset, range(40))) <= {"caption", "portrait", "rewriting"}
    later = kinds_of(dataset, range(40, 500))  # the last phase goes on
    asked = {"colour", "shape", "size", "place", "count", "background", "relation"}
    asked |= {"image-text match", "image-image match", "text-text match", "caption", "change"}
    assert asked <= set(later)
    assert {f"judgement, task{number}" for number in (0, 1, 2, 3, 4, 6, 7, 8)} <= set(later)


def test_every_kind_can_be_drawn():
    for kind in KINDS:
        dataset = DialogueDataset(0, held_out=False, parts=[(1, {kind: 1})])
        assert dataset[0, False][0].turns


@pytest.mark.parametrize(
    ("steps", "kinds", "message"),
    [(0, {"judged": 1}, "0 steps"), (1, {}, "of 0 kinds"), (1, {"sung": 1}, "'sung' is no kind of dialogue")],
)
def test_a_phase_needs_steps_and_known_kinds(steps, kinds, message):
    with pytest.raises(UserError, match=message):
        Phase(steps, kinds)


def test_training_never_names_a_held_out_pair():
    def pairs(held_out):
        sampler = DialogueSampler(random.Random(0), held_out=held_out)
        captions = [sampler.captioned().turns[0].answer for _ in range(300)]
        return [f"{c} {s}" for c, s in HELD_OUT_PAIRS if any(f"{c} {s}" in text for text in captions)]

    assert pairs(held_out=False) == []
    assert pairs(held_out=True)


def test_every_nth_batch_is_tiled():
    batches = list(DialogueBatches(4, 3, tiled_every=2))
    assert [{tiled for _, tiled in items} for items in batches] == [{False}, {True}, {False}, {True}]
    assert [index for items in batches for index, _ in items] == list(range(12))


def test_matching_answers_are_balanced():
    sampler = DialogueSampler(random.Random(3), held_out=False)
    answers = Counter(sampler.compared_pictures().turns[0].answer for _ in range(300))
    assert set(answers) == {"True", "False"}
    assert 110 < answers["True"] < 190


def test_a_resumed_run_goes_on_behind_what_it_has_seen():
    batches = DialogueBatches(5, 2, tiled_every=2, first=3)
    assert [items[0][0] for items in batches] == [6, 8]
    assert len(batches) == 5, "Lightning counts the whole epoch"
    assert [items[0][0] for items in batches] == [0, 2, 4, 6, 8], "the next epoch is whole"


def test_pictures_stand_where_the_prompt_says(data):
    sampler = DialogueSampler(random.Random(0), held_out=False)
    dialogues = [sampler.judged() for _ in range(60)]
    collate = DialogueCollator(data.processor)
    found = collate([(dialogue, False) for dialogue in dialogues])
    shown = (found.inputs.input_ids == data.processor.image_token_id).sum(dim=1) / 5
    assert shown.tolist() == [len(dialogue.images) for dialogue in dialogues]
    for dialogue, ids in zip(dialogues, found.inputs.input_ids, strict=True):
        text = data.tokenizer.decode(ids[ids != data.tokenizer.pad_token_id])
        plain = text.replace("<image>" * 5, "<image>")
        assert plain.startswith(
            f"<s>USER: {dialogue.turns[0].prompt} ASSISTANT: {dialogue.turns[0].answer}</s>"
        )


def test_every_picture_of_a_dialogue_has_its_place():
    dataset = DialogueDataset(3, held_out=False)
    for index in range(400):
        dialogue, _ = dataset[index, False]
        asked = [dialogue.opening(dialogue.turns[0]), *(turn.prompt for turn in dialogue.turns[1:])]
        assert sum(text.count("<image>") for text in asked) == len(dialogue.images)
