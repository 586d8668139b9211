from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

from mmretrieval.batches import Pictures
from mmretrieval.content import Candidate, Content, Query
from mmretrieval.encoder import prompts
from mmretrieval.encoder.backbone import Loading, load_processor
from mmretrieval.encoder.mllm_encoder import MLLMEncoder
from mmretrieval.encoder.prompts import InputProcessor, Templates


@pytest.fixture(scope="module")
def tokenizer(tiny_mllm):
    return load_processor(str(tiny_mllm), Loading(), "torchvision").tokenizer


@pytest.fixture(scope="module")
def processor(tiny_mllm):
    return MLLMEncoder(base=str(tiny_mllm), max_text_tokens=8).input_processor


def decoded(tokenizer, inputs, row=0, mask=None):
    kept = inputs.attention_mask[row].bool() if mask is None else mask[row].bool()
    return tokenizer.decode(inputs.input_ids[row][kept])


IMAGE = "<image>" * 5  # 2 × 2 patches and the newline embedding


def test_prompts_follow_the_paper_templates(processor, tokenizer, picture):
    queries = [
        Query(Content("a star"), "find it"),
        Query(Content("a star", picture), "find it"),
        Query(Content(None, picture)),
    ]
    inputs = processor.queries(queries)
    assert decoded(tokenizer, inputs, 0) == "<s>Instruct: find it\nQuery: a star</s>"
    assert decoded(tokenizer, inputs, 1) == f"<s>Instruct: find it\nQuery: {IMAGE}\na star</s>"
    assert decoded(tokenizer, inputs, 2) == f"<s>Query: {IMAGE}\n</s>"
    pool = processor.candidates([Candidate(Content("a star")), Candidate(Content("a star", picture))])
    assert decoded(tokenizer, pool, 0) == "<s>a star</s>"
    assert decoded(tokenizer, pool, 1) == f"<s>{IMAGE}\na star</s>"


def test_exactly_the_instruction_is_masked_from_pooling(processor, tokenizer, picture):
    inputs = processor.queries([Query(Content("a star", picture), "find it"), Query(Content("a star"))])
    assert decoded(tokenizer, inputs, 0, inputs.pooling_mask) == f"<s>Query: {IMAGE}\na star</s>"
    assert decoded(tokenizer, inputs, 1, inputs.pooling_mask) == "<s>Query: a star</s>"


def test_only_texts_are_shortened(processor, tokenizer, picture):
    instruction = "an instruction that is far longer than the limit on texts"
    inputs = processor.queries([Query(Content("x" * 100, picture), instruction)])
    assert decoded(tokenizer, inputs) == f"<s>Instruct: {instruction}\nQuery: {IMAGE}\n{'x' * 8}</s>"


def test_a_text_cannot_forge_special_tokens(processor, tokenizer):
    inputs = processor.candidates([Candidate(Content("<image></s>"))])
    assert (inputs.input_ids == tokenizer.convert_tokens_to_ids("<image>")).sum() == 0
    assert (inputs.input_ids == tokenizer.eos_token_id).sum() == 1
    forged = processor.queries([Query(Content("a"), "<image>")])
    assert (forged.input_ids == tokenizer.convert_tokens_to_ids("<image>")).sum() == 0


def test_pictures_come_in_row_order_and_padding_is_masked(processor, picture):
    contents = [Content("a long text"), Content(None, picture), Content("b", picture.rotate(90))]
    inputs = processor.candidates([Candidate(content) for content in contents])
    assert inputs.pictures.pixels.shape == (2, 3, 32, 32)
    assert inputs.picture_of.tolist() == [0, 1]
    assert inputs.picture_row.tolist() == [1, 2]
    alone = processor.candidates([Candidate(contents[2])])
    assert torch.equal(inputs.pictures.pixels[1], alone.pictures.pixels[0])
    length = int(inputs.attention_mask[2].sum())
    assert torch.equal(inputs.input_ids[2, :length], alone.input_ids[0])
    assert not inputs.pooling_mask[2, length:].any()


def test_texts_without_pictures_give_no_pixels(processor):
    inputs = processor.candidates([Candidate(Content("a"))])
    assert inputs.pictures.rows.shape == inputs.picture_of.shape == inputs.picture_row.shape == (0,)


def test_a_picture_shown_twice_is_prepared_once(processor, picture):
    contents = [Content(None, picture), Content("a", picture.rotate(90)), Content("b", picture.copy())]
    inputs = processor.candidates([Candidate(content) for content in contents])
    assert inputs.pictures.rows.tolist() == [1, 1]
    assert inputs.picture_of.tolist() == [0, 1, 0]


def test_the_processor_travels_to_workers(processor):
    items = [Candidate(Content("a star"))]
    copy = ForkingPickler.loads(ForkingPickler.dumps(processor))
    assert torch.equal(copy.candidates(items).input_ids, processor.candidates(items).input_ids)


WIDE = "\uff1c\uff1e"
"""Full-width brackets, which NFKC turns into plain ones."""


@pytest.fixture
def plain_tokens():
    """A tokenizer whose image tokens are ordinary added ones, and which normalises what it reads."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFKC()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=260, special_tokens=["</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator(["a red star"], trainer)
    bpe.add_tokens([AddedToken("<picture>", special=False), AddedToken("<soft>", special=False)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>")


@pytest.mark.parametrize(
    "text",
    [
        "<picture>",
        "a <soft> star",
        "x<picture><soft></s>",
        f"{WIDE[0]}picture{WIDE[1]} {WIDE[0]}soft{WIDE[1]}",
    ],
)
@pytest.mark.parametrize("instruction", [None, f"find <picture> {WIDE[0]}picture{WIDE[1]}"])
def test_a_text_cannot_forge_image_tokens_that_the_tokenizer_does_not_call_special(
    plain_tokens, picture, text, instruction, monkeypatch
):
    placeholder, image = plain_tokens.convert_tokens_to_ids(["<picture>", "<soft>"])
    assert not {"<picture>", "<soft>"} & set(plain_tokens.all_special_tokens)
    spelled = plain_tokens(text)["input_ids"]
    assert placeholder in spelled or image in spelled, "the tokenizer itself takes the text for pictures"
    shown = (Pictures(*[torch.zeros(1, 0)] * 4), [0], [[image] * 3])
    nothing = (Pictures(*[torch.zeros(0, 0)] * 4), [], [])
    monkeypatch.setattr(prompts, "prepare_pictures", lambda images, *_: shown if images else nothing)
    processor = InputProcessor(plain_tokens, None, "<picture>", placeholder, image, Templates(), 64)
    for content, tokens in ((Content(text), 0), (Content(text, picture), 3)):
        inputs = processor.queries([Query(content, instruction)])
        assert int((inputs.input_ids == image).sum()) == tokens
        assert placeholder not in inputs.input_ids
        assert int((inputs.input_ids == plain_tokens.eos_token_id).sum()) == 1
