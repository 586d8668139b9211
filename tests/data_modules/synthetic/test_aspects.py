"""What speaks against a candidate is what is other in it."""

import dataclasses
import random

import pytest

from data_modules.synthetic.aspects import RIGHT, reason_of, wrong_in_fact, wrong_in_scene
from data_modules.synthetic.entities import Fact
from data_modules.synthetic.scenes import ATTRIBUTES, SceneSampler, with_group


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_single_other_attribute_is_named(attribute):
    rng = random.Random(0)
    scenes = SceneSampler(rng, held_out=False)
    for _ in range(50):
        scene = scenes.scene()
        assert wrong_in_scene(scene, scenes.variant(scene, [attribute])) == (attribute,)


def test_equal_scenes_have_nothing_wrong_and_others_all_that_is():
    scenes = SceneSampler(random.Random(1), held_out=False)
    scene = scenes.scene(2)
    assert wrong_in_scene(scene, scene) == ()
    moved = scenes.variant(scenes.variant(scene, ["size"]), ["background"])
    assert wrong_in_scene(scene, moved) == ("background", "size")
    fewer = dataclasses.replace(scene, groups=scene.groups[:1])
    assert wrong_in_scene(scene, fewer) == ("shape", "colour", "size", "count", "place")


def test_scenes_that_swap_places_are_not_the_same():
    scenes = SceneSampler(random.Random(2), held_out=False)
    scene = scenes.scene(2)
    one, two = scene.groups
    swapped = with_group(scene, one, dataclasses.replace(two, place=one.place))
    swapped = with_group(swapped, two, dataclasses.replace(one, place=two.place))
    assert scene != swapped
    assert wrong_in_scene(scene, swapped) == ("place",)


def test_facts_differ_in_the_object_or_in_the_topic():
    fact = Fact("red", "star", 0)
    assert wrong_in_fact(fact, fact) == ()
    assert wrong_in_fact(fact, Fact("red", "star", 1)) == ("topic",)
    assert wrong_in_fact(fact, Fact("red", "moon", 0)) == ("object",)
    assert wrong_in_fact(fact, Fact("red", "moon", 1)) == ("object", "topic")


def test_reasons_name_what_is_wrong():
    assert reason_of(()) == RIGHT
    assert reason_of(("count",)) == "another count"
    assert reason_of(("object", "topic")) == "another object and topic"
    assert reason_of(("size", "count", "place")) == "another scene"
