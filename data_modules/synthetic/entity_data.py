"""The data sets about entities, ``entities`` and ``infoscenes``, which share a part of their passages."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import NamedTuple

from PIL import Image

from data_modules.synthetic.drawing import draw_entity, draw_scene
from data_modules.synthetic.entities import TOPICS, Fact
from data_modules.synthetic.scene_data import Plan
from data_modules.synthetic.scenes import BACKGROUNDS, COUNTS, PLACES, SIZES, Group, Scene, signature
from data_modules.synthetic.split_writer import SplitWriter
from data_modules.synthetic.tasks import ENTITY_ARTICLE, ENTITY_PASSAGE, INFO_ARTICLE, INFO_PASSAGE

_TASKS = {"entities": (ENTITY_PASSAGE, ENTITY_ARTICLE), "infoscenes": (INFO_PASSAGE, INFO_ARTICLE)}
_HOLDERS = (("entities", "infoscenes"), ("entities",), ("infoscenes",))
"""Who has passages on a fact, in turn: what both have, both have in the same words, under two ids."""

Ids = dict[str, str]
"""Data set → id of its candidate."""


class _Entry(NamedTuple):
    fact: Fact
    passages: Ids
    articles: Ids


def encyclopedia(out: SplitWriter, rng: random.Random, facts: Sequence[Fact], plan: Plan) -> Iterator[float]:
    """Write one split of ``entities`` and ``infoscenes``, and yield which part of the queries is done.

    Args:
        out: Where to write.
        rng: Source of randomness.
        facts: What is known in this split; a small benchmark uses only as many as it needs.
        plan: How much to write.
    """
    needed = len(_HOLDERS) * plan.queries * plan.stride // 2
    entries = [
        _write_entry(out, rng, fact, holders)
        for fact, holders in zip(facts[:needed], cycle(_HOLDERS), strict=False)
    ]
    held = {dataset: [entry for entry in entries if dataset in entry.passages] for dataset in _TASKS}
    for n in range(plan.queries):
        for dataset, known in held.items():
            _ask(out, rng, dataset, known[n % len(known)], known)
        yield (n + 1) / plan.queries


def _write_entry(out: SplitWriter, rng: random.Random, fact: Fact, holders: Sequence[str]) -> _Entry:
    passage, article = fact.passage(rng), fact.passage(rng)
    image = out.image(holders[0], _entity_picture(out, holders[0], fact, rng))
    return _Entry(
        fact,
        {dataset: out.candidate(dataset, text=passage) for dataset in holders},
        {dataset: out.candidate(dataset, text=article, image=image) for dataset in holders},
    )


def _ask(
    out: SplitWriter, rng: random.Random, dataset: str, entry: _Entry, entries: Sequence[_Entry]
) -> None:
    """Ask for a passage and for an article on a fact; other facts on the entity are the negatives."""
    topic = TOPICS[entry.fact.topic]
    wordings = topic.questions if dataset == "entities" else topic.inquiries
    alike = [other for other in entries if other.fact != entry.fact and other.fact.pair == entry.fact.pair]
    to_passage, to_article = _TASKS[dataset]
    for task, answers, wrong in (
        (to_passage, entry.passages, [other.passages[dataset] for other in alike]),
        (to_article, entry.articles, [other.articles[dataset] for other in alike]),
    ):
        positives = [answers[dataset], *(id_ for name, id_ in answers.items() if name != dataset)]
        image = out.image(dataset, _entity_picture(out, dataset, entry.fact, rng))
        out.query(task, positives, text=rng.choice(wordings), image=image, negatives=wrong)


def _entity_picture(out: SplitWriter, dataset: str, fact: Fact, rng: random.Random) -> Image.Image:
    """Draw a portrait for ``entities``, a scene with nothing else in it for ``infoscenes``."""
    seed = rng.getrandbits(32)
    if dataset == "entities":
        return draw_entity(fact.colour, fact.shape, seed)
    group = Group(fact.shape, fact.colour, rng.choice(SIZES), rng.choice(COUNTS), rng.choice(PLACES))
    scene = Scene(rng.choice(BACKGROUNDS), (group,))
    out.shown.add(signature(scene))
    return draw_scene(scene, seed)
