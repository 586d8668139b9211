"""Phrases that name some facts of a group of objects: the shortest there is to learn comparing from."""

from __future__ import annotations

import random
from collections.abc import Sequence

from data_modules.synthetic.judgements import Judged, Judgement
from data_modules.synthetic.scenes import (
    ATTRIBUTES,
    BACKGROUNDS,
    HELD_OUT_PAIRS,
    Attribute,
    Group,
    Scene,
    SceneSampler,
    change_group,
)
from data_modules.synthetic.texts import change_text, group_phrase
from mmretrieval.content import Content

_OF_GROUPS = ATTRIBUTES[:-1]


class PhraseSampler:
    """Draws phrases of one split.

    Args:
        rng: Source of randomness.
        scenes: Draws scenes of the split, whose groups are named.
        held_out: Whether (colour, shape) pairs may be held-out ones.
    """

    def __init__(self, rng: random.Random, scenes: SceneSampler, *, held_out: bool) -> None:
        self._rng, self._scenes, self._held_out = rng, scenes, held_out

    def compared(self) -> tuple[str, str, bool]:
        """Draw two phrases that name the same facts, in words of their own, and whether these are equal."""
        group, told = self._group(), self._told()
        same = self._rng.random() < 0.5
        other = group if same else self._other(group, told)
        return self._phrase(group, told), self._phrase(other, told), same

    def change(self) -> Judgement:
        """Draw a phrase with a change, and a phrase that results or another."""
        rng = self._rng
        before, changed = self._group(), rng.choice(_OF_GROUPS)
        told = sorted({"colour", "shape", changed, *self._told()}, key=ATTRIBUTES.index)
        after = self._changed(before, changed)
        right = rng.random() < 0.5
        shown = after if right else self._not(before, after, changed, told)
        scenes = (Scene(BACKGROUNDS[0], (before,)), Scene(BACKGROUNDS[0], (after,)))
        query = Content(f"{self._phrase(before, told)}\n{change_text(*scenes, rng)}")
        return Judgement("task7", query, (Judged(Content(self._phrase(shown, told)), right),), None)

    def _not(self, before: Group, after: Group, changed: Attribute, told: Sequence[Attribute]) -> Group:
        """What does not result: nothing changed, or something else."""
        rng = self._rng
        while True:
            shown = rng.choice(
                (
                    before,
                    self._changed(before, changed),
                    self._changed(before, rng.choice(told)),
                    self._other(after, told),
                )
            )
            if shown != after:
                return shown

    def _group(self) -> Group:
        return self._scenes.scene(1).groups[0]

    def _told(self) -> list[Attribute]:
        return self._rng.sample(_OF_GROUPS, self._rng.choice((1, 2, 2, 3, 4, 5)))

    def _phrase(self, group: Group, told: Sequence[Attribute]) -> str:
        return group_phrase(group, self._rng, omit=[each for each in ATTRIBUTES if each not in told])

    def _other(self, group: Group, told: Sequence[Attribute]) -> Group:
        """A group that is other in some of the facts that are told."""
        while True:
            changed = group
            for attribute in self._rng.sample(told, self._rng.randint(1, len(told))):
                changed = change_group(changed, attribute, self._rng)
            if self._may_be_named(changed):
                return changed

    def _changed(self, group: Group, attribute: Attribute) -> Group:
        while True:
            changed = change_group(group, attribute, self._rng)
            if self._may_be_named(changed):
                return changed

    def _may_be_named(self, group: Group) -> bool:
        return self._held_out or group.pair not in HELD_OUT_PAIRS
