from __future__ import annotations

import random

import numpy as np

from data_modules.synthetic.drawing import SIDE, draw_entity, draw_scene, to_jpeg
from data_modules.synthetic.scenes import ATTRIBUTES, HELD_OUT_PAIRS, Group, Scene, SceneSampler


def difference(one, two):
    """The attributes in which two scenes differ, each as often as groups differ in it."""
    found = [] if one.background == two.background else ["background"]
    gone, new = set(one.groups) - set(two.groups), set(two.groups) - set(one.groups)
    if len(gone) != len(new) or len(gone) > 1:
        return [*found, "several groups"]
    for old, fresh in zip(gone, new, strict=True):
        found += [name for name in ATTRIBUTES[:-1] if getattr(old, name) != getattr(fresh, name)]
    return found


def test_training_never_shows_held_out_pairs_and_test_often_does():
    seen = [SceneSampler(random.Random(n), held_out=False).scene() for n in range(500)]
    held = [SceneSampler(random.Random(n), held_out=True).scene() for n in range(500)]
    assert not any(scene.has_held_out_pair for scene in seen)
    assert 0.4 < np.mean([scene.has_held_out_pair for scene in held]) < 0.75
    assert len(HELD_OUT_PAIRS) == 8


def test_a_variant_differs_in_exactly_one_attribute():
    sampler = SceneSampler(random.Random(0), held_out=False)
    changed = set()
    for _ in range(300):
        scene = sampler.scene()
        variant = sampler.variant(scene)
        assert variant.is_consistent
        (attribute,) = difference(scene, variant)
        changed.add(attribute)
    assert changed == set(ATTRIBUTES)


def test_scenes_with_equal_facts_are_equal_whatever_the_order_of_groups():
    groups = (Group("star", "red", "small", 1, "top left"), Group("ring", "blue", "large", 2, "bottom right"))
    assert Scene("pink", groups) == Scene("pink", groups[::-1])


def test_a_drawing_is_a_function_of_scene_and_seed():
    scene = SceneSampler(random.Random(0), held_out=False).scene(2)
    assert to_jpeg(draw_scene(scene, 1)) == to_jpeg(draw_scene(scene, 1))
    assert to_jpeg(draw_scene(scene, 1)) != to_jpeg(draw_scene(scene, 2))
    assert draw_entity("red", "star", 0).size == draw_scene(scene, 0).size == (SIDE, SIDE)


def test_a_drawing_has_its_colours_where_the_scene_says():
    group = Group("circle", "red", "large", 1, "bottom left")
    pixels = np.asarray(draw_scene(Scene("white", (group,)), 5), dtype=int)
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 110) & (pixels[..., 2] < 110)
    half = SIDE // 2
    assert red[half:, :half].sum() > 400
    assert red[:half].sum() == red[half:, half:].sum() == 0


def test_distractors_differ_in_one_attribute_or_in_more_of_the_groups():
    sampler = SceneSampler(random.Random(5), held_out=False)
    backgrounds, many = 0, 0
    for _ in range(300):
        scene = sampler.scene()
        other = sampler.distractor(scene)
        assert other != scene
        if other.background != scene.background:
            assert other.groups == scene.groups
            backgrounds += 1
        many += not set(scene.groups) & set(other.groups)
    assert 5 < backgrounds < 60
    assert many > 50
