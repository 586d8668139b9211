"""Queries with right and wrong candidates of the benchmark's kinds, one at a time, to teach judging them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image

from data_modules.synthetic.drawing import draw_entity, draw_scene
from data_modules.synthetic.entities import TOPICS, Fact, facts_of_splits
from data_modules.synthetic.genres import catalogue_entry, headline, news_article, news_caption
from data_modules.synthetic.inquiries import draw_inquiries, inquiry_text
from data_modules.synthetic.scenes import BACKGROUNDS, COUNTS, PLACES, SIZES, Group, Scene, SceneSampler
from data_modules.synthetic.texts import caption, change_text, group_phrase, passage, sentence
from mmretrieval.content import Content

_FACTS = facts_of_splits(0)


class Judged(NamedTuple):
    """A candidate, and whether it answers the query."""

    content: Content
    right: bool


class Judgement(NamedTuple):
    """A query with candidates.

    Args:
        task: A task of M-BEIR's numbering, as ``task7``.
        query: The query.
        candidates: At least one.
        shown: The scene of the query's picture, or of the last candidate's, if there is one of a scene.
    """

    task: str
    query: Content
    candidates: tuple[Judged, ...]
    shown: Scene | None


class JudgementSampler:
    """Draws judgements; about half of the candidates are right, most others near-duplicates of a right one.

    Args:
        rng: Source of randomness.
        scenes: Draws scenes of the split.
        held_out: Whether facts are those of the test split instead of the training's.
        candidates: How many there are of a query.
    """

    def __init__(
        self, rng: random.Random, scenes: SceneSampler, *, held_out: bool, candidates: int = 2
    ) -> None:
        self._rng, self._scenes, self._count = rng, scenes, candidates
        self._facts = _FACTS["test" if held_out else "train"]

    def judgement(self) -> Judgement:
        """Draw a judgement of any task; composed queries are asked most."""
        kinds: dict[Callable[[], Judgement], int] = {
            self.text_to_picture: 14,
            self.question_to_passage: 8,
            self.text_to_both: 10,
            self.picture_to_text: 12,
            self.twin: 10,
            self.entity_to_passage: 14,
            self.change: 22,
            self.entity_to_article: 10,
        }
        return self._rng.choices([*kinds], weights=[*kinds.values()])[0]()

    def text_to_picture(self) -> Judgement:
        """A text, and pictures of its scene or others."""
        scene = self._scenes.scene()
        others = self._others(scene)
        found = [Judged(Content(None, self._picture(other)), other == scene) for other in others]
        return Judgement("task0", Content(self._text(scene)), tuple(found), others[-1])

    def picture_to_text(self) -> Judgement:
        """A picture, and texts about its scene or others."""
        scene = self._scenes.scene()
        found = [Judged(Content(self._text(other)), other == scene) for other in self._others(scene)]
        return Judgement("task3", Content(None, self._picture(scene)), tuple(found), scene)

    def question_to_passage(self) -> Judgement:
        """A question, and passages that answer it or are about scenes that it does not fit."""
        rng = self._rng
        scene = self._scenes.scene(rng.randint(2, 3))
        (inquiry,) = draw_inquiries(scene, 1, rng)
        answers = inquiry.answers()
        found = [Judged(Content(passage(other, rng)), _fits(answers, other)) for other in self._others(scene)]
        return Judgement("task1", Content(inquiry_text(inquiry, rng)), tuple(found), None)

    def text_to_both(self) -> Judgement:
        """A question or an article, and pictures with a line that tells a part of them."""
        rng = self._rng
        scene = self._scenes.scene(rng.randint(2, 3))
        others = self._others(scene)
        if rng.random() < 0.5:
            (inquiry,) = draw_inquiries(scene, 1, rng)
            text, answers = inquiry_text(inquiry, rng), inquiry.answers()
            right = [_fits(answers, other) for other in others]
            lines = [sentence(group_phrase(rng.choice(other.groups), rng)) for other in others]
        else:
            text, right = news_article(scene, rng), [other == scene for other in others]
            lines = [headline(other, rng) for other in others]
        found = [
            Judged(Content(line, self._picture(other)), fits)
            for line, other, fits in zip(lines, others, right, strict=True)
        ]
        return Judgement("task2", Content(text), tuple(found), others[-1])

    def twin(self) -> Judgement:
        """Pictures of the same scene or not."""
        scene = self._scenes.scene()
        others = self._others(scene)
        found = [Judged(Content(None, self._picture(other)), other == scene) for other in others]
        return Judgement("task4", Content(None, self._picture(scene)), tuple(found), scene)

    def change(self) -> Judgement:
        """A picture with a change, and pictures that result, or that have another change or none."""
        rng, scenes = self._rng, self._scenes
        before = scenes.scene(rng.choice((1, 1, 2, 3)))
        after = scenes.variant(before)
        found = []
        for _ in range(self._count):
            wrong = rng.choice((scenes.variant(before), scenes.variant(after), before))
            shown = after if rng.random() < 0.5 else wrong
            found.append(Judged(Content(None, self._picture(shown)), shown == after))
        query = Content(change_text(before, after, rng), self._picture(before))
        return Judgement("task7", query, tuple(found), before)

    def entity_to_passage(self) -> Judgement:
        """A picture of an entity with a question about it, and passages with its answer or others."""
        fact = self._rng.choice(self._facts)
        others = [self._other_fact(fact) for _ in range(self._count)]
        found = [Judged(Content(other.passage(self._rng)), other == fact) for other in others]
        return Judgement("task6", self._about(fact), tuple(found), None)

    def entity_to_article(self) -> Judgement:
        """The same, and passages with pictures."""
        fact = self._rng.choice(self._facts)
        others = [self._other_fact(fact) for _ in range(self._count)]
        found = [
            Judged(Content(other.passage(self._rng), self._portrait(other)), other == fact)
            for other in others
        ]
        return Judgement("task8", self._about(fact), tuple(found), None)

    def _others(self, scene: Scene) -> list[Scene]:
        """For each candidate the scene itself, or mostly a near-duplicate."""
        return [self._other(scene) for _ in range(self._count)]

    def _other(self, scene: Scene) -> Scene:
        draw = self._rng.random()
        if draw < 0.5:
            return scene
        return self._scenes.variant(scene) if draw < 0.85 else self._scenes.scene(len(scene.groups))

    def _other_fact(self, fact: Fact) -> Fact:
        """The fact, or one of the same entity or the same topic, sometimes any other."""
        rng = self._rng
        if (draw := rng.random()) < 0.5:
            return fact
        alike = [f for f in self._facts if f.pair == fact.pair and f != fact]
        near = [
            f
            for f in self._facts
            if f.topic == fact.topic and f != fact and (f.colour == fact.colour or f.shape == fact.shape)
        ]
        others = alike if draw < 0.7 else near if draw < 0.92 else self._facts
        return rng.choice(others or self._facts)

    def _about(self, fact: Fact) -> Content:
        topic = TOPICS[fact.topic]
        wordings = self._rng.choice((topic.questions, topic.inquiries))
        return Content(self._rng.choice(wordings), self._portrait(fact))

    def _portrait(self, fact: Fact) -> Image.Image:
        rng = self._rng
        if rng.random() < 0.5:
            return draw_entity(fact.colour, fact.shape, rng.getrandbits(32))
        while True:
            group = Group(fact.shape, fact.colour, rng.choice(SIZES), rng.choice(COUNTS), rng.choice(PLACES))
            scene = Scene(rng.choice(BACKGROUNDS), (group,))
            if self._scenes.allows(scene):
                return self._picture(scene)

    def _text(self, scene: Scene) -> str:
        kinds = (caption, caption, news_caption, catalogue_entry)
        return self._rng.choice(kinds)(scene, self._rng)

    def _picture(self, scene: Scene) -> Image.Image:
        return draw_scene(scene, self._rng.getrandbits(32))


def _fits(answers: list[Scene], scene: Scene) -> bool:
    """Whether a scene shows one of the pairs of groups that answer a question."""
    return any(
        answer.background == scene.background and set(answer.groups) <= set(scene.groups)
        for answer in answers
    )
