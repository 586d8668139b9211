"""Why a candidate does not answer a query, in a few words that a small MLLM learns to say."""

from __future__ import annotations

from data_modules.synthetic.entities import Fact
from data_modules.synthetic.scenes import Group, Scene
from mmretrieval.content import Modality

RIGHT = ""
"""The reason of a candidate that nothing speaks against."""

_ASIDE = {Modality.TEXT: "a text", Modality.IMAGE: "a picture", Modality.IMAGE_TEXT: "a picture with a text"}


def scene_reason(asked: Scene, shown: Scene) -> str:
    """What is other in a scene than was asked for: one attribute, or the scene.

    Args:
        asked: What a query asks for.
        shown: What a candidate shows.
    """
    if asked == shown:
        return RIGHT
    attributes = [] if asked.background == shown.background else ["background"]
    gone = [group for group in asked.groups if group not in shown.groups]
    new = [group for group in shown.groups if group not in asked.groups]
    if len(gone) == len(new) == 1:
        attributes += _differing(gone[0], new[0])
    elif gone or new:
        return "another scene"
    return f"another {attributes[0]}" if len(attributes) == 1 else "another scene"


def change_reason(before: Scene, after: Scene, shown: Scene) -> str:
    """What is other in a scene than a change of another one results in.

    Args:
        before: What was to be changed.
        after: The result.
        shown: What a candidate shows.
    """
    return "no change" if shown == before else scene_reason(after, shown)


def fact_reason(asked: Fact, told: Fact) -> str:
    """What is other in a fact than was asked for: the object, or what is told of it."""
    if asked == told:
        return RIGHT
    return "another topic" if asked.pair == told.pair else "another object"


def modality_reason(found: Modality) -> str:
    """What a candidate is, where another modality was asked for."""
    return _ASIDE[found]


def _differing(old: Group, new: Group) -> list[str]:
    names = ("shape", "colour", "size", "count", "place")
    return [name for name in names if getattr(old, name) != getattr(new, name)]
