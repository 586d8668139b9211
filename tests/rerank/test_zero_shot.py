"""Scores are those of one full forward pass of transformers per pair, whatever is shared and batched."""

import pytest
import torch
from tiny_families import FAMILIES, RECIPES, make_tiny
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmretrieval.content import Candidate, Content, Query
from mmretrieval.encoder.families import FAMILIES as KNOWN
from mmretrieval.encoder.pictures import PictureOptions
from mmretrieval.encoder.prompts import chat_frame
from mmretrieval.errors import UserError
from mmretrieval.rerank import ZeroShotReranker
from mmretrieval.rerank.shared_prefix import can_share

PROMPT = "Ask: {query}\nFound: {candidate}\nIs it right?"
BOTH_WAYS = {"gemma3", "paligemma"}
"""Families that read pictures, or everything, in both directions."""


@pytest.fixture(scope="module", params=[name for name in FAMILIES if name != "paligemma"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return make_tiny(family, tmp_path_factory.mktemp(family))


def reranker(folder, tmp_path, family, prompt=PROMPT, **options):
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text("default: |\n  " + prompt.replace("\n", "\n  "))
    tiles = family in KNOWN and KNOWN[family].tiles
    made = ZeroShotReranker(
        str(folder),
        pictures=PictureOptions(tiles=tiles),
        prompts=prompts,
        answers=("T", "F"),
        chat=family != "paligemma",
        **options,
    )
    made.load()
    return made


@pytest.fixture
def contents(picture):
    other = picture.rotate(90, expand=True)
    texts = [Candidate(Content("blue")), Candidate(Content("a longer text of a red star and a blue one"))]
    pictures = [Candidate(Content(None, other)), Candidate(Content("star", picture))]
    return {
        "texts": (Query(Content("a star"), "Find it."), texts),
        "candidates": (Query(Content("a star"), "Find it."), [*texts, *pictures]),
        "query": (Query(Content(None, picture), "Find it."), texts),
        "both": (Query(Content("a star", picture), "Find it."), [*pictures, *texts, pictures[0]]),
    }


def full_forward(folder, family, made, query, candidates):
    """One pass of transformers' own model and processor per pair."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    frame, markup = chat_frame(processor), RECIPES[family].markup
    tiling = {made.family.tiling: True} if made.family.tiling else {}
    scores = []
    for candidate in candidates:
        said, images = {}, []
        for name, content in (("query", query.content), ("candidate", candidate.content)):
            parts = [markup] if content.image is not None else []
            said[name] = "\n".join([*parts, *([content.text] if content.text else [])])
            images += [content.image] if content.image is not None else []
        text = frame.before + PROMPT.format(**said) + frame.after
        inputs = processor(
            text=[text], images=images or None, return_tensors="pt", **(tiling if images else {})
        )
        with torch.inference_mode():
            logits = model(**inputs).logits[0, -1, list(made.answer_ids)]
        scores.append(float(logits.softmax(0)[0]))
    return torch.tensor(scores)


@pytest.mark.filterwarnings("ignore:.*image_sizes")
@pytest.mark.parametrize("kind", ["texts", "candidates", "query", "both"])
@pytest.mark.parametrize("share", [True, False])
def test_scores_are_those_of_one_full_forward_a_pair(folder, family, tmp_path, contents, kind, share):
    if family == "llava":
        pytest.skip("its processor crops pictures; ours are shown whole")
    query, candidates = contents[kind]
    made = reranker(folder, tmp_path, family, share_prefix=share)
    found = made.score(query, candidates)
    expected = full_forward(folder, family, made, query, candidates)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert expected.std() > 1e-3, "all scores are alike, so that the test sees nothing"
    pairs = made.pairs(query, candidates, "")
    assert (pairs.shared > 0) == (share and family not in BOTH_WAYS)


def test_batches_and_order_do_not_matter(folder, family, tmp_path, contents):
    query, candidates = contents["both"]
    whole = reranker(folder, tmp_path, family).score(query, candidates)
    for rows in (1, 2):
        made = reranker(folder, tmp_path, family, rows=rows)
        torch.testing.assert_close(made.score(query, candidates), whole, atol=1e-5, rtol=0)
    order = [3, 0, 4, 2, 1]
    shuffled = reranker(folder, tmp_path, family).score(query, [candidates[n] for n in order])
    torch.testing.assert_close(shuffled, whole[order], atol=1e-5, rtol=0)
    assert float((whole[0] - whole[4]).abs()) < 1e-6, "the same candidate twice"


def test_a_query_of_one_candidate_and_of_none(folder, family, tmp_path, contents):
    query, candidates = contents["both"]
    made = reranker(folder, tmp_path, family)
    whole = made.score(query, candidates)
    torch.testing.assert_close(made.score(query, candidates[1:2]), whole[1:2], atol=1e-5, rtol=0)
    assert made.score(query, []).shape == (0,)


def test_each_distinct_picture_goes_through_the_tower_once(folder, family, tmp_path, contents, picture):
    made = reranker(folder, tmp_path, family)
    seen = []
    original = made._pair_processor._bank._compute
    made._pair_processor._bank._compute = lambda images: (seen.append(len(images)), original(images))
    query, candidates = contents["both"]
    made.score(query, candidates)
    made.score(query, candidates[::-1])
    made.score(Query(Content("c", picture.copy())), candidates[:1])
    assert seen == [2]


def test_features_are_kept_within_a_budget(folder, family, tmp_path, contents):
    query, candidates = contents["both"]
    whole = reranker(folder, tmp_path, family).score(query, candidates)
    made = reranker(folder, tmp_path, family, kept_gib=0, pixel_rows=1)
    torch.testing.assert_close(made.score(query, candidates), whole, atol=1e-5, rtol=0)
    assert not made._pair_processor._bank._known
    made.release()
    torch.testing.assert_close(made.score(query, candidates), whole, atol=1e-5, rtol=0)


def test_heads_and_generation_never_run_over_whole_prompts(folder, family, tmp_path, contents):
    made = reranker(folder, tmp_path, family)
    calls = []
    made.model.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    made.model.generate = None
    made.score(*contents["both"])
    assert not calls


def test_what_is_shared_is_computed_once(folder, family, tmp_path, contents):
    query, candidates = contents["texts"]
    query = Query(Content("a star " * 20))
    made = reranker(folder, tmp_path, family)
    tokens = []
    core = made.model.model
    core.get_submodule(made.family.language_model).register_forward_pre_hook(
        lambda module, arguments, named: tokens.append(named["inputs_embeds"].shape[:2].numel()),
        with_kwargs=True,
    )
    made.score(query, candidates)
    shared, apart = sum(tokens), len(tokens)
    pairs = made.pairs(query, candidates, "")
    length = pairs.inputs.input_ids.shape[1]
    if can_share(made.family):
        assert apart == 2
        assert shared == pairs.shared + len(candidates) * (length - pairs.shared)
        assert shared < 0.8 * len(candidates) * length
    else:
        assert shared == len(candidates) * length


def test_texts_cannot_forge_pictures_and_long_ones_are_cut(tmp_path, tiny_mllm):
    made = reranker(tiny_mllm, tmp_path, "llava_next", max_text_tokens=5)
    long = made.pairs(Query(Content("<image> </s>" + "a star " * 50)), [Candidate(Content("b"))], "")
    assert made._config.image_token_id not in long.inputs.input_ids
    short = made.pairs(Query(Content("x")), [Candidate(Content("b"))], "")
    assert long.inputs.input_ids.shape[1] - short.inputs.input_ids.shape[1] <= 4


def test_answers_are_single_tokens(tiny_mllm):
    for answers in (("True or so", "False"), ("T", "F or so")):
        with pytest.raises(UserError, match="choose a word that is one token"):
            ZeroShotReranker(str(tiny_mllm), answers=answers).load()
    with pytest.raises(UserError, match="are the same token"):
        ZeroShotReranker(str(tiny_mllm), answers=("T", "T")).load()
    embedded = ZeroShotReranker()
    for made in (embedded, ZeroShotReranker(chat=False)):
        names = made._processor.tokenizer.convert_ids_to_tokens(made.answer_ids)
        assert names == ["ĠTrue", "ĠFalse"], "both begin a word"
    hashes = [
        made.score_hash("a_task7") for made in (embedded, ZeroShotReranker(), ZeroShotReranker(chat=False))
    ]
    assert hashes[0] == hashes[1] != hashes[2]
