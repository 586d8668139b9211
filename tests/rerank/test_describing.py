"""Pictures are put into words once each, as the model itself says them, and words alone are judged."""

import random
from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny_families import FAMILIES, make_tiny
from transformers import AutoModelForImageTextToText, AutoProcessor

from data_modules.synthetic.drawing import draw_scene
from data_modules.synthetic.scenes import SceneSampler
from data_modules.synthetic.texts import canonical_caption
from mmretrieval.content import Candidate, Content, Query
from mmretrieval.errors import UserError
from mmretrieval.rerank import ListwiseReranker, ZeroShotReranker
from mmretrieval.rerank.describing import Description, PictureDescriber

HOW = Description("What is it?", max_new_tokens=5, rows=2)


@pytest.fixture(scope="module", params=[name for name in FAMILIES if name != "paligemma"])
def loaded(request, tmp_path_factory):
    folder = make_tiny(request.param, tmp_path_factory.mktemp(request.param))
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder)


def generated(model, processor, image):
    """What transformers generates of one picture alone."""
    parts = [{"type": "image", "image": image}, {"type": "text", "text": HOW.prompt}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    tokens = model.generate(**inputs, max_new_tokens=HOW.max_new_tokens, do_sample=False)
    said = processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return " ".join(said.split()) or "a picture"


@pytest.mark.filterwarnings("ignore:.*image_sizes")
def test_each_family_describes_as_it_generates(loaded, picture):
    model, processor = loaded
    pictures = [picture, picture.rotate(90), Image.new("RGB", picture.size, "navy")]
    contents = [Content("first", pictures[0]), Content("no picture"), *(Content(None, p) for p in pictures)]
    found = PictureDescriber(model, processor, HOW).in_words(contents)
    own = [generated(model, processor, each) for each in pictures]
    assert [content.text for content in found] == [f"{own[0]}\nfirst", "no picture", *own]
    assert all(content.image is None for content in found)


def test_a_picture_is_described_once(embedded, picture, monkeypatch):
    calls = []
    monkeypatch.setattr(
        PictureDescriber, "_described", lambda _, images: calls.append(len(images)) or ["x"] * len(images)
    )
    describer = PictureDescriber(embedded.model, embedded._processor, HOW)
    twice = [Content(None, picture), Content("a", picture.copy()), Content("b")]
    for _ in range(2):
        assert [content.text for content in describer.in_words(twice)] == ["x", "x\na", "b"]
    describer.in_words([Content(None, picture.rotate(angle)) for angle in (90, 180, 270)])
    assert calls == [1, 2, 1], "one picture; then three, two at a time"


@pytest.fixture(scope="module")
def embedded():
    made = ZeroShotReranker(describe=Description())
    made.load()
    return made


def test_words_are_judged_in_place_of_pictures(embedded, picture):
    query = Query(Content("make it blue", picture), "Find it.")
    candidates = [Candidate(Content(None, picture.rotate(90))), Candidate(Content("a star"))]
    asked, *found = embedded._describer.in_words([query.content, *(c.content for c in candidates)])
    plain = ZeroShotReranker()
    expected = plain.score(replace(query, content=asked), [Candidate(c) for c in found], "task7")
    assert torch.equal(embedded.score(query, candidates, "task7"), expected)
    assert embedded.pairs(query, candidates, "task7").shown is None
    assert not torch.equal(plain.score(query, candidates, "task7"), expected)


def test_lists_are_put_into_words_too(embedded, picture):
    query = Query(Content(None, picture))
    candidates = [Candidate(Content(text)) for text in ("a", "b", "c")]
    (asked,) = embedded._describer.in_words([query.content])
    found = ListwiseReranker(describe=Description()).score(query, candidates)
    assert torch.equal(found, ListwiseReranker().score(replace(query, content=asked), candidates))


def test_scores_are_kept_apart(embedded):
    others = (ZeroShotReranker(), ZeroShotReranker(describe=HOW), embedded)
    assert len({made.score_hash("a_task7") for made in others}) == 3


def test_the_small_mllm_describes_held_out_scenes(embedded):
    """So that judging its words is judging the pictures."""
    rng = random.Random(0)
    sampler = SceneSampler(rng, held_out=True)
    scenes = [sampler.scene() for _ in range(40)]
    shown = [Content(None, draw_scene(scene, rng.getrandbits(32))) for scene in scenes]
    said = [content.text for content in embedded._describer.in_words(shown)]
    right = sum(text == canonical_caption(scene) for text, scene in zip(said, scenes, strict=True))
    assert right >= 28, f"{right} of {len(scenes)} captions are right in full"


def test_bad_descriptions_are_refused():
    for wrong in ({"prompt": " "}, {"max_new_tokens": 0}, {"rows": 0}):
        with pytest.raises(UserError, match=r"reranker\.describe"):
            Description(**wrong)


def test_a_model_without_a_chat_template_is_refused(embedded, monkeypatch):
    monkeypatch.setattr(embedded._processor, "chat_template", None)
    with pytest.raises(UserError, match=r"reranker\.describe: this model has no chat template"):
        PictureDescriber(embedded.model, embedded._processor, HOW)
