"""Queries with right and wrong candidates of the benchmark's kinds, one at a time, to teach judging them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from data_modules.synthetic.contents import ContentSampler
from data_modules.synthetic.entities import TOPICS, Fact, facts_of_splits
from data_modules.synthetic.genres import headline, news_article
from data_modules.synthetic.inquiries import draw_inquiries, inquiry_text
from data_modules.synthetic.scenes import Scene, SceneSampler
from data_modules.synthetic.texts import change_text, group_phrase, passage, sentence
from mmretrieval.content import Content, Modality

_FACTS = facts_of_splits(0)
_ASIDE = 0.12
_SAME = 0.54
_Thing = TypeVar("_Thing", Scene, Fact)


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
    """Draws judgements; about half of the candidates are right, others differ in little or in much.

    Some are of another modality than the task asks for, which is wrong whatever they show.

    Args:
        rng: Source of randomness.
        scenes: Draws scenes of the split.
        held_out: Whether facts are those of the test split instead of the training's.
        candidates: How many there are of a query.
        simple: Whether scenes have a single group, and questions about two are not asked.
        described: Whether words that describe pictures stand in their places.
    """

    def __init__(
        self,
        rng: random.Random,
        scenes: SceneSampler,
        *,
        held_out: bool,
        candidates: int = 3,
        simple: bool = False,
        described: bool = False,
    ) -> None:
        self._rng, self._scenes, self._count, self._simple = rng, scenes, candidates, simple
        self._contents = ContentSampler(rng, scenes, described=described)
        self._facts = _FACTS["test" if held_out else "train"]

    def judgement(self) -> Judgement:
        """Draw a judgement of any task; composed queries are asked most."""
        kinds: dict[Callable[[], Judgement], int] = {
            self.text_to_picture: 10,
            self.question_to_passage: 0 if self._simple else 6,
            self.text_to_both: 0 if self._simple else 8,
            self.picture_to_text: 8,
            self.twin: 8,
            self.entity_to_passage: 18,
            self.change: 26,
            self.entity_to_article: 16,
        }
        return self._rng.choices([*kinds], weights=[*kinds.values()])[0]()

    def text_to_picture(self) -> Judgement:
        """A text, and pictures of its scene or others."""
        scene = self._some_scene()
        others = self._others(scene)
        found = self._like(scene, others, Modality.IMAGE)
        return Judgement("task0", Content(self._contents.text(scene)), found, _last_shown(found, others))

    def picture_to_text(self) -> Judgement:
        """A picture, and texts about its scene or others."""
        scene = self._some_scene()
        found = self._like(scene, self._others(scene), Modality.TEXT)
        return Judgement("task3", self._contents.with_scene(scene, None), found, scene)

    def question_to_passage(self) -> Judgement:
        """A question, and passages that answer it or are about scenes that it does not fit."""
        rng = self._rng
        scene = self._scenes.scene(rng.randint(2, 3))
        (inquiry,) = draw_inquiries(scene, 1, rng)
        fits = partial(_fits, inquiry.answers())
        found = self._judged(self._others(scene), Modality.TEXT, self._contents.of_scene, fits, passage)
        return Judgement("task1", Content(inquiry_text(inquiry, rng)), found, None)

    def text_to_both(self) -> Judgement:
        """A question or an article, and pictures with a line that tells a part of them."""
        rng, both = self._rng, Modality.IMAGE_TEXT
        scene = self._scenes.scene(rng.randint(2, 3))
        others = self._others(scene)
        if rng.random() < 0.5:
            (inquiry,) = draw_inquiries(scene, 1, rng)
            text, fits = inquiry_text(inquiry, rng), partial(_fits, inquiry.answers())
            found = self._judged(others, both, self._contents.of_scene, fits, _one_group)
        else:
            text = news_article(scene, rng)
            found = self._judged(others, both, self._contents.of_scene, scene.__eq__, headline)
        return Judgement("task2", Content(text), found, _last_shown(found, others))

    def twin(self) -> Judgement:
        """Pictures of the same scene or not."""
        scene = self._some_scene()
        found = self._like(scene, self._others(scene), Modality.IMAGE)
        return Judgement("task4", self._contents.with_scene(scene, None), found, scene)

    def change(self) -> Judgement:
        """A picture with a change, and pictures that result, or that have another change or none."""
        rng, scenes = self._rng, self._scenes
        before = self._some_scene()
        after = scenes.variant(before)
        shown = []
        for _ in range(self._count):
            wrong = rng.choice(
                (scenes.variant(before), before, *(scenes.distractor(after) for _ in range(3)))
            )
            shown.append(after if rng.random() < _SAME else wrong)
        query = self._contents.with_scene(before, change_text(before, after, rng))
        found = self._like(after, shown, Modality.IMAGE)
        return Judgement("task7", query, found, before)

    def entity_to_passage(self) -> Judgement:
        """A picture of an entity with a question about it, and passages with its answer or others."""
        return self._entity("task6", Modality.TEXT)

    def entity_to_article(self) -> Judgement:
        """The same, and passages with pictures."""
        return self._entity("task8", Modality.IMAGE_TEXT)

    def named_entity_to_passage(self) -> Judgement:
        """The name of an entity with a question about it, and passages: nothing has to be seen."""
        fact = self._rng.choice(self._facts)
        query = Content(f"{fact.colour} {fact.shape}\n{self._question(fact)}")
        return Judgement("task6", query, self._told(fact, Modality.TEXT), None)

    def question_to_topic(self) -> Judgement:
        """A question about something, and passages that tell it or something else of an entity."""
        fact = self._rng.choice(self._facts)
        told = [
            fact if self._rng.random() < 0.5 else self._rng.choice(self._facts) for _ in range(self._count)
        ]
        content = self._contents.of_fact
        found = tuple(Judged(content(other, Modality.TEXT), other.topic == fact.topic) for other in told)
        return Judgement("task6", Content(self._question(fact)), found, None)

    def _entity(self, task: str, target: Modality) -> Judgement:
        fact = self._rng.choice(self._facts)
        query = self._contents.with_portrait(fact, self._question(fact))
        return Judgement(task, query, self._told(fact, target), None)

    def _told(self, fact: Fact, target: Modality) -> tuple[Judged, ...]:
        others = [self._other_fact(fact) for _ in range(self._count)]
        return self._judged(others, target, self._contents.of_fact, fact.__eq__)

    def _like(self, wanted: Scene, shown: Sequence[Scene], target: Modality) -> tuple[Judged, ...]:
        """A candidate that tells all for each scene; what is wanted is right."""
        return self._judged(shown, target, self._contents.of_scene, wanted.__eq__)

    def _judged(
        self,
        things: Sequence[_Thing],
        target: Modality,
        content: Callable[..., Content],
        fits: Callable[[_Thing], bool],
        *words: Callable[[_Thing, random.Random], str],
    ) -> tuple[Judged, ...]:
        """A candidate for each thing, mostly of the target's modality."""
        found = []
        for thing in things:
            modality = target
            if self._rng.random() < _ASIDE:
                modality = self._rng.choice([other for other in Modality if other != target])
            found.append(Judged(content(thing, modality, *words), modality == target and fits(thing)))
        return tuple(found)

    def _some_scene(self) -> Scene:
        return self._scenes.scene(1 if self._simple else self._rng.choice((1, 1, 2, 3)))

    def _others(self, scene: Scene) -> list[Scene]:
        """For each candidate the scene itself, or mostly a near-duplicate."""
        return [self._other(scene) for _ in range(self._count)]

    def _other(self, scene: Scene) -> Scene:
        return scene if self._rng.random() < _SAME else self._scenes.distractor(scene)

    def _other_fact(self, fact: Fact) -> Fact:
        """The fact, or one that tells of another entity, of another topic, or of both."""
        rng = self._rng
        if rng.random() < _SAME:
            return fact
        alike = [f for f in self._facts if f.pair == fact.pair and f != fact]
        same = [f for f in self._facts if f.topic == fact.topic and f != fact]
        near = [f for f in same if f.colour == fact.colour or f.shape == fact.shape]
        return rng.choice(rng.choice((alike, near, near, self._facts)) or self._facts)

    def _question(self, fact: Fact) -> str:
        topic = TOPICS[fact.topic]
        return self._rng.choice(self._rng.choice((topic.questions, topic.inquiries)))


def _last_shown(found: Sequence[Judged], scenes: Sequence[Scene]) -> Scene | None:
    return scenes[-1] if found[-1].content.image is not None else None


def _one_group(scene: Scene, rng: random.Random) -> str:
    return sentence(group_phrase(rng.choice(scene.groups), rng))


def _fits(answers: list[Scene], scene: Scene) -> bool:
    """Whether a scene shows one of the pairs of groups that answer a question."""
    return any(
        answer.background == scene.background and set(answer.groups) <= set(scene.groups)
        for answer in answers
    )
