"""A trained encoder on disk: ``retriever.json`` and ``adapter.safetensors``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmretrieval.encoder.adapters import LoRA, TrainedParts
from mmretrieval.encoder.backbone import Loading
from mmretrieval.encoder.discovery import Parts
from mmretrieval.encoder.latent_attention import LatentAttentionOptions
from mmretrieval.encoder.pictures import PictureOptions
from mmretrieval.encoder.prompts import Templates
from mmretrieval.errors import UserError

if TYPE_CHECKING:
    from mmretrieval.encoder.mllm_encoder import MLLMEncoder

SETTINGS = "retriever.json"
WEIGHTS = "adapter.safetensors"
FORMAT_VERSION = 2
BESIDE = "."
"""The base of a retriever whose folder has its base model too."""

_LOADERS_OWN = {"loading": "trust_remote_code", "latent_attention": "weights"}
"""Keys by group that a saved file never decides.

Whether code of others runs is for whoever loads it; and where pooling once started is not where it ended.
"""

_PLAIN = ("base", "max_text_tokens", "bidirectional", "pooling", "projection")
_GROUPS: dict[str, Callable[..., Any]] = {
    "loading": Loading,
    "pictures": PictureOptions,
    "templates": Templates,
    "latent_attention": LatentAttentionOptions,
    "lora": LoRA,
    "trained": TrainedParts,
}


def save(encoder: MLLMEncoder, folder: Path) -> None:
    """Write the trained weights and the settings of an encoder into an existing folder.

    A base model in the same folder is named by :data:`BESIDE`, so that the folder can be moved.
    """
    settings = settings_of(encoder)
    settings["base"] = BESIDE if encoder.base == str(folder) else _absolute(encoder.base)
    if encoder.loading.language_model is not None:
        settings["loading"]["language_model"] = _absolute(encoder.loading.language_model)
    head = {"format_version": FORMAT_VERSION, "base_fingerprint": encoder.base_fingerprint}
    save_file(encoder.trained_state(), folder / WEIGHTS)
    (folder / SETTINGS).write_text(json.dumps(head | settings, indent=1) + "\n")


def settings_of(encoder: MLLMEncoder) -> dict[str, Any]:
    """Return all settings that decide what an encoder computes, as plain values."""
    settings: dict[str, Any] = {name: getattr(encoder, name) for name in _PLAIN}
    for name in _GROUPS:
        group = getattr(encoder, name)
        settings[name] = None if group is None else asdict(group)
        if name in _LOADERS_OWN:
            settings[name].pop(_LOADERS_OWN[name])
    return settings


def facts_of(encoder: MLLMEncoder) -> dict[str, Any]:
    """Return the settings without the places that weights come from, whose fingerprints tell them apart."""
    settings = settings_of(encoder)
    settings.pop("base")
    settings["loading"].pop("language_model")
    return settings


def _absolute(place: str) -> str:
    """A folder's whole path, so that it is found from everywhere on this machine; hub names as they are."""
    return str(Path(place).resolve()) if Path(place).is_dir() else place


def check_settings(encoder: MLLMEncoder, saved: MLLMEncoder, folder: Path) -> None:
    """Refuse an encoder that would embed otherwise than the saved one.

    How and whence the base is loaded may differ: its weights are compared by their fingerprint.

    Raises:
        UserError: If a setting differs.
    """
    found, expected = settings_of(encoder), settings_of(saved)
    differing = [
        f"{name}: {found[name]!r}, saved with {expected[name]!r}"
        for name in found
        if name not in ("base", "loading") and found[name] != expected[name]
    ]
    if differing:
        raise UserError(
            f"{folder}: was saved with other settings than encoder.{'; encoder.'.join(differing)}; give the "
            "same ones, or take the saved encoder with --model.init_args.encoder null"
        )


def saved_arguments(
    folder: Path,
    base: str | None = None,
    language_model: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Return the arguments of the saved encoder, with what its loader decides.

    Args:
        folder: A folder that :func:`save` wrote.
        base: Where the base model is now; ``None``: where it was.
        language_model: Where the language model is now that was put into it; ``None``: where it was.
        trust_remote_code: Whether Python code that comes with the base is executed.

    Raises:
        UserError: As :func:`read_settings`; or if a folder is not any more where it was.
    """
    settings, _ = read_settings(folder)
    changes: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if base is not None:
        settings["base"] = base
    if language_model is not None:
        if settings["loading"].language_model is None:
            raise UserError(f"{folder}: was trained without another language model; leave language_model out")
        changes["language_model"] = language_model
    settings["loading"] = replace(settings["loading"], **changes)
    for name, place in (("base", settings["base"]), ("language_model", settings["loading"].language_model)):
        if place is not None and Path(place).is_absolute() and not Path(place).is_dir():
            raise UserError(
                f"{folder}: its {name} {place} is not there; say where it is now as {name} "
                "(--base on the command line); its fingerprint tells whether it is the same"
            )
    return settings


def adapter_folder(path: Path) -> Path:
    """The folder itself if a retriever was saved there, else its ``adapter`` folder, as that of a run."""
    return path if (path / SETTINGS).is_file() or not (path / "adapter").is_dir() else path / "adapter"


def read_settings(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the arguments of the saved encoder, and the fingerprint of the base it was trained from.

    Raises:
        UserError: If the file is missing, damaged, of another version, or has other keys.
    """
    path = folder / SETTINGS
    settings = _read_json(path)
    version = settings.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: format_version {version} instead of {FORMAT_VERSION}")
    base_fingerprint = settings.pop("base_fingerprint", None)
    expected = {*_PLAIN, *_GROUPS}
    if set(settings) != expected or not isinstance(base_fingerprint, str):
        wrong = sorted(expected.symmetric_difference(settings)) or ["base_fingerprint"]
        raise UserError(f"{path}: keys are missing or unknown: {', '.join(wrong)}")
    for name, make in _GROUPS.items():
        if settings[name] is not None:
            settings[name] = _group(path, name, make, settings[name])
    if settings["base"] == BESIDE:
        settings["base"] = str(folder)
    return settings, base_fingerprint


def _group(path: Path, name: str, make: Callable[..., Any], values: Any) -> Any:  # noqa: ANN401
    if not isinstance(values, dict):
        raise UserError(f"{path}: {name} must be an object, found {values!r}")
    known = {field.name for field in fields(make)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise UserError(f"{path}: {name} has unknown keys: {', '.join(unknown)}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    values.pop(_LOADERS_OWN.get(name, ""), None)
    if name == "loading" and values.get("parts") is not None:
        values["parts"] = _group(path, "loading.parts", Parts, values["parts"])
    try:
        return make(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {name} cannot be used ({error})") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the trained weights.

    Raises:
        UserError: If the file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def weights_digest(folder: Path) -> str:
    """Return a hex digest of the file of trained weights in a folder.

    Raises:
        UserError: If there is none.
    """
    try:
        with (folder / WEIGHTS).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{folder / WEIGHTS}: cannot be read ({error})") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error}); give the 'adapter' folder of a training run"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: is no JSON file ({error})") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: must hold an object")
    return settings
