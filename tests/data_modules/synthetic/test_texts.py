from __future__ import annotations

import dataclasses
import random

import pytest

from data_modules.synthetic.genres import catalogue_entry, headline, news_article, news_caption
from data_modules.synthetic.scenes import Group, Scene, SceneSampler
from data_modules.synthetic.texts import canonical_caption, caption, change_text, passage, plural, questions


@pytest.mark.parametrize("write", [caption, passage, news_caption, news_article, catalogue_entry])
def test_a_text_tells_all_facts_of_its_scene_and_no_others(write, read_scene):
    rng = random.Random(0)
    sampler = SceneSampler(rng, held_out=True)
    scenes = [sampler.scene() for _ in range(300)]
    texts = [write(scene, rng) for scene in scenes]
    assert [read_scene(text) for text in texts] == scenes
    assert max(len(text.split()) for text in texts) <= 60
    assert all(text[0].isupper() or text[0].isdigit() for text in texts)


def test_a_headline_tells_the_background_and_one_group(read_scene):
    rng = random.Random(0)
    sampler = SceneSampler(rng, held_out=True)
    for _ in range(200):
        scene = sampler.scene()
        told = read_scene(headline(scene, rng))
        assert told.background == scene.background
        assert len(told.groups) == 1
        assert told.groups[0] in scene.groups


def test_the_canonical_caption_has_one_wording():
    groups = (
        Group("cross", "red", "small", 2, "top left"),
        Group("star", "blue", "large", 1, "bottom right"),
    )
    scene = Scene("mint", groups[::-1])
    expected = "mint background: two small red crosses top left, one large blue star bottom right."
    assert canonical_caption(scene) == expected
    assert plural("cross", 1) == "cross"


def test_answers_are_facts_of_the_scene():
    rng = random.Random(1)
    sampler = SceneSampler(rng, held_out=False)
    asked = set()
    for _ in range(200):
        scene = sampler.scene()
        for question in questions(scene, rng):
            asked.add(question.attribute)
            if question.attribute == "background":
                assert question.answer == scene.background
            elif question.attribute == "relation":
                assert question.answer in {
                    f"{g.colour} {g.shape}" for g in scene.groups if g != question.group
                }
            elif question.attribute == "count":
                assert question.answer == {1: "one", 2: "two", 3: "three"}[question.group.count]
            else:
                assert question.answer == getattr(question.group, question.attribute)
    assert asked == {"background", "relation", "count", "size", "place", "shape", "colour"}


def test_a_change_says_the_new_value():
    rng = random.Random(2)
    star = Group("star", "red", "small", 1, "top left")
    before = Scene("mint", (star,))

    def said(**change):
        after = Scene("mint", (dataclasses.replace(star, **change),))
        return {change_text(before, after, rng) for _ in range(50)}

    assert said(colour="blue") == {"make the red star blue", "blue instead of red star"}
    assert said(shape="ring") == {"turn the red star into a ring", "a ring instead of the red star"}
    assert said(count=2) == {"two red stars instead", "there should be two red stars"}
    assert "move the red star so that it is at the top right" in said(place="top right")
    assert "make the red star large" in said(size="large")
    assert "make the background pink" in {change_text(before, Scene("pink", (star,)), rng) for _ in range(50)}


def test_a_change_of_two_attributes_is_refused():
    star = Group("star", "red", "small", 1, "top left")
    other = Scene("pink", (dataclasses.replace(star, colour="blue"),))
    with pytest.raises(ValueError, match="more than one attribute"):
        change_text(Scene("mint", (star,)), other, random.Random(0))
