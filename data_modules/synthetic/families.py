"""Families of near-duplicate scenes, each scene used once in a benchmark."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence

from data_modules.synthetic.inquiries import Inquiry, draw_inquiries
from data_modules.synthetic.scenes import Scene, SceneSampler, signature

_TRIES = 200


class SceneRegistry:
    """Remembers the scenes of a benchmark, in a few integers each, so that every query keeps a unique answer.

    A scene is taken once. A question that names two groups fits every scene that shows both, so no scene may
    fit another one's question.
    """

    def __init__(self) -> None:
        self._scenes: set[int] = set()
        self._pairs: set[int] = set()  # two groups on a background, of all scenes
        self._asked: set[int] = set()  # those that fit a question

    @property
    def scenes(self) -> frozenset[int]:
        """The signatures of all scenes."""
        return frozenset(self._scenes)

    def claim(self, scene: Scene, inquiries: Sequence[Inquiry] = ()) -> bool:
        """Take a scene and ask about it, unless it is taken or a question would fit two scenes."""
        code, pairs = signature(scene), _pairs(scene)
        answers = {signature(pair) for inquiry in inquiries for pair in inquiry.answers()}
        if code in self._scenes or not pairs.isdisjoint(self._asked) or not answers.isdisjoint(self._pairs):
            return False
        self._scenes.add(code)
        self._pairs |= pairs
        self._asked |= answers
        return True


class FamilySource:
    """Draws families of scenes for one data set and split.

    Args:
        rng: Source of randomness.
        registry: The scenes taken so far, by any data set and split.
        held_out: Whether about every second family shows held-out pairs.
    """

    def __init__(self, rng: random.Random, registry: SceneRegistry, *, held_out: bool) -> None:
        self.rng = rng
        self._registry = registry
        self._sampler = SceneSampler(rng, held_out=held_out)

    def family(self, groups: Sequence[int] = (1, 2, 3)) -> list[Scene]:
        """Draw two to four new scenes; all differ from the first in one attribute.

        Args:
            groups: How many groups the scenes may have; they get more when such scenes are used up.
        """
        return [scene for scene, _ in self._family(groups, inquiries=0)]

    def asked_family(self, inquiries: int) -> list[tuple[Scene, list[Inquiry]]]:
        """Like :meth:`family` with two or three groups, and with questions that fit no other scene."""
        return self._family((2, 3), inquiries=inquiries)

    def _family(self, groups: Sequence[int], inquiries: int) -> list[tuple[Scene, list[Inquiry]]]:
        wanted = self.rng.choice((3, 4, 4))
        members: list[tuple[Scene, list[Inquiry]]] = []
        attempt = 0
        while len(members) < 2:
            first = self._sampler.scene(min(3, self.rng.choice(groups) + attempt // _TRIES))
            members = list(self._claimed([first], inquiries))
            attempt += 1
            if members:
                variants = (self._sampler.variant(first) for _ in range(_TRIES))
                members += itertools.islice(self._claimed(variants, inquiries), wanted - 1)
        return members

    def _claimed(self, scenes: Iterable[Scene], inquiries: int) -> Iterator[tuple[Scene, list[Inquiry]]]:
        """Yield the scenes that could be taken, with the questions about each."""
        for scene in scenes:
            asked = draw_inquiries(scene, inquiries, self.rng)
            if self._registry.claim(scene, asked):
                yield scene, asked


def _pairs(scene: Scene) -> set[int]:
    return {signature(Scene(scene.background, pair)) for pair in itertools.combinations(scene.groups, 2)}
