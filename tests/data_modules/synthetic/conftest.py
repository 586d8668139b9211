"""A reader of the benchmark's English that shares no code with its writer."""

from __future__ import annotations

import re

import pytest

from data_modules.synthetic.scenes import BACKGROUNDS, COLOURS, SHAPES, Group, Scene

_COUNTS = dict.fromkeys(("a", "an", "one", "a single", "single", "one piece"), 1)
_COUNTS |= dict.fromkeys(("two", "2", "a pair of", "pair", "set of two"), 2)
_COUNTS |= dict.fromkeys(("three", "3", "a trio of", "trio", "set of three"), 3)
_SIZES = dict.fromkeys(("small", "little", "tiny"), "small") | dict.fromkeys(
    ("large", "big", "huge"), "large"
)
_SHAPE = rf"({'|'.join(SHAPES)})(?:e?s)?\b"
_COLOUR = rf"({'|'.join(COLOURS)})"
_GROUP = re.compile(
    rf"\b(a single|a pair of|a trio of|an?|one|two|three|2|3) ({'|'.join(_SIZES)}) {_COLOUR} {_SHAPE}"
)
_ENTRY = re.compile(rf"\b{_COLOUR} {_SHAPE}, ([^,]+), ([^,]+), ")
_PLACE = re.compile(r"(?:at the|in the) (top|upper|bottom|lower) (left|right)")
_BACKGROUND = re.compile(rf"\b({'|'.join(BACKGROUNDS)})\b")
_ASKED = re.compile(r"\b(?:what|in which|which|how many|how big|where)\b[^,?]*")
_FACTS = {"size": rf"\b({'|'.join(_SIZES)})\b", "colour": rf"\b{_COLOUR}\b", "shape": rf"\b{_SHAPE}"}


def _read(text: str) -> Scene:
    text = text.lower()
    places = [
        f"{'top' if vertical in ('top', 'upper') else 'bottom'} {side}"
        for vertical, side in _PLACE.findall(text)
    ]
    found = [(_COUNTS[n], _SIZES[size], c, shape) for n, size, c, shape in _GROUP.findall(text)]
    for colour, shape, *details in _ENTRY.findall(text):
        size = next(_SIZES[d] for d in details if d in _SIZES)
        found.append((next(_COUNTS[d] for d in details if d in _COUNTS), size, colour, shape))
    assert len(found) == len(places), text
    (background,) = set(_BACKGROUND.findall(text)) or {"unsaid"}
    groups = (Group(s, c, size, n, place) for (n, size, c, s), place in zip(found, places, strict=True))
    return Scene(background, tuple(groups))


def _read_question(text: str) -> tuple[Group, dict[str, str | int], str] | None:
    text = text.lower()
    if "background behind" in text or "which background" in text:
        return None
    (named,) = _read(re.sub(_ASKED, " ", text)).groups
    (asked,) = (found.removeprefix("how big") for found in re.findall(_ASKED, text))
    known: dict[str, str | int] = {}
    for name, pattern in _FACTS.items():
        for value in re.findall(pattern, asked):
            known[name] = value
    if "size" in known:
        known["size"] = _SIZES[str(known["size"])]
    if place := _PLACE.search(asked):
        known["place"] = f"{'top' if place[1] in ('top', 'upper') else 'bottom'} {place[2]}"
    if "how many" not in asked and "number of" not in asked:
        known["count"] = 3 if "the three" in asked else 2 if "the two" in asked else 1
    (background,) = _BACKGROUND.findall(text)
    assert len(known) == 4, "a question leaves out one fact"
    return named, known, background


@pytest.fixture(scope="session")
def read_group():
    """Read a question: the group told in full, what it tells of the group asked about, the background."""
    return _read_question


@pytest.fixture(autouse=True, scope="module")
def no_fsync():
    """Spare the disk: these tests write thousands of small files, and survive no power cut anyway."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_modules.atomic._fsync", lambda path: None)
        yield


@pytest.fixture(scope="session")
def read_scene():
    """Read the scene back from a text that tells all of it."""
    return _read
