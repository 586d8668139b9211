"""How a scene looks: PIL drawings that differ in everything a text about the scene does not say."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable

from PIL import Image, ImageDraw

from data_modules.synthetic.scenes import Group, Scene

SIDE = 128
"""Side of the drawn pictures in pixels."""

_COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (34, 139, 50),
    "blue": (38, 84, 214),
    "yellow": (240, 214, 20),
    "orange": (246, 138, 18),
    "purple": (134, 46, 168),
    "black": (24, 24, 24),
    "brown": (124, 74, 36),
}
_BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (252, 252, 252),
    "gray": (168, 168, 168),
    "pink": (250, 196, 212),
    "cyan": (176, 236, 246),
    "beige": (238, 222, 186),
    "mint": (186, 240, 190),
}
_RADIUS = {"small": 8.0, "large": 15.0}
_OFFSETS: dict[int, tuple[tuple[float, float], ...]] = {
    1: ((0.0, 0.0),),
    2: ((-15.0, -3.0), (15.0, 3.0)),
    3: ((-15.0, -14.0), (15.0, -13.0), (0.0, 15.0)),
}

Point = tuple[float, float]


def _polygon(
    angles_radii: list[tuple[float, float]], centre: Point, radius: float, tilt: float
) -> list[Point]:
    return [
        (
            centre[0] + radius * r * math.cos(math.radians(a + tilt)),
            centre[1] + radius * r * math.sin(math.radians(a + tilt)),
        )
        for a, r in angles_radii
    ]


def _regular(n: int, start: float) -> list[tuple[float, float]]:
    return [(start + 360 * i / n, 1.0) for i in range(n)]


def _heart() -> list[tuple[float, float]]:
    points = []
    for i in range(24):
        t = 2 * math.pi * i / 24
        x = 16 * math.sin(t) ** 3
        y = -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
        points.append((math.degrees(math.atan2(y, x)), math.hypot(x, y) / 16))
    return points


def _cross() -> list[tuple[float, float]]:
    arm = 0.36
    corners = [(arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm), (arm, 1)]
    corners += [(-x, -y) for x, y in corners]
    return [(math.degrees(math.atan2(y, x)), math.hypot(x, y)) for x, y in corners]


def _star() -> list[tuple[float, float]]:
    return [(-90 + 36 * i, 1.1 if i % 2 == 0 else 0.45) for i in range(10)]


_OUTLINES: dict[str, Callable[[], list[tuple[float, float]]]] = {
    "square": lambda: _regular(4, 45.0),
    "triangle": lambda: _regular(3, -90.0),
    "star": _star,
    "heart": _heart,
    "diamond": lambda: [(-90.0, 1.15), (0.0, 0.6), (90.0, 1.15), (180.0, 0.6)],
    "cross": _cross,
    "hexagon": lambda: _regular(6, 0.0),
}


def _draw_shape(
    draw: ImageDraw.ImageDraw,
    shape: str,
    centre: Point,
    radius: float,
    tilt: float,
    ink: tuple[int, int, int],
) -> None:
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=ink)
    elif shape == "ring":
        draw.ellipse(box, outline=ink, width=max(2, round(radius * 0.36)))
    elif shape == "moon":
        outer = [(float(a), 1.0) for a in range(40, 321, 20)]
        inner = [(float(a), 0.72) for a in range(300, 59, -40)]
        shifted = [
            (
                px + 0.42 * radius * math.cos(math.radians(tilt)),
                py + 0.42 * radius * math.sin(math.radians(tilt)),
            )
            for px, py in _polygon(inner, centre, radius, tilt)
        ]
        draw.polygon(_polygon(outer, centre, radius, tilt) + shifted, fill=ink)
    else:
        draw.polygon(_polygon(_OUTLINES[shape](), centre, radius, tilt), fill=ink)


def _shade(colour: tuple[int, int, int], rng: random.Random, spread: int) -> tuple[int, int, int]:
    r, g, b = (max(0, min(255, channel + rng.randint(-spread, spread))) for channel in colour)
    return r, g, b


def _texture(draw: ImageDraw.ImageDraw, base: tuple[int, int, int], scale: int, rng: random.Random) -> None:
    """Faint stripes or dots, so that two drawings of one scene differ beyond the objects' places."""
    side = SIDE * scale
    ink = _shade(base, rng, 9)
    kind = rng.choice(("plain", "stripes", "dots"))
    step = rng.randint(10, 22) * scale
    if kind == "stripes":
        for x in range(-side, side, step):
            draw.line((x, 0, x + side, side), fill=ink, width=3 * scale)
    elif kind == "dots":
        for x in range(0, side, step):
            for y in range(0, side, step):
                draw.ellipse((x, y, x + 3 * scale, y + 3 * scale), fill=ink)


def _canvas(background: str, scale: int, rng: random.Random) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    base = _shade(_BACKGROUNDS[background], rng, 4)
    image = Image.new("RGB", (SIDE * scale, SIDE * scale), base)
    draw = ImageDraw.Draw(image)
    _texture(draw, base, scale, rng)
    return image, draw


def _draw_group(draw: ImageDraw.ImageDraw, group: Group, scale: int, rng: random.Random) -> None:
    middle_x = SIDE * (0.25 + 0.5 * group.column) + rng.uniform(-2, 2)
    middle_y = SIDE * (0.25 + 0.5 * group.row) + rng.uniform(-2, 2)
    ink = _shade(_COLOURS[group.colour], rng, 12)
    for dx, dy in _OFFSETS[group.count]:
        centre = (
            (middle_x + dx + rng.uniform(-1.5, 1.5)) * scale,
            (middle_y + dy + rng.uniform(-1.5, 1.5)) * scale,
        )
        radius = _RADIUS[group.size] * rng.uniform(0.93, 1.07) * scale
        _draw_shape(draw, group.shape, centre, radius, rng.uniform(-12, 12), ink)


def draw_scene(scene: Scene, seed: int, *, scale: int = 2) -> Image.Image:
    """Draw a scene; another seed gives another drawing of the same facts.

    Args:
        scene: What to draw.
        seed: Chooses shades, tilts, small shifts and the background's texture.
        scale: Supersampling factor.

    Returns:
        An RGB picture of :data:`SIDE` × :data:`SIDE` pixels.
    """
    rng = random.Random(seed)
    image, draw = _canvas(scene.background, scale, rng)
    for group in scene.groups:
        _draw_group(draw, group, scale, rng)
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def draw_entity(colour: str, shape: str, seed: int, *, scale: int = 2) -> Image.Image:
    """Draw the portrait of an entity: one big object in the middle of a white picture."""
    rng = random.Random(seed)
    image, draw = _canvas("white", scale, rng)
    middle = SIDE * scale / 2
    radius = 36.0 * scale * rng.uniform(0.9, 1.1)
    _draw_shape(
        draw, shape, (middle, middle), radius, rng.uniform(-12, 12), _shade(_COLOURS[colour], rng, 12)
    )
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def to_jpeg(image: Image.Image) -> bytes:
    """Encode a picture as JPEG (quality 88)."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()
