"""Writes the embedded text benchmark: five small text data sets in the BEIR layout, about the same world.

==============  =============================================================================================
``riddles``     which passage has what is said in other words: a thing, where it is, and what lies behind
``negations``   which passage has one thing and nothing of some colour, or nothing at some place
``counts``      which passage has so many things in all, among them a certain one
``duplicates``  which passage says the same as one that uses other words altogether
``facts``       what is known of a thing that is said in other words; passages are about several facts
==============  =============================================================================================

Scenes lie on grounds that no picture has: no text tells of a picture of the other benchmark. Positives
are all passages that fit a query, which is checked by looking at every scene.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_modules.atomic import staged_directory
from data_modules.formats.records import DataError
from data_modules.synthetic.entities import TOPICS, Fact, facts_of_splits
from data_modules.synthetic.riddles import (
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    PLACE_WORDS,
    retold,
    thing,
    told,
)
from data_modules.synthetic.scenes import (
    ATTRIBUTES,
    COLOURS,
    COUNTS,
    PLACES,
    SIZES,
    Group,
    Scene,
    SceneSampler,
)
from data_modules.synthetic.texts import passage

NAMES = ("riddles", "negations", "counts", "duplicates", "facts")
DEFAULT_SIZE = 1500
"""Training queries of all data sets together."""
SMALLEST_SIZE = 5 * 10
_GROUPS = 2
_MOST_POSITIVES = 4
_TRIES = 10  # for no more than so many
_NUMBERS = (
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, and which of the scenes answer it."""

    text: str
    fits: Callable[[Scene], bool]


@dataclass(frozen=True, slots=True)
class _TextQuery:
    """A query with the positions of the passages that answer it."""

    text: str
    positives: tuple[int, ...]


def write_text_benchmark(out: Path, *, seed: int = 0, size: int = DEFAULT_SIZE) -> None:
    """Write the data sets, each a folder; ``out`` appears only when all of it is written.

    Equal arguments give equal files. A tenth as many queries as for training are for ``val``, a fifth for
    ``test``; half of the test's scenes show pairs of colour and shape that training never does.

    Args:
        out: The folder to create.
        seed: Any integer.
        size: Training queries of all data sets together, at least 50.

    Raises:
        DataError: If ``size`` is too small or ``out`` is occupied.
    """
    if size < SMALLEST_SIZE:
        raise DataError(f"size is {size}; {len(NAMES)} data sets need at least {SMALLEST_SIZE} queries")
    train = size // len(NAMES)
    counts = {"train": train, "test": max(4, train // 5), "val": max(4, train // 10)}
    with staged_directory(out) as stage:
        for name in NAMES:
            parts = {split: _part(name, split, count, seed) for split, count in counts.items()}
            _write(stage / name, parts)


def _part(name: str, split: str, count: int, seed: int) -> tuple[list[str], list[_TextQuery]]:
    """The passages and queries of a split."""
    rng = random.Random(f"{seed}/{name}/{split}")
    if name == "facts":
        return _facts(facts_of_splits(seed)[split], count, rng)
    scenes = list(_scenes(count, rng, held_out=split == "test"))
    passages = [passage(scene, rng) for scene in scenes]
    if name == "duplicates":
        return passages, [_TextQuery(retold(scene, rng), (n,)) for n, scene in enumerate(scenes)]
    ask = {"riddles": _riddle, "negations": _negation, "counts": _count}[name]
    return passages, [_answered(scene, scenes, ask, rng) for scene in scenes]


def _scenes(count: int, rng: random.Random, *, held_out: bool) -> Iterator[Scene]:
    """Distinct scenes, half of them near-duplicates of another."""
    sampler, seen = SceneSampler(rng, held_out=held_out), set[Scene]()
    last: Scene | None = None
    while len(seen) < count:
        if last is None or len(seen) % 2 == 0:
            scene = replace(sampler.scene(_GROUPS), background=str(rng.choice([*BACKGROUND_WORDS])))
        else:
            scene = sampler.variant(last, [name for name in ATTRIBUTES if name != "background"])
        if scene not in seen:
            seen.add(scene)
            last = scene
            yield scene


def _answered(
    scene: Scene, scenes: Sequence[Scene], ask: Callable[[Scene, random.Random], Asked], rng: random.Random
) -> _TextQuery:
    """A query that a scene answers, and few others do."""
    fewest: _TextQuery | None = None
    for _ in range(_TRIES):
        asked = ask(scene, rng)
        query = _TextQuery(asked.text, tuple(n for n, other in enumerate(scenes) if asked.fits(other)))
        if fewest is None or len(query.positives) < len(fewest.positives):
            fewest = query
        if len(fewest.positives) <= _MOST_POSITIVES:
            break
    assert fewest is not None
    return fewest


def _riddle(scene: Scene, rng: random.Random) -> Asked:
    group, other = rng.sample(scene.groups, 2)
    where, behind = told(PLACE_WORDS, group.place, rng), told(BACKGROUND_WORDS, scene.background, rng)
    forms = (
        "Where is {a} {where}, and {b}, by {behind}?",
        "Which text tells of {b} and, {where}, of {a}, by {behind}?",
    )
    text = rng.choice(forms).format(a=thing(group, rng), b=thing(other, rng), where=where, behind=behind)

    def fits(candidate: Scene) -> bool:
        placed = (group.pair, group.place) in {(g.pair, g.place) for g in candidate.groups}
        beside = other.pair in {g.pair for g in candidate.groups}
        return candidate.background == scene.background and placed and beside

    return Asked(text, fits)


def _negation(scene: Scene, rng: random.Random) -> Asked:
    group = rng.choice(scene.groups)
    gone = rng.choice([colour for colour in COLOURS if colour not in {g.colour for g in scene.groups}])
    behind = told(BACKGROUND_WORDS, scene.background, rng)
    forms = (
        "{a}, but nothing of {gone}, by {behind}",
        "Find {a} where nothing at all is of {gone}, by {behind}.",
    )
    text = rng.choice(forms).format(a=thing(group, rng), gone=told(COLOUR_WORDS, gone, rng), behind=behind)

    def fits(candidate: Scene) -> bool:
        shown = group.pair in {g.pair for g in candidate.groups}
        absent = gone not in {g.colour for g in candidate.groups}
        return candidate.background == scene.background and shown and absent

    return Asked(text, fits)


def _count(scene: Scene, rng: random.Random) -> Asked:
    group, total = rng.choice(scene.groups), _total(scene)
    behind = told(BACKGROUND_WORDS, scene.background, rng)
    forms = (
        "{n} things in all, {a} among them, by {behind}",
        "Who counts finds {n} things altogether, and {a}, by {behind}.",
    )
    text = rng.choice(forms).format(n=_NUMBERS[total], a=thing(group, rng), behind=behind)

    def fits(candidate: Scene) -> bool:
        shown = group.pair in {g.pair for g in candidate.groups}
        return candidate.background == scene.background and shown and _total(candidate) == total

    return Asked(text, fits)


def _total(scene: Scene) -> int:
    return sum(group.count for group in scene.groups)


def _facts(facts: Sequence[Fact], count: int, rng: random.Random) -> tuple[list[str], list[_TextQuery]]:
    """Passages about all known facts of an entity, and questions about one of them."""
    known: dict[tuple[str, str], list[Fact]] = {}
    for fact in facts:
        known.setdefault(fact.pair, []).append(fact)
    passages = [" ".join(fact.passage(rng) for fact in own) for own in known.values()]
    place = {pair: number for number, pair in enumerate(known)}
    queries = []
    for number in range(count):
        fact = facts[number % len(facts)]
        colour, shape = fact.pair
        entity = Group(shape, colour, SIZES[0], COUNTS[0], PLACES[0])  # of which only the pair is said
        text = f"{rng.choice(TOPICS[fact.topic].inquiries)} It is {thing(entity, rng)}."
        queries.append(_TextQuery(text, (place[fact.pair],)))
    return passages, queries


def _write(folder: Path, parts: dict[str, tuple[list[str], list[_TextQuery]]]) -> None:
    """Write a data set; the passages of all splits are one corpus."""
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w") as corpus, (folder / "queries.jsonl").open("w") as queries:
        for split, (passages, asked) in parts.items():
            for number, text in enumerate(passages):
                corpus.write(json.dumps({"_id": f"{split}-d{number}", "title": "", "text": text}) + "\n")
            for number, query in enumerate(asked):
                queries.write(json.dumps({"_id": f"{split}-q{number}", "text": query.text}) + "\n")
    for split, (_, asked) in parts.items():
        lines = [
            f"{split}-q{number}\t{split}-d{positive}\t1"
            for number, query in enumerate(asked)
            for positive in query.positives
        ]
        (folder / f"qrels/{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
