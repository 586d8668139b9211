from hypothesis import given
from hypothesis import strategies as st

from mmretrieval.collection.passages import passages

TEXTS = st.text(st.sampled_from(["a", "b", "\n", " ", "#", ".", "?", "\t", "é"])) | st.text()


@given(TEXTS, st.integers(1, 9))
def test_no_word_is_lost_and_no_passage_is_longer_than_allowed(text, words):
    found = passages(text, words)
    assert [word for passage in found for word in passage.split()] == text.split()
    assert all(1 <= len(passage.split()) <= words for passage in found)


def test_paragraphs_are_joined_while_they_fit_and_headings_begin_anew():
    text = "# Stars\n\nOne two.\n\nThree four.\n\nFive six seven.\n## Moons\nEight.\n\nNine."
    assert passages(text, 6) == [
        "# Stars\nOne two.\nThree four.",
        "Five six seven.",
        "## Moons\nEight.\nNine.",
    ]


def test_a_long_paragraph_is_cut_between_sentences_and_then_between_words():
    assert passages("One two. Three four five six seven.", 3) == ["One two.", "Three four five", "six seven."]
    assert passages("One two. Three. Four", 3) == ["One two.\nThree.", "Four"]
