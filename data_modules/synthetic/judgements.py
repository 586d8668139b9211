"""Queries with right and wrong candidates of the benchmark's kinds, one at a time, to teach judging them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from data_modules.synthetic.aspects import (
    FACT_ASPECTS,
    RIGHT,
    SCENE_ASPECTS,
    modality_reason,
    reason_of,
    wrong_in_fact,
    wrong_in_scene,
)
from data_modules.synthetic.contents import ContentSampler
from data_modules.synthetic.entities import TOPICS, Fact, facts_of_splits
from data_modules.synthetic.genres import headline, news_article
from data_modules.synthetic.inquiries import draw_inquiries, inquiry_text
from data_modules.synthetic.scenes import Scene, SceneSampler
from data_modules.synthetic.texts import change_text, group_phrase, passage, sentence
from mmretrieval.content import Content, Modality

_FACTS = facts_of_splits(0)
_ASIDE = 0.12
_Thing = TypeVar("_Thing", Scene, Fact)


class Judged(NamedTuple):
    """A candidate, and what speaks for and against it as an answer to the query.

    Args:
        content: The candidate.
        reason: What is wrong in a few words; empty where nothing is.
        checks: Some aspects, and whether they are right.
    """

    content: Content
    reason: str
    checks: tuple[tuple[str, bool], ...]

    @property
    def right(self) -> bool:
        """Whether it answers the query."""
        return self.reason == RIGHT


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
    """Draws judgements; almost half of the candidates are right, most others near-duplicates of a right one.

    Some are of another modality than the task asks for, which is wrong whatever they show.

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
        self._contents = ContentSampler(rng, scenes)
        self._facts = _FACTS["test" if held_out else "train"]

    def judgement(self) -> Judgement:
        """Draw a judgement of any task; composed queries are asked most."""
        kinds: dict[Callable[[], Judgement], int] = {
            self.text_to_picture: 10,
            self.question_to_passage: 6,
            self.text_to_both: 8,
            self.picture_to_text: 8,
            self.twin: 8,
            self.entity_to_passage: 18,
            self.change: 26,
            self.entity_to_article: 16,
        }
        return self._rng.choices([*kinds], weights=[*kinds.values()])[0]()

    def text_to_picture(self) -> Judgement:
        """A text, and pictures of its scene or others."""
        scene = self._scenes.scene(self._rng.choice((1, 1, 2, 3)))
        others = self._others(scene)
        found = self._judged(others, Modality.IMAGE, self._contents.of_scene, partial(wrong_in_scene, scene))
        return Judgement("task0", Content(self._contents.text(scene)), found, _last_shown(found, others))

    def picture_to_text(self) -> Judgement:
        """A picture, and texts about its scene or others."""
        scene = self._scenes.scene(self._rng.choice((1, 1, 2, 3)))
        found = self._judged(
            self._others(scene),
            Modality.TEXT,
            self._contents.of_scene,
            partial(wrong_in_scene, scene),
        )
        return Judgement("task3", Content(None, self._contents.picture(scene)), found, scene)

    def question_to_passage(self) -> Judgement:
        """A question, and passages that answer it or are about scenes that it does not fit."""
        rng = self._rng
        scene = self._scenes.scene(rng.randint(2, 3))
        (inquiry,) = draw_inquiries(scene, 1, rng)
        wrong = partial(_wrong_in_answer, inquiry.answers())
        found = self._judged(self._others(scene), Modality.TEXT, self._contents.of_scene, wrong, passage)
        return Judgement("task1", Content(inquiry_text(inquiry, rng)), found, None)

    def text_to_both(self) -> Judgement:
        """A question or an article, and pictures with a line that tells a part of them."""
        rng, both = self._rng, Modality.IMAGE_TEXT
        scene = self._scenes.scene(rng.randint(2, 3))
        others = self._others(scene)
        if rng.random() < 0.5:
            (inquiry,) = draw_inquiries(scene, 1, rng)
            text, wrong = inquiry_text(inquiry, rng), partial(_wrong_in_answer, inquiry.answers())
            found = self._judged(others, both, self._contents.of_scene, wrong, _one_group)
        else:
            text = news_article(scene, rng)
            found = self._judged(
                others, both, self._contents.of_scene, partial(wrong_in_scene, scene), headline
            )
        return Judgement("task2", Content(text), found, _last_shown(found, others))

    def twin(self) -> Judgement:
        """Pictures of the same scene or not."""
        scene = self._scenes.scene(self._rng.choice((1, 1, 2, 3)))
        found = self._judged(
            self._others(scene),
            Modality.IMAGE,
            self._contents.of_scene,
            partial(wrong_in_scene, scene),
        )
        return Judgement("task4", Content(None, self._contents.picture(scene)), found, scene)

    def change(self) -> Judgement:
        """A picture with a change, and pictures that result, or that have another change or none."""
        rng, scenes = self._rng, self._scenes
        before = scenes.scene(rng.choice((1, 1, 2, 3)))
        after = scenes.variant(before)
        shown = []
        for _ in range(self._count):
            wrong = rng.choice((scenes.variant(before), before, self._wrong(after), self._wrong(after)))
            shown.append(after if rng.random() < 0.52 else wrong)
        query = Content(change_text(before, after, rng), self._contents.picture(before))
        found = self._judged(shown, Modality.IMAGE, self._contents.of_scene, partial(wrong_in_scene, after))
        return Judgement("task7", query, found, before)

    def entity_to_passage(self) -> Judgement:
        """A picture of an entity with a question about it, and passages with its answer or others."""
        return self._entity("task6", Modality.TEXT)

    def entity_to_article(self) -> Judgement:
        """The same, and passages with pictures."""
        return self._entity("task8", Modality.IMAGE_TEXT)

    def _entity(self, task: str, target: Modality) -> Judgement:
        fact = self._rng.choice(self._facts)
        others = [self._other_fact(fact) for _ in range(self._count)]
        found = self._judged(others, target, self._contents.of_fact, partial(wrong_in_fact, fact))
        return Judgement(task, self._about(fact), found, None)

    def _judged(
        self,
        things: Sequence[_Thing],
        target: Modality,
        content: Callable[..., Content],
        compare: Callable[[_Thing], Sequence[str]],
        *words: Callable[[_Thing, random.Random], str],
    ) -> tuple[Judged, ...]:
        """A candidate for each thing, mostly of the target's modality."""
        found = []
        for thing in things:
            modality = target
            if self._rng.random() < _ASIDE:
                modality = self._rng.choice([other for other in Modality if other != target])
            wrong = compare(thing)
            reason = reason_of(wrong) if modality == target else modality_reason(modality)
            checks = self._checks(FACT_ASPECTS if isinstance(thing, Fact) else SCENE_ASPECTS, wrong)
            found.append(Judged(content(thing, modality, *words), reason, checks))
        return tuple(found)

    def _checks(self, aspects: Sequence[str], wrong: Sequence[str]) -> tuple[tuple[str, bool], ...]:
        """One aspect that is right and one that is wrong, as far as there are, in any order."""
        if not set(wrong) <= set(aspects):
            return ()
        right = [aspect for aspect in aspects if aspect not in wrong]
        drawn = [self._rng.choice(some) for some in (right, wrong) if some]
        self._rng.shuffle(drawn)
        return tuple((aspect, aspect not in wrong) for aspect in drawn)

    def _others(self, scene: Scene) -> list[Scene]:
        """For each candidate the scene itself, or mostly a near-duplicate."""
        return [self._other(scene) for _ in range(self._count)]

    def _other(self, scene: Scene) -> Scene:
        return scene if self._rng.random() < 0.52 else self._wrong(scene)

    def _wrong(self, scene: Scene) -> Scene:
        """Another scene that differs in one aspect, in some, or in most."""
        draw = self._rng.random()
        if draw < 0.2:
            return self._scenes.scene(len(scene.groups))
        for _ in range(1 if draw < 0.7 else self._rng.randint(2, 4)):
            scene = self._scenes.variant(scene)
        return scene

    def _other_fact(self, fact: Fact) -> Fact:
        """The fact, or one of the same entity or the same topic, sometimes any other."""
        rng = self._rng
        if (draw := rng.random()) < 0.52:
            return fact
        alike = [f for f in self._facts if f.pair == fact.pair and f != fact]
        near = [
            f
            for f in self._facts
            if f.topic == fact.topic and f != fact and (f.colour == fact.colour or f.shape == fact.shape)
        ]
        others = alike if draw < 0.68 else near if draw < 0.84 else self._facts
        return rng.choice(others or self._facts)

    def _about(self, fact: Fact) -> Content:
        topic = TOPICS[fact.topic]
        wordings = self._rng.choice((topic.questions, topic.inquiries))
        return Content(self._rng.choice(wordings), self._contents.portrait(fact))


def _last_shown(found: Sequence[Judged], scenes: Sequence[Scene]) -> Scene | None:
    return scenes[-1] if found[-1].content.image is not None else None


def _one_group(scene: Scene, rng: random.Random) -> str:
    return sentence(group_phrase(rng.choice(scene.groups), rng))


def _wrong_in_answer(answers: list[Scene], scene: Scene) -> tuple[str, ...]:
    """What speaks against a scene as an answer to a question: nothing, if it shows one of its answers."""
    return () if _fits(answers, scene) else ("answer",)


def _fits(answers: list[Scene], scene: Scene) -> bool:
    """Whether a scene shows one of the pairs of groups that answer a question."""
    return any(
        answer.background == scene.background and set(answer.groups) <= set(scene.groups)
        for answer in answers
    )
