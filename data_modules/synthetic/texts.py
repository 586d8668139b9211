"""How a scene is said: captions in several styles, questions with answers, and changes.

Every text is true of its scene. Wordings vary (synonyms, order, style), so that texts about the same facts
share meaning more than words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from data_modules.synthetic.scenes import Attribute, Group, Scene

_NUMBERS = {1: "one", 2: "two", 3: "three"}
_COUNT_WORDS = {1: ("a", "one", "a single"), 2: ("two", "a pair of", "2"), 3: ("three", "a trio of", "3")}
_SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
_PLACE_WORDS = {
    "top left": ("at the top left", "in the upper left corner"),
    "top right": ("at the top right", "in the upper right corner"),
    "bottom left": ("at the bottom left", "in the lower left corner"),
    "bottom right": ("at the bottom right", "in the lower right corner"),
}
_OPENINGS = ("There", "Here", "In this picture there", "In the scene there")
_FRAMES = ("A drawing of {groups}{background}.", "{Groups}{background}.", "We see {groups}{background}.")
_BACKGROUND_WORDS = (" on a {b} background", " against {b}", " on {b} paper")


def plural(noun: str, count: int) -> str:
    """Return a shape's name in the number that ``count`` asks for."""
    if count == 1:
        return noun
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def with_article(phrase: str) -> str:
    """Put the indefinite article before a phrase."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def joined(parts: Sequence[str]) -> str:
    """Join phrases as an English list."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def sentence(text: str) -> str:
    """Capitalise the first letter and end with a full stop."""
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else f"{text}."


def canonical_group(group: Group) -> str:
    """Say all facts of a group in a fixed wording: ``two small red stars top left``."""
    noun = plural(group.shape, group.count)
    return f"{_NUMBERS[group.count]} {group.size} {group.colour} {noun} {group.place}"


def canonical_caption(scene: Scene) -> str:
    """Say all facts of a scene in one fixed wording and in reading order, which pre-training asks for."""
    groups = ", ".join(canonical_group(group) for group in scene.groups)
    return f"{scene.background} background: {groups}."


def portrait_caption(colour: str, shape: str) -> str:
    """Say what the portrait of an entity shows, which pre-training asks for."""
    return f"{colour} {shape}."


def size_word(size: str, rng: random.Random) -> str:
    """Say a size in one of several words."""
    return rng.choice(_SIZE_WORDS[size])


def place_phrase(place: str, rng: random.Random) -> str:
    """Say a place in one of several wordings."""
    return rng.choice(_PLACE_WORDS[place])


def group_phrase(group: Group, rng: random.Random, *, omit: Sequence[Attribute] = ()) -> str:
    """Say a group's facts, in one of many wordings.

    Args:
        group: What to describe.
        rng: Chooses the words.
        omit: Attributes to leave out; a left-out count becomes ``some`` or the bare plural.
    """
    count = 2 if "count" in omit else group.count
    words = []
    if "size" not in omit:
        words.append(rng.choice(_SIZE_WORDS[group.size]))
    if "colour" not in omit:
        words.append(group.colour)
    words.append(plural("object" if "shape" in omit else group.shape, count))
    phrase = " ".join(words)
    number = "some" if "count" in omit else rng.choice(_COUNT_WORDS[group.count])
    phrase = with_article(phrase) if number == "a" else f"{number} {phrase}"
    return phrase if "place" in omit else f"{phrase} {rng.choice(_PLACE_WORDS[group.place])}"


def caption(scene: Scene, rng: random.Random) -> str:
    """Say all facts of a scene in one of many wordings, with the groups in any order."""
    groups = list(scene.groups)
    rng.shuffle(groups)
    phrases = joined([group_phrase(group, rng) for group in groups])
    background = rng.choice(_BACKGROUND_WORDS).format(b=scene.background)
    frame = rng.choice((*_FRAMES, *_FRAMES, "opening"))
    if frame == "opening":
        verb = "is" if groups[0].count == 1 else "are"
        return f"{rng.choice(_OPENINGS)} {verb} {phrases}{background}."
    return sentence(frame.format(groups=phrases, Groups=phrases, background=background))


def passage(scene: Scene, rng: random.Random) -> str:
    """Say all facts of a scene in several sentences, as an encyclopedia's passage would."""
    groups = list(scene.groups)
    rng.shuffle(groups)
    sentences = []
    for group in groups:
        verb = "stands" if group.count == 1 else "stand"
        bare = group_phrase(group, rng, omit=("place",))
        place = rng.choice(_PLACE_WORDS[group.place])
        sentences.append(rng.choice((sentence(f"{place} {verb} {bare}"), sentence(f"{bare} {verb} {place}"))))
    background = rng.choice(("The background is {b}.", "Everything is drawn on {b}.", "The ground is {b}."))
    sentences.insert(rng.choice((0, len(sentences))), background.format(b=scene.background))
    return " ".join(sentences)


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene.

    Args:
        text: The question.
        answer: Its answer, one or two words.
        attribute: What is asked for; ``relation`` for what lies beside, above or below a group.
        group: The group the question names; ``None`` for a question about the background.
    """

    text: str
    answer: str
    attribute: Attribute | str
    group: Group | None


def questions(scene: Scene, rng: random.Random) -> list[Question]:
    """Return one question for each attribute that can be asked unambiguously, in a random order."""
    group = rng.choice(scene.groups)
    asked = [_background_question(scene, rng), _count_question(group, rng), _size_question(group, rng)]
    asked += [_place_question(group, rng), _shape_question(group, rng), _colour_question(group, rng)]
    asked += _relation_questions(scene, rng)
    rng.shuffle(asked)
    return asked


def _named(group: Group) -> str:
    return f"{group.colour} {plural(group.shape, group.count)}"


def _background_question(scene: Scene, rng: random.Random) -> Question:
    text = rng.choice(("What colour is the background?", "Which background colour is used?"))
    return Question(text, scene.background, "background", None)


def _count_question(group: Group, rng: random.Random) -> Question:
    noun = f"{group.colour} {plural(group.shape, 2)}"
    text = rng.choice((f"How many {noun} are there?", f"What is the number of {noun}?"))
    return Question(text, _NUMBERS[group.count], "count", group)


def _size_question(group: Group, rng: random.Random) -> Question:
    verb = "Is" if group.count == 1 else "Are"
    named = _named(group)
    text = rng.choice((f"{verb} the {named} small or large?", f"What size {verb.lower()} the {named}?"))
    return Question(text, group.size, "size", group)


def _place_question(group: Group, rng: random.Random) -> Question:
    verb = "is" if group.count == 1 else "are"
    named = _named(group)
    text = rng.choice((f"Where {verb} the {named}?", f"In which corner {verb} the {named}?"))
    return Question(text, group.place, "place", group)


def _shape_question(group: Group, rng: random.Random) -> Question:
    place = rng.choice(_PLACE_WORDS[group.place])
    text = rng.choice((f"Which shape is {place}?", f"What shape do we see {place}?"))
    return Question(text, group.shape, "shape", group)


def _colour_question(group: Group, rng: random.Random) -> Question:
    place = rng.choice(_PLACE_WORDS[group.place])
    text = rng.choice((f"What colour is the shape {place}?", f"Which colour has the {group.shape} {place}?"))
    return Question(text, group.colour, "colour", group)


def _relation_questions(scene: Scene, rng: random.Random) -> list[Question]:
    """Ask what is directly beside, above or below a group, where there is such a neighbour."""
    found = []
    for group in scene.groups:
        for neighbour in scene.groups:
            relation = _relation(group, neighbour)
            if relation is not None:
                text = f"What is {relation} the {_named(group)}?"
                answer = f"{neighbour.colour} {neighbour.shape}"
                found.append(Question(text, answer, "relation", group))
    return [rng.choice(found)] if found else []


def _relation(group: Group, neighbour: Group) -> str | None:
    if group.row == neighbour.row and group.column != neighbour.column:
        return "right of" if neighbour.column > group.column else "left of"
    if group.column == neighbour.column and group.row != neighbour.row:
        return "below" if neighbour.row > group.row else "above"
    return None


def change_text(before: Scene, after: Scene, rng: random.Random) -> str:
    """Say what must change in one scene to get another that differs from it in one attribute.

    Raises:
        ValueError: If the scenes do not differ in exactly one attribute of one group, or in the background.
    """
    if before.background != after.background and before.groups == after.groups:
        return rng.choice(
            (
                f"make the background {after.background}",
                f"the same but on a {after.background} background",
                f"put it on {after.background}",
            )
        )
    gone = [group for group in before.groups if group not in after.groups]
    new = [group for group in after.groups if group not in before.groups]
    if before.background != after.background or len(gone) != 1 or len(new) != 1:
        raise ValueError(f"The scenes differ in more than one attribute: {before} and {after}.")
    return _group_change(gone[0], new[0], rng)


def _group_change(old: Group, new: Group, rng: random.Random) -> str:
    named = _named(old)
    if old.place != new.place:
        place = rng.choice(_PLACE_WORDS[new.place])
        pronoun = "it is" if new.count == 1 else "they are"
        return rng.choice((f"move the {named} so that {pronoun} {place}", f"the {named} should be {place}"))
    if old.colour != new.colour:
        return rng.choice((f"make the {named} {new.colour}", f"{new.colour} instead of {named}"))
    if old.shape != new.shape:
        noun = with_article(new.shape) if new.count == 1 else plural(new.shape, new.count)
        return rng.choice((f"turn the {named} into {noun}", f"{noun} instead of the {named}"))
    if old.size != new.size:
        size = rng.choice(_SIZE_WORDS[new.size])
        return rng.choice((f"make the {named} {size}", f"the {named} should be {size}"))
    if old.count != new.count:
        noun = f"{new.colour} {plural(new.shape, new.count)}"
        return rng.choice(
            (f"{_NUMBERS[new.count]} {noun} instead", f"there should be {_NUMBERS[new.count]} {noun}")
        )
    raise ValueError(f"The groups do not differ: {old}.")
