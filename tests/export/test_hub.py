"""Uploading: what is sent, and that nothing is without being asked."""

from __future__ import annotations

import pytest

from mmretrieval.errors import UserError
from mmretrieval.export.hub import check_name, push


class Hub:
    """Stands in for the hub."""

    def __init__(self, error=None):
        self.calls = []
        self.error = error

    def create_repo(self, repo_id, **options):
        if self.error is not None:
            raise self.error
        self.calls.append(("create", repo_id, options))

    def upload_folder(self, **options):
        self.calls.append(("upload", options.pop("repo_id"), options))


def test_a_folder_becomes_a_model_in_one_commit(tmp_path):
    hub = Hub()
    push(tmp_path, "someone/retriever", private=True, api=hub)
    create, upload = hub.calls
    assert create == (
        "create",
        "someone/retriever",
        {"private": True, "repo_type": "model", "exist_ok": True},
    )
    assert upload[:2] == ("upload", "someone/retriever")
    assert upload[2]["folder_path"] == tmp_path
    assert upload[2]["repo_type"] == "model"


def test_a_hub_that_cannot_be_reached_is_one_line_and_names_the_folder(tmp_path):
    with pytest.raises(UserError, match=rf"no route; the export is in {tmp_path}"):
        push(tmp_path, "someone/retriever", private=True, api=Hub(OSError("no route")))


def test_names_are_checked_first():
    check_name("someone/retriever")
    with pytest.raises(UserError, match="--push_to_hub 'a/b/c'"):
        check_name("a/b/c")
