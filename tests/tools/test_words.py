import pytest

from mmretrieval.tools.main import COMMANDS
from mmretrieval.tools.words import spelled_out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["search", "i", "a text", "-k", "5"], ["search", "i", "a text", "--k", "5"]),
        (["search", "i", "--json"], ["search", "i", "--json=true"]),
        (["search", "i", "--json", "--rerank", "x"], ["search", "i", "--json=true", "--rerank=true", "x"]),
        (["search", "i", "--json", "false"], ["search", "i", "--json", "false"]),
        (["search", "i", "--json=false"], ["search", "i", "--json=false"]),
        (["data", "album", "out", "--progress", "False"], ["data", "album", "out", "--progress", "False"]),
        (["data", "stats", "root", "--json", "x"], ["data", "stats", "root", "--json", "x"]),
        (["--help"], ["--help"]),
        ([], []),
    ],
)  # fmt: skip
def test_switches_and_short_options_are_spelled_out(words, expected):
    assert spelled_out(words, COMMANDS) == expected
