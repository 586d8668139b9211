"""The embedded text benchmark asks in words that its passages do not use, and judges completely."""

import json
import re
from itertools import pairwise

import pytest

from data_modules.formats.beir import BEIRReader
from data_modules.formats.records import DataError
from data_modules.synthetic import riddles
from data_modules.synthetic.scenes import BACKGROUNDS, COLOURS, HELD_OUT_PAIRS, SHAPES
from data_modules.synthetic.text_benchmark import NAMES, write_text_benchmark

SIZE = 300
NUMBER = {"a": 1, "an": 1, "one": 1, "single": 1, "two": 2, "pair": 2, "2": 2, "three": 3, "trio": 3, "3": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts") / "sets"
    write_text_benchmark(root, size=SIZE)
    return root


def read(root, name):
    """Texts of documents and of queries, and split → query → documents that answer it."""
    reader = BEIRReader(root / name)
    judged = {}
    for split in reader.splits:
        for one in reader.judgements(split):
            judged.setdefault(split, {}).setdefault(one.query, []).append(one.document)
    return {d.id: d.text for d in reader.documents()}, {q.id: q.text for q in reader.queries()}, judged


@pytest.mark.parametrize("name", NAMES)
def test_each_set_has_its_queries_and_each_query_an_answer(root, name):
    documents, queries, judged = read(root, name)
    sizes = {"train": SIZE // 5, "test": SIZE // 25, "val": SIZE // 50}
    assert {split: len(own) for split, own in judged.items()} == sizes
    assert {q for own in judged.values() for q in own} == set(queries)
    assert len({*documents.values()}) == len(documents)
    for split, own in judged.items():
        for query, answers in own.items():
            assert 1 <= len(answers) <= 4
            assert {name.split("-")[0] for name in (query, *answers)} == {split}


@pytest.mark.parametrize("name", NAMES)
def test_no_query_names_what_it_is_about(root, name):
    said = {*COLOURS, *SHAPES, *riddles.BACKGROUND_WORDS}
    for text in read(root, name)[1].values():
        words = {word.removesuffix("s") for word in re.findall("[a-z]+", text.lower())}
        assert not words & said, text


def groups(text):
    """What a passage says of its groups, read off its words: (count, colour, shape)."""
    found = set()
    for sentence in text.lower().split("."):
        words = [word.removesuffix("s") if word != "cross" else word for word in sentence.split()]
        words = ["cross" if word == "crosse" else word for word in words]
        pairs = [(a, b) for a, b in pairwise(words) if a in COLOURS and b in SHAPES]
        for pair in pairs:
            number = max(NUMBER[word] for word in words[: words.index(pair[0])] if word in NUMBER)
            found.add((number, *pair))
    return found


def meant(text, words):
    """The values that a query means, by the lists of other words."""
    return {
        value for value, said in words.items() if any(re.search(rf"\b{phrase}\b", text) for phrase in said)
    }


def test_counts_are_judged_completely(root):
    documents, queries, judged = read(root, "counts")
    numbers = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    numbers += ["eleven", "twelve"]
    grounds = [*riddles.BACKGROUND_WORDS]
    background = {
        name: next(ground for ground in grounds if re.search(rf"\b{ground}\b", text))
        for name, text in documents.items()
    }
    for split, own in judged.items():
        for query, answers in own.items():
            text = queries[query]
            (total,) = [n for n, word in enumerate(numbers) if re.search(rf"\b{word} things\b", text)]
            (colour,), (shape,) = meant(text, riddles.COLOUR_WORDS), meant(text, riddles.SHAPE_WORDS)
            (behind,) = meant(text, riddles.BACKGROUND_WORDS)
            fitting = {
                name
                for name, passage in documents.items()
                if name.startswith(split)
                and background[name] == behind
                and sum(count for count, _, _ in groups(passage)) == total
                and (colour, shape) in {group[1:] for group in groups(passage)}
            }
            assert fitting == set(answers), text


def test_negations_are_judged_completely(root):
    documents, queries, judged = read(root, "negations")
    for split, own in judged.items():
        for query, answers in own.items():
            text = queries[query]
            (shape,), (behind,) = meant(text, riddles.SHAPE_WORDS), meant(text, riddles.BACKGROUND_WORDS)
            gone = re.search(r"nothing (?:at all is )?of (.*?), by", text)[1]
            (absent,) = meant(gone, riddles.COLOUR_WORDS)
            (colour,) = meant(text.replace(gone, ""), riddles.COLOUR_WORDS)
            fitting = set()
            for name, passage in documents.items():
                shown = {group[1:] for group in groups(passage)}
                clear = absent not in {pair[0] for pair in shown}
                on = re.search(rf"\b{behind}\b", passage) is not None
                if name.startswith(split) and (colour, shape) in shown and clear and on:
                    fitting.add(name)
            assert fitting == set(answers), text


def test_no_text_tells_of_a_picture(root):
    assert not {*BACKGROUNDS} & {*riddles.BACKGROUND_WORDS}
    for name in NAMES[:4]:
        for text in read(root, name)[0].values():
            assert not any(re.search(rf"\b{ground}\b", text) for ground in BACKGROUNDS)


def test_training_never_shows_held_out_pairs(root):
    for name in NAMES[:4]:
        documents, _, _ = read(root, name)
        shown = {"train": set(), "val": set(), "test": set()}
        for id_, text in documents.items():
            shown[id_.split("-")[0]] |= {group[1:] for group in groups(text)}
        assert not (shown["train"] | shown["val"]) & HELD_OUT_PAIRS
        assert shown["test"] & HELD_OUT_PAIRS


def test_equal_seeds_give_equal_files_and_others_do_not(root, tmp_path):
    write_text_benchmark(tmp_path / "again", size=SIZE)
    write_text_benchmark(tmp_path / "other", size=SIZE, seed=1)
    for name in NAMES:
        for file in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/val.tsv"):
            assert (tmp_path / "again" / name / file).read_bytes() == (root / name / file).read_bytes()
        assert (tmp_path / "other" / name / "queries.jsonl").read_text() != (
            root / name / "queries.jsonl"
        ).read_text()
    assert json.loads((root / "facts/corpus.jsonl").read_text().splitlines()[0])["title"] == ""


def test_a_size_that_is_too_small_is_refused(tmp_path):
    with pytest.raises(DataError, match="size is 49; 5 data sets need at least 50 queries"):
        write_text_benchmark(tmp_path / "out", size=49)
