from __future__ import annotations

import random

import pytest

from data_modules.synthetic.entities import TOPICS, facts_of_splits
from data_modules.synthetic.families import FamilySource, SceneRegistry, signature
from data_modules.synthetic.inquiries import Inquiry, inquiry_text
from data_modules.synthetic.scenes import ATTRIBUTES, HELD_OUT_PAIRS, Group, Scene, SceneSampler

STAR = Group("star", "red", "small", 1, "top left")
RING = Group("ring", "blue", "large", 2, "bottom right")
MOON = Group("moon", "black", "large", 3, "top right")
GREEN_RING = Group("ring", "green", "large", 2, "bottom right")


def test_signatures_are_equal_iff_scenes_are():
    sampler = SceneSampler(random.Random(0), held_out=True)
    scenes = [sampler.scene() for _ in range(3000)]
    scenes += [sampler.variant(scene) for scene in scenes]
    assert len({signature(scene) for scene in scenes}) == len(set(scenes))


def test_a_scene_is_taken_once():
    registry = SceneRegistry()
    assert registry.claim(Scene("mint", (STAR,)))
    assert not registry.claim(Scene("mint", (STAR,)))
    assert registry.claim(Scene("pink", (STAR,)))


def test_no_scene_fits_the_question_about_another():
    which_colour = Inquiry("mint", named=STAR, asked=RING, attribute="colour")
    registry = SceneRegistry()
    assert registry.claim(Scene("mint", (STAR, RING)), [which_colour])
    assert not registry.claim(Scene("mint", (STAR, GREEN_RING)))
    assert not registry.claim(Scene("mint", (STAR, GREEN_RING, MOON)))
    assert registry.claim(Scene("pink", (STAR, GREEN_RING)))


def test_no_question_fits_a_scene_that_was_there_before():
    registry = SceneRegistry()
    assert registry.claim(Scene("mint", (STAR, GREEN_RING, MOON)))
    scene = Scene("mint", (STAR, RING))
    assert not registry.claim(scene, [Inquiry("mint", named=STAR, asked=RING, attribute="colour")])
    assert registry.claim(scene, [Inquiry("mint", named=STAR, asked=RING, attribute="size")])


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_question_does_not_tell_its_answer(attribute):
    inquiry = Inquiry("mint", named=STAR, asked=RING, attribute=attribute)
    told = {"shape": "ring", "colour": "blue", "count": "two", "place": "right", "background": "mint"}
    sizes = ("large", "big ", "huge")  # "how big" asks
    texts = [inquiry_text(inquiry, random.Random(n)) for n in range(40)]
    for text in texts:
        if attribute == "size":
            assert not any(word in text.replace("How big", "").replace("how big", "") for word in sizes)
        else:
            assert told[attribute] not in text
        assert text.endswith("?")
        assert "red star" in text
    assert len(set(texts)) > 5


def test_families_are_new_scenes_one_attribute_from_the_first():
    source = FamilySource(random.Random(0), SceneRegistry(), held_out=False)
    families = [source.family() for _ in range(100)]
    scenes = [scene for family in families for scene in family]
    assert len(set(scenes)) == len(scenes)
    assert {len(family) for family in families} <= {2, 3, 4}
    for first, *others in families:
        for scene in others:
            kept = set(first.groups) & set(scene.groups)
            assert (first.background != scene.background) + (len(kept) < len(first.groups)) == 1


def test_scenes_get_more_groups_when_simple_ones_are_used_up():
    class NoSingleGroups(SceneRegistry):
        def claim(self, scene, inquiries=()):
            return len(scene.groups) > 1 and super().claim(scene, inquiries)

    family = FamilySource(random.Random(0), NoSingleGroups(), held_out=False).family(groups=(1,))
    assert len(family) > 1
    assert all(len(scene.groups) == 2 for scene in family)


def test_every_fact_is_in_one_split_and_held_out_entities_in_test():
    splits = facts_of_splits(0)
    facts = [fact for split in splits.values() for fact in split]
    assert len(set(facts)) == len(facts) == 80 * len(TOPICS)
    for split, known in splits.items():
        assert split == "test" or not HELD_OUT_PAIRS & {fact.pair for fact in known}
    assert {fact.pair for fact in splits["test"]} >= HELD_OUT_PAIRS
    assert facts_of_splits(1) != splits


def test_a_passage_names_the_entity_and_the_fact():
    for fact in facts_of_splits(0)["val"]:
        text = fact.passage(random.Random(0))
        assert f"{fact.colour} {fact.shape}" in text
        assert fact.value in text.lower() or fact.value in text
