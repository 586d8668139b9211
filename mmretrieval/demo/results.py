"""What a search found, as HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, Template
from PIL import Image

from mmretrieval.collection.collection import Collection
from mmretrieval.collection.hits import Hit
from mmretrieval.errors import UserError

THUMBNAIL = 320
"""Longest side of a shown picture in pixels."""


@dataclass(frozen=True, slots=True)
class Card:
    """One hit as it is shown.

    Args:
        hit: What was found.
        picture: Its picture as a data address; ``None`` without one.
        missing: Why its picture cannot be shown.
    """

    hit: Hit
    picture: str | None = None
    missing: str | None = None


def results_html(collection: Collection, hits: Sequence[Hit], best: Sequence[Hit]) -> str:
    """Write hits as cards, and the best of each modality as a table.

    Pictures stand in the page itself, small: no file of the index is served.

    Args:
        collection: What was searched.
        hits: What was found, best first.
        best: The best of each modality.
    """
    return _template().render(cards=[_card(collection, hit) for hit in hits], best=best)


def thumbnail(image: Image.Image, side: int = THUMBNAIL) -> str:
    """Write a picture, made small, as a data address."""
    small = image.copy()
    small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _card(collection: Collection, hit: Hit) -> Card:
    if hit.image is None:
        return Card(hit)
    try:
        image = collection.content(None, hit.image).image
    except UserError:
        return Card(hit, missing="the picture is not there any more; bring the index up to date")
    assert image is not None
    return Card(hit, thumbnail(image))


@cache
def _template() -> Template:
    source = (files("mmretrieval.demo") / "results.html").read_text("utf-8")
    return Environment(autoescape=True).from_string(source)
