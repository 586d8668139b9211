"""Other words for what scenes show, which no caption, question or passage of the pictures' benchmark uses."""

from __future__ import annotations

import random
from collections.abc import Mapping

from data_modules.synthetic.scenes import Group, Scene
from data_modules.synthetic.texts import sentence

Words = Mapping[str | int, tuple[str, ...]]

COLOUR_WORDS: Words = {
    "red": ("fire",),
    "green": ("plant",),
    "blue": ("sky",),
    "yellow": ("sun",),
    "orange": ("fruit",),
    "purple": ("king",),
    "black": ("night",),
    "brown": ("earth",),
}
SHAPE_WORDS: Words = {
    "circle": ("wheel",),
    "square": ("box",),
    "triangle": ("tent",),
    "star": ("light",),
    "heart": ("love",),
    "diamond": ("kite",),
    "cross": ("mark",),
    "ring": ("crown",),
    "moon": ("boat",),
    "hexagon": ("honey",),
}
SIZE_WORDS: Words = {"small": ("young", "low"), "large": ("great", "high")}
COUNT_WORDS: Words = {
    1: ("alone", "for once"),
    2: ("twice", "as twins"),
    3: ("three times", "as triplets"),
}
PLACE_WORDS: Words = {
    "top left": ("in the north west",),
    "top right": ("in the north east",),
    "bottom left": ("in the south west",),
    "bottom right": ("in the south east",),
}
BACKGROUND_WORDS: Words = {
    "wood": ("trees",),
    "stone": ("hills",),
    "water": ("the sea",),
    "paper": ("books",),
    "glass": ("windows",),
    "wool": ("sheep",),
}
"""Grounds that no picture has, so that no text tells of a picture."""


def told(words: Words, value: str | int, rng: random.Random) -> str:
    """Say a value in other words."""
    return rng.choice(words[value])


def thing(group: Group, rng: random.Random) -> str:
    """Say which things a group has in two other words, as old riddles do: ``a tent of fire``."""
    return f"a {told(SHAPE_WORDS, group.shape, rng)} of {told(COLOUR_WORDS, group.colour, rng)}"


def retold(scene: Scene, rng: random.Random) -> str:
    """Say all facts of a scene in other words, in several sentences."""
    groups = list(scene.groups)
    rng.shuffle(groups)
    sentences = []
    for group in groups:
        facts = [told(PLACE_WORDS, group.place, rng), told(COUNT_WORDS, group.count, rng)]
        facts.append(told(SIZE_WORDS, group.size, rng))
        rng.shuffle(facts)
        sentences.append(sentence(f"{thing(group, rng)}, {', '.join(facts)}"))
    sentences.append(f"All of it lies by {told(BACKGROUND_WORDS, scene.background, rng)}.")
    rng.shuffle(sentences)
    return " ".join(sentences)
