"""Prompts by task: which one is taken, and what is refused."""

import pytest

from mmretrieval.errors import UserError
from mmretrieval.rerank import RerankPrompts


def test_every_task_of_mbeir_has_a_prompt():
    prompts = RerankPrompts()
    found = {number: prompts.of(f"any_task{number}") for number in range(9)}
    assert found[5] == prompts.of("") == prompts.templates["default"], "M-BEIR has no task 5"
    assert len({*found.values()}) >= 7
    assert all("True or False" in prompt for prompt in found.values())


def test_ones_own_prompts_come_first(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "cirr_task7: '{query} {candidate} own?'\ntask3: '{candidate} {query} three?'\n"
    )
    prompts = RerankPrompts(tmp_path / "own.yaml")
    assert prompts.of("cirr_task7") == "{query} {candidate} own?"
    assert prompts.of("fashioniq_task7") == RerankPrompts().of("fashioniq_task7")
    assert prompts.of("mscoco_task3") == "{candidate} {query} three?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "must hold prompts by task"),
        ("task7: 5", "must be texts"),
        ("task7: '{query}'", r"has \{candidate\} 0 times"),
        ("task7: '{query}{query}{candidate}'", r"has \{query\} 2 times"),
        ("task7: '{query}{candidate}{other}'", r"has \{other\}; there are candidate, instruction, query"),
        ("task7: '{query.text}{candidate}'", r"has \{query.text\}"),
        ("task7: '{query!r}{candidate}'", r"has \{query\}; there are"),
        ("task7: '{query{candidate}'", "write {{ and }} for braces"),
        ("!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    ],
)
def test_what_is_no_prompt_is_refused(tmp_path, text, message):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        RerankPrompts(tmp_path / "own.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        RerankPrompts(tmp_path / "none.yaml")
