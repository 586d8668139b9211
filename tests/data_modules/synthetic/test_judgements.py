"""Judgements are true, balanced, and never show what the benchmark tests."""

import random
import re
from collections import Counter

import pytest
from PIL import Image

from data_modules.synthetic import contents, judgements
from data_modules.synthetic.benchmark import scenes_of_test
from data_modules.synthetic.entities import TOPICS, facts_of_splits
from data_modules.synthetic.judgements import JudgementSampler
from data_modules.synthetic.scenes import SceneSampler, signature
from data_modules.synthetic.texts import sentence
from mmretrieval.rerank import RerankPrompts

PICTURE = Image.new("RGB", (8, 8))


def sampler(seed=0, **settings):
    rng = random.Random(seed)
    return JudgementSampler(rng, SceneSampler(rng, held_out=False, **settings), held_out=False)


def test_every_task_with_a_prompt_is_judged_and_both_answers_are_frequent():
    made = sampler()
    counts = Counter()
    for _ in range(1200):
        found = made.judgement()
        counts.update((found.task, judged.right) for judged in found.candidates)
    tasks = {task for task, _ in counts}
    assert tasks == {key for key in RerankPrompts().templates if key.startswith("task")}
    for task in tasks:
        share = counts[task, True] / (counts[task, True] + counts[task, False])
        assert 0.4 < share < 0.65, task


def test_what_is_right_has_the_modality_of_the_task():
    made = sampler()
    kinds = {"task0": "ti", "task1": "tt", "task2": "tb", "task3": "it", "task4": "ii", "task6": "bt"}
    kinds |= {"task7": "bi", "task8": "bb"}
    letter = {(True, False): "t", (False, True): "i", (True, True): "b"}
    aside = total = 0
    for _ in range(600):
        found = made.judgement()
        asked, wanted = kinds[found.task]
        assert letter[found.query.text is not None, found.query.image is not None] == asked
        for judged in found.candidates:
            kind = letter[judged.content.text is not None, judged.content.image is not None]
            aside += kind != wanted
            total += 1
            assert kind == wanted or not judged.right
    assert 0.08 < aside / total < 0.16


def test_a_passage_is_right_iff_it_tells_the_fact(monkeypatch):
    made, asked = sampler(), []
    monkeypatch.setattr(made, "_question", lambda fact: asked.append(fact) or "question")
    answers = Counter()
    for _ in range(300):
        for judged in made.entity_to_passage().candidates:
            content, right, fact = judged.content, judged.right, asked[-1]
            own = (
                p.format(name=f"{fact.colour} {fact.shape}", value=fact.value)
                for p in TOPICS[fact.topic].passages
            )
            tells = content.text in {sentence(text) for text in own}
            assert right == (tells and content.image is None)
            answers[right] += 1
    assert min(answers.values()) > 200


def test_changes_are_right_iff_the_scene_results(monkeypatch):
    """The drawn scenes are compared with what the text's scene is."""
    changes = []
    monkeypatch.setattr(contents, "draw_scene", lambda scene, seed: scene)
    monkeypatch.setattr(judgements, "change_text", lambda a, b, rng: changes.append((a, b)) or "text")
    made, unchanged = sampler(), 0
    for _ in range(300):
        found = made.change()
        before, after = changes[-1]
        assert found.query.image == before == found.shown
        for judged in found.candidates:
            scene = judged.content.image
            assert judged.right == (scene == after and judged.content.text is None)
            unchanged += scene == before
    assert unchanged > 20


@pytest.fixture(scope="module")
def tested():
    return scenes_of_test(seed=0, size=320)


def test_no_scene_of_the_test_split_is_drawn(tested, monkeypatch):
    drawn = []
    monkeypatch.setattr(contents, "draw_scene", lambda scene, seed: drawn.append(scene) or PICTURE)
    monkeypatch.setattr(contents, "draw_entity", lambda *_: PICTURE)
    assert len(tested) > 50
    # So many draws that a sampler without the list would meet some of few scenes.
    few = frozenset(signature(SceneSampler(random.Random(n), held_out=False).scene(1)) for n in range(3000))
    made = sampler(excluded=few)
    for _ in range(600):
        made.twin()
    assert drawn
    assert not {signature(scene) for scene in drawn} & few


def test_facts_are_those_of_training(monkeypatch):
    train = set(facts_of_splits(0)["train"])
    assert set(sampler()._facts) == train
    rng = random.Random(0)
    tested = JudgementSampler(rng, SceneSampler(rng, held_out=True), held_out=True)
    assert not set(tested._facts) & train


def test_portraits_of_entities_are_no_scenes_of_the_test_split(monkeypatch):
    drawn = []
    monkeypatch.setattr(contents, "draw_scene", lambda scene, seed: drawn.append(scene) or PICTURE)
    every = sampler()
    for _ in range(300):
        every.entity_to_article()
    half = frozenset(signature(scene) for scene in drawn[::2])
    drawn.clear()
    made = sampler(excluded=half)
    for _ in range(300):
        made.entity_to_article()
    assert len(drawn) > 100
    assert not {signature(scene) for scene in drawn} & half


def test_descriptions_stand_where_pictures_would():
    """The same draws, once with pictures and once in words that tell all that is seen."""
    rng = random.Random(0)
    made = JudgementSampler(rng, SceneSampler(rng, held_out=False), held_out=False, described=True)
    seen = re.compile(r"(\w+ background: .*|\w+ \w+)\.")
    shows = {
        "task0": "c",
        "task2": "c",
        "task3": "q",
        "task4": "qc",
        "task6": "q",
        "task7": "qc",
        "task8": "qc",
    }
    for _ in range(600):
        found = made.judgement()
        assert found.query.image is None
        if "q" in shows.get(found.task, ""):
            assert seen.fullmatch(found.query.text.split("\n")[0]), found
        for judged in found.candidates:
            assert judged.content.image is None
            if judged.right and "c" in shows.get(found.task, ""):
                assert seen.fullmatch(judged.content.text.split("\n")[0]), found


def test_a_passage_of_a_topic_is_right_iff_it_tells_of_it():
    made, answers = sampler(), Counter()
    of_topic = {question: topic for topic in TOPICS for question in (*topic.questions, *topic.inquiries)}
    for _ in range(300):
        found = made.question_to_topic()
        for judged in found.candidates:
            tells = any(value in judged.content.text for value in of_topic[found.query.text].values)
            assert tells == judged.right
            answers[judged.right] += 1
    assert min(answers.values()) > 300
