"""Questions that find a scene: they tell all of two groups and the background but the fact they ask for."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_modules.synthetic.scenes import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    PLACES,
    SHAPES,
    SIZES,
    Attribute,
    Group,
    Scene,
)
from data_modules.synthetic.texts import group_phrase, place_phrase, plural, sentence, size_word

_VALUES: dict[Attribute, Sequence[str] | Sequence[int]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "count": COUNTS,
    "place": PLACES,
    "background": BACKGROUNDS,
}
_NUMBERS = {1: "", 2: "two", 3: "three"}


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What a question tells and asks of a scene.

    Args:
        background: The scene's background.
        named: A group that the question describes in full.
        asked: Another group, described in full but for ``attribute``.
        attribute: What is asked for; with ``background``, both groups are described in full.
    """

    background: str
    named: Group
    asked: Group
    attribute: Attribute

    def answers(self) -> list[Scene]:
        """Return every pair of groups that fits the question, one for each value of the asked attribute."""
        if self.attribute == "background":
            return [Scene(background, (self.named, self.asked)) for background in BACKGROUNDS]
        changes: list[dict[str, Any]] = [{self.attribute: value} for value in _VALUES[self.attribute]]
        groups = [dataclasses.replace(self.asked, **change) for change in changes]
        pairs = [Scene(self.background, (self.named, group)) for group in groups]
        return [pair for pair in pairs if pair.is_consistent]


def draw_inquiries(scene: Scene, number: int, rng: random.Random) -> list[Inquiry]:
    """Draw up to six inquiries about different attributes of a scene of two or more groups."""
    inquiries = []
    for attribute in rng.sample(ATTRIBUTES, number):
        named, asked = rng.sample(scene.groups, 2)
        inquiries.append(Inquiry(scene.background, named, asked, attribute))
    return inquiries


def inquiry_text(inquiry: Inquiry, rng: random.Random) -> str:
    """Word an inquiry as a question in one or two sentences."""
    named = group_phrase(inquiry.named, rng)
    if inquiry.attribute == "background":
        start = rng.choice(("What colour is the background behind", "On which background do we see"))
        return f"{start} {named} and {group_phrase(inquiry.asked, rng)}?"
    question = _question(inquiry, rng)
    if rng.random() < 0.5:
        picture = rng.choice(("scene", "picture", "drawing"))
        return sentence(f"{question}, in the {picture} with {named} on a {inquiry.background} background?")
    verb = "is" if inquiry.named.count == 1 else "are"
    return f"On a {inquiry.background} background there {verb} {named}. {sentence(f'{question}?')}"


def _question(inquiry: Inquiry, rng: random.Random) -> str:
    group, attribute = inquiry.asked, inquiry.attribute
    what, where = _definite(group, attribute, rng), place_phrase(group.place, rng)
    verb, auxiliary = ("is", "does") if group.count == 1 else ("are", "do")
    forms = {
        "colour": (f"what colour {verb} {what} {where}", f"which colour {auxiliary} {what} {where} have"),
        "shape": (f"what shape {verb} {what} {where}", f"which shape {auxiliary} {what} {where} have"),
        "size": (f"what size {verb} {what} {where}", f"how big {verb} {what} {where}"),
        "count": (f"how many {what} are {where}", f"what is the number of {what} {where}"),
        "place": (f"where {verb} {what}", f"in which corner {verb} {what}"),
    }
    return rng.choice(forms[attribute])


def _definite(group: Group, omit: Attribute, rng: random.Random) -> str:
    """Describe a group that the reader is to look up, without its place and without one attribute."""
    count = 2 if omit == "count" else group.count
    words = [] if omit == "count" else ["the", _NUMBERS[count]]
    words += [] if omit == "size" else [size_word(group.size, rng)]
    words += [] if omit == "colour" else [group.colour]
    words.append(plural("object" if omit == "shape" else group.shape, count))
    return " ".join(word for word in words if word)
