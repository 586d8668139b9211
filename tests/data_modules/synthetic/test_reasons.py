"""What speaks against a candidate is what is other in it."""

import dataclasses
import random

import pytest

from data_modules.synthetic.entities import Fact
from data_modules.synthetic.reasons import RIGHT, change_reason, fact_reason, scene_reason
from data_modules.synthetic.scenes import ATTRIBUTES, SceneSampler


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_single_other_attribute_is_named(attribute):
    rng = random.Random(0)
    scenes = SceneSampler(rng, held_out=False)
    for _ in range(50):
        scene = scenes.scene()
        assert scene_reason(scene, scenes.variant(scene, [attribute])) == f"another {attribute}"


def test_equal_scenes_have_no_reason_and_scenes_that_differ_in_more_are_others():
    scenes = SceneSampler(random.Random(1), held_out=False)
    scene = scenes.scene(2)
    assert scene_reason(scene, scene) == RIGHT
    moved = scenes.variant(scenes.variant(scene, ["size"]), ["background"])
    assert scene_reason(scene, moved) == "another scene"
    assert scene_reason(scene, dataclasses.replace(scene, groups=scene.groups[:1])) == "another scene"


def test_a_change_that_was_not_made_is_named_so():
    scenes = SceneSampler(random.Random(2), held_out=False)
    before = scenes.scene()
    after = scenes.variant(before, ["colour"])
    assert change_reason(before, after, before) == "no change"
    assert change_reason(before, after, after) == RIGHT
    assert change_reason(before, after, scenes.variant(after, ["background"])) == "another background"


def test_facts_differ_in_the_object_or_in_the_topic():
    fact = Fact("red", "star", 0)
    assert fact_reason(fact, fact) == RIGHT
    assert fact_reason(fact, Fact("red", "star", 1)) == "another topic"
    assert fact_reason(fact, Fact("red", "moon", 0)) == "another object"
    assert fact_reason(fact, Fact("red", "moon", 1)) == "another object"
