"""How the benchmark's data sets write: news, product catalogues and headlines, each about a drawn scene."""

from __future__ import annotations

import random

from data_modules.synthetic.scenes import Scene
from data_modules.synthetic.texts import (
    group_phrase,
    joined,
    passage,
    place_phrase,
    plural,
    sentence,
    size_word,
)

_NEWS = (
    "{groups} were seen on {b} ground this morning",
    "people came to see {groups} on {b} ground",
    "a photo from today shows {groups} on a {b} background",
    "the news of the day: {groups} on {b}",
)
_OPENINGS = (
    "A report came in early this morning.",
    "Our newspaper sent someone with a camera last night.",
    "People in town were told to look again.",
    "This is the story of the week.",
)
_CLOSINGS = (
    "No one could say why.",
    "The family that found them went home happy.",
    "There may be more to see soon.",
    "The rest of the street was quite still.",
)
_HEADLINES = ("Found today: {one} on {b}", "The news in one picture: {one} on {b}", "{one} on {b} ground")
_SETS = {1: ("single", "one piece"), 2: ("pair", "set of two"), 3: ("trio", "set of three")}
_PAPERS = ("{b} paper", "{b} background", "{b} card")


def news_caption(scene: Scene, rng: random.Random) -> str:
    """Say all facts of a scene as the caption of a press photograph."""
    return sentence(rng.choice(_NEWS).format(groups=_groups(scene, rng), b=scene.background))


def news_article(scene: Scene, rng: random.Random) -> str:
    """Say all facts of a scene as the beginning of a newspaper's article."""
    return f"{rng.choice(_OPENINGS)} {passage(scene, rng)} {rng.choice(_CLOSINGS)}"


def headline(scene: Scene, rng: random.Random) -> str:
    """Say the background and one group only: the picture beside it tells the rest."""
    one = group_phrase(rng.choice(scene.groups), rng)
    return sentence(rng.choice(_HEADLINES).format(one=one, b=scene.background))


def catalogue_entry(scene: Scene, rng: random.Random) -> str:
    """Say all facts of a scene in the phrases of a product catalogue."""
    products = []
    for group in scene.groups:
        noun = f"{group.colour} {plural(group.shape, group.count)}"
        details = [size_word(group.size, rng), rng.choice(_SETS[group.count])]
        rng.shuffle(details)
        products.append(f"{noun}, {', '.join(details)}, {place_phrase(group.place, rng)}")
    return f"{sentence(' with '.join(products))[:-1]}, {rng.choice(_PAPERS).format(b=scene.background)}."


def _groups(scene: Scene, rng: random.Random) -> str:
    groups = list(scene.groups)
    rng.shuffle(groups)
    return joined([group_phrase(group, rng) for group in groups])
