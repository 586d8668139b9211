"""Queries and candidates about scenes and facts, drawn and worded anew each time."""

from __future__ import annotations

import random
from collections.abc import Callable

from PIL import Image

from data_modules.synthetic.drawing import draw_entity, draw_scene
from data_modules.synthetic.entities import Fact
from data_modules.synthetic.genres import catalogue_entry, news_caption
from data_modules.synthetic.scenes import BACKGROUNDS, COUNTS, PLACES, SIZES, Group, Scene, SceneSampler
from data_modules.synthetic.texts import canonical_caption, caption, portrait_caption
from mmretrieval.content import Content, Modality


class ContentSampler:
    """Makes contents of the modality that is asked for.

    Args:
        rng: Source of randomness.
        scenes: Says which scenes may be shown.
        described: Whether the words that describe a picture stand in its place, as an MLLM that has seen it
            would say them.
    """

    def __init__(self, rng: random.Random, scenes: SceneSampler, *, described: bool = False) -> None:
        self._rng, self._scenes, self._described = rng, scenes, described

    def of_scene(
        self, scene: Scene, modality: Modality, words: Callable[[Scene, random.Random], str] | None = None
    ) -> Content:
        """Make a text about a scene, a picture of it, or both.

        Args:
            scene: What to show.
            modality: Of the content.
            words: Makes the text; by default one that tells all.
        """
        text = None if modality == Modality.IMAGE else (words or self._text)(scene, self._rng)
        return Content(text) if modality == Modality.TEXT else self.with_scene(scene, text)

    def with_scene(self, scene: Scene, text: str | None) -> Content:
        """Make a content of a scene's picture and a text that is given."""
        if self._described:
            return Content(_lines(canonical_caption(scene), text))
        return Content(text, self.picture(scene))

    def of_fact(self, fact: Fact, modality: Modality) -> Content:
        """Make a passage that tells a fact, a picture of what it is about, or both."""
        text = None if modality == Modality.IMAGE else fact.passage(self._rng)
        return Content(text) if modality == Modality.TEXT else self.with_portrait(fact, text)

    def with_portrait(self, fact: Fact, text: str | None) -> Content:
        """Make a content of a picture of what a fact is about and a text that is given.

        The picture has one big object, or is a scene of nothing else.
        """
        rng = self._rng
        if rng.random() < 0.5:
            if self._described:
                return Content(_lines(portrait_caption(fact.colour, fact.shape), text))
            return Content(text, draw_entity(fact.colour, fact.shape, rng.getrandbits(32)))
        while True:
            group = Group(fact.shape, fact.colour, rng.choice(SIZES), rng.choice(COUNTS), rng.choice(PLACES))
            scene = Scene(rng.choice(BACKGROUNDS), (group,))
            if self._scenes.allows(scene):
                return self.with_scene(scene, text)

    def picture(self, scene: Scene) -> Image.Image:
        """Draw a scene."""
        return draw_scene(scene, self._rng.getrandbits(32))

    def text(self, scene: Scene) -> str:
        """Tell all of a scene in one of the benchmark's genres."""
        return self._text(scene, self._rng)

    def _text(self, scene: Scene, rng: random.Random) -> str:
        return rng.choice((caption, caption, news_caption, catalogue_entry))(scene, rng)


def _lines(first: str, second: str | None) -> str:
    return first if second is None else f"{first}\n{second}"
