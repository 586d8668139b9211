"""What phrases say is read back: they agree iff they are called the same."""

import random
import re

import pytest

from data_modules.synthetic.phrases import PhraseSampler
from data_modules.synthetic.scenes import COLOURS, HELD_OUT_PAIRS, SHAPES, SceneSampler

WORDS = {
    "size": {"small": "small|little|tiny", "large": "large|big|huge"},
    "count": {"1": "an?|one|a single", "2": "two|a pair of|2", "3": "three|a trio of|3", "": "some"},
    "row": {"top": "top|upper", "bottom": "bottom|lower"},
    "column": {"left": "left", "right": "right"},
    "colour": {colour: colour for colour in COLOURS},
    "shape": {shape: f"{shape}|{shape}s|{shape}es" for shape in SHAPES},
}


def read(phrase):
    """The facts that a phrase tells."""
    facts = {}
    for fact, values in WORDS.items():
        found = [value for value, words in values.items() if re.search(rf"\b(?:{words})\b", phrase)]
        if fact == "count" and len(found) > 1:
            found.remove("1")  # of "a pair of"
        if found:
            (facts[fact],) = found
    return facts


def sampler(seed, *, held_out=False):
    rng = random.Random(seed)
    return PhraseSampler(rng, SceneSampler(rng, held_out=held_out), held_out=held_out)


def test_phrases_are_the_same_iff_they_tell_the_same():
    made = sampler(0)
    answers = []
    for _ in range(2000):
        left, right, same = made.compared()
        assert (read(left) == read(right)) == same, (left, right)
        assert read(left).keys() == read(right).keys(), (left, right)
        answers.append(same)
    assert 0.46 < sum(answers) / len(answers) < 0.54


def test_a_change_results_iff_it_is_called_right():
    made = sampler(1)
    answers = []
    for _ in range(2000):
        asked = made.change()
        (judged,) = asked.candidates
        before, change = asked.query.text.split("\n")
        wanted = expected(read(before), change)
        assert (read(judged.content.text) == wanted) == judged.right, (asked.query.text, judged)
        answers.append(judged.right)
    assert 0.46 < sum(answers) / len(answers) < 0.54


def expected(before, change):
    """The facts after a change, read off its words: the new value is the one that was not there."""
    place = re.search(r"(?:it is|they are|should be) ((?:at|in) the .*)", change)
    if place:
        return before | read(place[1])
    values = read_all(change)
    return before | {
        fact: new
        for fact, found in values.items()
        if (new := next((value for value in found if value != before.get(fact)), None)) and fact in before
    }


def read_all(text):
    """Each fact's values that a text names."""
    found = {}
    for fact in ("colour", "shape", "size"):
        found[fact] = [v for v, words in WORDS[fact].items() if re.search(rf"\b(?:{words})\b", text)]
    number = re.match(r"(?:there should be )?(one|two|three)\b", text)
    found["count"] = [str(["one", "two", "three"].index(number[1]) + 1)] if number else []
    return found


@pytest.mark.parametrize("seed", range(3))
def test_training_never_names_a_held_out_pair(seed):
    made = sampler(seed)
    for _ in range(1000):
        left, right, _ = made.compared()
        asked = made.change()
        for phrase in (left, right, asked.query.text.split("\n")[0], asked.candidates[0].content.text):
            facts = read(phrase)
            assert (facts.get("colour"), facts.get("shape")) not in HELD_OUT_PAIRS, phrase


def test_held_out_pairs_are_named_where_they_may_be():
    made = sampler(0, held_out=True)
    named = [read(phrase) for _ in range(500) for phrase in made.compared()[:2]]
    assert any((facts.get("colour"), facts.get("shape")) in HELD_OUT_PAIRS for facts in named)
