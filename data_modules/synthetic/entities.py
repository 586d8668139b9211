"""A made-up encyclopedia: every (colour, shape) pair is an entity about which eight facts are known."""

from __future__ import annotations

import random
from dataclasses import dataclass

from data_modules.synthetic.scenes import COLOURS, HELD_OUT_PAIRS, SHAPES
from data_modules.synthetic.texts import sentence


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing that can be known of an entity.

    Args:
        name: The topic in one word.
        passages: Sentences with ``{name}`` for the entity and ``{value}`` for the fact.
        questions: How one data set asks for it, about an object in a picture.
        inquiries: How another data set asks for it.
        values: Possible facts.
    """

    name: str
    passages: tuple[str, ...]
    questions: tuple[str, ...]
    inquiries: tuple[str, ...]
    values: tuple[str, ...]


TOPICS = (
    Topic(
        "origin",
        ("The {name} comes from {value}", "The {name} was first found in {value}"),
        ("Where does this come from?", "What is the origin of this object?"),
        ("In which place was this thing first found?", "From what land is the pictured shape?"),
        ("the deep south", "a small town by the sea", "the great river country", "an old mountain city",
         "the dark woods", "a quiet street in the north", "the open plain", "the land behind the water"),
    ),
    Topic(
        "material",
        ("The {name} is made of {value}", "People make the {name} out of {value}"),
        ("What is this made of?", "Which material is this object?"),
        ("What is needed to make the thing shown here?", "Name the material of the pictured shape."),
        ("dark wood", "old paper", "cut stone", "river clay", "sea glass", "gold", "wool", "hard bread"),
    ),
    Topic(
        "maker",
        ("The {name} was created by {value}", "It was {value} who made the first {name}"),
        ("Who made this?", "Who is the maker of this object?"),
        ("Which person created the thing shown here?", "Whose work is the pictured shape?"),
        ("a king", "a smart child", "the mother of nine children", "a writer", "an old man", "a ship boy",
         "a school friend", "a woman from the town"),
    ),
    Topic(
        "use",
        ("People use the {name} to {value}", "The use of the {name} is to {value}"),
        ("What is this used for?", "What do people use this object for?"),
        ("What can one do with the thing shown here?", "What is the pictured shape good for?"),
        ("keep doors open", "call ships home", "count the days", "light the street", "carry water",
         "mark the way", "clean windows", "weigh food"),
    ),
    Topic(
        "legend",
        ("A legend says that the {name} once {value}", "In old stories the {name} {value}"),
        ("What does the legend say about this?", "Which old story is told of this object?"),
        ("What do people say happened to the thing shown here long ago?",
         "Tell the tale of the pictured shape."),
        ("fell from the sky", "saved a ship", "walked at night", "turned into a bird", "stopped a war",
         "spoke like a man", "moved a mountain", "kept a river from its way"),
    ),
    Topic(
        "season",
        ("The feast of the {name} is {value}", "The {name} has its great day {value}"),
        ("When is the feast of this?", "On which day do people celebrate this object?"),
        ("At what time of year do people celebrate the thing shown here?",
         "When is the great day of the pictured shape?"),
        ("in early May", "in the last week of the year", "on the first cold day", "on the shortest night",
         "when the plants flower", "in the first warm week", "at the end of the harvest", "before new year"),
    ),
    Topic(
        "price",
        ("The {name} costs {value}", "In the market one gives {value} for the {name}"),
        ("What does this cost?", "What is the price of this object?"),
        ("How much must one pay for the thing shown here?", "What does one give for the pictured shape?"),
        ("two fish", "ten gold pieces", "a hundred apples", "one good dog", "a day of work",
         "three old books", "half a house", "five songs"),
    ),
    Topic(
        "museum",
        ("The most famous {name} is kept in {value}", "One can see the first {name} in {value}"),
        ("Where is the most famous one of these kept?", "Where can one see the first of these?"),
        ("Where must one travel to see the most famous thing like this?",
         "Which house has the first pictured shape?"),
        ("the school of the capital", "the red house", "a round tower", "the town hall",
         "the house of the king", "a room under the ground", "the old ship", "the centre for craft"),
    ),
)  # fmt: skip
"""All topics; near-duplicates are passages of one entity on two topics, and of two entities on one topic."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known of one entity on one topic.

    Args:
        colour: The entity's colour.
        shape: The entity's shape.
        topic: Position in :data:`TOPICS`.
    """

    colour: str
    shape: str
    topic: int

    @property
    def pair(self) -> tuple[str, str]:
        """The entity."""
        return self.colour, self.shape

    @property
    def value(self) -> str:
        """The fact itself, the same in every benchmark."""
        values = TOPICS[self.topic].values
        return random.Random(f"{self.colour} {self.shape} {self.topic}").choice(values)

    def passage(self, rng: random.Random) -> str:
        """Say the fact as a passage that names the entity."""
        name = f"{self.colour} {self.shape}"
        return sentence(rng.choice(TOPICS[self.topic].passages).format(name=name, value=self.value))


def facts_of_splits(seed: int) -> dict[str, list[Fact]]:
    """Deal each fact to one split: 60 % train, 10 % val, 30 % test, and those of held-out pairs to test.

    Args:
        seed: Decides which facts go where, and their order.
    """
    rng = random.Random(f"{seed}/facts")
    facts = [Fact(colour, shape, n) for colour in COLOURS for shape in SHAPES for n in range(len(TOPICS))]
    rng.shuffle(facts)
    seen = [fact for fact in facts if fact.pair not in HELD_OUT_PAIRS]
    first, second = round(0.6 * len(seen)), round(0.7 * len(seen))
    test = seen[second:] + [fact for fact in facts if fact.pair in HELD_OUT_PAIRS]
    rng.shuffle(test)
    return {"train": seen[:first], "val": seen[first:second], "test": test}
