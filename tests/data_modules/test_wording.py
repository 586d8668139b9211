"""Which instruction a query is asked with, and UniIR's text clean-up."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_modules.wording import FIRST, Wording, cleaned_text
from mmretrieval.content import Candidate, Content, Query


@given(st.text())
def test_cleaned_text_is_as_mbeir_md_says_and_stays_so(text):
    cleaned = cleaned_text(text)
    assert "\r" not in cleaned
    assert not cleaned or cleaned[-1] in ".?!"
    # UniIR's function, from the description: null → "", drop \r, strip, capital, mark.
    expected = text.replace("\r", "").strip().strip('"')
    if expected:
        expected = expected[0].upper() + expected[1:]
        expected += "" if expected.endswith((".", "?", "!")) else "."
    assert cleaned == expected


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [(None, ""), ("", ""), (' "a dog"\r\n', "A dog."), ("really?", "Really?"), ("éa", "Éa."), ('""', "")],
)
def test_examples(text, cleaned):
    assert cleaned_text(text) == cleaned


def test_a_draw_depends_on_seed_and_id_and_is_even():
    drawn = Wording(drawn_with=0, cleaned=True)
    places = [drawn.position(f"0:{n}", 4) for n in range(4000)]
    assert places == [drawn.position(f"0:{n}", 4) for n in range(4000)]
    assert all(900 < count < 1100 for count in Counter(places).values())
    other = [Wording(drawn_with=1).position(f"0:{n}", 4) for n in range(4000)]
    assert 900 < sum(a == b for a, b in zip(places, other, strict=True)) < 1100


def test_queries_with_fewer_instructions_are_counted_round():
    assert [Wording(n).position("0:1", 3) for n in range(5)] == [0, 1, 2, 0, 1]


def test_only_a_cleaning_wording_changes_texts(picture):
    query, candidate = Query(Content("a dog", picture), "find it"), Candidate(Content("a cat"))
    assert FIRST.query(query) is query
    assert FIRST.candidate(candidate) is candidate
    cleaned = Wording(cleaned=True)
    assert cleaned.query(query) == Query(Content("A dog.", picture), "Find it.")
    assert cleaned.candidate(candidate).content.text == "A cat."
    assert cleaned.candidate(Candidate(Content(None, picture))).content.text is None
    assert cleaned.candidate(Candidate(Content('""'))).content.text == '""'  # else nothing would be left


def test_wordings_name_their_tables_apart():
    wordings = [
        FIRST,
        Wording(1),
        Wording(2),
        Wording(drawn_with=0),
        Wording(drawn_with=1),
        Wording(0, 0, True),
    ]
    assert len({wording.suffix for wording in wordings}) == len(wordings)
    assert FIRST.suffix == FIRST.candidate_suffix == ""


@pytest.mark.parametrize("wrong", [{"prompt": -1}, {"drawn_with": -1}])
def test_negative_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 0"):
        Wording(**wrong)
