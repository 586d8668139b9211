"""Uploads an exported folder to the Hugging Face hub; only ever called when that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from mmretrieval.errors import UserError


class Api(Protocol):
    """What is needed of ``HfApi``."""

    def create_repo(self, repo_id: str, *, private: bool, repo_type: str, exist_ok: bool) -> Any:  # noqa: ANN401
        """Make a repository, unless it is there."""

    def upload_folder(self, *, repo_id: str, folder_path: Path, repo_type: str, commit_message: str) -> Any:  # noqa: ANN401
        """Upload the files of a folder in one commit."""


def check_name(name: str) -> None:
    """Check a name before anything is computed.

    Raises:
        UserError: If no repository can have it.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--push_to_hub {name!r}: {error}") from None


def push(folder: Path, name: str, *, private: bool, api: Api | None = None) -> None:
    """Upload a folder as a model; an existing repository gets another commit.

    Args:
        folder: What to upload.
        name: ``owner/name``.
        private: Whether a new repository is seen by its owner only.
        api: The hub.

    Raises:
        UserError: If the hub refuses or cannot be reached; the folder stays.
    """
    hub: Api = HfApi() if api is None else api
    try:
        hub.create_repo(name, private=private, repo_type="model", exist_ok=True)
        hub.upload_folder(
            repo_id=name, folder_path=folder, repo_type="model", commit_message="A retriever of mmretrieval"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(f"--push_to_hub {name}: {error}; the export is in {folder}") from error
