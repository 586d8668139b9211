"""Files of questions and the texts that answer them, in the public layouts of embedding training data.

::

    *.jsonl, *.jsonl.gz    a line is one of
        {"query": …, "positives": […], "negatives": […]}    or anchor or question; pos, positive; neg, …
        [query, positive] or [query, positive, negative, …]
        {"set": […]}                                        texts that say the same: the first asks for the
                                                        others, in a symmetric data set each does
        {"sentence1": …, "sentence2": …, "gold_label": …}   SNLI and MultiNLI: entailment is a pair, the
                                                            rest is left out
    *.json                 SQuAD (Rajpurkar et al., 2016, https://arxiv.org/abs/1606.05250): questions and the
                           paragraphs that answer them; unanswerable ones are left out. Or BioASQ's task B
                           (https://doi.org/10.1186/s12859-015-0564-6): questions and their snippets

A single text may stand in place of a list. Outer blanks are stripped. Only negatives may be missing.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from data_modules.formats.mbeir_rows import check_unicode
from data_modules.formats.records import DataError, Source

EXPECTED = "a .jsonl or .jsonl.gz file, or a .json file of SQuAD or BioASQ"
MAX_LINE = 16 * 2**20
"""Bytes of a line at most, also of what a .gz file expands to."""
MAX_JSON = 512 * 2**20
"""Bytes of a .json file, which is read whole, at most."""
UNANSWERABLE = "questions that no paragraph answers"
NO_SNIPPET = "questions without snippets"
NO_ENTAILMENT = "pairs of sentences without entailment"
_NLI = {"sentence1", "sentence2", "gold_label"}
_QUERY = ("query", "anchor", "question")
_POSITIVES = ("positives", "pos", "positive")
_NEGATIVES = ("negatives", "neg", "negative")


class Question(NamedTuple):
    """Which question of a .json file, from 1: such a file has no lines to speak of."""

    path: Path
    number: int

    def __str__(self) -> str:
        return f"{self.path}, question {self.number}"


class TextPair(NamedTuple):
    """A query, the texts that answer it, and texts that do not.

    Args:
        source: Where it was read from.
        query: What is asked.
        positives: What answers it.
        negatives: What does not.
        same: Whether query and positives all say the same, so that each asks for all others.
    """

    source: Source | Question
    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    same: bool = False


def is_pairs(path: Path) -> bool:
    """Whether a path has the name of such a file."""
    return path.name.endswith((".jsonl", ".jsonl.gz", ".json"))


def text_pairs(path: Path, left_out: Counter[str] | None = None) -> Iterator[TextPair]:
    """Yield the pairs of a file.

    Args:
        path: The file.
        left_out: Where to count what is left out.

    Raises:
        DataError: If the file is missing, empty or of another layout, or a line cannot be used.
    """
    if not is_pairs(path):
        raise DataError(f"{path}: is not {EXPECTED}; rename or convert it")
    left_out = Counter() if left_out is None else left_out
    if path.name.endswith(".json"):
        yield from _questions(path, left_out)
        return
    for source, line in _lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}: malformed JSON ({error}); each line must hold one pair") from None
        if isinstance(row, dict) and row.keys() >= _NLI:
            if row["gold_label"] != "entailment":
                left_out[NO_ENTAILMENT] += 1
                continue
            row = [row["sentence1"], row["sentence2"]]
        yield _pair(source, row)


def _lines(path: Path) -> Iterator[tuple[Source, bytes]]:
    found = False
    try:
        with _opened(path) as stream:
            number = 0
            while line := stream.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise DataError(f"{path}:{number}: has more than {MAX_LINE} bytes; split the line")
                if not line.isspace():
                    found = True
                    yield Source(path, number), line
    except FileNotFoundError:
        raise DataError(f"{path}: file is missing; give {EXPECTED}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); restore the file") from None
    if not found:
        raise DataError(f"{path}: file is empty; add lines or leave it out")


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _pair(source: Source | Question, row: Any) -> TextPair:  # noqa: ANN401 - JSON
    same = False
    if isinstance(row, list):
        query, positives, negatives = row[:1], row[1:2], row[2:]
    elif isinstance(row, dict) and "set" in row:
        texts = row["set"] if isinstance(row["set"], list) else []
        query, positives, negatives, same = texts[:1], texts[1:], [], True
    elif isinstance(row, dict):
        query = _field(source, row, _QUERY)
        positives = _field(source, row, _POSITIVES)
        negatives = _field(source, row, _NEGATIVES, needed=False)
    else:
        raise DataError(f"{source}: is {row!r:.80}; write an object or a list of texts")
    asked = _texts(source, "query", query)
    if len(asked) != 1:
        raise DataError(f"{source}: has {len(asked)} queries; write one")
    answers = _texts(source, "positive", positives)
    if not answers:
        raise DataError(f"{source}: has no positive; add one or remove the line")
    wrong = [text for text in _texts(source, "negative", negatives) if text not in answers]
    return TextPair(source, asked[0], tuple(dict.fromkeys(answers)), tuple(dict.fromkeys(wrong)), same)


def _field(
    source: Source | Question, row: dict[str, Any], names: tuple[str, ...], *, needed: bool = True
) -> list[Any]:
    there = [name for name in names if name in row]
    if len(there) > 1 or (needed and not there):
        found = f"both {' and '.join(there)}" if there else f"only {', '.join(map(repr, row))}"
        raise DataError(f"{source}: has {found}; write one of {', '.join(names)}")
    value = row[there[0]] if there else []
    return value if isinstance(value, list) else [value]


def _texts(source: Source | Question, role: str, values: list[Any]) -> list[str]:
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{source}: {role} is {value!r:.80}; write a text that is not empty")
        check_unicode(source, role, value)
    return [value.strip() for value in values]


def _questions(path: Path, left_out: Counter[str]) -> Iterator[TextPair]:
    try:
        if path.stat().st_size > MAX_JSON:
            raise DataError(f"{path}: has more than {MAX_JSON} bytes; write pairs as .jsonl instead")
        document = json.loads(path.read_bytes())
        rows = _bioasq(document) if "questions" in document else _squad(document)
        for number, (row, reason) in enumerate(rows, start=1):
            if not row[1]:
                left_out[reason] += 1
                continue
            yield _pair(Question(path, number), {"query": row[0], "positives": row[1]})
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: file is missing; give {EXPECTED}") from None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: is in the layout of neither SQuAD nor BioASQ ({type(error).__name__}: {error}); write "
            "pairs as .jsonl instead"
        ) from None


Row = tuple[tuple[str, list[str]], str]
"""A question with its texts, and why it is left out if there are none."""


def _squad(document: Any) -> Iterator[Row]:  # noqa: ANN401 - JSON
    for article in document["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answered = not question.get("is_impossible", False) and question["answers"]
                yield (question["question"], [paragraph["context"]] if answered else []), UNANSWERABLE


def _bioasq(document: Any) -> Iterator[Row]:  # noqa: ANN401 - JSON
    for question in document["questions"]:
        texts = [text for snippet in question.get("snippets", ()) if (text := snippet["text"]).strip()]
        yield (question["body"], texts), NO_SNIPPET
