"""In which aspects a candidate is other than was asked for, and the words in which a small MLLM says so."""

from __future__ import annotations

from collections.abc import Sequence

from data_modules.synthetic.entities import Fact
from data_modules.synthetic.scenes import Scene
from data_modules.synthetic.texts import joined
from mmretrieval.content import Modality

SCENE_ASPECTS = ("background", "shape", "colour", "size", "count", "place")
FACT_ASPECTS = ("object", "topic")
RIGHT = ""
"""The reason of a candidate that nothing speaks against."""

_ASIDE = {Modality.TEXT: "a text", Modality.IMAGE: "a picture", Modality.IMAGE_TEXT: "a picture with a text"}


def wrong_in_scene(asked: Scene, shown: Scene) -> tuple[str, ...]:
    """Name the aspects in which a scene is other than was asked for.

    Scenes that differ only in which group has which value differ in ``place``.

    Args:
        asked: What a query asks for.
        shown: What a candidate shows.
    """
    if asked == shown:
        return ()
    wrong = [] if asked.background == shown.background else ["background"]
    for name in SCENE_ASPECTS[1:]:
        values = [sorted(getattr(group, name) for group in scene.groups) for scene in (asked, shown)]
        if values[0] != values[1]:
            wrong.append(name)
    return tuple(wrong) or ("place",)


def wrong_in_fact(asked: Fact, told: Fact) -> tuple[str, ...]:
    """Name the aspects in which a fact is other than was asked for."""
    wrong = [] if asked.pair == told.pair else ["object"]
    return (*wrong, *([] if asked.topic == told.topic else ["topic"]))


def reason_of(wrong: Sequence[str]) -> str:
    """Say what speaks against a candidate, or nothing."""
    if len(wrong) > 2:
        return "another scene"
    return f"another {joined(wrong)}" if wrong else RIGHT


def modality_reason(found: Modality) -> str:
    """Say what a candidate is, where another modality was asked for."""
    return _ASIDE[found]
