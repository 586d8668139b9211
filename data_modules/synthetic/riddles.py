"""Other words for what scenes show, which no caption, question or passage of the pictures' benchmark uses."""

from __future__ import annotations

import random
from collections.abc import Mapping

from data_modules.synthetic.scenes import Group, Scene

Words = Mapping[str | int, tuple[str, ...]]

COLOUR_WORDS: Words = {
    "red": ("like fire", "in the colour of blood"),
    "green": ("like young plants", "in the colour of frogs"),
    "blue": ("like the sky", "in the colour of the sea"),
    "yellow": ("like the sun", "in the colour of gold"),
    "orange": ("like the last light of the day", "in the colour of a ripe pumpkin"),
    "purple": ("like the clothes of kings", "in the colour of plums"),
    "black": ("like the night", "in the colour of coal"),
    "brown": ("like earth", "in the colour of bread"),
}
SHAPE_WORDS: Words = {
    "circle": ("round without a hole", "formed like a wheel"),
    "square": ("with four equal sides", "formed like a box"),
    "triangle": ("with three sides", "formed like a tent"),
    "star": ("with five points", "that sailors follow at night"),
    "heart": ("that stands for love", "that beats in the body"),
    "diamond": ("standing on its point", "formed like a kite"),
    "cross": ("made of two lines that meet", "that marks the place on a map"),
    "ring": ("round with a hole", "worn on a finger"),
    "moon": ("that shines when the sun is gone", "curved like a banana"),
    "hexagon": ("with six sides", "that bees build"),
}
SIZE_WORDS: Words = {
    "small": ("hardly to be seen", "not big at all"),
    "large": ("hard to overlook", "of great size"),
}
COUNT_WORDS: Words = {
    1: ("all alone", "without any company"),
    2: ("as twins", "together with another of its kind"),
    3: ("in a group of more than two", "as often as a triangle has sides"),
}
PLACE_WORDS: Words = {
    "top left": ("in the north west", "where one begins to read a page"),
    "top right": ("in the north east", "where a letter has its stamp"),
    "bottom left": ("in the south west", "under the place where a page begins"),
    "bottom right": ("in the south east", "where one stops reading a page"),
}
BACKGROUND_WORDS: Words = {
    "wood": ("what trees are made of", "what burns in a stove"),
    "stone": ("what mountains are made of", "what a hammer breaks"),
    "water": ("what fish live in", "what comes from a well"),
    "paper": ("what books are made of", "what letters are written on"),
    "glass": ("what windows are made of", "what one can look through"),
    "wool": ("what sheep wear", "what warm socks are made of"),
}
"""Grounds that no picture has, so that no text tells of a picture."""


def told(words: Words, value: str | int, rng: random.Random) -> str:
    """Say a value in other words."""
    return rng.choice(words[value])


def thing(group: Group, rng: random.Random) -> str:
    """Say which things a group has, as ``something with three sides, like fire``."""
    parts = [told(SHAPE_WORDS, group.shape, rng), told(COLOUR_WORDS, group.colour, rng)]
    rng.shuffle(parts)
    return f"something {', '.join(parts)}"


def retold(scene: Scene, rng: random.Random) -> str:
    """Say all facts of a scene in other words, in several sentences."""
    groups = list(scene.groups)
    rng.shuffle(groups)
    sentences = []
    for group in groups:
        facts = [told(PLACE_WORDS, group.place, rng), told(COUNT_WORDS, group.count, rng)]
        facts.append(told(SIZE_WORDS, group.size, rng))
        rng.shuffle(facts)
        sentences.append(f"There is {thing(group, rng)}: {', '.join(facts)}.")
    sentences.append(f"Behind lies {told(BACKGROUND_WORDS, scene.background, rng)}.")
    rng.shuffle(sentences)
    return " ".join(sentences)
