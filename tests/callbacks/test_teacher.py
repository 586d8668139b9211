"""Who may be a teacher, and where its base may be."""

import json

import pytest
from encoders import make, perturb
from jsonargparse import ArgumentParser
from tiny_families import make_tiny

from callbacks import HardNegativeMining, TeacherFolder
from callbacks.teacher import Teacher
from mmretrieval.errors import UserError


def test_a_teacher_whose_base_has_moved_is_found_and_recognised(tmp_path):
    make_tiny("llava_next", tmp_path / "x")
    encoder = perturb(make(tmp_path / "x"))
    (tmp_path / "run/adapter").mkdir(parents=True)
    encoder.save_pretrained(tmp_path / "run/adapter")
    (tmp_path / "x").rename(tmp_path / "y")
    with pytest.raises(UserError, match=r"its base .* is not there"):
        Teacher(tmp_path / "run")
    teacher = Teacher(TeacherFolder(tmp_path / "run", base=str(tmp_path / "y")))
    assert teacher.embedding_hash() == encoder.embedding_hash()


def test_what_is_no_retriever_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no retriever"):
        Teacher(tmp_path)


@pytest.mark.parametrize("further", [{"base": "b"}, {"language_model": "l"}, {"trust_remote_code": True}])
def test_a_text_model_takes_nothing_of_a_run(tmp_path, further):
    (tmp_path / "modules.json").write_text(json.dumps([]))
    with pytest.raises(UserError, match="is a sentence-transformers model"):
        Teacher(TeacherFolder(tmp_path, **further))


@pytest.mark.parametrize(
    "given", ["run", {"folder": "run", "base": "b", "trust_remote_code": True}], ids=["folder", "more"]
)
def test_a_configuration_gives_a_folder_or_more(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = ArgumentParser()
    parser.add_class_arguments(HardNegativeMining, "mining")
    made = parser.instantiate(parser.parse_object({"mining": {"teacher": given}})).mining
    found = made.search.teacher
    if given == "run":
        assert str(found) == "run"
    else:
        assert (str(found.folder), found.base, found.trust_remote_code) == ("run", "b", True)
